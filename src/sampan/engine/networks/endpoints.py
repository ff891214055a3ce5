"""What an endpoint is given: interface name, MAC, DNS names, default routes. Pure but for random names.

Source: Engine API 1.51 EndpointSettings; Docker Engine 28.5, what its containers show.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network

from sampan.engine.networks import ipam
from sampan.engine.networks.catalogue import DEFAULT_NETWORK, Catalogue
from sampan.engine.networks.ipam import Address
from sampan.engine.networks.records import PREDEFINED, EndpointRecord, JoinRecord, NetworkRecord, new_id
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec.engine_api.network import EndpointSettings

IFNAME_OPTION = "com.docker.network.endpoint.ifname"
PREFIX_OPTION = "com.docker.network.container_iface_prefix"
SYSCTLS_OPTION = "com.docker.network.endpoint.sysctls"
_OF_INTERFACE = re.compile(r"net\.(ipv4|ipv6|mpls)\..*\.(IFNAME|ifname)\.")  # docker writes options in small letters
_MAC = re.compile(
    r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}(-[0-9a-fA-F]{2}){5}|([0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4}|[0-9a-fA-F]{12}"
)

Asked = Mapping[str, EndpointSettings]


def wanted(catalogue: Catalogue, mode: str, asked: Asked | None) -> list[tuple[NetworkRecord, EndpointSettings]]:
    """Return the networks a container joins, its network mode's first and the others by name. Raises: NotFound;
    InvalidArgument for networks that do not go together.

    asked: None for the mode's network alone; it need not be among what is asked for: a container may have been
    disconnected from it, and with nothing asked for it joins none.
    """
    if asked is not None and not asked:
        return []
    try:
        main = find(catalogue, mode)
    except NotFound as error:
        if not asked or mode in asked:
            raise
        raise NotFound(f"could not find a network matching network mode {mode}: {error.message}") from error
    found: dict[str, tuple[NetworkRecord, EndpointSettings]] = {}
    for ref, given in (asked or {main.name: EndpointSettings()}).items():
        network = find(catalogue, ref)
        found[network.name] = (network, given)
    if main.driver == "host" and set(found) != {main.name}:
        raise InvalidArgument(
            "container sharing network namespace with another container or host"
            " cannot be connected to any other network"
        )
    if len(found) > 1 and any(network.driver == "host" for network, _ in found.values()):
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if len(found) > 1 and any(network.driver == "null" and not network.config_only for network, _ in found.values()):
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
    return sorted(found.values(), key=lambda pair: (pair[0].id != main.id, pair[0].name))


def find(catalogue: Catalogue, ref: str) -> NetworkRecord:
    """Return the network of this name; an engine without a default network has none for it. Raises: NotFound."""
    if ref in ("", "default", DEFAULT_NETWORK) and catalogue.named(DEFAULT_NETWORK) is None:
        return catalogue.find("none")
    return catalogue.find(DEFAULT_NETWORK if ref in ("", "default") else ref)


def new(
    network: NetworkRecord, settings: EndpointSettings, *, container_id: str, name: str, hostname: str
) -> EndpointRecord:
    """Return an endpoint without addresses yet."""
    if network.name in PREDEFINED:
        names = settings.dns_names  # none, unless a rename has given it some (see `renamed`)
    else:
        names = dns_names(name, settings.aliases, container_id=container_id, hostname=hostname)
    return EndpointRecord(
        id=new_id(),
        network_id=network.id,
        network=network.name,
        settings=EndpointSettings(
            ipam_config=settings.ipam_config,
            links=settings.links,
            aliases=settings.aliases,
            driver_opts=settings.driver_opts,
            gw_priority=settings.gw_priority,
        ),
        dns_names=names,
    )


def dns_names(name: str, aliases: Sequence[str] | None, *, container_id: str, hostname: str) -> list[str]:
    """Return what a container answers to on one network: its name, aliases, short id and host name, each once."""
    names = [name, *(aliases or ()), container_id[:12], hostname]
    return list(dict.fromkeys(name for name in names if name))


def interface_name(network: NetworkRecord, settings: EndpointSettings, taken: Iterable[str]) -> str:
    """Return the name inside the container: as asked for, or the first free of eth0, eth1, …"""
    asked = (settings.driver_opts or {}).get(IFNAME_OPTION)
    if asked:
        return asked
    return free_name(network.options.get(PREFIX_OPTION, "eth"), taken)


def free_name(prefix: str, taken: Iterable[str]) -> str:
    """Return the first of prefix0, prefix1, … that is not taken."""
    used = set(taken)
    return next(name for n in range(len(used) + 1) if (name := f"{prefix}{n}") not in used)


def mac_address(asked: str, address: Address | None) -> str:
    """Return the MAC asked for, else one derived from the IPv4 address.

    Whoever had the address before had the MAC too, so no neighbour cache on the network can be out of date.
    Raises: InvalidArgument.
    """
    if asked:
        return parse_mac(asked)
    if address is not None and address.version == 4:
        return (b"\x02\x42" + address.packed).hex(":")
    return (b"\x02" + os.urandom(5)).hex(":")


def parse_mac(text: str) -> str:
    """Read a MAC address in one of the spellings that Go knows. Raises: InvalidArgument in Docker's words."""
    if not _MAC.fullmatch(text):
        raise InvalidArgument(f"invalid MAC address {text}")
    return bytes.fromhex(text.replace(":", "").replace("-", "").replace(".", "")).hex(":")


