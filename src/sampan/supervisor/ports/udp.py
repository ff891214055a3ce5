"""UDP: each client of a published port has a socket of its own to the container, so that answers find their way back.

An answer goes out with the address that the client had asked, also on a port of all addresses. Clients that are silent
are forgotten; when there are too many, the one that has been silent longest.

Source: ip(7) IP_PKTINFO, RFC 3542 section 6.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable

from sampan.linux.loop import READ, Loop, Timer
from sampan.supervisor.ports.table import Carried

MOST_OF_ONE = 1024  # clients of one port
MOST = 8192  # of all ports
IDLE_S = 90.0
_SWEEP_S = 15.0
_DATAGRAMS = 64  # before the other ports have their turn
_DATAGRAM_BYTES = 65535
_ANCILLARY_BYTES = socket.CMSG_SPACE(20)
IP_PKTINFO, IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50

_buffer = memoryview(bytearray(_DATAGRAM_BYTES))

Client = tuple[tuple[str, int], bytes]
"""The client's address, and the host's address that it has asked, packed as the kernel has it."""


class _Peer:
    """A client: its socket to the container, and when it was last heard of."""

    __slots__ = ("client", "last", "socket")

    def __init__(self, sock: socket.socket, client: Client) -> None:
        self.socket, self.client, self.last = sock, client, 0.0


class UdpPort:
    """One published port; owns its socket. make_room: called before a new client has a socket."""

    def __init__(self, loop: Loop, sock: socket.socket, carried: Carried, make_room: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._loop, self._make_room = loop, make_room
        self.socket, self.carried = sock, carried
        self._six = sock.family == socket.AF_INET6
        if self._six:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        self._peers: dict[Client, _Peer] = {}  # the one that has been silent longest is the first
        self._sweeping: Timer | None = None
        loop.watch(sock.fileno(), READ, self._from_clients)

    def __len__(self) -> int:
        return len(self._peers)

    def close(self) -> None:
        """Serve the port no more."""
        self._loop.forget(self.socket.fileno())
        self.socket.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        for peer in list(self._peers.values()):
            self._forget(peer)

    def forget_oldest(self) -> None:
        """Forget the client that has been silent longest."""
        if self._peers:
            self._forget(next(iter(self._peers.values())))

    def _from_clients(self, _: int) -> None:
        for _ in range(_DATAGRAMS):
            try:
                size, ancillary, _, address = self.socket.recvmsg_into([_buffer], _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError:  # of an answer before, which could not be delivered
                continue
            client = (address, self._asked(ancillary))
            with contextlib.suppress(OSError):  # nobody listens inside, or its buffer is full: a datagram may be lost
                peer = self._peers.get(client) or self._connect(client)
                self._heard(peer)
                peer.socket.send(_buffer[:size])

    def _asked(self, ancillary: list[tuple[int, int, bytes]]) -> bytes:
        """Return what an answer has to say so that it comes from the address that was asked."""
        for level, kind, data in ancillary:
            if self._six and (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO) and len(data) == 20:
                link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
                return data if link_local else data[:16] + bytes(4)
            if not self._six and (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO) and len(data) == 12:
                return struct.pack("=i", 0) + data[4:8] + bytes(4)
        return b""

    def _connect(self, client: Client) -> _Peer:
        while len(self._peers) >= MOST_OF_ONE:
            self.forget_oldest()
        self._make_room()
        family = socket.AF_INET6 if ":" in self.carried.address else socket.AF_INET
        upstream = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            upstream.connect((self.carried.address, self.carried.port))
        except BaseException:
            upstream.close()
            raise
        peer = self._peers[client] = _Peer(upstream, client)
        self._loop.watch(upstream.fileno(), READ, lambda _: self._from_container(peer))
        if self._sweeping is None:
            self._sweeping = self._loop.after(_SWEEP_S, self._sweep)
        return peer

    def _heard(self, peer: _Peer) -> None:
        peer.last = time.monotonic()
        self._peers[peer.client] = self._peers.pop(peer.client)  # to the end

    def _from_container(self, peer: _Peer) -> None:
        for _ in range(_DATAGRAMS):
            try:
                size = peer.socket.recv_into(_buffer)
            except BlockingIOError:
                break
            except OSError:  # nobody listens inside
                continue
            self._answer(_buffer[:size], peer.client)
        self._heard(peer)

    def _answer(self, data: memoryview, client: Client) -> None:
        address, asked = client
        level, kind = (socket.IPPROTO_IPV6, _IPV6_PKTINFO) if self._six else (socket.IPPROTO_IP, IP_PKTINFO)
        with contextlib.suppress(OSError):  # the client is gone, or takes nothing: a datagram may be lost
            self.socket.sendmsg([data], [(level, kind, asked)] if asked else [], 0, address)

    def _sweep(self) -> None:
        self._sweeping = None
        oldest = time.monotonic() - IDLE_S
        for peer in list(self._peers.values()):
            if peer.last > oldest:
                break
            self._forget(peer)
        if self._peers:
            self._sweeping = self._loop.after(_SWEEP_S, self._sweep)

    def _forget(self, peer: _Peer) -> None:
        del self._peers[peer.client]
        self._loop.forget(peer.socket.fileno())
        peer.socket.close()
