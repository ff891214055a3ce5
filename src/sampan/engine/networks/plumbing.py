"""The hands of the networks service: namespaces, links, addresses, rules. Blocking, without policy: it does what plans say.

Everything here runs in one thread, the namespace thread, which alone calls setns and unshare; the service gives it work
and waits. The host's netlink socket and the nftables context were opened in the host's namespace and stay there whatever
the thread has joined.

Invariants: the thread is back in the host's namespace after every call; a sandbox is given out by descriptor only and
mounted nowhere, so that it dies with its last user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from sampan.linux import netlink
from sampan.linux.namespaces import setns, unshare
from sampan.linux.netlink import Message, Netlink
from sampan.linux.nftables import Element, Elements, Nftables

CLONE_NEWNET = 0x40000000
Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfacePlan:
    """One veth pair: `veth` is a port of `bridge` (an index) on the host, `name` is the container's end."""

    veth: str
    name: str
    bridge: int
    mac: str
    mtu: int
    addresses: tuple[tuple[Address, int], ...]
    isolated: bool = False
    hairpin: bool = False

    @property
    def ipv6(self) -> bool:
        return any(address.version == 6 for address, _ in self.addresses)

    def describe(self) -> str:
        addresses = " ".join(f"{address}/{length}" for address, length in self.addresses)
        return f"veth {self.veth} on bridge {self.bridge} -> {self.name} {self.mac} {addresses}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPlan:
    """What a container's namespace shall hold: its interfaces and where its default routes go."""

    interfaces: tuple[InterfacePlan, ...] = ()
    gateways: tuple[tuple[str, Address], ...] = ()  # (interface, gateway)
    sysctls: dict[str, str] = field(default_factory=dict)  # of the namespace: `net.…` keys with their values


