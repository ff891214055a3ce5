"""`sampan network disconnect`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] NETWORK CONTAINER"
ARGS = (2, 2)
FLAGS = """
  -f, --force   Disconnect it by force
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    body = {"Container": args[1], "Force": opts.flag("force")}
    cli.engine.post(f"/networks/{quoted(args[0])}/disconnect", body)
    return 0
