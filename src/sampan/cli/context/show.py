"""`sampan context show`."""

from __future__ import annotations

from sampan.cli import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = ""
ARGS = (0, 0)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    cli.line(endpoint.context_name(cli.options, cli.config))
    return 0
