"""A host of its own for network tests: a forked child in fresh network and mount namespaces, with a neighbour on a LAN.

    lan 192.0.2.9, 2001:db8::9  ──veth──  the fake host 192.0.2.1, 2001:db8::1  ──bridge──  containers

Everything runs in one process: a socket belongs to the namespace it was made in, so servers "in a container" and
clients "on the LAN" are sockets opened there. When the child ends, the kernel takes all of it away; the tests prove
before that that the engine itself has left nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import mmap
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import wraps
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.networks import inspect
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.plumbing import Plumbing, write_sysctl
from sampan.engine.networks.ports import published
from sampan.engine.networks.request import SandboxRequest
from sampan.engine.networks.service import Networks, Sandbox
from sampan.engine.store import Store
from sampan.linux import netlink
from sampan.linux.namespaces import setns, unshare
from sampan.linux.netlink import Netlink
from sampan.linux.nftables import Nftables
from sampan.spec.engine_api.container import PortBinding
from sampan.spec.engine_api.network import EndpointSettings
from sampan.supervisor.interpreter import sealed
from sampan.supervisor.kept.keeper import Keeper
from sampan.supervisor.kept.processes import PORTS

CLONE_NEWNET, CLONE_NEWNS = 0x40000000, 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
HOST4, LAN4, HOST6, LAN6 = "192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8::9"
TIMEOUT_S = 5.0
LIMIT_S = float(os.environ.get("SAMPAN_FAKE_HOST_S", "60"))  # of one test; an emulated machine needs more
DROPPED_S = 0.4  # how long a packet that is dropped is waited for


def apart(work: Callable[[], object]) -> None:
    """Do work in a forked child with network and mount namespaces of its own; its failure is raised here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            unshare(CLONE_NEWNET | CLONE_NEWNS)
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0
            work()
            code = 0
        except BaseException:
            os.write(writer, pickle.dumps(traceback.format_exc())[:60000])
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise AssertionError(pickle.loads(said) if said else f"the child died: status {status}")


def has_kind(kind: str) -> bool:
    """Return whether the kernel has links of a kind: tried, in a network namespace that ends with the try."""

    def probe() -> None:
        with Netlink() as rtnl:
            (error,) = rtnl.attempt([netlink.add_link("probe0", kind)]).errors
        assert error is None or error.errno != errno.EOPNOTSUPP

    try:
        apart(probe)
    except AssertionError:
        return False
    return True


def needs_kind(kind: str) -> None:
    """Skip, with a name, where the kernel has no links of a kind."""
    if not has_kind(kind):
        pytest.skip(f"this kernel has no {kind} links")


def on_fake_host(test: Callable[[Host], Awaitable[None]]) -> Callable[[Any], None]:
    """Run an async test in a forked child with namespaces of its own; its failure is the test's failure."""

    @wraps(test)
    def run(root: None) -> None:
        apart(lambda: asyncio.run(_in_child(test)))

    del run.__wrapped__  # pytest would look at its signature
    return run


async def _in_child(test: Callable[[Host], Awaitable[None]]) -> None:
    with Host() as host:
        await asyncio.wait_for(test(host), LIMIT_S)
        await host.nothing_left()


