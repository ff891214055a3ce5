"""Does what plans say: namespaces, links, addresses, rules. Blocking, without policy.

Everything here runs in one thread, the namespace thread, which alone calls setns and unshare; the service gives it work
and waits. The host's netlink socket and the nftables context were opened in the host's namespace and stay there
whatever the thread has joined.

Invariants: the thread is back in the host's namespace after every call; a sandbox is given out by descriptor only and
mounted nowhere, so that it dies with its last user.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence

from sampan.engine.networks.ipam import Address
from sampan.engine.networks.plans import MOVED, VETH, InterfacePlan, SandboxPlan
from sampan.errors import Internal, words
from sampan.linux import netlink
from sampan.linux.namespaces import setns, unshare
from sampan.linux.netlink import Message, Netlink
from sampan.linux.nftables import Element, Elements, Nftables
from sampan.supervisor.names import sockets as names
from sampan.supervisor.names.sockets import NameSockets

CLONE_NEWNET = 0x40000000
LINK_NAME = re.compile(r"(?!\.{1,2}$)[^/:\s\x00]{1,15}")  # what the kernel takes as the name of a link


class Plumbing:
    """The host's netlink socket, the nftables context (None without firewall) and the host namespace's descriptor."""

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
        """Wait for, and hold, the lock that all engines of this network namespace share.

        The kernel frees it when this process ends.
        """
        fcntl.flock(self._host_ns, fcntl.LOCK_EX)

    def unlock_host(self) -> None:
        fcntl.flock(self._host_ns, fcntl.LOCK_UN)

    def nft(self, commands: str, *, flags: int = 0) -> str:
        if self._nft is None or not commands:
            return ""
        return self._nft.run(commands, flags=flags)

    def change_elements(self, table: str, *, delete: Iterable[Element] = (), add: Iterable[Element] = ()) -> None:
        if self._elements is not None:
            self._elements.change(table, delete=delete, add=add)

    # ── sandboxes ───────────────────────────────────────────────────────────────────────────────────────────────

    def create_sandbox(self, plan: SandboxPlan) -> tuple[int, NameSockets | None]:
        """Make a namespace with all of the plan in it.

        Return its descriptor, and the sockets of its name service when it has one; they are the caller's.
        """
        unshare(CLONE_NEWNET)
        with contextlib.ExitStack() as undo:
            try:
                namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                undo.callback(os.close, namespace)  # it takes the container's ends with it, and they their peers
                inside = Netlink()
                undo.callback(inside.close)
            finally:
                setns(self._host_ns, CLONE_NEWNET)
            self._add_interfaces(namespace, inside, plan, fresh=True)
            sockets = self.serve_names(namespace) if plan.names else None
            undo.pop_all()
        inside.close()
        return namespace, sockets

    def serve_names(self, namespace: int) -> NameSockets:
        """Open the sockets of a name service in a namespace that has none; they are the caller's. Raises: OSError."""
        with self.inside(namespace):
            return names.make()

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
        first: list[int] = []  # of each interface: the request that brings it in
        for i in plan.interfaces:
            first.append(len(requests))
            requests += self._making(i, namespace)
        errors = self.host.attempt(requests).errors
        made = [i for i, number in zip(plan.interfaces, first) if errors[number] is None]
        try:
            for error in errors:
                if error is not None:
                    raise error
            for i in plan.interfaces:  # before the pair has a carrier, so before the kernel can autoconfigure
                if i.kind == VETH:
                    write_sysctl(f"net/ipv6/conf/{i.host_name}/disable_ipv6", "1")
            with self.inside(namespace):
                _write_settings(plan)
            _configure(inside, plan, fresh=fresh)
        except BaseException:
            self._withdraw(inside, made)  # not a link that was there before and has the name
            raise

    def _making(self, i: InterfacePlan, namespace: int) -> Iterator[Message]:
        """The requests to the host that bring an interface into a namespace."""
        if i.kind == VETH:
            yield netlink.add_veth(
                i.host_name, i.name, peer_namespace=namespace, master=i.master, up=True, mtu=i.mtu, peer_address=i.mac
            )
            if i.isolated or i.hairpin:
                yield netlink.set_bridge_port(i.host_name, hairpin=i.hairpin, isolated=i.isolated)
        elif i.kind == MOVED:
            link = self.host.link(i.host_name)
            if link is None:
                said = f'failed to get link by name "{i.host_name}": Link not found'
                raise Internal(f"failed to add interface {i.host_name} to sandbox: {said}")
            yield netlink.set_link(link.ifindex, namespace=namespace, name=i.name)
        else:
            yield netlink.add_link(i.name, i.kind, parent=i.parent, namespace=namespace, data=i.attributes)
        for n in i.neighbours:
            yield netlink.set_neighbour(n.index, n.address, n.mac)

    def join(self, interfaces: Sequence[InterfacePlan]) -> None:
        """Make the host's ends of pairs ports of the links that they should be of; those that are gone are fine."""
        links = {link.name: link for link in self.host.links()}
        requests: list[Message] = []
        for i in interfaces:
            link = links.get(i.host_name)
            if i.kind == VETH and i.master and link is not None and link.master != i.master:
                requests.append(netlink.set_link(i.host_name, master=i.master, up=True))
                requests.append(netlink.set_bridge_port(i.host_name, hairpin=i.hairpin, isolated=i.isolated))
        self.host.attempt(requests)

    def withdraw(self, namespace: int, interfaces: Sequence[InterfacePlan]) -> None:
        """Take interfaces out of a namespace: delete what was made, move back what was moved in. What is gone is fine.

        Raises: OSError of the first that cannot be taken out, after all were tried.
        """
        with self.inside(namespace):
            inside = Netlink()
        with inside:
            for error in self._withdraw(inside, interfaces):
                raise error

    def _withdraw(self, inside: Netlink, interfaces: Sequence[InterfacePlan]) -> list[OSError]:
        errors = self.host.attempt([netlink.delete_link(i.host_name) for i in interfaces if i.kind == VETH]).errors
        for i in interfaces:
            link = inside.link(i.name) if i.inside or i.kind == MOVED else None
            if link is None:
                continue
            if i.kind == MOVED:
                back = netlink.set_link(link.ifindex, up=False, namespace=self._host_ns, name=i.host_name)
                errors = errors + inside.attempt([back]).errors
            else:
                errors = errors + inside.attempt([netlink.delete_link(link.ifindex)]).errors
        return [error for error in errors if error is not None and error.errno != errno.ENODEV]

    def default_gateways(self, namespace: int, remove: Iterable[Address], add: Sequence[tuple[str, Address]]) -> None:
        """Change the default routes of a namespace; one to remove that is missing is fine."""
        with self.inside(namespace):
            inside = Netlink()
        with inside:
            old = [netlink.delete_default_route(_family(gateway), gateway) for gateway in remove]
            inside.attempt(old)
            inside.batch([netlink.add_route(None, 0, index=_index(inside, name), gateway=g) for name, g in add])

    def mend_gateways(self, namespace: int, wanted: Sequence[tuple[str, Address]]) -> None:
        """Make the default routes of a namespace exactly these, (interface, gateway), whatever they are."""
        with self.inside(namespace):
            inside = Netlink()
        with inside:
            named = {(_index(inside, name), gateway) for name, gateway in wanted}
            routes = [r for r in inside.routes() if r.destination is None and r.table == netlink.RT_TABLE_MAIN]
            have = {(r.ifindex, r.gateway) for r in routes if r.gateway is not None}
            inside.attempt([netlink.delete_default_route(_family(g), g) for _, g in have - named])
            inside.batch([netlink.add_route(None, 0, index=index, gateway=g) for index, g in named - have])

    # ── host ────────────────────────────────────────────────────────────────────────────────────────────────────

    def delete_links(self, names: Sequence[str]) -> None:
        """Delete links, in one batch; those that are gone already are fine."""
        for error in self.host.attempt([netlink.delete_link(name) for name in names]).errors:
            if error is not None and error.errno != errno.ENODEV:
                raise error


