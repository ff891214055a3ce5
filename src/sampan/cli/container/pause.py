"""`sampan pause`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "CONTAINER [CONTAINER...]"
ARGS = (1, None)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    return cli.for_each(args, lambda name: cli.engine.post(f"/containers/{quoted(name)}/pause"))
