"""`sampan restart`."""

from __future__ import annotations

from sampan.cli.container.stop import FLAGS as FLAGS
from sampan.cli.container.stop import stop_query
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    query = stop_query(opts)
    return cli.for_each(args, lambda name: cli.engine.call("POST", f"/containers/{quoted(name)}/restart", query))
