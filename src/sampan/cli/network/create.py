"""`sampan network create`."""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.session import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import FlagValues
    from sampan.cli.session import Cli

USAGE = "[OPTIONS] NETWORK"
ARGS = (1, 1)
PARSERS = {"label": values.label}
FLAGS = """
      --attachable           Allow containers to be attached by hand
      --aux-address map      Addresses that the driver uses itself (default map[])
      --config-from string   Network whose configuration to copy
      --config-only          Create only a configuration
  -d, --driver string        Driver of the network (default "bridge")
      --gateway strings      Gateway of a subnet, IPv4 or IPv6
      --ingress              Create the routing mesh network of a swarm
      --internal             No way out of the network
      --ip-range strings     Part of the subnet that containers get addresses from
      --ipam-driver string   Driver of address management (default "default")
      --ipam-opt map         Set options of address management (default map[])
      --ipv4                 Give IPv4 addresses (default true)
      --ipv6                 Give IPv6 addresses
      --label list           Set labels
  -o, --opt map              Set options of the driver (default map[])
      --scope string         Scope of the network
      --subnet strings       Subnet in CIDR notation
"""


def run(cli: Cli, opts: FlagValues, args: list[str]) -> int:
    body: dict[str, Any] = {
        "Name": args[0],
        "Driver": opts.text("driver"),
        "Scope": opts.text("scope"),
        "IPAM": {"Driver": opts.text("ipam-driver"), "Options": opts.mapping("ipam-opt"), "Config": _ipam(opts)},
        "Internal": opts.flag("internal"),
        "Attachable": opts.flag("attachable"),
        "Ingress": opts.flag("ingress"),
        "ConfigOnly": opts.flag("config-only"),
        "ConfigFrom": {"Network": opts.text("config-from")} if opts.text("config-from") else None,
        "Options": opts.mapping("opt"),
        "Labels": opts.mapping("label"),
    }
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if opts.changed(flag):
            body[key] = opts.flag(flag)
    answer = cli.engine.post("/networks/create", body)
    if answer.get("Warning"):
        cli.warn(f"WARNING: {answer['Warning']}")
    cli.line(answer["Id"])
    return 0


def _ipam(opts: FlagValues) -> list[dict[str, Any]]:
    """Return one pool per subnet; ranges, gateways and auxiliary addresses go to the subnet that holds them."""
    import ipaddress

    def parsed(make: Any, text: str) -> Any:
        try:
            return make(text)
        except ValueError as e:
            raise CommandError(
                f"invalid CIDR address: {text}" if make is not ipaddress.ip_address else f"invalid address {text}"
            ) from e

    def network(text: str) -> Any:
        return parsed(lambda t: ipaddress.ip_network(t, strict=False), text)

    subnets, ranges, gateways = opts.many("subnet"), opts.many("ip-range"), opts.many("gateway")
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise CommandError("every ip-range or gateway must have a corresponding subnet")
    pools: dict[str, dict[str, Any]] = {}
    for subnet in subnets:
        if any(
            network(subnet).overlaps(network(other))
            for other in pools
            if network(other).version == network(subnet).version
        ):
            raise CommandError("multiple overlapping subnet configuration is not supported")
        pools[subnet] = {"Subnet": subnet, "AuxiliaryAddresses": {}}

    def holder(address: Any, what: str) -> dict[str, Any]:
        for subnet, pool in pools.items():
            if address.version == network(subnet).version and address in network(subnet):
                return pool
        raise CommandError(f"no matching subnet for {what}")

    for text in ranges:
        pool = holder(network(text).network_address, f"range {text}")
        if "IPRange" in pool:
            raise CommandError(
                f"cannot configure multiple ranges ({text}, {pool['IPRange']}) on the same subnet ({pool['Subnet']})"
            )
        pool["IPRange"] = text
    for text in gateways:
        pool = holder(parsed(ipaddress.ip_address, text), f"gateway {text}")
        if "Gateway" in pool:
            raise CommandError(
                f"cannot configure multiple gateways ({text}, {pool['Gateway']}) for the same subnet ({pool['Subnet']})"
            )
        pool["Gateway"] = text
    for name, text in opts.mapping("aux-address").items():
        if not text:
            raise CommandError("no matching subnet for aux-address ")
        holder(parsed(ipaddress.ip_address, text), f"aux-address {text}")["AuxiliaryAddresses"][name] = text
    return list(pools.values())
