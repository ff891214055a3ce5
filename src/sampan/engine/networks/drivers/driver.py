"""What a network driver is: the seam between the engine's networks and the ways in which kernel or plugin make them.

    validate ─▶ setup ──▶ (attach ─▶ interface … detach)* ──▶ teardown
    pure        network    endpoints, one by one               network

A network is validated before anything is done, then set up; every endpoint is attached, and its interface is made by
plumbing.py as the driver's plan says. `setup`, `teardown` and `detach` are idempotent: after a crash they are called
again. A driver takes decisions of its network and nothing else: names, addresses, ports, the default route and the
records are the engine's. Its methods that have no body worth writing are inherited from here.

`attach`, `detach`, `setup` and `teardown` may wait for another program (a plugin, a peer): whoever calls them bounds
them.

Source: Container Network Model, moby libnetwork/driverapi; netavark network/driver.rs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sampan.engine.config import EngineConfig
from sampan.engine.networks.firewall import NetworkRules, Publication, Reach
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.ipam import Address, Subnet
from sampan.engine.networks.plans import VETH, InterfacePlan
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord, SubnetRecord
from sampan.linux.netlink import Link

MTU = "com.docker.network.driver.mtu"  # an option that several drivers read

ChooseSubnet = Callable[[int, Iterable[Subnet]], SubnetRecord]
"""Choose a free subnet: (IP version, what the host uses) → subnet with gateway.

Raises: Forbidden when there is none.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCapabilities:
    """What networks of a driver are like.

    scope: who knows of a network, `local` (this engine) or `global` (every engine of a cluster). single: there is only
    the network that every engine has. namespace: a container gets a network namespace of its own. addresses: networks
    have subnets, endpoints have addresses in them. ipv6: subnets may be IPv6.
    gateway: a network leads out through its gateway, unless it is internal. outside: that gateway is not this host but
    a machine on the network. way_out: a network that is not internal leads nowhere by itself; its containers leave by
    the engine's gateway network unless they are on another that leads out. publishes: ports can be published. several:
    a network may have several subnets of one IP version. macs: an endpoint has a MAC address of its own. remote:
    another program makes them. It has a word in what an endpoint gets, and may be away when it is asked.
    """

    scope: str = "local"
    single: bool = False
    namespace: bool = True
    addresses: bool = True
    ipv6: bool = True
    gateway: bool = False
    outside: bool = False
    way_out: bool = False
    publishes: bool = False
    several: bool = False
    macs: bool = True
    remote: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEndpoint:
    """What another host's endpoint answers to, its own name first, and its addresses (empty: none of that version)."""

    names: tuple[str, ...]
    ipv4: str = ""
    ipv6: str = ""


Announce = Callable[[str, Sequence[RemoteEndpoint]], Awaitable[None]]
"""Let names lead to the endpoints that other hosts have of a network (its id): to these and to no others."""


class NetworkDriver(Protocol):
    """One way of making networks. An engine has one object of each driver; it may keep what it found in the kernel."""

    capabilities: NetworkCapabilities

    # ── pure ────────────────────────────────────────────────────────────────────────────────────────────────────

    def options(self, config: EngineConfig) -> Mapping[str, str]:
        """Return the options that a network gets unless others are asked for."""
        return {}

    def validate(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> None:
        """Check a network that is to be made, its options above all, against the engine's other networks.

        Raises: SampanError in Docker's words; unknown options are nobody's and pass.
        """
        return None

    def leads_out(self, network: NetworkRecord) -> bool:
        """Return whether the endpoints of a network have its gateway as their way out."""
        return self.capabilities.gateway and not network.internal

    def chosen(self, network: NetworkRecord, others: Iterable[NetworkRecord]) -> Mapping[str, str]:
        """Return the options that a new network gets beside those asked for: what has to be remembered of it.

        Its subnets are known. Raises: SampanError in Docker's words when it cannot be had.
        """
        return {}

    def describe(self, network: NetworkRecord) -> str:
        """Return one line for people: what the network is, the same as long as its record is the same."""
        ...

    def interface(self, network: NetworkRecord, endpoint: EndpointRecord) -> InterfacePlan | None:
        """Return what an attached endpoint gets in its sandbox; None: nothing.

        Raises: Internal when the network could not be set up.
        """
        return None

    def rules(self, network: NetworkRecord, *, ip6: bool) -> NetworkRules | None:
        """Return what the engine's ruleset shall have for a network that is set up; without ip6 nothing of IPv6."""
        return None

    def publication(self, network: NetworkRecord) -> Publication:
        """Return how the ports of a network's containers are published."""
        return Publication()

    def has_gateway(self, network: NetworkRecord, version: int) -> bool:
        """Return whether the host has an address on the network, so that the network needs a gateway's."""
        return True

    def reach(self, network: NetworkRecord, version: int) -> Reach:
        """Return where the ports of a network's containers are published, in IP version 4 or 6."""
        return Reach.HOST

    def elsewhere(self, network: NetworkRecord, address: Address) -> bool:
        """Return whether an endpoint on another host has this address."""
        return False

    def strays(self, links: Sequence[Link], known: frozenset[str]) -> list[str]:
        """Return the names of those links of the host that are endpoints of this driver, but not `known`.

        links: all of the host. known: the host's ends of all recorded endpoints.
        """
        return []

    # ── done ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def predefined(
        self, host: HostNetwork, name: str, old: NetworkRecord | None, choose: ChooseSubnet
    ) -> NetworkRecord | None:
        """Return the network of this driver that every engine has, as the configuration wants it now; None: none.

        It looks at the host and changes nothing. name: what it is called. old: what it was before this start.
        """
        return None

    async def setup(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Make the network, or make what is there as its record says. Raises: OSError, SampanError."""
        return None

    async def teardown(self, host: HostNetwork, network: NetworkRecord) -> None:
        """Take the network out of the kernel; one that is not there, or only in part, is fine. Raises: OSError."""
        return None

    async def attach(
        self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord
    ) -> EndpointRecord:
        """Prepare an endpoint of a sandbox, which has its addresses; return it with what the driver adds.

        Raises: OSError, SampanError.
        """
        return endpoint

    async def program(self, network: NetworkRecord, endpoint: EndpointRecord, sandbox: SandboxRecord) -> None:
        """Hear that the sandbox's way out, and to its ports, leads by this endpoint now. Raises: SampanError."""
        return None

    async def revoke(self, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        """Hear that it does so no more. Raises: SampanError."""
        return None

    async def detach(self, host: HostNetwork, network: NetworkRecord, endpoint: EndpointRecord) -> None:
        """Forget an endpoint; one that is unknown is fine. Its interface is gone, or goes with its namespace."""
        return None

    async def follow(self, host: HostNetwork, announce: Announce) -> None:
        """Follow what is told from elsewhere, from when the networks are set up until this is cancelled."""
        return None


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────────────────────

_VETH_NAME = re.compile(r"veth[0-9a-f]{7}")


def veth_name() -> str:
    """Return a name for the end on the host of an endpoint's pair."""
    return f"veth{os.urandom(4).hex()[:7]}"


def stray_veths(links: Iterable[Link], masters: Collection[int], known: frozenset[str]) -> list[str]:
    """Return the pairs on these bridges, by index, that have a name of ours and are not known."""
    return [
        link.name
        for link in links
        if link.master in masters and link.kind == VETH and _VETH_NAME.fullmatch(link.name) and link.name not in known
    ]