def _write_settings(plan: SandboxPlan) -> None:
    for i in plan.interfaces:
        for path, value in i.settings:
            write_sysctl(path, value)
        for path, value in i.sysctls:
            _write_asked(i, path, value)


def _write_asked(i: InterfacePlan, path: str, value: str) -> None:
    """Write a setting that somebody asked for. Raises: Internal, in Docker's words, when there is none such."""
    try:
        wrong = "" if write_sysctl(path, value) else f"/proc/sys/{path} is not a sysctl file"
    except OSError as error:
        wrong = f"unable to write to '/proc/sys/{path}': write /proc/sys/{path}: {words(error)}"
    if wrong:
        raise Internal(f"failed to add interface {i.host_name or i.name} to sandbox: {wrong}")


def _configure(inside: Netlink, plan: SandboxPlan, *, fresh: bool) -> None:
    """Give the interfaces their addresses, set them up, and make the routes."""
    links = inside.batch(
        [*([netlink.set_link(1, up=True)] if fresh else []), *(netlink.get_link(i.name) for i in plan.interfaces)]
    )
    index = {link.name: link.ifindex for link in map(netlink.parse_link, links)}
    requests: list[Message] = []
    for i in plan.interfaces:
        if i.kind != VETH and (i.mac or i.mtu):
            requests.append(netlink.set_link(index[i.name], address=i.mac, mtu=i.mtu))
        requests += [netlink.add_address(index[i.name], address, length) for address, length in i.addresses]
        requests.append(netlink.set_link(index[i.name], up=True))
        requests += [
            netlink.add_route(
                r.destination.network_address,
                r.destination.prefixlen,
                index=index[i.name],
                gateway=r.gateway,
                metric=r.metric,
            )
            for r in i.routes
        ]
    for name, gateway in plan.gateways:
        requests.append(netlink.add_route(None, 0, index=index.get(name) or _index(inside, name), gateway=gateway))
    inside.batch(requests)


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