class Beside:
    """The supervisor's part in networks: it keeps the process that carries ports. In a thread, as if elsewhere.

    What it holds is not a forked child's.
    """

    all: ClassVar[set[Beside]] = set()

    def __init__(self, exec_root: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._keeper = Keeper(exec_root, sealed(), PORTS)
        self._thread = threading.Thread(target=self._loop.run_forever, name="supervisor", daemon=True)
        self._thread.start()
        self.all.add(self)

    async def ensure_ports(self) -> None:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._keeper.ensure(), self._loop))

    @classmethod
    def forked(cls) -> None:
        """Be in a child: the sockets that the parent holds are to be free when the parent lets go of them."""
        for beside in cls.all:
            beside._keeper._holder.close()
        cls.all.clear()

    def close(self) -> None:
        self.all.discard(self)
        asyncio.run_coroutine_threadsafe(self._keeper.close(), self._loop).result(TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


os.register_at_fork(after_in_child=Beside.forked)


class Host:
    """The fake host and its LAN."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="sampan-net-")
        self.netlink = Netlink()
        self.nft = Nftables()
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        unshare(CLONE_NEWNET)
        self.lan = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        lan = Netlink()
        setns(self._own, CLONE_NEWNET)
        self.netlink.batch([netlink.set_link(1, up=True), netlink.add_veth("lan0", "eth0", peer_namespace=self.lan)])
        self._configure(self.netlink, "lan0", HOST4, HOST6)
        self._configure(lan, "eth0", LAN4, LAN6)
        lan.close()
        self._servers: list[asyncio.Task[None]] = []
        self._beside: dict[tuple[str, int], Beside] = {}

    @staticmethod
    def _configure(rtnl: Netlink, name: str, four: str, six: str) -> None:
        link = rtnl.link(name)
        assert link is not None
        rtnl.batch(
            [
                netlink.add_address(link.ifindex, ip_address(four), 24),
                netlink.add_address(link.ifindex, ip_address(six), 64),
                netlink.set_link(link.ifindex, up=True),
            ]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        # of a test that failed, or of a child that was killed: nobody else ends it
        for file in Path(self.directory).glob("*/run/ports/ports.pid"):
            pid = int(file.read_text() or "0")
            with contextlib.suppress(OSError):
                if f"sampan-ports {self.directory}/" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory)

    # ── an engine's networks ────────────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def networks(
        self,
        name: str = "a",
        *,
        restored: bool = True,
        drivers: Mapping[str, NetworkDriver] | None = None,
        **options: Any,
    ) -> AsyncIterator[Networks]:
        """The networks service of an engine whose data lives in <directory>/<name>; closed at the end."""
        root = f"{self.directory}/{name}"
        os.makedirs(root, exist_ok=True)
        store = await Store.open(f"{root}/db")
        os.makedirs(f"{root}/run", exist_ok=True)
        service = Networks(EngineConfig(data_root=root, exec_root=f"{root}/run", **options), store, Events(), drivers)
        try:
            await service.start()
            service.carrier.supply(self.beside(name).ensure_ports)
            if restored:
                await service.restore({})
            yield service
        finally:
            await service.close()
            await store.close()

    def beside(self, name: str) -> Beside:
        """What an engine has of its supervisor. A forked child has its own: the threads are its parent's."""
        key = name, os.getpid()
        if key not in self._beside:
            self._beside[key] = Beside(f"{self.directory}/{name}/run")
        return self._beside[key]

    async def unserve(self) -> None:
        """End everything that `serve` began."""
        for task in self._servers:
            task.cancel()
        await asyncio.gather(*self._servers, return_exceptions=True)
        self._servers.clear()

    async def nothing_left(self) -> None:
        await self.unserve()
        for beside in self._beside.values():
            beside.close()
        left = [str(path) for path in Path(self.directory).glob("*/run/ports/*.json")]
        assert not left, f"files of published ports left behind: {left}"
        links = {link.name for link in self.netlink.links()} - {"lo", "lan0"}
        # devices that the kernel gives every namespace
        links -= {
            "tunl0",
            "sit0",
            "ip6tnl0",
            "gre0",
            "gretap0",
            "erspan0",
            "ip_vti0",
            "ip6_vti0",
            "ip6gre0",
            "ifb0",
            "ifb1",
        }
        assert not links, f"links left behind: {links}"
        assert "sampan" not in self.nft.run("list ruleset"), self.nft.run("list ruleset")

    # ── traffic ─────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def inside(self, namespace: str | int) -> Iterator[None]:
        fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC) if isinstance(namespace, str) else os.dup(namespace)
        try:
            setns(fd, CLONE_NEWNET)
            try:
                yield
            finally:
                setns(self._own, CLONE_NEWNET)
        finally:
            os.close(fd)

    def serve(self, namespace: str | int | None, port: int, *, udp: bool = False, address: str = "0.0.0.0") -> None:
        """Answer on a port of a namespace (None: the host) with the address of who asks."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside(self._own if namespace is None else namespace):
            sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.setblocking(False)
        if not udp:
            sock.listen()
        self._servers.append(asyncio.get_running_loop().create_task(_answer_udp(sock) if udp else _answer_tcp(sock)))

    async def ask(self, namespace: str | int | None, address: str, port: int, *, udp: bool = False) -> str:
        """Connect from a namespace (None: the host) and return what the server says: our address as it sees it.

        Raises: TimeoutError when packets are dropped, ConnectionRefusedError.
        """
        return await self.finish(await self.begin(namespace, address, port, udp=udp))

    async def begin(self, namespace: str | int | None, address: str, port: int, *, udp: bool = False) -> socket.socket:
        """Connect as `ask` does and ask nothing yet: `finish` is due. Raises: as `ask`."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.inside(self._own if namespace is None else namespace):
            sock = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def finish(self, begun: socket.socket) -> str:
        """Ask on a connection and close it; return the answer. Raises: as `ask`."""
        loop = asyncio.get_running_loop()
        with begun:
            async with asyncio.timeout(TIMEOUT_S):
                await loop.sock_sendall(begun, b"who am I?")
                answer = (await loop.sock_recv(begun, 1000)).decode()
                if not answer:
                    raise ConnectionResetError
                return answer

    async def dropped(self, namespace: str | int | None, address: str, port: int, *, udp: bool = False) -> bool:
        """Whether nothing comes back."""
        try:
            async with asyncio.timeout(DROPPED_S):
                await self.ask(namespace, address, port, udp=udp)
        except TimeoutError:
            return True
        return False

    def route(self, namespace: str | int, destination: str, length: int, gateway: str, device: str) -> None:
        with self.inside(namespace):
            rtnl = Netlink()
        with rtnl:
            link = rtnl.link(device)
            assert link is not None
            route = netlink.add_route(ip_address(destination), length, index=link.ifindex, gateway=ip_address(gateway))
            rtnl.batch([route])

    def address(self, namespace: str | int, device: str, address: str, length: int) -> None:
        with self.inside(namespace):
            rtnl = Netlink()
        with rtnl:
            link = rtnl.link(device)
            assert link is not None
            rtnl.batch([netlink.add_address(link.ifindex, ip_address(address), length)])

    def sysctl(self, namespace: str | int, path: str, value: str) -> None:
        with self.inside(namespace):
            assert write_sysctl(path, value)