def sysctls(settings: EndpointSettings, interface: str) -> tuple[tuple[str, str], ...]:
    """Return the settings of an interface's own that were asked for: (path below /proc/sys, value).

    Raises: Internal in Docker's words for what is not one.
    """
    text = (settings.driver_opts or {}).get(SYSCTLS_OPTION)
    found = []
    for item in text.split(",") if text else ():
        name, equals, value = item.partition("=")
        parts = name.split(".")
        if not equals:
            raise Internal(f"expected sysctl '{item}' to have format name=value")
        if len(parts) != 5 or parts[3] not in ("IFNAME", "ifname") or not all(parts) or "/" in name:
            raise Internal(f"expected sysctl '{item}' to have format net.X.Y.IFNAME.Z")
        parts[3] = interface
        found.append(("/".join(parts), value))
    return tuple(found)


def settings_problems(settings: EndpointSettings, network: str, known: NetworkRecord | None = None) -> list[str]:
    """Return what Docker says of settings that a network of this name cannot fulfil; empty when it can.

    known: the network, when there is one already.
    """
    found = []
    config = settings.ipam_config
    predefined = network in PREDEFINED
    given = ((4, config.ipv4_address), (6, config.ipv6_address)) if config is not None else ()
    asked = [(version, text) for version, text in given if text]
    if asked and predefined:
        found.append("user specified IP address is supported on user defined networks only")
    for version, text in asked:
        address = _parsed(text)
        if address is None or address.version != version or address.is_unspecified:
            found.append(f"invalid IPv{version} address: {text}")
    for text in (config.link_local_ips or ()) if config is not None else ():
        if _parsed(text) is None:
            found.append(f"invalid link-local IP address: {text}")
    for version, text in asked if known is not None or predefined else ():
        own = [s for s in known.subnets if s.asked and (":" in s.subnet) == (version == 6)] if known is not None else []
        address = _parsed(text)
        if predefined or not own:
            found.append(
                "user specified IP address is supported only when connecting to networks with user configured subnets"
            )
        elif address is None or not any(address in ip_network(s.subnet, strict=False) for s in own):
            found.append(f"no configured subnet or ip-range contain the IP address {text}")
    if settings.aliases and predefined:
        found.append("network-scoped alias is supported only for containers in user defined networks")
    for item in (settings.driver_opts or {}).get(SYSCTLS_OPTION, "net.ipv4.none.IFNAME.").split(","):
        if not _OF_INTERFACE.search(item):
            found.append(
                f"unrecognised network interface sysctl '{item}'; represent 'net.X.Y.ethN.Z=V' as"
                " 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
    return found


def _parsed(text: str) -> Address | None:
    try:
        return ipam.parse_address(text)
    except ValueError:
        return None


def requested(settings: EndpointSettings, version: int) -> Address | None:
    """Return the static address asked for. Raises: InvalidArgument."""
    config = settings.ipam_config
    text = "" if config is None else config.ipv4_address if version == 4 else config.ipv6_address
    address = _parsed(text)
    if text and (address is None or address.version != version):
        raise InvalidArgument(f"invalid IPv{version} address: {text}")
    return address


LINK_LOCAL_LENGTH = {4: 16, 6: 64}


def link_local(settings: EndpointSettings) -> tuple[tuple[Address, int], ...]:
    """Return the further addresses asked for, with their lengths; no pool has them. Raises: InvalidArgument."""
    found: list[tuple[Address, int]] = []
    for text in (settings.ipam_config and settings.ipam_config.link_local_ips) or ():
        address = _parsed(text)
        if address is None or not address.is_link_local:
            raise InvalidArgument(f"invalid link local IP address: {text}")
        found.append((address, LINK_LOCAL_LENGTH[address.version]))
    return tuple(found)


def leads_nowhere(catalogue: Catalogue, network: NetworkRecord) -> bool:
    """Return whether containers on this network alone need the engine's way out, as far as its driver alone says so."""
    driver = catalogue.drivers.get(network.driver)
    return driver is not None and driver.capabilities.way_out and not network.internal


def lead_nowhere(catalogue: Catalogue, endpoints: Iterable[EndpointRecord]) -> bool:
    """Return whether a container with these endpoints needs the engine's way out: one wants it, and none leads out.

    What a plugin's network does is known when the plugin has made the endpoint; before, it is taken to lead out.
    """
    wanted = False
    for endpoint in endpoints:
        network = catalogue.table.get(endpoint.network_id)
        driver = catalogue.drivers.get(network.driver) if network is not None else None
        if network is None or network.internal or driver is None:
            continue
        if endpoint.joined is not None:
            leads = _joined_leads_out(endpoint, endpoint.joined)
            wanted = wanted or not leads
        else:
            leads = driver.capabilities.gateway
            wanted = wanted or driver.capabilities.way_out
        if leads:
            return False
    return wanted


def _joined_leads_out(endpoint: EndpointRecord, joined: JoinRecord) -> bool:
    default = any(route.destination in ("0.0.0.0/0", "::/0") for route in joined.routes)
    return bool(endpoint.gateway4 or endpoint.gateway6 or default or joined.no_way_out)


def in_order(endpoints: Iterable[EndpointRecord]) -> list[EndpointRecord]:
    """Return endpoints in Docker's order: the highest GwPriority first, then those with the gateways of both IP
    versions, then by the names of their networks. The engine's own way out comes last.
    """
    return sorted(
        endpoints, key=lambda e: (e.hidden, -e.settings.gw_priority, not (e.gateway4 and e.gateway6), e.network)
    )


def gateway_endpoints(endpoints: Iterable[EndpointRecord]) -> tuple[EndpointRecord | None, EndpointRecord | None]:
    """Return whose gateways the default routes of IPv4 and of IPv6 go to.

    As in Docker both go by one network where one has both gateways: it comes before networks of a higher GwPriority
    that have only one.
    """
    ordered = in_order(endpoints)
    both = [e for e in ordered if e.gateway4 and e.gateway6]
    by4 = next((e for e in both or ordered if e.gateway4), None)
    by6 = next((e for e in both or ordered if e.gateway6), None)
    return by4, by6


def ways_out(endpoints: Iterable[EndpointRecord]) -> list[EndpointRecord]:
    """Return the endpoints that have a default route, each once."""
    return list({e.id: e for e in gateway_endpoints(endpoints) if e is not None}.values())


def gateways(endpoints: Iterable[EndpointRecord]) -> tuple[tuple[str, Address], ...]:
    """Return (interface, gateway) of the default routes."""
    by4, by6 = gateway_endpoints(endpoints)
    found = ((by4, by4.gateway4 if by4 else ""), (by6, by6.gateway6 if by6 else ""))
    return tuple((e.interface, ip_address(gateway)) for e, gateway in found if e is not None)


def check(network: NetworkRecord, settings: EndpointSettings) -> None:
    """Check that the network can give what is asked for. Raises: InvalidArgument in Docker's words."""
    if settings.mac_address:
        parse_mac(settings.mac_address)
    refuse(problems(network, settings))


def refuse(found: Sequence[str]) -> None:
    """Raise what Docker says when there are problems. Raises: InvalidArgument."""
    if found:
        listed = found[0] if len(found) == 1 else "* " + "\n* ".join(found)
        raise InvalidArgument(f"invalid endpoint settings:\n{listed}")


def problems(network: NetworkRecord, settings: EndpointSettings) -> list[str]:
    """Return what Docker says of endpoint settings that this network cannot fulfil; empty when it can."""
    return settings_problems(settings, network.name, network)
