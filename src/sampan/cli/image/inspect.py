"""`sampan image inspect`."""

from __future__ import annotations

from sampan.cli import inspection
from sampan.cli.listing import INSPECT_HELP
from sampan.cli.platforms import platform_json
from sampan.cli.session import CommandError
from sampan.client.engine import quoted
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] IMAGE [IMAGE...]"
ARGS = (1, None)
FLAGS = f"""
  -f, --format string     {INSPECT_HELP}
      --platform string   Show this platform of an image of several; an error when it has not got it
                          'os[/arch[/variant]]': the platform (eg. linux/amd64)
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    platform = platform_json(opts.text("platform"))

    def find(name: str) -> Any:
        try:
            return cli.engine.get(f"/images/{quoted(name)}/json", platform=platform)
        except NotFound as e:
            raise CommandError(f"Error response from daemon: {e.message}") from e

    return inspection.inspect(cli, args, opts.text("format"), find)
