"""`sampan container prune`."""

from __future__ import annotations

from sampan.cli import pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = pruning.FLAGS


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    question = pruning.warning("all stopped containers")
    return pruning.ask_and_prune(cli, opts, question, [lambda: pruning.containers(cli, opts.many("filter"))])
