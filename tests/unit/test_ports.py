"""The carrier of published ports, on the loopback: everything arrives, both ways, and ends when a side ends."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from sampan.linux.loop import HANG_UP, READ, Loop
from sampan.supervisor.kept import held
from sampan.supervisor.kept.files import Damaged
from sampan.supervisor.ports import tcp, udp
from sampan.supervisor.ports.room import Room
from sampan.supervisor.ports.sockets import reserve
from sampan.supervisor.ports.table import Carried, decode, encode
from sampan.supervisor.ports.tcp import TcpPort
from sampan.supervisor.ports.udp import UdpPort

T = TypeVar("T")

LIMIT_S = 20.0


class Running:
    """A loop in a thread of its own; `do` runs something there."""

    def __init__(self) -> None:
        self.loop = Loop()
        self._reader, self._writer = os.pipe()
        self._work: list[Callable[[], None]] = []
        self.loop.watch(self._reader, READ, self._woken)
        self._thread = threading.Thread(target=self.loop.run, name="carrier")
        self._thread.start()

    def _woken(self, _: int) -> None:
        os.read(self._reader, 1)
        self._work.pop(0)()

    def do(self, work: Callable[[], T]) -> T:
        done, found = threading.Event(), []

        def run() -> None:
            try:
                found.append(work())
            finally:
                done.set()

        self._work.append(run)
        os.write(self._writer, b"1")
        assert done.wait(LIMIT_S)
        return found[0]

    def close(self) -> None:
        self.do(self.loop.stop)
        self._thread.join()
        self.loop.close()
        os.close(self._reader)
        os.close(self._writer)


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


@contextlib.contextmanager
def carried(
    running: Running, *, ip: str = "127.0.0.1", most: int = 100, target: tuple[str, int] | None = None
) -> Iterator[tuple[socket.socket, Callable[[], socket.socket], TcpPort]]:
    """A server socket, how a client connects by way of a port that leads to it, and the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        front = reserve("tcp", ip, 0, listens=True)
        where, (address, port) = front.getsockname()[:2], target or server.getsockname()
        leads = Carried(proto="tcp", host_ip=ip, host_port=where[1], address=address, port=port)
        opened = running.do(lambda: TcpPort(running.loop, front, leads, Room(most)))

        def connect() -> socket.socket:
            client = socket.create_connection(where, timeout=LIMIT_S)
            client.settimeout(LIMIT_S)
            return client

        try:
            yield server, connect, opened
        finally:
            if front.fileno() >= 0:
                running.do(opened.close)


def accept(server: socket.socket) -> socket.socket:
    connection, _ = server.accept()
    connection.settimeout(LIMIT_S)
    return connection


def read_all(peer: socket.socket) -> bytes:
    parts = []
    while data := peer.recv(1 << 20):
        parts.append(data)
    return b"".join(parts)


def send_all(peer: socket.socket, data: bytes) -> None:
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)


def fill(peer: socket.socket) -> None:
    """Send until nothing more is taken."""
    peer.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            peer.send(bytes(1 << 20))
    peer.settimeout(LIMIT_S)


def idle(running: Running) -> bool:
    """Whether the loop comes to wait, and does not turn for nothing: what is ready now may be news."""
    return any(not running.do(lambda: running.loop._epoll.poll(0)) for _ in range(100))


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_half_close_and_bulk(running: Running) -> None:
    """The server answers only when the client has ended its side: without half-close it would hang."""
    sent = os.urandom(1 << 20) * 6  # more than all buffers on the way hold
    with carried(running) as (server, connect, _), connect() as client, accept(server) as inner:
        sending = threading.Thread(target=send_all, args=(client, sent))
        sending.start()
        assert read_all(inner) == sent
        sending.join()
        answering = threading.Thread(target=send_all, args=(inner, sent[::-1]))
        answering.start()
        assert read_all(client) == sent[::-1]
        answering.join()


def test_both_ways_at_once_and_with_pauses(running: Running) -> None:
    sent = os.urandom(1 << 20) * 4
    with carried(running) as (server, connect, _), connect() as client, accept(server) as inner:
        sending = [threading.Thread(target=send_all, args=(peer, sent)) for peer in (client, inner)]
        for thread in sending:
            thread.start()
        assert read_all(inner) == sent
        assert read_all(client) == sent
        for thread in sending:
            thread.join()


def test_the_server_may_speak_first(running: Running) -> None:
    with carried(running) as (server, connect, _), connect() as client, accept(server) as inner:
        inner.sendall(b"220 ready\n")
        assert client.recv(100) == b"220 ready\n"
        client.sendall(b"quit\n")
        assert inner.recv(100) == b"quit\n"
        inner.close()
        assert client.recv(100) == b""


