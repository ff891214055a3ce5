"""Whether the host has come to use a subnet of ours: a VPN, a new interface, another engine. Then somebody says so.

A subnet is chosen so that it collides with nothing; but the host changes, and a route that covers a network's subnet
makes either that network or what lies behind the route unreachable. Nothing is changed: a warning is logged and an
event told, once for as long as it is so.

Source: rtnetlink(7).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from sampan.engine.background import Background
from sampan.engine.networks import host as hosts
from sampan.engine.networks import ipam
from sampan.engine.networks.host import HostNetwork, UsedSubnet
from sampan.engine.networks.ipam import Subnet
from sampan.engine.networks.records import NetworkRecord
from sampan.linux.routechanges import RouteChanges

log = logging.getLogger(__name__)

_DELAY_S = 0.1  # an interface comes with several addresses and routes


@dataclass(frozen=True, slots=True)
class Collision:
    """A subnet of a network, and what of the host's overlaps it."""

    network_id: str
    subnet: Subnet
    used: Subnet


def find(networks: Iterable[tuple[NetworkRecord, str]], used: Sequence[UsedSubnet]) -> list[Collision]:
    """Return where the host's subnets overlap those of networks, each with the link on the host that is its own."""
    found = []
    for network, own in networks:
        for record in network.subnets:
            subnet = ip_network(record.subnet, strict=False)
            others = dict.fromkeys(u.subnet for u in used if u.link != own and ipam.overlaps(subnet, [u.subnet]))
            found += [Collision(network.id, subnet, other) for other in others]
    return found


class CollisionWatch:
    """`open` it in the host's namespace; `close` is due then.

    networks: those that the host is a router of, each with its own link. tell: what is done about a collision
    that is new.
    """

    def __init__(
        self,
        host: HostNetwork,
        background: Background,
        networks: Callable[[], Iterable[tuple[NetworkRecord, str]]],
        tell: Callable[[Collision], None],
    ) -> None:
        self._host = host
        self._background = background
        self._networks = networks
        self._tell = tell
        self._known: set[Collision] = set()
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        self._changes: RouteChanges | None = None

    def open(self) -> None:
        """Begin to watch, and look at what there is. Raises: OSError."""
        self._changes = RouteChanges()
        asyncio.get_running_loop().add_reader(self._changes, self._changed)
        self._look()

    def close(self) -> None:
        """Watch no more. Idempotent."""
        if self._changes is not None:
            asyncio.get_running_loop().remove_reader(self._changes)
            self._changes.close()
            self._changes = None
        if self._looking is not None:
            self._looking.cancel()

    def _changed(self) -> None:
        assert self._changes is not None
        try:
            came, went = self._changes.read()
        except OSError as error:  # ENOBUFS: some were missed
            log.debug("routes: %s", error)
            self._look()
            return
        if (went and self._known) or any(self._concerns(address, length) for address, length in came):
            self._look()

    def _concerns(self, address: ipam.Address, length: int) -> bool:
        if address.is_link_local:  # every interface has one
            return False
        subnet = ip_network((address, length), strict=False)
        own = (ip_network(s.subnet, strict=False) for network, _ in self._networks() for s in network.subnets)
        return ipam.overlaps(subnet, own)

    def _look(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = self._background.spawn(self._compare(), "subnets that collide with the host's")
        else:
            self._again = True

    async def _compare(self) -> None:
        while True:
            await asyncio.sleep(_DELAY_S)
            self._again = False
            used = await self._host.run(hosts.used, self._host.plumbing.host)
            found = find(self._networks(), used)
            for collision in found:
                if collision not in self._known:
                    self._tell(collision)
            self._known = set(found)
            if not self._again:
                return
