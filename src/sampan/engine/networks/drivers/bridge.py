"""The bridge driver: a Linux bridge per network, a veth pair per endpoint.

A bridge that we made carries its network's id in its alias: another engine's or an administrator's link is never
taken over or deleted. The administrator's own (daemon option `bridge`) must exist and is not configured.

Source: docs.docker.com/engine/network/drivers/bridge; ip-link(8).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_interface, ip_network

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.networks import host as hosts
from sampan.engine.networks.drivers import bridge_default, bridge_options
from sampan.engine.networks.drivers.bridge_options import Bridge
from sampan.engine.networks.drivers.driver import (
    MTU,
    ChooseSubnet,
    NetworkCapabilities,
    NetworkDriver,
    stray_veths,
    veth_name,
)
from sampan.engine.networks.firewall import Mode, NetworkRules, Publication, Reach
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.plans import VETH, InterfacePlan, NeighbourPlan
from sampan.engine.networks.plumbing import Plumbing, read_sysctl, write_sysctl
from sampan.engine.networks.records import PREDEFINED, EndpointRecord, NetworkRecord, SandboxRecord
from sampan.errors import Forbidden, Internal, InvalidArgument
from sampan.linux import netlink
from sampan.linux.netlink import Link, Netlink


class BridgeDriver(NetworkDriver):
    """Remembers the kernel's index of each bridge that is set up."""

    capabilities = NetworkCapabilities(gateway=True, publishes=True)

    def __init__(self) -> None:
        self._indexes: dict[str, int] = {}
        self._bridged_filter = False

    # ── pure ────────────────────────────────────────────────────────────────────────────────────────────────────

    def options(self, config: EngineConfig) -> Mapping[str, str]:
        """Return the MTU of the daemon's configuration, when it is not the usual one."""
        return {} if config.mtu == bridge_options.DEFAULT_MTU else {MTU: str(config.mtu)}

    def validate(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> None:
        """Check the options, and that no other network has this bridge. Raises: InvalidArgument, Forbidden."""
        if not network.enable_ipv4 and not network.enable_ipv6:
            raise InvalidArgument("IPv4 or IPv6 must be enabled")
        bridge_options.validate(network.options, internal=network.internal)
        name = Bridge(network).name
        for other in others:
            if other.driver == network.driver and Bridge(other).name == name:
                raise Forbidden(f"conflicts with network {other.id} ({other.name}): networks have same bridge name")

    def describe(self, network: NetworkRecord) -> str:
        """Return the bridge with its MTU and addresses."""
        addresses = [f"{s.gateway}/{ip_network(s.subnet, strict=False).prefixlen}" for s in network.subnets]
        return " ".join([f"bridge {Bridge(network).name}", f"mtu {Bridge(network).mtu}", *addresses])

    def interface(self, network: NetworkRecord, endpoint: EndpointRecord) -> InterfacePlan:
        """Return the veth pair of an endpoint. Raises: Internal when the bridge could not be made at start."""
        index = self._indexes.get(network.id)
        if index is None:
            raise Internal(f"the bridge of network {network.id[:12]} is not there: see the daemon's log of its start")
        bridge = Bridge(network)
        return InterfacePlan(
            kind=VETH,
            host_name=endpoint.veth,
            name=endpoint.interface,
            master=index,
            mac=endpoint.mac,
            mtu=bridge.mtu,
            addresses=endpoint.prefixes,
            # whoever had the address before may have had another MAC, and a cache remembers for half a minute
            neighbours=tuple(
                NeighbourPlan(index=index, address=a, mac=endpoint.mac)
                for a, _ in endpoint.prefixes
                if bridge.mode(a.version) != Mode.ISOLATED  # the host has no cache there
            ),
            # where bridged packets pass the IP hooks, the forward chain keeps containers apart, and knows published
            # ports
            isolated=not bridge.icc and not self._bridged_filter,
            hairpin=self._bridged_filter,
        )

    def rules(self, network: NetworkRecord, *, ip6: bool) -> NetworkRules:
        """Return what the ruleset shall have for this network."""
        return Bridge(network).rules(ip6=ip6)

    def publication(self, network: NetworkRecord) -> Publication:
        """Return what the network's options say."""
        return Publication(Bridge(network).host_binding, Bridge(network).port_mapper)

    def has_gateway(self, network: NetworkRecord, version: int) -> bool:
        """Return whether the network is not isolated."""
        return Bridge(network).mode(version) != Mode.ISOLATED

    def reach(self, network: NetworkRecord, version: int) -> Reach:
        """Return what gateway mode and trusted interfaces say."""
        bridge = Bridge(network)
        if bridge.mode(version) == Mode.ROUTED:
            return Reach.CONTAINER
        return Reach.BOTH if bridge.trusted else Reach.HOST

    def strays(self, links: Sequence[Link], known: frozenset[str]) -> list[str]:
        """Return the veths on our bridges that belong to nobody."""
        return stray_veths(links, set(self._indexes.values()), known)

    # ── done ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def predefined(
        self, host: HostNetwork, name: str, old: NetworkRecord | None, choose: ChooseSubnet
    ) -> NetworkRecord | None:
        """Return the default bridge network; None when the configuration wants none."""
        if host.config.bridge == bridge_default.NO_BRIDGE:
            return None
        seen = await host.run(_look, host.plumbing.host, host.config.bridge, old)
        return bridge_default.network(host.config, old, name, seen, lambda version: choose(version, seen.host_subnets))

    async def setup(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Make the bridge what its network says, creating it when it is missing. Raises: OSError, SampanError."""
        ours = not (network.name in PREDEFINED and host.config.bridge)
        self._indexes[network.id] = await host.run(self._setup, host, Bridge(network), ours=ours)

    def _setup(self, host: HostNetwork, bridge: Bridge, *, ours: bool) -> int:
        # br_netfilter passes bridged packets through the IP hooks: then hairpin ports are needed
        self._bridged_filter = read_sysctl("net/bridge/bridge-nf-call-iptables") == "1"
        links = host.plumbing.host
        return _ensure(links, bridge, host.owner) if ours else _foreign(links, bridge)

    async def teardown(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Delete the bridge if it is ours."""
        self._indexes.pop(network.id, None)
        await host.run(_delete, host.plumbing, Bridge(network))

    async def attach(
        self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        """Name the pair's end on the host."""
        return replace(endpoint, veth=veth_name())


# ── blocking, in the namespace thread ───────────────────────────────────────────────────────────────────────────


def _look(host: Netlink, given: str, old: NetworkRecord | None) -> bridge_default.Seen:
    """Look at what the default bridge network depends on. given: an administrator's bridge, empty for none."""
    links = {link.name: link for link in host.links()}
    if given and given not in links:
        raise InvalidArgument(f"bridge device with non default name {given} must be created manually")
    if given and links[given].kind != "bridge":
        raise InvalidArgument(f"existing interface {given} is not a bridge")
    name = given or bridge_default.kept_name(old, links) or hosts.free_name(host, bridge_default.PREFIX)
    own = [links[name].ifindex] if name in links else []
    on_link = [p for p in host.addresses() if p.ifindex in own and not p.address.is_link_local]
    return bridge_default.Seen(
        name=name,
        link_subnets=tuple(ip_network((p.address, p.length), strict=False) for p in on_link),
        host_subnets=tuple(hosts.subnets(host, but=name)),
    )


def _foreign(host: Netlink, bridge: Bridge) -> int:
    link = host.link(bridge.name)
    if link is None:
        raise InvalidArgument(f"bridge {bridge.name} does not exist")
    return link.ifindex


def _ensure(host: Netlink, bridge: Bridge, owner: str) -> int:
    """Make the bridge, or make it right; return its index. Raises: Forbidden when the link is somebody else's."""
    link = host.link(bridge.name)
    alias = hosts.mark(bridge.network.id, owner)
    if link is not None and not hosts.marked(link, bridge.network.id):
        raise Forbidden(f"bridge name {bridge.name} is already in use on this host")
    if link is None:
        # in one system call: a bridge without our mark would be nobody's, and in the way of the next start
        made = netlink.add_bridge(bridge.name, address=bridge.mac, mtu=0)
        host.batch([made, netlink.set_link(bridge.name, alias=alias)])
        link = host.link(bridge.name)
    assert link is not None
    write_sysctl(f"net/ipv6/conf/{bridge.name}/accept_ra", "0")
    six = bridge.network.subnet(6) is not None and bridge.mode(6) != Mode.ISOLATED
    write_sysctl(f"net/ipv6/conf/{bridge.name}/disable_ipv6", "0" if six else "1")
    requests = _address_changes(host, link.ifindex, bridge)
    if link.alias != alias:
        requests.append(netlink.set_link(link.ifindex, alias=alias))
    if bridge.mtu != bridge_options.DEFAULT_MTU or link.mtu != bridge_options.DEFAULT_MTU:
        requests.append(netlink.set_link(link.ifindex, mtu=bridge.mtu))
    host.batch([*requests, netlink.set_link(link.ifindex, up=True)])
    return link.ifindex


def _address_changes(host: Netlink, index: int, bridge: Bridge) -> list[netlink.Message]:
    wanted = set()
    for subnet in bridge.network.subnets:
        if subnet.gateway and bridge.host_address(6 if ":" in subnet.subnet else 4):
            length = ip_network(subnet.subnet, strict=False).prefixlen
            wanted.add((ip_interface(f"{subnet.gateway}/{length}").ip, length))
    have = {(p.address, p.length) for p in host.addresses() if p.ifindex == index and not p.address.is_link_local}
    changes = [netlink.delete_address(index, address, length) for address, length in have - wanted]
    return changes + [netlink.add_address(index, address, length) for address, length in wanted - have]


def _delete(plumbing: Plumbing, bridge: Bridge) -> None:
    link = plumbing.host.link(bridge.name)
    if link is not None and hosts.marked(link, bridge.network.id):
        plumbing.delete_links([bridge.name])
