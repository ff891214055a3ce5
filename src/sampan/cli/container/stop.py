"""`sampan stop`."""

from __future__ import annotations

from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] CONTAINER [CONTAINER...]"
ARGS = (1, None)
FLAGS = """
  -s, --signal string   Signal to send to the container
  -t, --timeout int     Seconds to wait before the container is killed
    ! --time int        = timeout
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    query = stop_query(opts)
    return cli.for_each(args, lambda name: cli.engine.call("POST", f"/containers/{quoted(name)}/stop", query))


def stop_query(opts: FlagValues) -> dict[str, object]:
    """Return signal and time as the query of the API, for `stop` and `restart`."""
    timeout = opts.number("timeout") if opts.changed("timeout") else None
    return {"signal": opts.text("signal") or None, "t": timeout}
