"""`sampan rm`."""

from __future__ import annotations

from sampan.cli.session import Skipped
from sampan.client.engine import quoted
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)
FLAGS = """
  -f, --force     Remove a running container too (it is killed)
  -l, --link      Remove a link, not the container
  -v, --volumes   Remove the container's anonymous volumes too
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    query = {"v": opts.flag("volumes"), "link": opts.flag("link"), "force": opts.flag("force")}

    def remove(name: str) -> None:
        try:
            cli.engine.call("DELETE", f"/containers/{quoted(name.strip('/'))}", query)
        except NotFound as e:
            if not opts.flag("force"):
                raise
            cli.warn(f"Error response from daemon: {e.message}")
            raise Skipped from None

    return cli.for_each(args, remove)
