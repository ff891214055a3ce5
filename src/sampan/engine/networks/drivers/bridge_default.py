"""The default bridge network, as the daemon's configuration wants it. Pure.

Source: dockerd(8) --bridge --bip --fixed-cidr --default-gateway --mtu --icc --ip --ip-masq --ipv6 --fixed-cidr-v6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network

from sampan.engine.config import EngineConfig
from sampan.engine.networks import host as hosts
from sampan.engine.networks import ipam
from sampan.engine.networks.drivers import bridge_options
from sampan.engine.networks.drivers.bridge_options import Bridge
from sampan.engine.networks.drivers.driver import MTU
from sampan.engine.networks.firewall import PortMapper
from sampan.engine.networks.ipam import Pool, Subnet
from sampan.engine.networks.records import PREDEFINED, NetworkRecord, SubnetRecord, new_id
from sampan.errors import Forbidden, InvalidArgument
from sampan.linux.netlink import Link
from sampan.spec import times

NO_BRIDGE = "none"
PREFIX = "sampan"  # our default bridge is called sampan0, sampan1, … after how many engines there are


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the default network depends on outside the configuration.

    name: its bridge. link_subnets: what that link carries already. host_subnets: what the rest of the host uses.
    """

    name: str
    link_subnets: tuple[Subnet, ...] = ()
    host_subnets: tuple[Subnet, ...] = ()


def kept_name(old: NetworkRecord | None, links: Mapping[str, Link]) -> str:
    """Return the name of the bridge we had before, if it may be ours again; else an empty string."""
    if old is None or not Bridge(old).name.startswith(PREFIX):
        return ""
    link = links.get(Bridge(old).name)
    return Bridge(old).name if link is None or hosts.marked(link, old.id) else ""


def network(
    config: EngineConfig, old: NetworkRecord | None, name: str, seen: Seen, choose: Callable[[int], SubnetRecord]
) -> NetworkRecord:
    """Return the network for this configuration. It keeps its id; it keeps its subnet too, unless the configuration
    names another or the host has come to use it.

    name: the network's. choose: a free subnet of that IP version.
    Raises: InvalidArgument for what the configuration has wrong, and an administrator's bridge without an address.
    """
    options = {
        bridge_options.DEFAULT_BRIDGE: "true",
        bridge_options.ICC: _bool(config.icc),
        bridge_options.MASQUERADE: _bool(config.ip_masq),
        bridge_options.HOST_BINDING: config.ip,
        MTU: str(config.mtu),
    }
    options[bridge_options.NAME] = seen.name
    if config.port_mapper != PortMapper.NAT:
        options[bridge_options.PORT_MAPPER] = config.port_mapper
    subnets = [_four(config, old, seen, choose)]
    if config.ipv6:
        subnets.append(_six(config, old, seen, choose))
    for version, subnet in zip((4, 6), subnets, strict=False):
        _check(version, subnet)
    subnets.sort(key=lambda subnet: not subnet.asked)  # as they are shown: first those of the configuration
    return NetworkRecord(
        id=old.id if old else new_id(),
        name=name,
        driver=PREDEFINED[name],
        created=times.now(),
        enable_ipv6=config.ipv6,
        subnets=subnets,
        options=dict(sorted(options.items())),
    )


def _check(version: int, record: SubnetRecord) -> None:
    """Check that a subnet can have what the configuration wants of it. Raises: InvalidArgument in Docker's words."""
    subnet = ip_network(record.subnet, strict=False)
    if subnet.version != version:
        option = "bip" if version == 4 else "bip6"
        raise InvalidArgument(f"{option}: {record.gateway}/{subnet.prefixlen} is not an IPv{version} address")
    pool = Pool(subnet)
    try:
        if subnet.version == 6 and subnet.num_addresses == 1:
            raise InvalidArgument("failed to allocate gateway (): no available addresses on this pool")
        pool.take(ipam.parse_address(record.gateway))
    except Forbidden as error:
        raise InvalidArgument(f"failed to allocate gateway ({record.gateway}): {error.message}") from error
    for name, text in record.auxiliary.items():
        if ipam.parse_address(text) not in subnet:
            raise InvalidArgument(f"auxiliary address: ({name}:{text}) must belong to the master pool: {subnet}")


def _four(
    config: EngineConfig, old: NetworkRecord | None, seen: Seen, choose: Callable[[int], SubnetRecord]
) -> SubnetRecord:
    if config.bip:
        interface = ip_interface(config.bip)
        record = SubnetRecord(subnet=str(interface.network), gateway=str(interface.ip), asked=True)
    elif config.bridge:
        mine = next((s for s in seen.link_subnets if s.version == 4), None)
        if mine is None:
            raise InvalidArgument(f"bridge {config.bridge} has no IPv4 address; give it one, or set bip")
        record = SubnetRecord(subnet=str(mine), gateway=str(ipam.first_host(mine)), asked=True)
    elif config.fixed_cidr:
        fixed = ip_network(config.fixed_cidr, strict=False)
        kept = old.subnet(4) if old else None
        if kept and ipam.within(fixed, ip_network(kept.subnet)):
            record = SubnetRecord(subnet=kept.subnet, gateway=kept.gateway)
        else:
            record = SubnetRecord(subnet=str(fixed), gateway=str(ipam.first_host(fixed)))
        record.asked = record.gateway_chosen = True
    else:
        kept = old.subnet(4) if old else None
        if kept and _still_fits(config, ip_network(kept.subnet, strict=False), seen.host_subnets):
            record = SubnetRecord(subnet=kept.subnet, gateway=kept.gateway)
        else:
            record = choose(4)
    if config.fixed_cidr:
        record.ip_range = config.fixed_cidr
    if config.default_gateway:
        record.auxiliary = {"DefaultGatewayIPv4": config.default_gateway}
    return record


def _still_fits(config: EngineConfig, subnet: Subnet, host_subnets: tuple[Subnet, ...]) -> bool:
    """Return whether a subnet chosen earlier could be chosen again: it is of a pool, and the host does not use it."""
    pools = ipam.parse_pools(config.default_address_pools)
    among = any(p.size == subnet.prefixlen and ipam.overlaps(subnet, [p.base]) for p in pools)
    return among and not ipam.overlaps(subnet, host_subnets)


def _six(
    config: EngineConfig, old: NetworkRecord | None, seen: Seen, choose: Callable[[int], SubnetRecord]
) -> SubnetRecord:
    record = _subnet6(config, old, seen, choose)
    record.auxiliary = {"DefaultGatewayIPv6": config.default_gateway_v6} if config.default_gateway_v6 else {}
    return record


def _subnet6(
    config: EngineConfig, old: NetworkRecord | None, seen: Seen, choose: Callable[[int], SubnetRecord]
) -> SubnetRecord:
    if config.bip6:
        interface = ip_interface(config.bip6)
        return SubnetRecord(
            subnet=str(interface.network), gateway=str(interface.ip), ip_range=config.fixed_cidr_v6, asked=True
        )
    if config.fixed_cidr_v6:
        fixed = ip_network(config.fixed_cidr_v6, strict=False)
        first = str(ipam.first_host(fixed))
        return SubnetRecord(subnet=str(fixed), gateway=first, ip_range=str(fixed), asked=True, gateway_chosen=True)
    kept = old.subnet(6) if old else None
    if kept and not ipam.overlaps(ip_network(kept.subnet, strict=False), seen.host_subnets):
        return SubnetRecord(subnet=kept.subnet, gateway=kept.gateway)
    return choose(6)


def _bool(value: bool) -> str:
    return "true" if value else "false"
