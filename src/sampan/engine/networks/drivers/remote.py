"""The remote driver: a network that another program makes, asked over Docker's plugin protocol.

    setup      CreateNetwork                     teardown  DeleteNetwork
    attach     CreateEndpoint, Join              detach    Leave, DeleteEndpoint
    program    ProgramExternalConnectivity       revoke    RevokeExternalConnectivity

The plugin makes a link on the host and names it in its answer to Join; it is moved into the sandbox. Addresses are the
engine's or the IPAM driver's, the plugin's only where these gave none; gateways and routes are the plugin's.

What it has made it should know. A network is told to it once more before the first endpoint after a start of the
engine, in case a crash came between, or when it has been away; that it refuses what it has is no failure.

Not here: how a plugin is reached (engine/plugins). Nothing is asked of it while an engine starts.

Source: moby libnetwork docs/remote.md; the bodies as Docker Engine 28.5.2 sends them.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from sampan.engine.networks.drivers.driver import NetworkCapabilities, NetworkDriver
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.ipam import Address, parse_address, parse_prefix
from sampan.engine.networks.plans import MOVED, InterfacePlan, RoutePlan
from sampan.engine.networks.plumbing import LINK_NAME
from sampan.engine.networks.records import (
    EndpointRecord,
    JoinRecord,
    NetworkRecord,
    PublishedPort,
    SandboxRecord,
    StaticRoute,
    SubnetRecord,
)
from sampan.engine.plugins.client import Plugin, Refusal, UnknownCall
from sampan.errors import Internal, SampanError, Unavailable

KIND = "NetworkDriver"
GENERIC, INTERNAL = "com.docker.network.generic", "com.docker.network.internal"
ENABLE4, ENABLE6 = "com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"
EXPOSED, PORTMAP = "com.docker.network.endpoint.exposedports", "com.docker.network.portmap"
MAC = "com.docker.network.endpoint.macaddress"
NO_PROXY = "com.docker.network.driver.private.no_proxy_6to4"
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_BY_GATEWAY, _ON_LINK = 0, 1  # RouteType

_ALL, _DELETE = ("Leave", "DeleteEndpoint"), ("DeleteEndpoint",)

JSON = dict[str, Any]
T = TypeVar("T")

log = logging.getLogger(__name__)


class _Capabilities(msgspec.Struct, frozen=True, rename="pascal"):
    scope: str = "local"


class _Interface(msgspec.Struct, frozen=True):
    address4: str = msgspec.field(default="", name="Address")
    address6: str = msgspec.field(default="", name="AddressIPv6")
    mac: str = msgspec.field(default="", name="MacAddress")


class _Endpoint(msgspec.Struct, frozen=True, rename="pascal"):
    interface: _Interface | None = None


class _InterfaceName(msgspec.Struct, frozen=True, rename="pascal"):
    src_name: str = ""
    dst_prefix: str = ""


class _Route(msgspec.Struct, frozen=True, rename="pascal"):
    destination: str = ""
    route_type: int = _BY_GATEWAY
    next_hop: str = ""


class _Joined(msgspec.Struct, frozen=True, rename="pascal"):
    interface_name: _InterfaceName | None = None
    gateway: str = ""
    gateway6: str = msgspec.field(default="", name="GatewayIPv6")
    static_routes: list[_Route] | None = None
    disable_gateway_service: bool = False


class RemoteDriver(NetworkDriver):
    """The networks of one plugin. `begin` it before the first new network; those recorded need no such call."""

    def __init__(self, plugin: Plugin, known: Iterable[str] = ()) -> None:
        """known: the ids of the networks that an earlier daemon made."""
        self.capabilities = NetworkCapabilities(gateway=True, several=True, remote=True)
        self._plugin = plugin
        self._told = dict.fromkeys(known, 0)  # by network: in which activation of the plugin it was told
        self._refused: set[str] = set()
        self._due: dict[str, tuple[str, ...]] = {}  # by endpoint: what is to be called at its end, when not all

    # ── pure ────────────────────────────────────────────────────────────────────────────────────────────────────

    def describe(self, network: NetworkRecord) -> str:
        """Return the plugin's name and the subnets."""
        return " ".join([f"plugin {self._plugin.name}", *(s.subnet for s in network.subnets)])

    def interface(self, network: NetworkRecord, endpoint: EndpointRecord) -> InterfacePlan | None:
        """Return the plugin's link, moved in; None when it made none."""
        joined = endpoint.joined
        if joined is None or not joined.link:
            return None
        return InterfacePlan(
            kind=MOVED,
            name=endpoint.interface,
            host_name=joined.link,
            mac=endpoint.mac,
            addresses=endpoint.prefixes,
            routes=tuple(
                RoutePlan(
                    destination=ip_network(route.destination, strict=False),
                    gateway=ip_address(route.next_hop) if route.next_hop else None,
                )
                for route in joined.routes
            ),
        )

    # ── asked ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def begin(self) -> None:
        """Ask what the plugin's networks are like. Raises: SampanError."""
        said = _typed(await self._call("GetCapabilities", None), _Capabilities, self._named("GetCapabilities"))
        if said.scope not in ("local", "global"):
            raise Internal(f"invalid capability: expecting 'local' or 'global', got {said.scope}")
        self.capabilities = NetworkCapabilities(gateway=True, several=True, remote=True, scope=said.scope)

    async def setup(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Have the plugin make a new network. Raises: SampanError."""
        if network.id in self._told:
            return
        await self._plugin.require(KIND)
        try:
            await self._call("CreateNetwork", _network(network))
        except Refusal:
            self._refused.add(network.id)
            raise
        self._told[network.id] = self._plugin.activations

    async def teardown(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Have the plugin take the network away. As in Docker the network goes, whatever the plugin says."""
        self._told.pop(network.id, None)
        if network.id in self._refused:
            self._refused.discard(network.id)
            return
        try:
            await self._call("DeleteNetwork", {"NetworkID": network.id})
        except SampanError as error:
            log.warning("network %s: %s", network.name, error.message)

    async def attach(
        self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        """Have the plugin make an endpoint and its link. Raises: SampanError; `detach` is due all the same."""
        await self._plugin.require(KIND)
        await self._make_sure(network)
        ids = _ids(endpoint)
        made = await self._create(endpoint, sandbox, ids, without_ports=network.internal)
        self._due[endpoint.id] = _DELETE
        try:
            said = await self._call("Join", {**ids, "SandboxKey": sandbox.key, "Options": _ports(sandbox)})
        except Refusal:
            raise
        except SampanError:
            del self._due[endpoint.id]  # it may have joined
            raise
        del self._due[endpoint.id]
        try:
            return _joined(made, _typed(said, _Joined, self._named("Join")))
        except Internal as error:
            raise Internal(f"{error.message}; rolled back") from error

    async def _create(
        self, endpoint: EndpointRecord, sandbox: SandboxRecord, ids: JSON, *, without_ports: bool
    ) -> EndpointRecord:
        options: JSON = {} if without_ports else _ports(sandbox)
        if endpoint.mac_asked:
            options[MAC] = base64.b64encode(bytes.fromhex(endpoint.mac.replace(":", ""))).decode()
        given = {"Address": endpoint.ipv4, "AddressIPv6": endpoint.ipv6, "MacAddress": endpoint.mac}
        try:
            try:
                said = await self._call("CreateEndpoint", {**ids, "Interface": given, "Options": options})
            except Refusal:
                self._due[endpoint.id] = ()
                raise
            self._due[endpoint.id] = _DELETE
            answer = _typed(said, _Endpoint, self._named("CreateEndpoint"))
            return _merged(endpoint, answer.interface or _Interface())
        except SampanError as error:
            what = f"failed to create endpoint {sandbox.name} on network {endpoint.network}"
            raise type(error)(f"{what}: {error.message}; rolled back") from error

    async def _make_sure(self, network: NetworkRecord) -> None:
        activation = self._plugin.activations
        if self._told.get(network.id) == activation:
            return
        try:
            await self._call("CreateNetwork", _network(network))
        except Refusal as error:  # it has it already
            log.debug("network %s: %s", network.name, error.message)
        self._told[network.id] = activation

    async def detach(self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        """Have the plugin forget an endpoint, as far as it knows it, whatever it answers to the first call.

        Raises: SampanError of the last that failed.
        """
        failed: SampanError | None = None
        for call in self._due.pop(endpoint.id, _ALL):
            try:
                await self._call(call, _ids(endpoint))
            except Unavailable:
                raise
            except SampanError as error:
                failed = error
        if failed is not None:
            raise failed

    async def program(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> None:
        """Tell the plugin that the sandbox's way out leads by this endpoint. Raises: SampanError."""
        if not network.internal:
            options = {NO_PROXY: False, **_ports(sandbox)}
            await self._optional("ProgramExternalConnectivity", {**_ids(endpoint), "Options": options})

    async def revoke(self, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        """Tell the plugin that it does so no more. Raises: SampanError."""
        await self._optional("RevokeExternalConnectivity", _ids(endpoint))

    async def _optional(self, call: str, arguments: JSON) -> None:
        try:
            await self._call(call, arguments)
        except UnknownCall as error:
            log.debug("plugin %s: %s", self._plugin.name, error.message)

    async def _call(self, call: str, arguments: JSON | None) -> JSON:
        return await self._plugin.call(self._named(call), arguments)

    @staticmethod
    def _named(call: str) -> str:
        return f"{KIND}.{call}"


# ── what is said and answered, pure ─────────────────────────────────────────────────────────────────────────────


def _network(network: NetworkRecord) -> JSON:
    options: JSON = {ENABLE4: network.enable_ipv4, ENABLE6: network.enable_ipv6, GENERIC: network.options}
    if network.internal:
        options[INTERNAL] = True
    return {
        "NetworkID": network.id,
        "Options": options,
        "IPv4Data": [_subnet(s) for s in network.subnets if ":" not in s.subnet],
        "IPv6Data": [_subnet(s) for s in network.subnets if ":" in s.subnet],
    }


def _subnet(subnet: SubnetRecord) -> JSON:
    length = ip_network(subnet.subnet, strict=False).prefixlen
    data: JSON = {"AddressSpace": subnet.address_space, "Pool": subnet.subnet}
    if subnet.gateway:
        data["Gateway"] = f"{subnet.gateway}/{length}"
    if subnet.auxiliary:
        data["AuxAddresses"] = {name: f"{address}/{length}" for name, address in subnet.auxiliary.items()}
    return data


def _ids(endpoint: EndpointRecord) -> JSON:
    return {"NetworkID": endpoint.network_id, "EndpointID": endpoint.id}


def _ports(sandbox: SandboxRecord) -> JSON:
    exposed = [text.partition("/") for text in sandbox.exposed]
    return {
        EXPOSED: [{"Proto": _PROTOCOLS.get(proto or "tcp", 0), "Port": int(port)} for port, _, proto in exposed],
        PORTMAP: [_published(port) for port in sandbox.ports],
    }


def _published(port: PublishedPort) -> JSON:
    return {
        "Proto": _PROTOCOLS.get(port.proto, 0),
        "IP": "",
        "Port": port.port,
        "HostIP": port.host_ip,
        "HostPort": port.first,
        "HostPortEnd": port.last,
    }


def _typed(answer: JSON, kind: type[T], call: str) -> T:
    """Read an answer. Raises: Internal when it is of another shape. A null is as good as nothing."""
    try:
        return msgspec.convert({key: value for key, value in answer.items() if value is not None}, kind)
    except msgspec.ValidationError as error:
        raise Internal(f"{call}: the answer cannot be read: {error}") from error


def _merged(endpoint: EndpointRecord, added: _Interface) -> EndpointRecord:
    """Return an endpoint with what the plugin chose for it. Raises: Internal, in Docker's words, for what it has."""
    changes: dict[str, str] = {}
    for field, text, version in (("ipv4", added.address4, 4), ("ipv6", added.address6, 6)):
        if text:
            changes[field] = _prefix(text, version)
            if getattr(endpoint, field):
                raise _modified("interface address", "IP", getattr(endpoint, field), text)
    if added.mac:
        changes["mac"] = _mac(added.mac)
        if endpoint.mac:
            raise _modified("interface MAC address", "MAC address", endpoint.mac, added.mac)
    return replace(endpoint, **changes)


def _modified(what: str, kind: str, present: str, other: str) -> Internal:
    reason = f"endpoint interface {kind} present ({present}). Cannot be modified with ({other})."
    return Internal(f"driver modified {what}: {reason}")


def _prefix(text: str, version: int) -> str:
    try:
        found = parse_prefix(text)
    except ValueError:
        found = None
    if found is None or found.version != version or found.ip.is_unspecified:
        raise Internal(f"invalid CIDR address: {text}")
    return str(found)


def _mac(text: str) -> str:
    try:
        octets = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        octets = b""
    if len(octets) != 6 or octets[0] & 1:  # of a group: no interface can have it
        raise Internal(f"address {text}: invalid MAC address")
    return octets.hex(":")


def _joined(endpoint: EndpointRecord, said: _Joined) -> EndpointRecord:
    """Return an endpoint with its link, gateways and routes. Raises: Internal for what cannot be."""
    name = said.interface_name or _InterfaceName()
    for text in filter(None, (name.src_name, f"{name.dst_prefix}0" if name.dst_prefix else "")):
        if not LINK_NAME.fullmatch(text):
            raise Internal(f"NetworkDriver.Join: invalid interface name {text!r}")
    gateway4 = _address(said.gateway, 4, "Gateway")
    gateway6 = _address(said.gateway6, 6, "GatewayIPv6")
    routes = [_route(route) for route in said.static_routes or ()]
    joined = JoinRecord(
        link=name.src_name, prefix=name.dst_prefix, routes=routes, no_way_out=said.disable_gateway_service
    )
    return replace(endpoint, gateway4=gateway4, gateway6=gateway6, joined=joined)


def _address(text: str, version: int, what: str) -> str:
    if not text:
        return ""
    found = _parsed(text)
    if found is None or found.version != version:
        raise Internal(f'unable to parse {what} "{text}"')
    return str(found)


def _parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except ValueError:
        return None


def _route(route: _Route) -> StaticRoute:
    try:
        destination = parse_prefix(route.destination).network
    except ValueError as error:
        raise Internal(f"invalid CIDR address: {route.destination}") from error
    hop = _parsed(route.next_hop)
    if route.route_type == _ON_LINK:
        return StaticRoute(destination=str(destination))
    if route.route_type != _BY_GATEWAY or hop is None or hop.version != destination.version:
        raise Internal(f"failed to parse nexthop IP {route.next_hop}")
    return StaticRoute(destination=str(destination), next_hop=str(hop))
