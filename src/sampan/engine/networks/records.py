"""What the networks service keeps: networks, and the sandboxes of running containers. Data only.

A sandbox record exists exactly while its container has a network namespace of ours: written before the process starts,
deleted by detach. After a crash of the daemon the records say what to adopt and what to sweep up.

Records are frozen in use: change one by `msgspec.structs.replace` and a store put.
"""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network

import msgspec

from sampan.engine.networks.ipam import Address
from sampan.engine.store import Record
from sampan.spec.engine_api.network import EndpointSettings

PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}
"""The networks that every engine has: Docker's name → its driver."""


def new_id() -> str:
    """Return a fresh id of a network, a sandbox or an endpoint."""
    return os.urandom(32).hex()


class SubnetRecord(msgspec.Struct, kw_only=True):
    """One subnet of a network, as text, as the user wrote it.

    asked: the user gave it: then static addresses may be asked for. gateway_chosen: the user gave no gateway with it:
    as in Docker the one we chose is not shown then. address_space, pool_id: what an IPAM plugin calls it; without a
    plugin the pool has no id.
    """

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    asked: bool = False
    gateway_chosen: bool = False
    address_space: str = "LocalDefault"
    pool_id: str = ""


class NetworkRecord(Record, kw_only=True):
    """One network. `options` are the driver's: whatever a driver has to remember of its network stands there.

    config_only: it only carries a configuration for others, and nothing of it is ever made. config_from: the name of
    the network whose configuration this one has; empty for its own. own: the engine has made it for other networks, and
    takes it away after them.
    """

    name: str
    driver: str
    created: str
    scope: str = "local"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: str = ""
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    subnets: list[SubnetRecord] = []
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    own: bool = False

    def subnet(self, version: int) -> SubnetRecord | None:
        """Return the network's subnet of IP version 4 or 6."""
        return next((s for s in self.subnets if (":" in s.subnet) == (version == 6)), None)

    def subnet_of(self, address: Address) -> SubnetRecord | None:
        """Return the network's subnet that an address lies in."""
        return next((s for s in self.subnets if address in ip_network(s.subnet, strict=False)), None)


class StaticRoute(msgspec.Struct, kw_only=True, frozen=True):
    """A route by an endpoint's interface; without `next_hop` the destination is on the link."""

    destination: str
    next_hop: str = ""


class JoinRecord(msgspec.Struct, kw_only=True, frozen=True):
    """What a plugin has made of an endpoint: the link on the host (empty: none), and how it wants it inside.

    prefix: how the interface's name shall begin; empty: as others do. no_way_out: the engine gives the container none.
    """

    link: str = ""
    prefix: str = ""
    routes: list[StaticRoute] = []
    no_way_out: bool = False


class EndpointRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One interface of a container on one network. `ipv4`, `ipv6`: `address/length`, empty when it has none.

    veth: the end on the host of the interface's pair; empty for an interface that is no pair. settings: what the user
    asked for, and nothing else. dns_names: what the endpoint answers to; None on the predefined networks.
    mac_asked: the user named the MAC. joined: of a network that a plugin makes, once the plugin has made the endpoint.
    hidden: it is the engine's way out for a container whose networks do not lead out; it is none of these.
    """

    id: str
    network_id: str
    network: str
    interface: str = ""
    veth: str = ""
    mac: str = ""
    ipv4: str = ""
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    settings: EndpointSettings = msgspec.field(default_factory=EndpointSettings)
    dns_names: list[str] | None = None
    mac_asked: bool = False
    joined: JoinRecord | None = None
    hidden: bool = False

    @property
    def address4(self) -> str:
        """The IPv4 address without its length."""
        return self.ipv4.partition("/")[0]

    @property
    def address6(self) -> str:
        """The IPv6 address without its length."""
        return self.ipv6.partition("/")[0]

    @property
    def prefixes(self) -> tuple[tuple[Address, int], ...]:
        """The addresses with their lengths, IPv4 first."""
        split = [text.partition("/") for text in (self.ipv4, self.ipv6) if text]
        return tuple((ip_address(address), int(length)) for address, _, length in split)


class PublishedPort(msgspec.Struct, kw_only=True, frozen=True):
    """A port to publish, as asked for: the container's port, and the host ports that will do (0 to 0: any)."""

    port: int
    proto: str
    host_ip: str = ""
    first: int = 0
    last: int = 0


class BindingRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A published port as it was granted."""

    proto: str
    host_ip: str
    host_port: int
    address: str
    port: int


class SandboxRecord(Record, kw_only=True):
    """The network sandbox of one container; `id` is the container's.

    exposed: ports that are shown, published or not (`80/tcp`). ports: what is to be published, on whichever endpoint
    has the default route. changing: an endpoint that is being added or taken away (see changes.py); None nearly
    always. namespace: the inode number of its network namespace; 0: not known. names_port: where its name service
    listens, on 127.0.0.11; 0 when it has none. resolvers: whom that asks, instead of the host's.
    """

    sandbox_id: str
    key: str
    mode: str
    name: str = ""
    hostname: str = ""
    pid: int = 0
    endpoints: list[EndpointRecord] = []
    bindings: list[BindingRecord] = []
    exposed: list[str] = []
    ports: list[PublishedPort] = []
    changing: EndpointRecord | None = None
    namespace: int = 0
    names_port: int = 0
    resolvers: list[str] = []
