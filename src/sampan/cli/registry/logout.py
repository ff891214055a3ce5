"""`sampan logout`."""

from __future__ import annotations

from sampan.cli.registry import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[SERVER]"
ARGS = (0, 1)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    server = args[0] if args else ""
    key = credentials.HUB_KEY if server in ("", credentials.HUB) else server
    cli.line(f"Removing login credentials for {key}")
    if not credentials.erase(cli.config, key):
        cli.line(f"Not logged in to {server or key}")
    return 0
