"""One sandbox that is served: its two sockets on 127.0.0.11, UDP and TCP, and the clients of the second.

Bounds: a sandbox may hold `MOST_CLIENTS` TCP connections, each of one question at a time and `IDLE_S` of silence.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from sampan.linux.loop import ERROR, HANG_UP, READ, WRITE, Loop, Timer

MOST_CLIENTS = 32
IDLE_S = 10.0
_AT_ONCE = 32  # datagrams of one sandbox before the others have their turn
_MESSAGE_BYTES = 0xFFFF

Reply = Callable[[bytes], None]
Handle = Callable[[bytes, Reply, bool], bool]
"""Handle a message that came, by a stream or not, and answer it once, now or later. False: it gets no answer."""


class Served:
    """The sockets of one sandbox; owns them. handle: gets each message."""

    def __init__(self, loop: Loop, udp: socket.socket, tcp: socket.socket, handle: Handle) -> None:
        self._loop, self._handle = loop, handle
        self.udp, self.tcp = udp, tcp
        self._clients: set[_Client] = set()
        for peer in (udp, tcp):
            peer.setblocking(False)
        loop.watch(udp.fileno(), READ, self._datagrams)
        loop.watch(tcp.fileno(), READ, self._accept)

    def close(self) -> None:
        """Close the sockets and all connections."""
        for peer in (self.udp, self.tcp):
            self._loop.forget(peer.fileno())
            peer.close()
        for client in list(self._clients):
            client.close()

    def _datagrams(self, _: int) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet, client = self.udp.recvfrom(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # an answer of before could not be delivered
                continue
            self._handle(packet, lambda answer, client=client: self._send(answer, client), False)  # type: ignore[misc]
            if self.udp.fileno() < 0:
                return

    def _send(self, answer: bytes, client: tuple[str, int]) -> None:
        if self.udp.fileno() >= 0:
            with contextlib.suppress(OSError):  # the client is gone, or does not read
                self.udp.sendto(answer, client)

    def _accept(self, _: int) -> None:
        try:
            peer, _address = self.tcp.accept()
        except OSError:
            return
        if len(self._clients) >= MOST_CLIENTS:
            peer.close()
            return
        self._clients.add(_Client(self._loop, peer, self._handle, self._clients))


class _Client:
    """A TCP connection: questions one after the other, each with its length before it."""

    def __init__(self, loop: Loop, peer: socket.socket, handle: Handle, all_: set[_Client]) -> None:
        peer.setblocking(False)
        self._loop, self._peer, self._handle, self._all = loop, peer, handle, all_
        self._in, self._out = b"", b""
        self._waiting = False
        self._timer: Timer = loop.after(IDLE_S, self.close)
        loop.watch(peer.fileno(), READ, self._ready)

    def close(self) -> None:
        """Close the connection; what is on its way for it is dropped."""
        if self._peer.fileno() >= 0:
            self._timer.cancel()
            self._loop.forget(self._peer.fileno())
            self._peer.close()
            self._all.discard(self)

    def _ready(self, mask: int) -> None:
        if mask & (HANG_UP | ERROR):
            self.close()
            return
        try:
            if mask & WRITE:
                self._out = self._out[self._peer.send(self._out) :]
            if mask & READ:
                received = self._peer.recv(_MESSAGE_BYTES)
                if not received:
                    self.close()
                    return
                self._in += received
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._go_on()

    def _go_on(self) -> None:
        """Take the next question when the last is answered and sent; read on only then."""
        if not self._waiting and not self._out and len(self._in) >= 2:
            end = int.from_bytes(self._in[:2], "big") + 2
            if len(self._in) >= end:
                packet, self._in = self._in[2:end], self._in[end:]
                self._waiting = True
                self._timer.cancel()
                self._timer = self._loop.after(IDLE_S, self.close)
                if not self._handle(packet, self._answered, True):
                    self.close()  # it would take a place until its time is over
        if self._peer.fileno() >= 0:
            full = self._waiting or len(self._in) > _MESSAGE_BYTES
            self._loop.change(self._peer.fileno(), WRITE if self._out else 0 if full else READ)

    def _answered(self, answer: bytes) -> None:
        if self._peer.fileno() < 0:
            return
        self._waiting = False
        self._out += len(answer).to_bytes(2, "big") + answer
        self._loop.change(self._peer.fileno(), WRITE)
