"""`sampan rmi`."""

from __future__ import annotations

from sampan.cli.platforms import platform_json
from sampan.client.engine import quoted
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] IMAGE [IMAGE...]"
ARGS = (1, None)
FLAGS = """
  -f, --force              Remove it even where it has several names or stopped containers
      --no-prune           Keep untagged parents
      --platform strings   Remove only this platform: "os[/arch[/variant]]" (e.g., "linux/amd64")
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    query = {
        "force": opts.flag("force"),
        "noprune": opts.flag("no-prune"),
        "platforms": [platform_json(p) for p in opts.many("platform")],
    }

    def remove(name: str) -> None:
        try:
            removed = cli.engine.call("DELETE", f"/images/{quoted(name)}", query)
        except NotFound as e:
            if not opts.flag("force"):
                raise
            cli.warn(f"Error response from daemon: {e.message}")
            return
        for item in removed:
            cli.line(f"Deleted: {item['Deleted']}" if item.get("Deleted") else f"Untagged: {item.get('Untagged', '')}")

    return cli.for_each(args, remove, echo=False)
