"""TCP: each connection to a published port has a second one, to the container; what comes on one goes out on the other.

What a side has sent goes through a pipe inside the kernel (splice(2)): no byte of it comes into this process. While the
other side takes nothing, nothing more is read than that pipe holds: the sender waits, as it would wait for the
container itself. A pipe belongs to a direction only while something is in it.

The end of what a side sends is passed on by itself (half-close). A side that resets, a container that refuses or is
gone, resets the other side. The container sees the address of the host on its network as the peer, as with
docker-proxy.

Source: splice(2), pipe(7), tcp(7) for keepalive.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from typing import ClassVar

from sampan.linux.loop import ERROR, HANG_UP, READ, WRITE, Loop, Timer
from sampan.supervisor.notes import note
from sampan.supervisor.ports.room import Room
from sampan.supervisor.ports.table import Carried

MOST_OF_ONE = 4096  # connections of one port
MOST = 16384  # of all ports
CONNECT_S = 10.0
_ACCEPTS = 64  # before the other ports have their turn
_PIECES = 4  # of one direction before the other connections have their turn
_PIECE_BYTES = 256 * 1024
_FULL_S = 0.1  # how long no connection is accepted when the machine has no room for one
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 8))
_RESET = struct.pack("ii", 1, 0)
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_AT_ONCE = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_IDLE_PIPES = 16


class TcpPort:
    """One published port; owns its socket. room: for the connections of all ports."""

    def __init__(self, loop: Loop, sock: socket.socket, carried: Carried, room: Room) -> None:
        sock.setblocking(False)
        self._loop, self._room = loop, room
        self.socket, self.carried = sock, carried
        self._connections: set[_Pair] = set()
        self._accepting = True
        self._pause: Timer | None = None
        loop.watch(sock.fileno(), READ, self._accept)

    def close(self) -> None:
        """Serve the port no more, and reset its connections: the container may not be able to say that it is gone."""
        self._stop()
        if self._pause is not None:
            self._pause.cancel()
        self._room.forget(self._go_on)
        self.socket.close()
        for connection in list(self._connections):
            connection.abort()

    def ended(self, connection: _Pair) -> None:
        """Hear that a connection has ended."""
        self._connections.discard(connection)
        self._room.leave()
        if not self._accepting and self._pause is None and self.socket.fileno() >= 0:
            self._go_on()

    def _accept(self, _: int) -> None:
        for _ in range(_ACCEPTS):
            if len(self._connections) >= MOST_OF_ONE or not self._room.enter(self._go_on):
                self._stop()  # others wait in the kernel's queue until one of these has ended
                return
            try:
                client, _address = self.socket.accept()
            except OSError as error:
                self._room.leave()
                if error.errno in _NO_ROOM:
                    note(f"ports: {self.carried.key}: {error}")
                    self._stop()
                    self._pause = self._loop.after(_FULL_S, self._paused)
                return
            self._connections.add(_Pair(self._loop, client, self.carried, self))

    def _paused(self) -> None:
        self._pause = None
        self._go_on()

    def _stop(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.forget(self.socket.fileno())

    def _go_on(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._loop.watch(self.socket.fileno(), READ, self._accept)


class Pipe:
    """A pipe with `held` bytes in it. Empty ones wait for their next direction."""

    __slots__ = ("held", "readable", "writable")
    idle: ClassVar[list[Pipe]] = []

    def __init__(self) -> None:
        self.readable, self.writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.held = 0

    @classmethod
    def take(cls) -> Pipe:
        """Return an empty one. Raises: OSError."""
        return cls.idle.pop() if cls.idle else cls()

    def give_back(self) -> None:
        """Be somebody else's; what is in it is dropped."""
        if not self.held and len(self.idle) < _IDLE_PIPES:
            self.idle.append(self)
        else:
            os.close(self.readable)
            os.close(self.writable)


