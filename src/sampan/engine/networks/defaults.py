"""The networks that every engine has: bridge, host and none, as the daemon's configuration wants them. Pure.

Source: dockerd(8) --bridge --bip --fixed-cidr --default-gateway --mtu --icc --ip --ip-masq --ipv6 --fixed-cidr-v6.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from ipaddress import ip_interface, ip_network

from sampan.engine.config import EngineConfig
from sampan.engine.networks import ipam
from sampan.engine.networks.drivers import bridge as bridge_driver
from sampan.engine.networks.ipam import Subnet
from sampan.engine.networks.records import NetworkRecord, SubnetRecord
from sampan.errors import InvalidArgument
from sampan.spec import times

NO_BRIDGE = "none"
BRIDGE_PREFIX = "sampan"


def plain(name: str, driver: str, old: NetworkRecord | None) -> NetworkRecord:
    """The record of `host` or `none`."""
    return old or NetworkRecord(id=os.urandom(32).hex(), name=name, driver=driver, created=times.now())


def bridge(
    config: EngineConfig,
    old: NetworkRecord | None,
    *,
    link_subnets: list[Subnet],
    host_subnets: list[Subnet],
    choose: Callable[[int], SubnetRecord],
    name: str,
) -> NetworkRecord:
    """The default bridge network for this configuration. It keeps its id; it keeps its subnet too, unless the
    configuration names another or the host has come to use it.

    link_subnets: what an administrator's bridge (`config.bridge`) carries. choose: a free subnet of that IP version.
    """
    options = {
        bridge_driver.DEFAULT_BRIDGE: "true",
        bridge_driver.ICC: _bool(config.icc),
        bridge_driver.MASQUERADE: _bool(config.ip_masq),
        bridge_driver.HOST_BINDING: config.ip,
        bridge_driver.NAME: name,
        bridge_driver.MTU: str(config.mtu),
    }
    options |= config.default_network_opts.get("bridge", {})
    subnets = [_four(config, old, link_subnets, host_subnets, choose)]
    if config.ipv6:
        subnets.append(_six(config, old, choose))
    return NetworkRecord(
        id=old.id if old else os.urandom(32).hex(),
        name="bridge",
        driver="bridge",
        created=times.now(),
        enable_ipv6=config.ipv6,
        subnets=subnets,
        options=dict(sorted(options.items())),
        bridge=name,
    )


def _four(
    config: EngineConfig,
    old: NetworkRecord | None,
    link_subnets: list[Subnet],
    host_subnets: list[Subnet],
    choose: Callable[[int], SubnetRecord],
) -> SubnetRecord:
    if config.bip:
        interface = ip_interface(config.bip)
        record = SubnetRecord(subnet=str(interface.network), gateway=str(interface.ip))
    elif config.bridge:
        mine = next((s for s in link_subnets if s.version == 4), None)
        if mine is None:
            raise InvalidArgument(f"bridge {config.bridge} has no IPv4 address; give it one, or set bip")
        record = SubnetRecord(subnet=str(mine), gateway=str(ipam.first_host(mine)))
    elif config.fixed_cidr:
        fixed = ip_network(config.fixed_cidr, strict=False)
        kept = old.subnet(4) if old else None
        if kept and fixed.subnet_of(ip_network(kept.subnet)):  # type: ignore[arg-type]
            record = SubnetRecord(subnet=kept.subnet, gateway=kept.gateway)
        else:
            record = SubnetRecord(subnet=str(fixed), gateway=str(ipam.first_host(fixed)))
    else:
        kept = old.subnet(4) if old else None
        if kept and _still_fits(config, ip_network(kept.subnet, strict=False), host_subnets):
            record = SubnetRecord(subnet=kept.subnet, gateway=kept.gateway)
        else:
            record = choose(4)
    if config.fixed_cidr:
        record.ip_range = config.fixed_cidr
    if config.default_gateway:
        record.auxiliary = {"DefaultGatewayIPv4": config.default_gateway}
    return record


def _still_fits(config: EngineConfig, subnet: Subnet, host_subnets: list[Subnet]) -> bool:
    """Whether a subnet chosen earlier could be chosen again: it is one of the pools', and the host does not use it."""
    pools = ipam.parse_pools(config.default_address_pools)
    among = any(p.size == subnet.prefixlen and ipam.overlaps(subnet, [p.base]) for p in pools)
    return among and not ipam.overlaps(subnet, host_subnets)


def _six(config: EngineConfig, old: NetworkRecord | None, choose: Callable[[int], SubnetRecord]) -> SubnetRecord:
    if config.bip6:
        interface = ip_interface(config.bip6)
        return SubnetRecord(subnet=str(interface.network), gateway=str(interface.ip), ip_range=config.fixed_cidr_v6)
    if config.fixed_cidr_v6:
        fixed = ip_network(config.fixed_cidr_v6, strict=False)
        return SubnetRecord(subnet=str(fixed), gateway=str(ipam.first_host(fixed)))
    kept = old.subnet(6) if old else None
    return kept or choose(6)


def _bool(value: bool) -> str:
    return "true" if value else "false"
