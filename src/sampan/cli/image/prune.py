"""`sampan image prune`."""

from __future__ import annotations

from sampan.cli import pruning

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = (
    pruning.FLAGS
    + """
  -a, --all             Remove all unused images, not only untagged ones
"""
)


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    everything = opts.flag("all")
    question = pruning.warning(pruning.IMAGES[everything])
    return pruning.ask_and_prune(
        cli, opts, question, [lambda: pruning.images(cli, opts.many("filter"), all_=everything)]
    )
