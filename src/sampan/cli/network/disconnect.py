"""`sampan network disconnect`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options
    from sampan.cli.session import Session

USAGE = "[OPTIONS] NETWORK CONTAINER"
ARGS = (2, 2)
FLAGS = """
  -f, --force   Disconnect it by force
"""


def run(cli: Session, opts: Options, args: list[str]) -> int:
    body = {"Container": args[1], "Force": opts.flag("force")}
    cli.engine.post(f"/networks/{quoted(args[0])}/disconnect", body)
    return 0
