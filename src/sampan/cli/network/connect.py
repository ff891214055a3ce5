"""`sampan network connect`."""

from __future__ import annotations

from sampan.cli.container import addresses, config
from sampan.client.engine import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] NETWORK CONTAINER"
ARGS = (2, 2)
PARSERS = {"link": addresses.link}
FLAGS = """
      --alias strings           Another name of the container in the network
      --driver-opt strings      Options of the network's driver
      --gw-priority int         The network with the highest gives the default gateway; may be negative
      --ip string               IPv4 address (e.g., "172.30.100.104")
      --ip6 string              IPv6 address (e.g., "2001:db8::33")
      --link list               Link to another container
      --link-local-ip strings   Link-local address of the container
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    attachment = {
        "Target": args[0],
        "Aliases": opts.many("alias") or None,
        "Links": opts.many("link") or None,
        "IPv4Address": opts.text("ip"),
        "IPv6Address": opts.text("ip6"),
        "LinkLocalIPs": opts.many("link-local-ip"),
        "DriverOpts": opts.mapping("driver-opt") or None,
        "GwPriority": opts.number("gw-priority"),
    }
    body = {"Container": args[1], "EndpointConfig": config.endpoint(attachment)}
    cli.engine.post(f"/networks/{quoted(args[0])}/connect", body)
    return 0