class Plumbing:
    """Owns the host's netlink socket, the nftables context (None without firewall) and the host namespace's descriptor."""

    def __init__(self, *, firewall: bool) -> None:
        self._host_ns = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.host = Netlink()
        self._nft = Nftables() if firewall else None
        self._elements = Elements() if firewall else None

    def close(self) -> None:
        os.close(self._host_ns)
        self.host.close()
        if self._nft is not None:
            self._nft.close()
        if self._elements is not None:
            self._elements.close()

    def lock_host(self) -> None:
        """Wait for, and hold, the lock that all engines of this network namespace share; the kernel frees it at our end."""
        fcntl.flock(self._host_ns, fcntl.LOCK_EX)

    def unlock_host(self) -> None:
        fcntl.flock(self._host_ns, fcntl.LOCK_UN)

    def nft(self, commands: str, *, flags: int = 0) -> str:
        if self._nft is None or not commands:
            return ""
        return self._nft.run(commands, flags=flags)

    def add_elements(self, table: str, elements: Sequence[Element]) -> None:
        if self._elements is not None:
            self._elements.add(table, elements)

    def delete_elements(self, table: str, elements: Sequence[Element]) -> None:
        if self._elements is not None:
            self._elements.delete(table, elements)

    # ── sandboxes ───────────────────────────────────────────────────────────────────────────────────────────────

    def create_sandbox(self, plan: SandboxPlan) -> int:
        """Make a namespace with all of the plan in it; return its descriptor, which the caller owns."""
        unshare(CLONE_NEWNET)
        try:
            namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            inside = Netlink()
        finally:
            setns(self._host_ns, CLONE_NEWNET)
        with inside:
            try:
                self._add_interfaces(namespace, inside, plan, fresh=True)
            except BaseException:
                # the namespace takes the container's ends with it, and they their peers
                os.close(namespace)
                raise
        return namespace

    def extend_sandbox(self, namespace: int, plan: SandboxPlan) -> None:
        """Add the plan's interfaces to a namespace that exists."""
        with self.inside(namespace):
            inside = Netlink()
        with inside:
            self._add_interfaces(namespace, inside, plan, fresh=False)

    @contextlib.contextmanager
    def inside(self, namespace: int) -> Iterator[None]:
        setns(namespace, CLONE_NEWNET)
        try:
            yield
        finally:
            setns(self._host_ns, CLONE_NEWNET)

    def _add_interfaces(self, namespace: int, inside: Netlink, plan: SandboxPlan, *, fresh: bool) -> None:
        requests: list[Message] = []
        for i in plan.interfaces:
            requests.append(
                netlink.add_veth(
                    i.veth, i.name, peer_namespace=namespace, master=i.bridge, up=True, mtu=i.mtu, peer_address=i.mac
                )
            )
            if i.isolated or i.hairpin:
                requests.append(netlink.set_bridge_port(i.veth, hairpin=i.hairpin, isolated=i.isolated))
            # whoever had the address before may have had another MAC, and a cache remembers for half a minute
            requests += [netlink.set_neighbour(i.bridge, address, i.mac) for address, _ in i.addresses]
        try:
            self.host.batch(requests)
            for i in plan.interfaces:  # before the pair has a carrier, so before the kernel can autoconfigure
                write_sysctl(f"net/ipv6/conf/{i.veth}/disable_ipv6", "1")
            setns(namespace, CLONE_NEWNET)
            try:
                self._write_sysctls(plan)
            finally:
                setns(self._host_ns, CLONE_NEWNET)
            self._configure(inside, plan, fresh=fresh)
        except BaseException:
            self.host.attempt([netlink.delete_link(i.veth) for i in plan.interfaces])
            raise

    def _write_sysctls(self, plan: SandboxPlan) -> None:
        for i in plan.interfaces:
            if i.ipv6:
                write_sysctl(f"net/ipv6/conf/{i.name}/accept_ra", "0")
                write_sysctl(f"net/ipv6/conf/{i.name}/disable_ipv6", "0")
            else:
                write_sysctl(f"net/ipv6/conf/{i.name}/disable_ipv6", "1")
        for key, value in plan.sysctls.items():
            write_sysctl(key.replace(".", "/"), value)

    def _configure(self, inside: Netlink, plan: SandboxPlan, *, fresh: bool) -> None:
        links = inside.batch(
            [*([netlink.set_link(1, up=True)] if fresh else []), *(netlink.get_link(i.name) for i in plan.interfaces)]
        )
        index = {link.name: link.ifindex for link in map(netlink.parse_link, links)}
        requests: list[Message] = []
        for i in plan.interfaces:
            for address, length in i.addresses:
                requests.append(netlink.add_address(index[i.name], address, length))
            requests.append(netlink.set_link(index[i.name], up=True))
        for name, gateway in plan.gateways:
            requests.append(netlink.add_route(None, 0, index=index.get(name) or _index(inside, name), gateway=gateway))
        inside.batch(requests)

    def default_gateways(self, namespace: int, remove: Iterable[Address], add: Sequence[tuple[str, Address]]) -> None:
        """Change the default routes of a namespace; one that is missing is fine."""
        with self.inside(namespace):
            inside = Netlink()
        with inside:
            old = [netlink.delete_default_route(_family(gateway), gateway) for gateway in remove]
            inside.attempt(old)
            inside.batch([netlink.add_route(None, 0, index=_index(inside, name), gateway=g) for name, g in add])

    # ── host ────────────────────────────────────────────────────────────────────────────────────────────────────

    def delete_links(self, names: Sequence[str]) -> None:
        """Delete links, in one batch; those that are gone already are fine."""
        for error in self.host.attempt([netlink.delete_link(name) for name in names]).errors:
            if error is not None and error.errno != errno.ENODEV:
                raise error


def _index(inside: Netlink, name: str) -> int:
    link = inside.link(name)
    if link is None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
    return link.ifindex


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def write_sysctl(path: str, value: str) -> bool:
    """Write /proc/sys/<path> of the calling thread's namespaces; False when this kernel has no such key."""
    try:
        fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
    return True


def read_sysctl(path: str) -> str:
    """Read /proc/sys/<path>; empty when this kernel has no such key."""
    try:
        with open(f"/proc/sys/{path}") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
