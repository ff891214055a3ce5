"""The drivers macvlan and ipvlan: a container's link is made inside it, on a link of the host, its parent.

The containers are on the parent's network like machines of their own: their gateway is a machine there, published ports
have no meaning, and the host itself is not reached through the parent. ipvlan in the modes l3 and l3s needs no gateway:
the host forwards between the parent and the containers, and their default route is the link.

Source: docs.docker.com/engine/network/drivers/macvlan and ipvlan; ip-link(8).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

from sampan.engine.networks.drivers import vlan_parents
from sampan.engine.networks.drivers.driver import NetworkCapabilities, NetworkDriver
from sampan.engine.networks.drivers.vlan_options import Ipvlan, Macvlan, Vlan
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.plans import InterfacePlan, RoutePlan
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord

LAST_METRIC = 1024  # of a default route that any other goes before
_EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


class VlanDriver(NetworkDriver):
    """What both drivers do. Remembers the kernel's index of each network's parent, as it was last seen."""

    capabilities = NetworkCapabilities(gateway=True, outside=True, several=True)
    _view: type[Vlan]

    def __init__(self) -> None:
        self._indexes: dict[str, int] = {}

    # ── pure ────────────────────────────────────────────────────────────────────────────────────────────────────

    def validate(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> None:
        """Check the options, and that the parent may have this network too. Raises: InvalidArgument, Forbidden."""
        self._view(network).validate(other for other in others if other.driver == network.driver)

    def leads_out(self, network: NetworkRecord) -> bool:
        """Return whether endpoints have the network's gateway as their way out."""
        return not network.internal and not self._view(network).routed

    def describe(self, network: NetworkRecord) -> str:
        """Return the mode, the parent and the subnets."""
        return " ".join([self._view(network).describe(), *(s.subnet for s in network.subnets)])

    def interface(self, network: NetworkRecord, endpoint: EndpointRecord) -> InterfacePlan:
        """Return the link of an endpoint; its parent is known from the endpoint's `attach` on."""
        vlan, own = self._view(network), endpoint.interface
        versions = [address.version for address, _ in endpoint.prefixes]
        by_link = versions if vlan.routed and not network.internal else []
        # whoever had the address before may have had another MAC: tell the neighbours
        notify = [("4", f"net/ipv4/conf/{own}/arp_notify"), ("6", f"net/ipv6/conf/{own}/ndisc_notify")]
        return InterfacePlan(
            kind=vlan.kind,
            name=own,
            parent=self._indexes.get(network.id, 0),
            attributes=vlan.attributes,
            mac=endpoint.mac,
            addresses=endpoint.prefixes,
            routes=tuple(RoutePlan(destination=_EVERYWHERE[v], metric=LAST_METRIC) for v in by_link),
            sysctls=tuple((path, "1") for version, path in notify if int(version) in versions),
        )

    # ── done ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def setup(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Find the parent, or make it when it is ours to make. Raises: OSError, SampanError."""
        vlan = self._view(network)
        host.parents[network.id] = vlan.parent
        self._indexes[network.id] = await host.run(_set_up, host, vlan)

    async def teardown(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Delete the parent when we made it and no other network is on it."""
        self._indexes.pop(network.id, None)
        host.parents.pop(network.id, None)
        vlan = self._view(network)
        await host.run(vlan_parents.release, host.plumbing.host, vlan, dict(host.parents), host.owner)

    async def attach(
        self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        """Look the parent up again: an administrator's link may have gone and come back. Raises: Internal."""
        vlan = self._view(network)
        self._indexes[network.id] = await host.run(vlan_parents.look_up, host.plumbing.host, vlan, host.owner)
        return endpoint


class MacvlanDriver(VlanDriver):
    """Every container is a station of its own on the parent's segment."""

    _view = Macvlan


class IpvlanDriver(VlanDriver):
    """The containers have the parent's MAC address."""

    capabilities = NetworkCapabilities(gateway=True, outside=True, several=True, macs=False)
    _view = Ipvlan


def _set_up(host: HostNetwork, vlan: Vlan) -> int:
    rtnl = host.plumbing.host
    vlan_parents.probe(rtnl, vlan.kind)
    return vlan_parents.ensure(rtnl, vlan, host.owner)
