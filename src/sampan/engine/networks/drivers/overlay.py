"""The overlay driver: one network on several hosts, by VXLAN with static forwarding and neighbour entries.

    container ─veth─ bridge ov-<vni> ─ vx-<vni> ══ UDP 4789 ══ vx-<vni> ─ ov-<vni> ─veth─ container

Both links are in the host's namespace and have no address: packets of an overlay network never meet the host's routes.
Who is where is told by a `PeerSource`; nothing is learned from packets. Several subnets of a network share one bridge
and one VXLAN id, and a container reaches the others as neighbours. What the containers send elsewhere leaves by the
engine's gateway network (capability `way_out`).

Links carry their network's id in their alias. Entries outlive the engine: after a restart the kernel's are compared
with the first state that the source tells, and no others are touched.

Invariant: `_known` belongs to the namespace thread, everything else to the loop's.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from msgspec.structs import replace

from sampan.engine.networks import host as hosts
from sampan.engine.networks import peers
from sampan.engine.networks.drivers import overlay_options
from sampan.engine.networks.drivers.driver import (
    Announce,
    NetworkCapabilities,
    NetworkDriver,
    RemoteEndpoint,
    stray_veths,
    veth_name,
)
from sampan.engine.networks.drivers.overlay_options import Overlay
from sampan.engine.networks.firewall import NetworkRules, Tunnel
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.ipam import Address
from sampan.engine.networks.peers import Peer, PeerSource, PeerTable
from sampan.engine.networks.plans import VETH, InterfacePlan, RoutePlan
from sampan.engine.networks.plumbing import Plumbing, write_sysctl
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from sampan.errors import Forbidden, Internal, Unavailable
from sampan.linux import netlink, vxlan
from sampan.linux.netlink import Link, Netlink
from sampan.linux.vxlan import Known

log = logging.getLogger(__name__)

NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm'
    " and try again."
)


@dataclass(frozen=True, slots=True)
class _Links:
    """A network that is set up, with the indexes of its links."""

    overlay: Overlay
    bridge: int
    tunnel: int

    @property
    def vni(self) -> int:
        """The VXLAN id."""
        return self.overlay.vni


class OverlayDriver(NetworkDriver):
    """source: who tells of the other hosts; None: nobody, and no network can be made."""

    capabilities = NetworkCapabilities(way_out=True, several=True)

    def __init__(self, source: PeerSource | None) -> None:
        self._source = source
        self._peers = PeerTable()
        self._told = False  # the source has told a first state
        self._announce: Announce | None = None
        self._links: dict[str, _Links] = {}
        self._ends: dict[str, tuple[str, ...]] = {}  # by network: the hosts that may send by its tunnel
        self._own: frozenset[Address] = frozenset()
        self._known: dict[int, Known] = {}  # by index of the VXLAN link

    # ── pure ────────────────────────────────────────────────────────────────────────────────────────────────────

    def validate(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> None:
        """Check the options. Raises: Unavailable without a source; InvalidArgument, NotImplemented_."""
        if self._source is None:
            raise Unavailable(NO_SWARM)
        overlay_options.validate(network, (other for other in others if other.driver == network.driver))

    def chosen(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> Mapping[str, str]:
        """Return the VXLAN id: the lowest that no network of this engine has."""
        if overlay_options.VNIS in network.options:
            return {}
        taken, number = (
            overlay_options.taken(o for o in others if o.driver == network.driver),
            overlay_options.FIRST_VNI,
        )
        while number in taken:
            number += 1
        return {overlay_options.VNIS: str(number)}

    def describe(self, network: NetworkRecord) -> str:
        """Return the VXLAN id with the MTU and the subnets."""
        overlay = Overlay(network)
        return " ".join([f"overlay {overlay.vni}", f"mtu {overlay.mtu}", *(s.subnet for s in network.subnets)])

    def interface(self, network: NetworkRecord, endpoint: EndpointRecord) -> InterfacePlan:
        """Return the veth pair of an endpoint. Raises: Internal when the network could not be set up."""
        links = self._links.get(network.id)
        if links is None:
            raise Internal(f"the links of network {network.id[:12]} are not there: see the daemon's log of its start")
        subnets = [ip_network(s.subnet, strict=False) for s in network.subnets]
        own = [address for address, _ in endpoint.prefixes]
        versions = {address.version for address in own}
        return InterfacePlan(
            kind=VETH,
            host_name=endpoint.veth,
            name=endpoint.interface,
            master=links.bridge,
            mac=endpoint.mac,
            mtu=Overlay(network).mtu,
            addresses=endpoint.prefixes,
            routes=tuple(
                RoutePlan(destination=s) for s in subnets if s.version in versions and not any(a in s for a in own)
            ),
        )

    def rules(self, network: NetworkRecord, *, ip6: bool) -> NetworkRules:
        """Return rules that let its containers reach each other where bridged packets pass the IP hooks; only that.

        And that let only hosts of peers send by the tunnel.
        """
        overlay = Overlay(network)
        tunnel = Tunnel(port=vxlan.PORT, vni=overlay.vni, ends=self._ends.get(network.id, ()))
        return NetworkRules(interface=overlay.bridge, internal=True, masquerade=False, tunnel=tunnel)

    def elsewhere(self, network: NetworkRecord, address: Address) -> bool:
        """Return whether a peer on another host has this address."""
        peer = self._peers.having(Overlay(network).vni, address)
        return peer is not None and peer.vtep not in self._own

    def strays(self, links: Sequence[Link], known: frozenset[str]) -> list[str]:
        """Return the veths on our bridges that belong to nobody."""
        return stray_veths(links, {own.bridge for own in self._links.values()}, known)

    # ── done ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def setup(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Make both links what the network says, and let them know the peers. Raises: OSError, Forbidden."""
        links = await host.run(_ensure, host.plumbing.host, Overlay(network), host.owner)
        self._links[network.id] = links
        if not self._told:  # whom an earlier daemon let send
            known = await host.run(vxlan.known, host.plumbing.host, links.tunnel)
            self._ends[network.id] = _ends(known.forwarding.values())
        await self._tell(host, network.id, links)

    async def teardown(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Delete both links if they are ours, and with them all that they know."""
        links = self._links.pop(network.id, None)
        self._ends.pop(network.id, None)
        await host.run(self._delete, host.plumbing, Overlay(network), links)
        if self._announce is not None:
            await self._announce(network.id, ())

    async def attach(
        self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        """Name the pair's end on the host."""
        return replace(endpoint, veth=veth_name())

    # ── peers ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def follow(self, host: HostNetwork, announce: Announce) -> None:
        """Let the networks know the peers that the source tells of, update by update."""
        self._announce = announce
        if self._source is None:
            return
        async for update in self._source.watch():
            changed = self._peers.apply(update)
            first, self._told = not self._told, True
            for id, links in list(self._links.items()):
                if first or links.vni in changed:
                    try:
                        await self._tell(host, id, links)
                    except OSError as error:
                        log.error("network %s: its peers cannot be told to the kernel: %s", id[:12], error)

    async def _tell(self, host: HostNetwork, id: str, links: _Links) -> None:
        """Let a network's link know the peers of this moment, and names lead to them. Raises: OSError."""
        if not self._told:
            return
        there = tuple(self._peers.of(links.vni))
        self._own, now = await host.run(self._write, host, links, there)
        if self._links.get(id) != links:
            return
        self._links[id] = now
        remote = peers.elsewhere(there, self._own)
        self._ends[id] = _ends(peer.vtep for peer in remote)
        if self._announce is not None:
            await self._announce(id, [_named(p) for p in remote if p.names])

    # ── blocking, in the namespace thread ───────────────────────────────────────────────────────────────────────

    def _write(self, network: HostNetwork, links: _Links, there: Sequence[Peer]) -> tuple[frozenset[Address], _Links]:
        """Let a VXLAN link know these peers, those of this host left out; return this host's addresses.

        And the network's links: the tunnel's is another one when it had ends of the other IP version.
        """
        host = network.plumbing.host
        own = frozenset(prefix.address for prefix in host.addresses())
        found = host.link(links.overlay.tunnel)
        if found is None or not hosts.marked(found, links.overlay.network.id):  # deleted by hand, or with its network
            return own, links
        links = dataclasses.replace(links, tunnel=found.ifindex)
        remote = peers.elsewhere(there, own)
        ip6 = links.overlay.network.enable_ipv6
        neighbours = {a: p.mac for p in remote for a in p.addresses if a.version == 4 or ip6}
        want = Known({p.mac: p.vtep for p in remote}, neighbours)
        have = self._known.pop(links.tunnel, None) or vxlan.known(host, links.tunnel)
        try:
            vxlan.write(host, vxlan.changes(links.tunnel, have, want))
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            network.plumbing.delete_links([links.overlay.tunnel])
            links = _ensure(host, links.overlay, network.owner, ends6=any(p.vtep.version == 6 for p in remote))
            vxlan.write(host, vxlan.changes(links.tunnel, Known(), want))
        self._known[links.tunnel] = want  # when that fails, the next time looks what there is
        return own, links

    def _delete(self, plumbing: Plumbing, overlay: Overlay, links: _Links | None) -> None:
        if links is not None:
            self._known.pop(links.tunnel, None)
        found = [plumbing.host.link(name) for name in (overlay.tunnel, overlay.bridge)]
        plumbing.delete_links(
            [link.name for link in found if link is not None and hosts.marked(link, overlay.network.id)]
        )


def _ends(vteps: Iterable[Address]) -> tuple[str, ...]:
    return tuple(sorted({str(vtep) for vtep in vteps if not vtep.is_unspecified}))


def _named(peer: Peer) -> RemoteEndpoint:
    by_version = {address.version: str(address) for address in peer.addresses}
    return RemoteEndpoint(names=peer.names, ipv4=by_version.get(4, ""), ipv6=by_version.get(6, ""))


def _ensure(host: Netlink, overlay: Overlay, owner: str, *, ends6: bool = False) -> _Links:
    """Make both links, or make them right. Raises: Forbidden when one is somebody else's; OSError.

    ends6: a tunnel that is made has ends with IPv6 addresses.
    """
    alias = hosts.mark(overlay.network.id, owner)
    bridge = _ours(host, overlay, overlay.bridge)
    if bridge is None:
        made = netlink.add_bridge(overlay.bridge, address=overlay.mac)
        host.batch([made, netlink.set_link(overlay.bridge, alias=alias)])
        bridge = _index(host, overlay.bridge)
    tunnel = _ours(host, overlay, overlay.tunnel)
    if tunnel is None:
        made = vxlan.add_vxlan(overlay.tunnel, overlay.vni, mtu=overlay.mtu, master=bridge, ip6=ends6)
        host.batch([made, netlink.set_link(overlay.tunnel, alias=alias)])
        tunnel = _index(host, overlay.tunnel)
    ip6 = overlay.network.enable_ipv6
    for name in (overlay.bridge, overlay.tunnel):
        write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
        write_sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", "1")  # no address of its own
        # the kernel takes IPv6 neighbours only of a link with IPv6
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0" if ip6 and name == overlay.tunnel else "1")
    requests = [
        netlink.set_link(index, up=True, mtu=overlay.mtu, master=master, alias=alias)
        for index, master in ((bridge, None), (tunnel, bridge))
    ]
    host.batch([*requests, vxlan.no_learning(overlay.tunnel)])
    return _Links(overlay, bridge, tunnel)


def _ours(host: Netlink, overlay: Overlay, name: str) -> int | None:
    link = host.link(name)
    if link is not None and not hosts.marked(link, overlay.network.id):
        raise Forbidden(f"link name {name} is already in use on this host")
    return None if link is None else link.ifindex


def _index(host: Netlink, name: str) -> int:
    link = host.link(name)
    if link is None:
        raise Internal(f"link {name} was deleted while it was made")
    return link.ifindex
