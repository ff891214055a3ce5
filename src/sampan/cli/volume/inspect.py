"""`sampan volume inspect`."""

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

USAGE = "[OPTIONS] VOLUME [VOLUME...]"
ARGS = (1, None)
FLAGS = f"""
  -f, --format string   {INSPECT_HELP}
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    def find(name: str) -> Any:
        try:
            return cli.engine.get(f"/volumes/{quoted(name)}")
        except NotFound as e:
            raise CommandError(f"Error response from daemon: {e.message}") from e

    return inspection.inspect(cli, args, opts.text("format"), find)
