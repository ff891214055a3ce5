"""`sampan system dial-stdio`: this process's standard input and output become a connection to the engine.

The far end of `ssh://`. A half-closed side is handed on; it ends when the engine's side does.
"""

from __future__ import annotations

from sampan.client.joining import SocketEnd, StandardStreams, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = ""
ARGS = (0, 0)
FLAGS = ""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    join(StandardStreams(), SocketEnd(cli.endpoint.address.connect(cli.endpoint.tls)))
    return 0
