"""`sampan image prune`."""

from __future__ import annotations

from sampan.cli import pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = """
  -a, --all             Remove all unused images, not only untagged ones
      --filter filter   Remove only what matches (e.g. "until=<timestamp>")
  -f, --force           Do not ask
"""
WHICH = {False: "all dangling images", True: "all images without at least one container associated to them"}


def run(cli: Session, opts: Options, args: list[str]) -> int:
    everything = opts.flag("all")
    warning = f"WARNING! This will remove {WHICH[everything]}.\nAre you sure you want to continue?"
    if not opts.flag("force") and not cli.confirm(warning):
        return 0
    freed, text = pruning.images(cli, opts.many("filter"), all_=everything)
    return pruning.report(cli, freed, text)
