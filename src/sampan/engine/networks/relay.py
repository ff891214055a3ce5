"""The userland relay: published ports that nftables cannot translate, carried by this process.

That is [::]:port to a container without IPv6, ::1, and every published port when the daemon runs with `iptables:
false`. It sits on the very sockets that reserve the ports (ports.py). Its connections end with the daemon; what
nftables carries does not. The container sees the bridge's address as the peer, as with docker-proxy.

Invariants: bounded memory (each direction stops reading while its peer does not take more; a bounded number of UDP
peers); a connection's two halves close together, half-close included.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from dataclasses import dataclass, field
from typing import cast

from sampan.engine.background import Background
from sampan.engine.networks.firewall import Published

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0
_UDP_IDLE_S = 90.0
_UDP_PEERS = 1024
_DATAGRAM_BYTES = 65535
_ACCEPTS_PER_WAKE = 64


class _Half(asyncio.Protocol):
    """One side of a relayed connection: what it receives goes out on the other side's transport."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._other: _Half | None = None
        self._ended = False  # it has sent all it will
        self._early: list[bytes] = []  # received before the other side stood

    def tie(self, other: _Half) -> None:
        """Join two connected halves."""
        self._other, other._other = other, self
        for one, two in ((self, other), (other, self)):
            two.write(b"".join(one._early))
            one._early.clear()
            if one._ended:
                two.end()

    def write(self, data: bytes) -> None:
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def end(self) -> None:
        """Pass on that the other side has sent all; close when both have."""
        if self.transport is None or self.transport.is_closing():
            return
        if not (self._ended and self._other is not None and self._other._ended):
            self.transport.write_eof()
            return
        for half in (self, self._other):
            if half.transport is not None:
                half.transport.close()  # after what is buffered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:
        self._ended = True
        if self._other is not None:
            self._other.end()
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other.transport is not None:
            self._other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if self._other is not None and self._other.transport is not None:
            self._other.transport.close()


@dataclass(slots=True)
class _UdpPeers:
    """Who talks to one published UDP port: a socket to the container for each client."""

    target: tuple[str, int]
    sockets: dict[tuple[str, int], tuple[socket.socket, float]] = field(default_factory=dict)


class Relay:
    """All relayed ports of one engine. Used on the event loop's thread only."""

    def __init__(self) -> None:
        self._carrying = Background()
        self._listening: dict[int, set[asyncio.Task[None]]] = {}  # descriptor → its connections
        self._udp: dict[int, _UdpPeers] = {}

    @property
    def connections(self) -> int:
        """How many TCP connections are being carried."""
        return sum(len(tasks) for tasks in self._listening.values())

    def open(self, sock: socket.socket, published: Published) -> None:
        """Serve a reserved socket until `close`; the socket stays its owner's."""
        loop = asyncio.get_running_loop()
        target = (published.address, published.port)
        if published.proto == "udp":
            peers = self._udp[sock.fileno()] = _UdpPeers(target)
            loop.add_reader(sock, self._from_client, sock, peers)
        else:
            loop.add_reader(sock, self._accept, sock, target)
        self._listening[sock.fileno()] = set()

    def close(self, sock: socket.socket) -> None:
        """Stop serving and end the connections: the container's side is going, and may not be able to say so."""
        fd = sock.fileno()
        connections = self._listening.pop(fd, None)
        if connections is not None:
            asyncio.get_running_loop().remove_reader(fd)
            for task in list(connections):
                task.cancel()
        peers = self._udp.pop(fd, None)
        if peers is not None:
            for client in list(peers.sockets):
                self._forget(peers, client)

    async def stop(self) -> None:
        """Stop serving every port and end all connections."""
        for fd in self._listening:
            asyncio.get_running_loop().remove_reader(fd)
        self._listening.clear()
        for peers in self._udp.values():
            for client in list(peers.sockets):
                self._forget(peers, client)
        self._udp.clear()
        await self._carrying.close()
        await asyncio.sleep(0)  # for the transports that were aborted to go

    # ── TCP ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _accept(self, sock: socket.socket, target: tuple[str, int]) -> None:
        connections = self._listening[sock.fileno()]
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    log.warning("relay: cannot accept: %s", error)
                return
            connection.setblocking(False)
            task = self._carrying.spawn(_carry(connection, target), f"relay to {target[0]} port {target[1]}")
            if task is None:  # closed meanwhile
                connection.close()
                return
            connections.add(task)
            task.add_done_callback(connections.discard)

    # ── UDP ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _from_client(self, sock: socket.socket, peers: _UdpPeers) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                data, client = sock.recvfrom(_DATAGRAM_BYTES)
            except OSError:
                return
            known = peers.sockets.get(client)
            try:
                if known is None:
                    upstream = _connect_udp(peers.target)
                    self._make_room(peers)
                    loop.add_reader(upstream, self._from_container, upstream, sock, client, peers)
                else:
                    upstream = known[0]
                peers.sockets[client] = (upstream, loop.time())
                upstream.send(data)
            except OSError:
                continue  # a datagram may be lost: nobody listens inside, or its buffer is full

    def _from_container(
        self, upstream: socket.socket, sock: socket.socket, client: tuple[str, int], peers: _UdpPeers
    ) -> None:
        try:
            data = upstream.recv(_DATAGRAM_BYTES)
            sock.sendto(data, client)
        except OSError:
            return
        peers.sockets[client] = (upstream, asyncio.get_running_loop().time())

    def _make_room(self, peers: _UdpPeers) -> None:
        now = asyncio.get_running_loop().time()
        for client, (_, last) in list(peers.sockets.items()):
            if now - last > _UDP_IDLE_S:
                self._forget(peers, client)
        while len(peers.sockets) >= _UDP_PEERS:
            self._forget(peers, min(peers.sockets, key=lambda c: peers.sockets[c][1]))

    def _forget(self, peers: _UdpPeers, client: tuple[str, int]) -> None:
        upstream, _ = peers.sockets.pop(client)
        asyncio.get_running_loop().remove_reader(upstream)
        upstream.close()


def _connect_udp(target: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
    upstream = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    upstream.connect(target)
    return upstream


async def _carry(connection: socket.socket, target: tuple[str, int]) -> None:
    """Connect to the container, tie both connections together, and last as long as they do."""
    loop = asyncio.get_running_loop()
    inner, outer = _Half(), _Half()
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            await loop.create_connection(lambda: inner, *target)
        await loop.connect_accepted_socket(lambda: outer, connection)
        inner.tie(outer)
        await asyncio.wait((inner.lost, outer.lost))
    except (OSError, TimeoutError) as error:
        log.debug("relay: %s: %s", target, error)
    finally:
        for half in (inner, outer):
            if half.transport is not None:
                half.transport.abort()
        if outer.transport is None:
            connection.close()
