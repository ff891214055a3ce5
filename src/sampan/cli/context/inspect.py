"""`sampan context inspect`."""

from __future__ import annotations

from sampan.cli import endpoint, inspection
from sampan.cli.config import ContextError
from sampan.cli.listing import INSPECT_HELP
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] [CONTEXT] [CONTEXT...]"
ARGS = (0, None)
FLAGS = f"""
  -f, --format string   {INSPECT_HELP}
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    def find(name: str) -> Any:
        try:
            return endpoint.described(cli.options, cli.config, name)
        except ContextError as e:
            raise CommandError(str(e)) from e

    names = args or [endpoint.context_name(cli.options, cli.config)]
    return inspection.inspect(cli, names, opts.text("format"), find, escape_html=True)