class _Side:
    """One of a connection's two sockets.

    ended: what it sent has been handed on, to the end. full: it takes nothing at the moment. broken: it was reset.
    pipe: through which goes what it sends.
    """

    __slots__ = ("broken", "ended", "fd", "full", "mask", "pipe", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket, self.fd = sock, sock.fileno()
        self.ended = self.full = self.broken = False
        self.mask = -1  # what it is watched for; -1: it is not
        self.pipe: Pipe | None = None

    def let_go(self) -> None:
        """Do without a pipe."""
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            pipe.give_back()


class _Pair:
    """A client's connection and the one to the container."""

    def __init__(self, loop: Loop, client: socket.socket, carried: Carried, port: TcpPort) -> None:
        self._loop, self._port = loop, port
        client.setblocking(False)
        self._client = _Side(client)
        self._container: _Side | None = None
        self._watch(self._client, 0)  # only for its giving up
        self._timer = loop.after(CONNECT_S, self.abort)
        self._connecting = True
        try:
            family = socket.AF_INET6 if ":" in carried.address else socket.AF_INET
            inner = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self._container = _Side(inner)
            for sock in (client, inner):
                _prepare(sock)
            with contextlib.suppress(BlockingIOError):
                inner.connect((carried.address, carried.port))
            self._watch(self._container, WRITE)
        except OSError:
            # not yet among the port's connections: it ends on the loop's next turn
            self._timer.cancel()
            self._timer = loop.after(0, self.abort)

    def abort(self) -> None:
        """End both connections by a reset."""
        self._end(reset=True)

    def _end(self, *, reset: bool) -> None:
        if self._client.socket.fileno() < 0:
            return
        self._timer.cancel()
        for side in (self._client, self._container):
            if side is not None:
                if side.mask >= 0:
                    self._loop.forget(side.fd)
                if reset:
                    with contextlib.suppress(OSError):
                        side.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                side.let_go()
                side.socket.close()
        self._port.ended(self)

    def _watch(self, side: _Side, mask: int) -> None:
        if side.mask == mask:
            return
        if side.mask < 0:
            self._loop.watch(side.fd, mask, lambda found: self._ready(side, found))
        else:
            self._loop.change(side.fd, mask)
        side.mask = mask

    def _ready(self, side: _Side, found: int) -> None:
        container = self._container
        if container is None or (self._connecting and (side is not container or found & ERROR)):
            self.abort()
            return
        other = self._client if side is container else container
        if self._connecting:
            self._connecting = False
            self._timer.cancel()
        if found & ERROR:
            # it was reset: nothing goes there any more, but what it sent before may still be handed on
            side.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            side.broken = other.ended = True
        elif found & HANG_UP and not side.mask:
            # both ways of it are closed, and what it sent waits for the other side: it has nothing to say meanwhile.
            # (Where it is watched for something, the event is older than that: it comes again.)
            self._loop.forget(side.fd)
            side.mask = -1
            return
        try:
            if found & WRITE:
                side.full = False
                self._move(other, side)
            if found & ~WRITE:
                self._move(side, other)
            if side.broken and (other.full or other.broken):
                self.abort()
                return
        except OSError:
            self.abort()
            return
        if side.ended and other.ended:
            self._end(reset=(side.broken and not _unsent(other)) or (other.broken and not _unsent(side)))
            return
        self._look(side, other)
        self._look(other, side)

    def _look(self, side: _Side, other: _Side) -> None:
        mask = (0 if side.ended or other.full else READ) | (WRITE if side.full else 0)
        if mask or side.mask >= 0:
            self._watch(side, mask)

    def _move(self, source: _Side, sink: _Side) -> None:
        """Hand on what a side has sent. Raises: OSError when one of the two cannot go on."""
        if source.ended or sink.full:
            return
        for _ in range(_PIECES):
            pipe = source.pipe = source.pipe or Pipe.take()
            try:
                pipe.held = pipe.held or os.splice(source.fd, pipe.writable, _PIECE_BYTES, flags=_AT_ONCE)
            except BlockingIOError:
                source.let_go()
                return
            if not pipe.held:
                source.let_go()
                source.ended = True
                if not source.broken:
                    sink.socket.shutdown(socket.SHUT_WR)
                return
            try:
                while pipe.held:
                    pipe.held -= os.splice(pipe.readable, sink.fd, pipe.held, flags=_AT_ONCE)
            except BlockingIOError:
                sink.full = True
                return
        source.let_go()


def _unsent(side: _Side) -> bool:
    """Return whether some of what was handed to a side has not arrived: a reset would throw it away."""
    return any(fcntl.ioctl(side.fd, termios.TIOCOUTQ, bytes(4)))


def _prepare(sock: socket.socket) -> None:
    """Send at once, and notice in the end that the other machine is gone."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
