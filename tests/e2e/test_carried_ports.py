"""The port mapper `proxy` and the process behind it, on a whole engine with a neighbour on a LAN."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.linux import capabilities
from tests.support.dns import Inside
from tests.support.engine import Engine, until
from tests.support.lan import Lan

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

LIMIT_S = 30.0
DROPPED_S = 0.4  # how long a packet that is dropped is waited for
HOST6 = "2001:db8::1"
RULES = "table inet hosts_own {{\nchain input {{\ntype filter hook input priority 0\n{} dport {} drop\n}}\n}}\n"

Handle = Callable[[socket.socket], None]


class World:
    """An engine with `--port-mapper proxy` on one host of a LAN; `lan` is a thread on the other host."""

    def __init__(self, directory: Path) -> None:
        self.net = Lan(2)
        for n, host in enumerate(self.net.hosts):
            host.run(f"ip -6 address add 2001:db8::{n + 1}/64 dev eth0 nodad")
        self.host, self.address = self.net.hosts[0], self.net.address(0)
        self.engine = Engine(directory, "--port-mapper", "proxy")
        self.engine.wrapper = self.host.enter
        self.engine.start()
        self.engine.import_busybox()
        self.lan, self.on_host = Inside(self.net.hosts[1].pid), Inside(self.host.pid)
        self._inside: list[Inside] = []
        self._servers: list[socket.socket] = []

    def close(self) -> None:
        self.forget()
        for thread in (self.lan, self.on_host):
            thread.close()
        self.engine.close()
        self.net.close()

    def forget(self) -> None:
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes who waits in it
            server.close()
        for inside in self._inside:
            inside.close()
        self._servers.clear()
        self._inside.clear()

    def start(self, name: str, ports: dict[str, Any], *command: str, network: str = "bridge", **host: Any) -> Inside:
        """Start a container that publishes {"80/tcp": "8080"}; return a thread inside."""
        bindings = {
            port: [_binding(one) for one in ([to] if isinstance(to, str) else to)] for port, to in ports.items()
        }
        config: dict[str, Any] = {"ExposedPorts": {port: {} for port in ports}}
        host = {"PortBindings": bindings, "NetworkMode": network, **host}
        self.engine.run(*(command or ("sleep", "10000")), name=name, config=config, **host)
        inside = Inside(self.engine.inspect(name)["State"]["Pid"])
        self._inside.append(inside)
        return inside

    def serve(self, inside: Inside, port: int, handle: Handle, *, udp: bool = False) -> None:
        """Serve on a port in a namespace; the sockets are this process's."""
        made: list[socket.socket] = []
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        inside.run(lambda: made.append(socket.socket(socket.AF_INET, kind)))
        self._servers.append(made[0])
        made[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of before may linger
        made[0].bind(("0.0.0.0", port))
        if udp:
            threading.Thread(target=_quietly, args=(handle, made[0]), daemon=True).start()
        else:
            made[0].listen()
            threading.Thread(target=_accept, args=(made[0], handle), daemon=True).start()

    def connect(self, port: int, *, via: Inside | None = None, address: str = "") -> socket.socket:
        """Connect from the neighbour, or from elsewhere. Raises: OSError."""
        address = address or self.address
        peer = _socket(via or self.lan, address, socket.SOCK_STREAM)
        try:
            peer.settimeout(LIMIT_S)
            peer.connect((address, port))
        except BaseException:
            peer.close()
            raise
        return peer

    def says(self, port: int, *, via: Inside | None = None, address: str = "", text: bytes = b"echo") -> bytes:
        """Send a text and return what comes back. Raises: OSError."""
        with self.connect(port, via=via, address=address) as peer:
            return ask(peer, text)

    def says_udp(self, port: int, *, via: Inside | None = None, address: str = "") -> bytes:
        address = address or self.address
        with _socket(via or self.lan, address, socket.SOCK_DGRAM) as peer:
            peer.settimeout(LIMIT_S)
            peer.connect((address, port))
            return ask(peer, b"datagram")

    def dropped(self, port: int, *, via: Inside | None = None, udp: bool = False) -> bool:
        """Whether nothing comes back."""
        with _socket(via or self.lan, self.address, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as peer:
            peer.settimeout(DROPPED_S)
            try:
                peer.connect((self.address, port))
                ask(peer, b"?")
            except TimeoutError:
                return True
        return False

    @contextlib.contextmanager
    def input_rule(self, proto: str, ports: str) -> Iterator[None]:
        """A rule of the host's own, in its input hook."""
        self.host.run("nft -f -", input=RULES.format(proto, ports))
        try:
            yield
        finally:
            self.host.run("nft delete table inet hosts_own")

    def carrier(self) -> int:
        return int((self.engine.exec_root / "ports" / "ports.pid").read_text())

    def kill(self, pid: int) -> None:
        pidfd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert select.select([pidfd], [], [], LIMIT_S)[0], "it has ended"
        os.close(pidfd)

    def listening(self) -> set[int]:
        """The TCP ports of the host that somebody listens on."""
        lines = self.host.run("cat /proc/net/tcp /proc/net/tcp6").splitlines()
        return {int(line.split()[1].rpartition(":")[2], 16) for line in lines if " 0A " in line}


def _binding(text: str) -> dict[str, str]:
    ip, _, port = text.rpartition(":")
    return {"HostIp": ip.strip("[]"), "HostPort": port}


def _socket(via: Inside, address: str, kind: socket.SocketKind) -> socket.socket:
    made: list[socket.socket] = []
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    via.run(lambda: made.append(socket.socket(family, kind)))
    return made[0]


def _accept(server: socket.socket, handle: Handle) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_quietly, args=(handle, connection), daemon=True).start()


def _quietly(handle: Handle, peer: socket.socket) -> None:
    with contextlib.suppress(OSError), peer:
        handle(peer)


def echo(peer: socket.socket) -> None:
    while data := peer.recv(65536):
        peer.sendall(data)


def echo_udp(peer: socket.socket) -> None:
    peer.settimeout(DROPPED_S)
    while peer.fileno() >= 0:
        with contextlib.suppress(TimeoutError):
            data, client = peer.recvfrom(65536)
            peer.sendto(data, client)


def never_read(peer: socket.socket) -> None:
    threading.Event().wait(LIMIT_S)


def digest_and_answer(peer: socket.socket) -> None:
    """Take all that comes, to its end; then say its digest, and as much again."""
    seen, size = hashlib.sha256(), 0
    while data := peer.recv(1 << 20):
        seen.update(data)
        size += len(data)
    peer.sendall(seen.digest())
    for _ in range(size >> 20):
        peer.sendall(b"back" * (1 << 18))


def ask(peer: socket.socket, text: bytes) -> bytes:
    peer.sendall(text)
    return peer.recv(65536)


@pytest.fixture(scope="module")
def shared(root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("carried"))
    yield world
    world.close()


@pytest.fixture
def world(shared: World) -> Iterator[World]:
    """What is there of a test goes with it."""
    yield shared
    shared.forget()
    for container in shared.engine.call("GET", "/containers/json", all="1"):
        shared.engine.remove(container["Id"])
    shared.engine.call("POST", "/networks/prune")


def test_the_hosts_input_rules_decide(world: World) -> None:
    world.engine.call("POST", "/networks/create", {"Name": "nat", "Options": {"sampan.port_mapper": "nat"}})
    for name, network, base in (("by-proxy", "bridge", 8080), ("by-nat", "nat", 8090)):
        inside = world.start(name, {"80/tcp": f"{base}", "53/udp": f"{base}"}, network=network)
        world.serve(inside, 80, echo)
        world.serve(inside, 53, echo_udp, udp=True)
    assert [world.says(port) for port in (8080, 8090)] == [b"echo"] * 2
    with world.input_rule("tcp", "{ 8080, 8090 }"):
        assert world.dropped(8080)
        assert world.says(8090) == b"echo", "translated before the host's rules see it"
        assert world.says_udp(8080) == b"datagram"
    with world.input_rule("udp", "{ 8080, 8090 }"):
        assert world.dropped(8080, udp=True)
        assert world.says_udp(8090) == b"datagram"
        assert world.says(8080) == b"echo"
    assert [world.says(port) for port in (8080, 8090)] == [b"echo"] * 2
    rules = world.host.run("nft list ruleset")
    assert "tcp . 8090 :" in rules and "udp . 8090 :" in rules and "8080" not in rules


def test_everywhere_a_port_is_reached(world: World) -> None:
    ports = {"80/tcp": ["8080", "127.0.0.1:8081", f"[{HOST6}]:8082"], "53/udp": ["8080", f"[{HOST6}]:8082"]}
    inside = world.start("web", ports)
    world.serve(inside, 80, echo)
    world.serve(inside, 53, echo_udp, udp=True)
    other = world.start("other", {})
    for via, address in (
        (world.lan, world.address),
        (world.lan, HOST6),
        (world.on_host, world.address),
        (world.on_host, "127.0.0.1"),
        (world.on_host, "::1"),
        (other, world.address),
        (inside, world.address),
    ):
        assert world.says(8080, via=via, address=address) == b"echo", address
        assert world.says_udp(8080, via=via, address=address) == b"datagram", address
    assert world.says(8081, via=world.on_host, address="127.0.0.1") == b"echo"
    assert world.says(8082, address=HOST6) == b"echo" and world.says_udp(8082, address=HOST6) == b"datagram"
    for port in (8081, 8082):
        with pytest.raises(ConnectionRefusedError):
            world.connect(port)


def test_what_clients_show(world: World) -> None:
    docker = world.engine.cli
    run = ("run", "-d", "--name", "shown", "-p", "7000-7001:80-81", "-p", "127.0.0.1::82", "-P", "--expose", "90")
    docker("docker", *run, "busybox", "sleep", "1000")
    shown = docker("docker", "port", "shown").stdout.splitlines()
    assert {"80/tcp -> 0.0.0.0:7000", "80/tcp -> [::]:7000", "81/tcp -> 0.0.0.0:7001"} <= set(shown)
    assert len(shown) == 7 and any(line.startswith("82/tcp -> 127.0.0.1:") for line in shown)
    assert "0.0.0.0:7001->81/tcp" in docker("docker", "ps").stdout
    numbers = {int(line.rpartition(":")[2]) for line in shown}
    assert numbers <= world.listening()
    taken = docker("docker", "run", "-d", "-p", "7000:80", "busybox", "sleep", "9", check=False)
    assert taken.returncode == 125 and "Bind for 0.0.0.0:7000 failed: port is already allocated" in taken.stderr
    docker("sampan", "update", "--publish", "7100:80", "--unpublish", "7001:81", "shown")
    assert {7000, 7100} <= world.listening() and 7001 not in world.listening()


def test_half_close_and_64_mib_both_ways(world: World) -> None:
    size = 64 << 20
    world.serve(world.start("bulk", {"80/tcp": "8080"}), 80, digest_and_answer)
    piece = os.urandom(1 << 20)
    seen = hashlib.sha256()
    with world.connect(8080) as peer:
        for _ in range(size >> 20):
            peer.sendall(piece)
            seen.update(piece)
        peer.shutdown(socket.SHUT_WR)
        got = bytearray()
        while data := peer.recv(1 << 20):
            got += data
    assert bytes(got[:32]) == seen.digest() and len(got) == size + 32
    assert bytes(got[32:]) == b"back" * (size // 4)


def test_stalled_sides_cost_no_memory_and_stop_nobody(world: World) -> None:
    inside = world.start("stalled", {"80/tcp": "8080", "81/tcp": "8081"})
    world.serve(inside, 80, never_read)
    world.serve(inside, 81, echo)
    before = _resident(world.carrier())
    with contextlib.ExitStack() as opened:
        for port in (8080, 8081):  # the container does not read; then the client does not
            for _ in range(4):
                peer = opened.enter_context(world.connect(port))
                peer.settimeout(DROPPED_S)
                with contextlib.suppress(TimeoutError):
                    for _ in range(64):
                        peer.sendall(bytes(1 << 20))
        assert world.says(8081) == b"echo"
        assert _resident(world.carrier()) - before < 4 << 20


def _resident(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


def test_connections_go_on_while_daemon_and_supervisor_are_killed(world: World) -> None:
    world.serve(world.start("kept", {"80/tcp": "8080", "53/udp": "8080"}), 80, echo)
    carrier = world.carrier()
    with world.connect(8080) as peer:
        assert ask(peer, b"before") == b"before"
        world.engine.kill()
        assert ask(peer, b"without sampand") == b"without sampand"
        assert world.says(8080) == b"echo"
        world.kill(world.engine.pid_of("sampan-supervisor"))
        assert ask(peer, b"without both") == b"without both"
        world.engine.start()
        assert ask(peer, b"after") == b"after" and world.carrier() == carrier
        assert world.says(8080) == b"echo"
        with pytest.raises(OSError, match="in use"):
            world.serve(world.on_host, 8080, echo)
        world.kill(carrier)  # no supervisor has held its sockets: they are made again
        until(lambda: world.says(8080) == b"echo", 5, "the ports are back")
    with world.connect(8080) as peer:
        assert ask(peer, b"again") == b"again"
        world.engine.remove("kept")
        with pytest.raises(ConnectionResetError):
            ask(peer, b"gone")
    with pytest.raises(ConnectionRefusedError):
        world.connect(8080)


def test_a_killed_carrier_is_back_and_clients_wait_for_it(world: World) -> None:
    inside = world.start("web", {"80/tcp": "8080", "53/udp": "8080"})
    world.serve(inside, 80, echo)
    world.serve(inside, 53, echo_udp, udp=True)
    for _ in range(3):
        until(lambda: world.says(8080) == b"echo", LIMIT_S, "it serves")
        killed = world.carrier()
        world.kill(killed)
        assert world.says(8080) == b"echo", "one connection, made while nobody is there"
        assert world.carrier() != killed
    killed = world.carrier()
    world.kill(killed)
    assert world.says_udp(8080) == b"datagram", "one datagram, sent once"


def test_a_container_that_ends_resets_its_connections(world: World) -> None:
    world.start("nc", {"80/tcp": "8080"}, "nc", "-ll", "-p", "80", "-e", "cat")
    until(lambda: world.says(8080) == b"echo", LIMIT_S, "it listens")
    with world.connect(8080) as peer:
        assert ask(peer, b"hello") == b"hello"
        world.engine.call("POST", "/containers/nc/kill")
        peer.settimeout(LIMIT_S)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
    until(lambda: 8080 not in world.listening(), LIMIT_S, "the port is free")


def test_ports_are_given_back_and_nothing_is_left(world: World) -> None:
    before = world.listening()
    directory = world.engine.exec_root / "ports"
    for n in range(3):
        world.start(f"gone-{n}", {"80/tcp": f"808{n}", "53/udp": f"808{n}"})
    carrier, supervisor = world.carrier(), world.engine.pid_of("sampan-supervisor")
    assert len(list(directory.glob("*.json"))) == 3 and {8080, 8081, 8082} <= world.listening()
    assert _sockets(supervisor) >= 12
    for n in range(3):
        world.engine.remove(f"gone-{n}")
        world.serve(world.on_host, 8080 + n, echo)  # at once
    assert not list(directory.glob("*.json"))
    world.forget()
    assert world.listening() == before
    pidfd = os.pidfd_open(carrier)
    assert select.select([pidfd], [], [], LIMIT_S)[0], "it ends when no port is left"
    os.close(pidfd)
    assert not [line for line in world.engine.pids().values() if line.startswith("sampan-ports")]
    world.serve(world.start("again", {"80/tcp": "8080"}), 80, echo)
    assert world.says(8080) == b"echo" and world.carrier() != carrier


def _sockets(pid: int) -> int:
    fds = (os.path.join(f"/proc/{pid}/fd", fd) for fd in os.listdir(f"/proc/{pid}/fd"))
    return sum(os.readlink(fd).startswith("socket:") for fd in fds if os.path.lexists(fd))


def test_what_a_killed_daemon_left_goes_with_the_next(world: World) -> None:
    """A file of an attach that was never recorded, and its port."""
    world.start("web", {"80/tcp": "8080"})
    world.engine.kill()
    directory = world.engine.exec_root / "ports"
    (directory / "203.0.113.5.json").write_text('[["tcp", "0.0.0.0", 8099, "203.0.113.5", 80]]')
    (directory / "203.0.113.6.json").write_text("{}")
    world.kill(world.carrier())
    until(lambda: 8099 in world.listening(), LIMIT_S, "it is taken up")
    world.engine.start()
    assert 8080 in world.listening() and 8099 not in world.listening()
    assert len(list(directory.glob("*.json"))) == 1


def test_it_has_few_rights(world: World) -> None:
    world.start("web", {"80/tcp": "8080"})
    status = Path(f"/proc/{world.carrier()}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(fields[name], 16) & ~capabilities.mask(["CAP_NET_BIND_SERVICE"]) == 0, name
    assert int(fields["CapInh"], 16) == 0 and fields["NoNewPrivs"] == "1"


def test_what_is_refused(world: World) -> None:
    def create(**options: str) -> tuple[int, str]:
        answer = world.engine.request("POST", "/networks/create", {"Name": "refused", "Options": options})
        return answer.status, answer.message if answer.status >= 400 else ""

    key = "sampan.port_mapper"
    assert create(**{key: "x"}) == (400, f"failed to parse {key} value: x (unknown port mapper x)")
    for mode in ("routed", "isolated"):
        for version in ("4", "6"):
            mode_key = f"com.docker.network.bridge.gateway_mode_ipv{version}"
            status, said = create(**{key: "proxy", mode_key: mode})
            assert status == 400
            assert (
                mode == "isolated"
                or said == f"port mapper 'proxy' cannot be used with gateway mode 'routed' ({mode_key})"
            )
    assert create(**{key: "proxy"})[0] == 201
    assert world.engine.call("GET", "/networks/refused")["Options"] == {key: "proxy"}
    assert world.engine.call("GET", "/networks/bridge")["Options"][key] == "proxy"
    body = {"Image": "busybox", "ExposedPorts": {"80/sctp": {}}}
    body["HostConfig"] = {"PortBindings": {"80/sctp": [{"HostPort": "8080"}]}}
    world.engine.call("POST", "/containers/create", body, name="sctp")
    said = world.engine.request("POST", "/containers/sctp/start").message
    assert said.endswith("port 80/sctp: port mapper 'proxy' carries tcp and udp only")
