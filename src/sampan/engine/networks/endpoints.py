"""What an endpoint is given: name, MAC, veth, DNS names, and the plan of a whole sandbox. Pure but for random names.

Source: Engine API 1.51 EndpointSettings; Docker Engine 28.5, what its containers show.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from typing import Any

from sampan.engine.networks.drivers.bridge import Bridge
from sampan.engine.networks.plumbing import Address, InterfacePlan, SandboxPlan
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from sampan.engine.networks.registry import Registry
from sampan.errors import InvalidArgument

IFNAME_OPTION = "com.docker.network.endpoint.ifname"
_SHOWN_SETTINGS = ("IPAMConfig", "Links", "Aliases", "DriverOpts", "GwPriority")

Settings = Mapping[str, Any]


def wanted(registry: Registry, mode: str, asked: Mapping[str, Settings | None]) -> list[tuple[NetworkRecord, Settings]]:
    """The networks a container joins, its network mode's first and the others by name. Raises: NotFound.

    The mode's network counts when nothing is asked for, or when it is among what is: a container may have been
    disconnected from it.
    """
    main = registry.find("bridge" if mode in ("", "default") else mode)
    found: dict[str, tuple[NetworkRecord, Settings]] = {} if asked else {main.name: (main, {})}
    for ref, given in asked.items():
        network = registry.find("bridge" if ref == "default" else ref)
        found[network.name] = (network, given or {})
    return sorted(found.values(), key=lambda pair: (pair[0].id != main.id, pair[0].name))


def new(network: NetworkRecord, settings: Settings, sandbox: SandboxRecord) -> EndpointRecord:
    """An endpoint without addresses yet."""
    kept = {key: settings[key] for key in _SHOWN_SETTINGS if settings.get(key) is not None}
    return EndpointRecord(
        id=os.urandom(32).hex(),
        network_id=network.id,
        network=network.name,
        veth=f"veth{os.urandom(4).hex()[:7]}" if network.driver == "bridge" else "",
        settings=kept,
        dns_names=None if network.name in ("bridge", "host", "none") else _dns_names(sandbox, settings),
    )


def _dns_names(sandbox: SandboxRecord, settings: Settings) -> list[str]:
    names = [sandbox.name, *(settings.get("Aliases") or []), sandbox.id[:12], sandbox.hostname]
    return list(dict.fromkeys(name for name in names if name))


def interface_name(prefix: str, settings: Settings, taken: Iterable[str]) -> str:
    """The name inside the container: as asked for, or the first free of eth0, eth1, …"""
    asked = (settings.get("DriverOpts") or {}).get(IFNAME_OPTION)
    if asked:
        return str(asked)
    used = set(taken)
    return next(name for n in range(len(used) + 1) if (name := f"{prefix}{n}") not in used)


def mac_address(asked: str, address: Address | None) -> str:
    """The MAC asked for, else one derived from the IPv4 address: whoever had the address before had the MAC too, so no
    neighbour cache on the bridge can be out of date. Raises: InvalidArgument."""
    if asked:
        try:
            raw = bytes.fromhex(asked.replace(":", "").replace("-", ""))
        except ValueError:
            raw = b""
        if len(raw) != 6:
            raise InvalidArgument(f"invalid MAC address: {asked}")
        return raw.hex(":")
    if address is not None and address.version == 4:
        return (b"\x02\x42" + address.packed).hex(":")
    return (b"\x02" + os.urandom(5)).hex(":")


def requested(settings: Settings, version: int) -> Address | None:
    """The static address asked for. Raises: InvalidArgument."""
    text = (settings.get("IPAMConfig") or {}).get(f"IPv{version}Address")
    if not text:
        return None
    try:
        return ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid IPv{version} address: {text}") from error


def interface(endpoint: EndpointRecord, bridge: Bridge, index: int, *, bridged_filter: bool) -> InterfacePlan:
    parsed = [ip_interface(text) for text in (endpoint.ipv4, endpoint.ipv6) if text]
    return InterfacePlan(
        veth=endpoint.veth,
        name=endpoint.interface,
        bridge=index,
        mac=endpoint.mac,
        mtu=bridge.mtu,
        addresses=tuple((i.ip, i.network.prefixlen) for i in parsed),
        # where bridged packets pass the IP hooks, the forward chain keeps containers apart, and knows published ports
        isolated=not bridge.icc and not bridged_filter,
        hairpin=bridged_filter,
    )


def gateway_endpoint(endpoints: Sequence[EndpointRecord], version: int) -> EndpointRecord | None:
    """Whose gateway the default route goes to: the highest GwPriority, then the first network by name."""
    having = [e for e in endpoints if (e.gateway4 if version == 4 else e.gateway6)]
    return min(having, key=lambda e: (-int(e.settings.get("GwPriority") or 0), e.network), default=None)


def gateways(endpoints: Sequence[EndpointRecord]) -> tuple[tuple[str, Address], ...]:
    """(interface, gateway) of the default routes."""
    found = []
    for version in (4, 6):
        endpoint = gateway_endpoint(endpoints, version)
        if endpoint is not None:
            found.append((endpoint.interface, ip_address(endpoint.gateway4 if version == 4 else endpoint.gateway6)))
    return tuple(found)


def plan(interfaces: Iterable[InterfacePlan], endpoints: Sequence[EndpointRecord]) -> SandboxPlan:
    return SandboxPlan(interfaces=tuple(interfaces), gateways=gateways(endpoints))


def problems(network: NetworkRecord, settings: Settings) -> list[str]:
    """What Docker says of endpoint settings that this network cannot fulfil; empty when it can."""
    found = []
    asked = any(requested(settings, version) is not None for version in (4, 6))
    predefined = network.name in ("bridge", "host", "none")
    if asked and predefined:
        found.append("user specified IP address is supported on user defined networks only")
    if asked and not network.user_subnets:
        found.append(
            "user specified IP address is supported only when connecting to networks with user configured subnets"
        )
    if settings.get("Aliases") and predefined:
        found.append("network-scoped alias is supported only for containers in user defined networks")
    return found
