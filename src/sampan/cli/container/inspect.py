"""`sampan container inspect`."""

from __future__ import annotations

from sampan.cli import inspection
from sampan.cli.listing import INSPECT_HELP
from sampan.cli.session import CommandError
from sampan.client.engine import quoted
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)
FLAGS = f"""
  -f, --format string   {INSPECT_HELP}
  -s, --size            Show how much disk it uses
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    def find(name: str) -> Any:
        try:
            return cli.engine.get(f"/containers/{quoted(name)}/json", size=opts.flag("size"))
        except NotFound as e:
            raise CommandError(f"Error response from daemon: {e.message}") from e

    return inspection.inspect(cli, args, opts.text("format"), find)
