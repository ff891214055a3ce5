"""Network drivers that exist only in tests: each is one class and one line, as a real one is one file and one line.

`LanDriver` makes its links inside the container, on a link of the host. `RoutedDriver` is like a plugin: its attach
does work on the host, the link that it made is moved into the container, and the way to the container is a route.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cache
from ipaddress import IPv4Address, ip_interface, ip_network

from msgspec.structs import replace

from sampan.engine.networks.drivers import choice
from sampan.engine.networks.drivers.driver import NetworkCapabilities, NetworkDriver
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.peers import PeerUpdate
from sampan.engine.networks.plans import MOVED, InterfacePlan, RoutePlan
from sampan.engine.networks.plumbing import Plumbing
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from sampan.engine.plugins.client import Plugin
from sampan.engine.plugins.places import PluginPlace
from sampan.errors import InvalidArgument
from sampan.linux import netlink
from sampan.linux.netlink import Link, Netlink
from tests.support import network_plugin

LANES = "tests.lanes"
IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE = 1, 4


class LanDriver(NetworkDriver):
    """Containers are stations on a link of the host, each with a macvlan device that is made inside."""

    capabilities = NetworkCapabilities(ipv6=False)

    def __init__(self) -> None:
        self._parents: dict[str, int] = {}

    def validate(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> None:
        if not network.options.get(LANES, "1").isdigit():
            raise InvalidArgument(f"invalid number of lanes: {network.options[LANES]}")

    def describe(self, network: NetworkRecord) -> str:
        return f"lan {self._name(network)}"

    def interface(self, network: NetworkRecord, endpoint: EndpointRecord) -> InterfacePlan:
        return InterfacePlan(
            kind="macvlan",
            name=endpoint.interface,
            parent=self._parents[network.id],
            attributes=netlink.attribute(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE.to_bytes(4, sys.byteorder)),
            mac=endpoint.mac,
            mtu=1400,
            addresses=endpoint.prefixes,
            routes=(RoutePlan(destination=ip_network("198.51.100.0/24")),),
        )

    async def setup(self, host: HostNetwork, network: NetworkRecord) -> None:
        self._parents[network.id] = await host.run(self._make, host.plumbing.host, self._name(network))

    @staticmethod
    def _make(rtnl: Netlink, name: str) -> int:
        link = rtnl.link(name)
        if link is None:
            rtnl.batch([netlink.add_veth(name, f"{name}x")])
            link = rtnl.link(name)
        assert link is not None
        rtnl.batch([netlink.set_link(name, up=True), netlink.set_link(f"{name}x", up=True)])
        return link.ifindex

    async def teardown(self, host: HostNetwork, network: NetworkRecord) -> None:
        self._parents.pop(network.id, None)
        await host.run(host.plumbing.delete_links, [self._name(network)])

    @staticmethod
    def _name(network: NetworkRecord) -> str:
        return f"lan{network.id[:10]}"


class RoutedDriver(NetworkDriver):
    """A pair for each container, with no port on anything: the host has a route to every container."""

    capabilities = NetworkCapabilities(gateway=True)

    def validate(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> None:
        if network.enable_ipv6:
            raise InvalidArgument("the routed driver has no IPv6")
        if LANES in network.options:
            raise InvalidArgument("the routed driver has no lanes")

    def describe(self, network: NetworkRecord) -> str:
        return f"routed {network.subnets[0].subnet}"

    def interface(self, network: NetworkRecord, endpoint: EndpointRecord) -> InterfacePlan:
        return InterfacePlan(
            kind=MOVED,
            name=endpoint.interface,
            host_name=f"p{endpoint.id[:10]}",
            mac=endpoint.mac,
            addresses=endpoint.prefixes,
            # the gateway is reached by the link, everything else by the gateway
            routes=(RoutePlan(destination=ip_network(network.subnets[0].gateway)),),
        )

    def strays(self, links: Sequence[Link], known: frozenset[str]) -> list[str]:
        return [link.name for link in links if link.alias == "tests:routed" and link.name not in known]

    async def attach(
        self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        await asyncio.sleep(0)  # as if another program were asked
        endpoint = replace(endpoint, veth=f"h{endpoint.id[:10]}", ipv4=f"{ip_interface(endpoint.ipv4).ip}/32")
        await host.run(self._make, host.plumbing, network, endpoint)
        return endpoint

    @staticmethod
    def _make(plumbing: Plumbing, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        ours, theirs, rtnl = endpoint.veth, f"p{endpoint.id[:10]}", plumbing.host
        rtnl.batch([netlink.add_veth(ours, theirs), netlink.set_link(ours, alias="tests:routed")])
        try:
            link = rtnl.link(ours)
            assert link is not None
            rtnl.batch(
                [
                    netlink.add_address(link.ifindex, IPv4Address(network.subnets[0].gateway), 32),
                    netlink.set_link(link.ifindex, up=True),
                    netlink.add_route(ip_interface(endpoint.ipv4).ip, 32, index=link.ifindex),
                ]
            )
        except BaseException:
            rtnl.attempt([netlink.delete_link(ours)])
            raise

    async def detach(self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        await host.run(host.plumbing.delete_links, [endpoint.veth] if endpoint.veth else [])


class HangingDriver(LanDriver):
    """A plugin that stops answering: it still makes its network, but after `deaf` not even that."""

    deaf = False

    async def setup(self, host: HostNetwork, network: NetworkRecord) -> None:
        if self.deaf:
            await asyncio.Event().wait()
        await super().setup(host, network)

    async def attach(
        self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        await asyncio.Event().wait()
        raise AssertionError


class NoPeers:
    """A source that knows of no other host's endpoints."""

    async def watch(self) -> AsyncIterator[PeerUpdate]:
        yield PeerUpdate(whole=True)
        await asyncio.Event().wait()


@cache
def served() -> str:
    """The socket of a plugin that runs in this process, in the namespace of whoever asks first."""
    path = f"{tempfile.mkdtemp(prefix='sampan-plugin-')}/plugin.sock"
    server = network_plugin.server(path, f"{path}.journal", set())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return path


def plugin(path: str) -> Plugin:
    """The engine's side of a plugin with this socket."""

    async def look(name: str) -> tuple[PluginPlace, None]:
        return PluginPlace(socket=path), None

    return Plugin("plugin", look, answer_s=20, patience_s=0.1)


def drivers() -> dict[str, NetworkDriver]:
    """Those of the table, and those of the tests."""
    tests = {"lan": LanDriver(), "routed": RoutedDriver(), "hanging": HangingDriver()}
    return choice.drivers(NoPeers()) | tests | {"plugin": choice.known(plugin(served()), ())}
