"""`sampan volume prune`."""

from __future__ import annotations

from sampan.cli import pruning
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS]"
ARGS = (0, 0)
FLAGS = """
  -a, --all             Remove all unused volumes, not only anonymous ones
      --filter filter   Remove only what matches (e.g. "label=<label>")
  -f, --force           Do not ask
"""
WHICH = {
    False: "anonymous local volumes not used by at least one container",
    True: "all local volumes not used by at least one container",
}


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    wanted = opts.many("filter")
    everything = opts.flag("all")
    if everything:
        if any(item.startswith("all=") for item in wanted):
            raise CommandError("conflicting options: cannot specify both --all and --filter all=1")
        wanted = [*wanted, "all=true"]
    question = pruning.warning(WHICH[everything])
    return pruning.ask_and_prune(cli, opts, question, [lambda: pruning.volumes(cli, wanted)])
