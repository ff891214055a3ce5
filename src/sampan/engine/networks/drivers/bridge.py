"""The bridge driver: a Linux bridge per network, a veth pair per endpoint. Options are read here, links are made here.

A bridge that we made carries `sampan:<network id>` as its alias: another engine's or an administrator's link is never
taken over or deleted.

Source: docs.docker.com/engine/network/drivers/bridge (options); ip-link(8).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_interface, ip_network

from sampan.engine.networks.firewall import NetworkRules
from sampan.engine.networks.ipam import Subnet
from sampan.engine.networks.plumbing import Plumbing, read_sysctl, write_sysctl
from sampan.engine.networks.records import NetworkRecord
from sampan.errors import Forbidden, Internal, InvalidArgument, NotImplemented_
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.spec import go_values

PREFIX = "com.docker.network.bridge."
NAME = PREFIX + "name"
DEFAULT_BRIDGE = PREFIX + "default_bridge"
ICC = PREFIX + "enable_icc"
MASQUERADE = PREFIX + "enable_ip_masquerade"
HOST_BINDING = PREFIX + "host_binding_ipv4"
INHIBIT_IPV4 = PREFIX + "inhibit_ipv4"
GATEWAY_MODE4, GATEWAY_MODE6 = PREFIX + "gateway_mode_ipv4", PREFIX + "gateway_mode_ipv6"
TRUSTED = PREFIX + "trusted_host_interfaces"
MTU = "com.docker.network.driver.mtu"
HOST_IPV4 = "com.docker.network.host_ipv4"
CONTAINER_PREFIX = "com.docker.network.container_iface_prefix"

GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
MODES_BUILT = ("nat", "nat-unprotected")
MAX_NAME = 15


def flag(options: dict[str, str], key: str, default: bool = True) -> bool:
    """Read a boolean option as Go's ParseBool. Raises: InvalidArgument."""
    text = options.get(key)
    if text is None:
        return default
    try:
        return go_values.boolean(text)
    except ValueError as error:
        raise InvalidArgument(f"failed to parse {key} value: {text} ({error})") from error


def validate(options: dict[str, str]) -> None:
    """Check every option that this driver reads. Raises: InvalidArgument naming it."""
    for key in (ICC, MASQUERADE, INHIBIT_IPV4, DEFAULT_BRIDGE):
        flag(options, key)
    if not options.get(MTU, "0").isdigit():
        mtu = options[MTU]
        raise InvalidArgument(f'failed to parse {MTU} value: {mtu} (strconv.Atoi: parsing "{mtu}": invalid syntax)')
    name = options.get(NAME, "")
    if len(name) > MAX_NAME:
        raise Internal("numerical result out of range")
    if "/" in name or any(c.isspace() for c in name):
        raise InvalidArgument(f"invalid bridge name: {name}")
    for key in (GATEWAY_MODE4, GATEWAY_MODE6):
        if options.get(key, "nat") not in GATEWAY_MODES:
            raise InvalidArgument(f"unknown gateway mode {options[key]}")
        if options.get(key, "nat") not in MODES_BUILT:
            raise NotImplemented_(f"gateway mode {options[key]} is not available yet; use nat or nat-unprotected")
    if HOST_BINDING in options:
        try:
            IPv4Address(options[HOST_BINDING])
        except ValueError as error:
            raise InvalidArgument(f"invalid host binding address {options[HOST_BINDING]}") from error


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge network as the driver sees it."""

    network: NetworkRecord

    @property
    def name(self) -> str:
        return self.network.bridge

    @property
    def alias(self) -> str:
        return f"sampan:{self.network.id}"

    @property
    def mtu(self) -> int:
        return int(self.network.options.get(MTU, "0")) or 1500

    @property
    def icc(self) -> bool:
        return flag(self.network.options, ICC)

    @property
    def host_binding(self) -> str:
        """The host address its ports are published on by default; empty: the daemon's."""
        return self.network.options.get(HOST_BINDING, "")

    @property
    def interface_prefix(self) -> str:
        return self.network.options.get(CONTAINER_PREFIX, "eth")

    def rules(self, *, ip6: bool = True) -> NetworkRules:
        """What the firewall needs to know; without ip6 nothing of IPv6 (daemon option ip6tables)."""
        n, four, six = self.network, self.network.subnet(4), self.network.subnet(6) if ip6 else None
        return NetworkRules(
            bridge=self.name,
            subnet4=_canonical(four.subnet) if four else "",
            gateway4=four.gateway if four else "",
            subnet6=_canonical(six.subnet) if six else "",
            gateway6=six.gateway if six else "",
            icc=self.icc,
            masquerade=flag(n.options, MASQUERADE),
            internal=n.internal,
            source4=n.options.get(HOST_IPV4, ""),
            mode4=n.options.get(GATEWAY_MODE4, "nat"),
            mode6=n.options.get(GATEWAY_MODE6, "nat"),
        )