def test_nobody_listens_inside(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nowhere = unused.getsockname()
    with (
        carried(running, target=nowhere) as (_, connect, _port),
        contextlib.ExitStack() as opened,
        pytest.raises(ConnectionResetError),
    ):
        opened.enter_context(connect()).recv(1)


def test_a_reset_goes_through_after_what_was_sent_before(running: Running) -> None:
    for end in (0, 1):
        with carried(running) as (server, connect, _), connect() as client, accept(server) as inner:
            one, other = (client, inner)[end], (client, inner)[1 - end]
            one.sendall(b"last words")
            assert other.recv(100, socket.MSG_PEEK) == b"last words"
            reset(one)
            assert other.recv(100) == b"last words"
            with pytest.raises(ConnectionResetError):
                assert other.recv(100)


def test_a_port_that_goes_resets_its_connections(running: Running) -> None:
    """A container that was killed cannot say that its connections are over."""
    with carried(running) as (server, connect, port), connect() as client, accept(server) as inner:
        client.sendall(b"hello")
        assert inner.recv(100) == b"hello"
        running.do(port.close)
        for peer in (client, inner):
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        with pytest.raises(ConnectionRefusedError):
            connect()


def test_a_side_that_takes_nothing_stops_the_other_and_nobody_else(running: Running) -> None:
    with carried(running) as (server, connect, _), connect() as stalled, accept(server):
        fill(stalled)
        assert idle(running)
        with connect() as client, accept(server) as inner:
            client.sendall(b"and I?")
            assert inner.recv(100) == b"and I?"


def test_a_half_closed_connection_that_waits_costs_no_time(running: Running) -> None:
    """Both ways of the client are closed, and what it sent waits for the server: epoll says so all the time."""
    with carried(running) as (server, connect, _), connect() as client, accept(server) as inner:
        inner.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        fill(client)
        client.shutdown(socket.SHUT_WR)
        assert idle(running)
        while inner.recv(1 << 20):
            pass


def test_a_hang_up_that_is_old_news_changes_nothing(running: Running) -> None:
    """It was fetched while nothing was wanted of that side, and comes when something is again."""
    with carried(running) as (server, connect, port), connect() as client, accept(server) as inner:
        inner.sendall(b"one")
        assert client.recv(100) == b"one"
        [connection] = port._connections
        for side in (connection._client, connection._container):
            assert side is not None
            running.do(lambda side=side: connection._ready(side, HANG_UP))  # type: ignore[misc]
        for one, other in ((inner, client), (client, inner)):
            one.sendall(b"two")
            assert other.recv(100) == b"two"


def test_connections_are_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes when the bound is reached waits in the kernel's queue until somebody leaves."""
    monkeypatch.setattr(tcp, "MOST_OF_ONE", 2)
    for most in (100, 2):
        with carried(running, most=most) as (server, connect, _), contextlib.ExitStack() as opened:
            clients = [opened.enter_context(connect()) for _ in range(3)]
            inner = [opened.enter_context(accept(server)) for _ in range(2)]
            server.settimeout(0.2)
            with pytest.raises(TimeoutError):
                server.accept()
            server.settimeout(LIMIT_S)
            clients[0].close()
            inner[0].close()
            opened.enter_context(accept(server))


def test_udp_clients_get_their_own_answers(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MOST_OF_ONE", 3)
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        address, port = server.getsockname()
        front = reserve("udp", "::1", 0, listens=True)
        where = front.getsockname()[:2]
        leads = Carried(proto="udp", host_ip="::1", host_port=where[1], address=address, port=port)
        made = running.do(lambda: UdpPort(running.loop, front, leads, lambda: None))
        clients = [opened.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) for _ in range(5)]
        for n, client in enumerate(clients):
            client.settimeout(LIMIT_S)
            client.connect(where)
            client.send(b"%d" % n)
            data, peer = server.recvfrom(100)
            server.sendto(b"answer " + data, peer)
            assert client.recv(100) == b"answer %d" % n
        assert len(made) == 3, "the silent ones are forgotten"
        running.do(made.close)


def test_udp_answers_come_from_the_address_that_was_asked(running: Running) -> None:
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        address, port = server.getsockname()
        front = reserve("udp", "0.0.0.0", 0, listens=True)
        number = front.getsockname()[1]
        leads = Carried(proto="udp", host_ip="0.0.0.0", host_port=number, address=address, port=port)
        made = running.do(lambda: UdpPort(running.loop, front, leads, lambda: None))
        client = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        client.settimeout(LIMIT_S)
        client.bind(("127.0.0.1", 0))
        for asked in ("127.0.0.7", "127.0.0.8"):
            client.sendto(b"who?", (asked, number))
            data, peer = server.recvfrom(100)
            server.sendto(data, peer)
            assert client.recvfrom(100) == (b"who?", (asked, number))
        running.do(made.close)


def test_sockets_are_held_up_to_a_bound_and_freed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And no program that is started inherits one."""
    monkeypatch.setattr(held, "MOST_HELD", 2)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.socket() as one:
        ours.setblocking(False)
        holder, holding = held.Holder(str(tmp_path), 1, {}), held.Holding(theirs, 1)
        for key in ("tcp/::/1", "tcp/::/2", "tcp/::/3"):
            holding.keep([key], [one])
            assert holder.handle(ours, lambda: None)
        assert len(holder) == 2
        assert not any(os.get_inheritable(fd) for fds in holder._held.values() for fd in fds)
        assert holding.free(7, ["tcp/::/1", "tcp/::/2"])
        assert holder.handle(ours, lambda: None)
        assert len(holder) == 0 and theirs.recv(100) == b"freed 7"


def test_files_say_what_leads_where() -> None:
    port = Carried(proto="tcp", host_ip="::", host_port=80, address="10.0.0.2", port=8080)
    assert decode(encode([port]), "10.0.0.2") == {"tcp/::/80": port}
    for raw in (b"", b"{}", b"[[]]", b"[[1,2,3,4,5]]", encode([port]).replace(b"tcp", b"sctp"), b"[" * 100000):
        with pytest.raises(Damaged):
            decode(raw, "10.0.0.2")
    with pytest.raises(Damaged, match="it is of"):
        decode(encode([port]), "10.0.0.3")
