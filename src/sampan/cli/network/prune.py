"""`sampan network prune`."""

from __future__ import annotations

from sampan.cli import pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = """
      --filter filter   Remove only what matches (e.g. "until=<timestamp>")
  -f, --force           Do not ask
"""
WARNING = "WARNING! This will remove all custom networks not used by at least one container.\nAre you sure you want to continue?"


def run(cli: Session, opts: Options, args: list[str]) -> int:
    if not opts.flag("force") and not cli.confirm(WARNING):
        return 0
    _, text = pruning.networks(cli, opts.many("filter"))
    if text:
        cli.line(text)
    return 0