def _canonical(subnet: str) -> str:
    return str(ip_network(subnet, strict=False))


def owned(host: Netlink, bridge: Bridge) -> bool:
    """Whether the link of that name exists and is this network's. Raises: Forbidden when it is somebody else's."""
    link = host.link(bridge.name)
    if link is None:
        return False
    if link.alias == bridge.alias:
        return True
    raise Forbidden(f"bridge name {bridge.name} is already in use on this host")


def free_name(host: Netlink, prefix: str) -> str:
    """The first of prefix0, prefix1, … that no link has."""
    names = {link.name for link in host.links()}
    return next(name for n in range(1 << 16) if (name := f"{prefix}{n}") not in names)


def others(host: Netlink) -> bool:
    """Whether a bridge of some container engine is there, ours included."""
    return any(
        link.kind == "bridge" and (link.alias.startswith("sampan:") or link.name == "docker0") for link in host.links()
    )


def ensure(plumbing: Plumbing, bridge: Bridge, *, ours: bool = True) -> int:
    """Make the bridge what its network says, creating it when it is missing; return its index.

    `ours=False`: an administrator's bridge (daemon option `bridge`), which must exist and is not configured.
    """
    host = plumbing.host
    if not ours:
        link = host.link(bridge.name)
        if link is None:
            raise InvalidArgument(f"bridge {bridge.name} does not exist")
        return link.ifindex
    if not owned(host, bridge):
        host.batch([netlink.add_bridge(bridge.name, address=_mac(bridge), mtu=0)])
        host.batch([netlink.set_link(bridge.name, alias=bridge.alias)])
    link = host.link(bridge.name)
    assert link is not None
    write_sysctl(f"net/ipv6/conf/{bridge.name}/accept_ra", "0")
    six = bridge.network.subnet(6)
    write_sysctl(f"net/ipv6/conf/{bridge.name}/disable_ipv6", "0" if six else "1")
    requests = _address_changes(host, link.ifindex, bridge)
    if bridge.mtu != 1500 or link.mtu != 1500:
        requests.append(netlink.set_link(link.ifindex, mtu=bridge.mtu))
    host.batch([*requests, netlink.set_link(link.ifindex, up=True)])
    return link.ifindex


def _address_changes(host: Netlink, index: int, bridge: Bridge) -> list[netlink.Message]:
    wanted = set()
    for subnet in bridge.network.subnets:
        if subnet.gateway and not (":" not in subnet.subnet and flag(bridge.network.options, INHIBIT_IPV4, False)):
            length = ip_network(subnet.subnet, strict=False).prefixlen
            wanted.add((ip_interface(f"{subnet.gateway}/{length}").ip, length))
    have = {(p.address, p.length) for p in host.addresses() if p.ifindex == index and not p.address.is_link_local}
    changes = [netlink.delete_address(index, address, length) for address, length in have - wanted]
    return changes + [netlink.add_address(index, address, length) for address, length in wanted - have]


def _mac(bridge: Bridge) -> str:
    """A fixed address, or the bridge would take its lowest port's and change it with every container."""
    return "02:42:" + ":".join(bridge.network.id[n : n + 2] for n in range(0, 8, 2))


def delete(plumbing: Plumbing, bridge: Bridge) -> None:
    """Delete the bridge if it is ours; a missing one is fine."""
    link = plumbing.host.link(bridge.name)
    if link is not None and link.alias == bridge.alias:
        plumbing.delete_links([bridge.name])


def allow_loopback(bridge: Bridge) -> None:
    """Let packets from 127.0.0.1 be translated into the network; only ever with the raw chain's rules in place."""
    write_sysctl(f"net/ipv4/conf/{bridge.name}/route_localnet", "1")


def filters_bridged() -> bool:
    """Whether the kernel passes bridged packets through the IP hooks (br_netfilter): then hairpin ports are needed."""
    return read_sysctl("net/bridge/bridge-nf-call-iptables") == "1"


def host_subnets(host: Netlink, *, but: Iterable[int] = ()) -> list[Subnet]:
    """Every subnet the host has an address in or a route to, default routes and the given links left out."""
    skip = set(but)
    found: list[Subnet] = []
    for prefix in host.addresses():
        if prefix.ifindex not in skip:
            found.append(ip_network((prefix.address, prefix.length), strict=False))
    for route in host.routes():
        if (
            route.destination is not None
            and route.length
            and route.ifindex not in skip
            and route.type == netlink.RTN_UNICAST
        ):
            subnet = ip_network((route.destination, route.length), strict=False)
            if not (isinstance(subnet, IPv4Network) and subnet.prefixlen < 4):
                found.append(subnet)
    return found
