"""`sampan diff`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTAINER"
ARGS = (1, 1)
FLAGS = ""
LETTERS = "CAD"


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    for change in cli.engine.get(f"/containers/{quoted(args[0])}/changes") or ():
        cli.line(f"{LETTERS[change['Kind']]} {change['Path']}")
    return 0
