"""`sampan volume rm`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] VOLUME [VOLUME...]"
ARGS = (1, None)
FLAGS = """
  -f, --force   Force the removal of one or more volumes
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    force = opts.flag("force")
    return cli.for_each(args, lambda name: cli.engine.delete(f"/volumes/{quoted(name)}", force=force))
