"""`sampan export`."""

from __future__ import annotations

from sampan.cli import output
from sampan.cli.session import CommandError
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER"
ARGS = (1, 1)
FLAGS = """
  -o, --output string   Write to this file instead of STDOUT
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    path = opts.text("output")
    output.refuse_terminal(path, "failed to export container")
    response = cli.engine.open("GET", f"/containers/{quoted(args[0])}/export")
    try:
        output.save(response, path)
    except OSError as e:
        raise CommandError(f"failed to export container: {e}") from e
    return 0
