"""`sampan network prune`."""

from __future__ import annotations

from sampan.cli import pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = pruning.FLAGS
QUESTION = pruning.warning("all custom networks not used by at least one container")


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    if not opts.flag("force") and not cli.confirm(QUESTION):
        return 0
    _, text = pruning.networks(cli, opts.many("filter"))
    if text:
        cli.line(text)
    return 0
