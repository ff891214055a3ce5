"""The host's network, and the one thread that touches it.

Namespace work is blocking and changes the thread that does it (setns, unshare), so all of it is done in one thread that
belongs to this object. Drivers and the fabric give it work with `run` and wait.

Invariant: the thread runs one piece of work at a time, in the order in which it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network, ip_network
from typing import NamedTuple, ParamSpec, TypeVar

from sampan.engine.config import EngineConfig
from sampan.engine.networks.ipam import Subnet
from sampan.engine.networks.plumbing import Plumbing
from sampan.errors import Internal
from sampan.linux import netlink, resolvconf
from sampan.linux.netlink import Link, Netlink

P = ParamSpec("P")
T = TypeVar("T")

_OF_NETWORKS = ("bridge", "vxlan")  # kinds of links that a network is made of; others are endpoints

MARK = "sampan:"  # how the alias of a link of ours begins: sampan:<id of its network>:<running engine>


class HostNetwork:
    """`open` it in the host's namespace; then `plumbing` and `run` are there for drivers."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="namespaces")
        self._plumbing: Plumbing | None = None
        self.owner = os.urandom(8).hex()  # of one run of an engine: links say by it whose they are
        self._living: socket.socket | None = None
        self.parents: dict[str, str] = {}  # network id → the link of the host that its containers' links are made on

    async def open(self) -> None:
        """Open what talks to the kernel. Raises: Internal; `close` is due all the same."""
        try:
            self._plumbing = await self.run(lambda: Plumbing(firewall=self.config.iptables))
        except OSError as error:
            hint = "install libnftables1, or set iptables to false in daemon.json"
            raise Internal(f"the firewall cannot be set up: {error} ({hint})") from error
        self._living = await self.run(_claimed, self.owner)

    async def close(self) -> None:
        """Close the sockets and end the thread; what is in the kernel stays."""
        if self._plumbing is not None:
            await self.run(self._plumbing.close)
        if self._living is not None:
            self._living.close()
        self._thread.shutdown()

    @property
    def plumbing(self) -> Plumbing:
        """Return the blocking operations, for use inside `run` only."""
        if self._plumbing is None:
            raise Internal("the host's network is not open")
        return self._plumbing

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in the namespace thread. Who is cancelled does not know whether it was done."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Give the namespace thread work that is done whether its answer is waited for or not."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


# ── whose a link is: blocking, in the namespace thread ──────────────────────────────────────────────────────────


def mark(id: str, owner: str) -> str:
    """Return the alias of a link of ours. id: of its network. owner: of this run of the engine."""
    return f"{MARK}{id}:{owner}"


def marked(link: Link, id: str) -> bool:
    """Return whether a link is of this network, whichever run of its engine has made it."""
    return f"{link.alias}:".startswith(f"{MARK}{id}:")


def _claimed(owner: str) -> socket.socket:
    """Take the name that says that this run lives: the kernel gives it back at its end, however that comes.

    It is a name of the network namespace, as the links are, and nobody can guess it before it is taken.
    """
    living = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        living.bind(f"\0{MARK}{owner}")
    except BaseException:
        living.close()
        raise
    return living


def abandoned(links: Sequence[Link], known: Collection[str]) -> list[Link]:
    """Return the links of networks of engines that have ended without taking them down, and of which nothing runs.

    An engine's networks are its containers' as long as one of them is connected. known: ids of networks that are not
    looked at.
    """
    left: dict[str, list[Link]] = {}
    ids: dict[str, set[str]] = {}
    for link in links:
        parts = link.alias.split(":")
        if link.kind in _OF_NETWORKS and len(parts) == 3 and link.alias.startswith(MARK):
            left.setdefault(parts[2], []).append(link)
            ids.setdefault(parts[2], set()).add(parts[1])
    used = {link.master for link in links if link.kind not in _OF_NETWORKS}
    found: list[Link] = []
    for owner, owned in left.items():
        if ids[owner].isdisjoint(known) and not any(b.ifindex in used for b in owned) and _ended(owner):
            found += owned
    return found


def _ended(owner: str) -> bool:
    try:
        _claimed(owner).close()
    except OSError:
        return False
    return True


# ── looking around: blocking, in the namespace thread ───────────────────────────────────────────────────────────


def free_name(host: Netlink, prefix: str) -> str:
    """Return the first of prefix0, prefix1, … that no link has."""
    names = {link.name for link in host.links()}
    return next(name for n in range(1 << 16) if (name := f"{prefix}{n}") not in names)


def engines(host: Netlink) -> bool:
    """Return whether a link of some container engine is there, ours included."""
    return any(link.alias.startswith(MARK) or link.name == "docker0" for link in host.links())


class UsedSubnet(NamedTuple):
    """A subnet that the host uses, and the name of the link that it does so by; empty for none."""

    subnet: Subnet
    link: str = ""


def used(host: Netlink) -> list[UsedSubnet]:
    """Return every subnet that the host has an address in or a route to, default routes left out, and its resolvers."""
    names = {link.ifindex: link.name for link in host.links()}
    found = [
        UsedSubnet(ip_network((prefix.address, prefix.length), strict=False), names.get(prefix.ifindex, ""))
        for prefix in host.addresses()
    ]
    for route in host.routes():
        if route.destination is not None and route.length and route.type == netlink.RTN_UNICAST:
            subnet = ip_network((route.destination, route.length), strict=False)
            if not (isinstance(subnet, IPv4Network) and subnet.prefixlen < 4):
                found.append(UsedSubnet(subnet, names.get(route.ifindex, "")))
    for resolver in _resolvers():  # it is reached by the link that its subnet is of, if any
        near = [u.link for u in found if u.subnet.version == resolver.version and u.subnet.overlaps(resolver)]
        found.append(UsedSubnet(resolver, near[0] if near else ""))
    return found


def _resolvers() -> Iterator[Subnet]:
    try:
        with open(resolvconf.HOST_RESOLV_CONF, encoding="utf-8", errors="replace") as f:
            servers = resolvconf.parse(f.read()).nameservers
    except OSError:
        return
    for server in servers:
        with contextlib.suppress(ValueError):
            yield ip_network(server.partition("%")[0])


def subnets(host: Netlink, *, but: str = "") -> list[Subnet]:
    """Return the subnets that the host uses. but: the name of a link that does not count."""
    return [found.subnet for found in used(host) if not but or found.link != but]
