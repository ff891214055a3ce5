"""`sampan top`."""

from __future__ import annotations

from sampan.cli.format import tabulated
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTAINER [ps OPTIONS]"
ARGS = (1, None)
INTERSPERSED = False
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    answer = cli.engine.get(f"/containers/{quoted(args[0])}/top", ps_args=" ".join(args[1:]) or None)
    lines = ["\t".join(answer["Titles"]), *("\t".join(process) for process in answer["Processes"] or ())]
    cli.out(tabulated("".join(line + "\n" for line in lines), minimum=20, padding=3))
    return 0