async def _answer_tcp(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with sock:
        while True:
            connection, peer = await loop.sock_accept(sock)
            with connection, contextlib.suppress(OSError):
                await loop.sock_recv(connection, 1000)
                await loop.sock_sendall(connection, peer[0].encode())


async def _answer_udp(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with sock:
        while True:
            _, peer = await loop.sock_recvfrom(sock, 1000)
            await loop.sock_sendto(sock, peer[0].encode(), peer)


async def attach(
    networks: Networks,
    name: str = "web",
    *,
    mode: str = "default",
    ports: Mapping[str, str | list[str]] | None = None,
    exposed: Sequence[str] | None = None,
    publish_all: bool = False,
    endpoints: Mapping[str, EndpointSettings] | None = None,
) -> Sandbox:
    """Attach a container with this name and `ports` {"80/tcp": "8080"} (a host port, or address:port)."""
    bindings: dict[str, list[PortBinding]] = {}
    for port, host in (ports or {}).items():
        split = [one.rpartition(":") for one in ([host] if isinstance(host, str) else host)]
        bindings[port] = [PortBinding(host_ip=ip.strip("[]"), host_port=number) for ip, _, number in split]
    shown = tuple(bindings if exposed is None else exposed)
    return await networks.attach(
        SandboxRequest(
            id=container_id(name),
            mode=mode,
            name=name,
            hostname=name,
            endpoints=endpoints,
            ports=published(bindings, exposed=shown, publish_all=publish_all),
            exposed=shown,
        )
    )


async def connect(networks: Networks, ref: str, id: str, settings: EndpointSettings | None = None) -> None:
    """Connect a running container, as the containers service does."""
    async with networks.connecting(networks.find(ref), id, settings or EndpointSettings()) as changes:
        networks._store.apply_now(*changes)


async def disconnect(networks: Networks, ref: str, id: str) -> bool:
    """Disconnect a running container; False when it was not connected."""
    async with networks.disconnecting(networks.find(ref), id) as changes:
        if changes is not None:
            networks._store.apply_now(*changes)
    return changes is not None


def ports_of(sandbox: Sandbox) -> dict[str, list[dict[str, str]] | None]:
    """The sandbox's ports as NetworkSettings.Ports shows them."""
    return inspect.ports(sandbox.exposed, sandbox.bindings)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something the kernel or another task does and tells nobody about."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def run(*command: str) -> None:
    """Run a program of another's, to its end."""
    subprocess.run(command, check=True)


def spawn(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def container_id(name: str) -> str:
    return name.encode().hex().ljust(64, "0")


def die_at(
    step: int,
    begun: Callable[[], bool],
    work: Callable[[], Coroutine[Any, Any, None]],
    also: Sequence[tuple[type, str]] = (),
) -> bool:
    """Run the work in a forked child that kills itself before its `step`th change of the kernel or of the records.

    Changes count once `begun` says so; calls of the methods `also` are changes too. Returns False when the work came to
    its end before that. Call it with no engine open: the child opens its own.
    """
    pid = os.fork()
    if pid == 0:
        taken = 0

        def counted(owner: type, name: str) -> None:
            real = getattr(owner, name)

            def call(*args: Any, **options: Any) -> Any:
                nonlocal taken
                if begun():
                    taken += 1
                    _TAKEN[:4] = taken.to_bytes(4, sys.byteorder)
                    if taken == step:
                        os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **options)

            setattr(owner, name, call)

        counted(Netlink, "attempt")
        counted(Store, "apply_now")
        counted(Plumbing, "change_elements")
        for owner, name in also:
            counted(owner, name)
        asyncio._set_running_loop(None)
        asyncio.get_event_loop_policy().set_event_loop(None)
        try:
            asyncio.run(work())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), status
    return status != 0


_TAKEN = mmap.mmap(-1, 4096)  # how far a child has come; shared with it


def steps_of(
    begun: Callable[[], bool], work: Callable[[], Coroutine[Any, Any, None]], also: Sequence[tuple[type, str]] = ()
) -> int:
    """Run the work in a child to its end, and return how many steps it has for `die_at`."""
    assert not die_at(1 << 30, begun, work, also), "it comes to its end"
    return int.from_bytes(_TAKEN[:4], sys.byteorder)
