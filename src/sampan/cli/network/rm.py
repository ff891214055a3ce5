"""`sampan network rm`."""

from __future__ import annotations

from sampan.cli.session import Skipped
from sampan.client.engine import quoted
from sampan.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "NETWORK [NETWORK...]"
ARGS = (1, None)
FLAGS = """
  -f, --force   No error when the network does not exist
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    def remove(name: str) -> None:
        try:
            cli.engine.delete(f"/networks/{quoted(name)}")
        except NotFound:
            if opts.flag("force"):
                raise Skipped from None
            raise

    return cli.for_each(args, remove)
