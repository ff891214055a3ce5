"""`sampan container prune`."""

from __future__ import annotations

from sampan.cli import pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = pruning.FLAGS


def run(cli: Session, opts: Options, args: list[str]) -> int:
    question = pruning.warning("all stopped containers")
    return pruning.ask_and_prune(cli, opts, question, [lambda: pruning.containers(cli, opts.many("filter"))])
