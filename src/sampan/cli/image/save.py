"""`sampan save`."""

from __future__ import annotations

from sampan.cli import output
from sampan.cli.platforms import platform_json
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] IMAGE [IMAGE...]"
ARGS = (1, None)
FLAGS = """
  -o, --output string     Write to this file instead of STDOUT
      --platform string   Save only this platform: "os[/arch[/variant]]" (e.g., "linux/amd64")
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    path = opts.text("output")
    output.refuse_terminal(path, "failed to save image")
    query = {"names": args, "platform": platform_json(opts.text("platform"))}
    response = cli.engine.open("GET", "/images/get", query)
    try:
        output.save(response, path)
    except OSError as e:
        raise CommandError(f"failed to save image: {e}") from e
    return 0
