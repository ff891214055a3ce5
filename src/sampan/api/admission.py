"""Who may hold a connection, and how much of a body: one client's many connections leave room for the others'.

A connection is idle until a request has arrived whole up to its body, and again when it has been answered; between the
two it is busy, as long as a stream lasts. Idle ones cost others nothing: when all places are taken, a new connection
takes the place of the oldest idle one of the client that has most of them. Busy ones are nobody's to close, so a client
may have three quarters of the places busy at most; what it asks beyond that is refused.

A client is a process on a unix socket, an address over TCP.

    places      a quarter of the files that this process may open, at most PLACES
    head        a connection that has sent no request, or a part of one, for HEAD_PATIENCE_S is closed, as in Docker
    bodies      what is read whole, JSON, may be BODIES_BYTES in memory, for one client half of that

Not here: how much of a stream waits for its reader (docs/concepts/bounds.md).

Source: Docker Engine 28.5 (ReadHeaderTimeout of its HTTP server); unix(7), SO_PEERCRED.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol

from sampan.errors import InvalidArgument, Unavailable

PLACES = 4096
HEAD_PATIENCE_S = 300.0
LOOK_S = 15.0
BODIES_BYTES = 256 * 1024 * 1024
SMALL_BYTES = 64 * 1024
"""Of each body this much counts for nothing: small requests are read however much is held."""
BODY_BYTES = 64 * 1024 * 1024
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
_CREDENTIALS = struct.Struct("iII")


class Held(Protocol):
    """A connection as seen from here. `drop` closes it at once."""

    def drop(self) -> None: ...


class Admission:
    """The places of one server. On the loop's thread."""

    def __init__(self, places: int | None = None, *, head_patience_s: float = HEAD_PATIENCE_S) -> None:
        self.places = allowed() if places is None else places
        self._head_patience_s = head_patience_s
        self._client: dict[Held, str] = {}
        self._idle: dict[
            str, dict[Held, float]
        ] = {}  # of each client: connection → when it has to be busy, oldest first
        self._busy: Counter[str] = Counter()
        self._bodies: Counter[str] = Counter()
        self._look: asyncio.TimerHandle | None = None

    def enter(self, connection: Held, client: str) -> bool:
        """Give a new connection a place; False when each has a request under way."""
        if len(self._client) >= self.places and not self._make_room():
            return False
        self._client[connection] = client
        self._rest(connection, client, self._head_patience_s)
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(min(LOOK_S, self._head_patience_s), self._look_around)
        return True

    def leave(self, connection: Held) -> None:
        """Free the place of a connection that has been closed. One that has none is fine."""
        client = self._client.pop(connection, None)
        if client is not None:
            self._wake(connection, client)

    @contextmanager
    def request(self, connection: Held) -> Iterator[None]:
        """Count a connection as busy. Raises: Unavailable when its client has too many busy already."""
        client = self._client.get(connection)
        if client is None:  # it is closing
            yield
            return
        most = max(1, self.places * 3 // 4)
        if self._busy[client] >= most:
            raise Unavailable(
                f"too many requests at once: this client has {most} under way, of {self.places} that all may have"
            )
        self._wake(connection, client)
        self._busy[client] += 1
        try:
            yield
        finally:
            self._busy[client] -= 1
            if not self._busy[client]:
                del self._busy[client]
            if connection in self._client:
                self._rest(connection, client, None)

    def begun(self, connection: Held) -> None:
        """Note that an idle connection has sent a part of a request: the rest has to come in time."""
        idle = self._idle.get(self._client.get(connection, ""), {})
        if idle.get(connection) == _NEVER:
            idle[connection] = asyncio.get_running_loop().time() + self._head_patience_s

    async def whole(self, connection: Held, chunks: AsyncIterator[bytes]) -> bytes:
        """Read a body into memory.

        Raises: InvalidArgument for one that is too long, Unavailable, what `chunks` raises.
        """
        client = self._client.get(connection, "")
        parts: list[bytes] = []
        length = counted = 0
        try:
            async for chunk in chunks:
                parts.append(chunk)
                length += len(chunk)
                if length > BODY_BYTES:
                    raise InvalidArgument(f"the request's body is longer than {BODY_BYTES} bytes")
                more = max(0, length - SMALL_BYTES) - counted
                if more and (
                    self._bodies.total() + more > BODIES_BYTES or self._bodies[client] + more > BODIES_BYTES // 2
                ):
                    raise Unavailable("too many large request bodies at once: try again")
                counted += more
                self._bodies[client] += more
        finally:
            self._bodies[client] -= counted
            if not self._bodies[client]:
                del self._bodies[client]
        return b"".join(parts)

    def close(self) -> None:
        """Look around no more."""
        if self._look is not None:
            self._look.cancel()

    def _rest(self, connection: Held, client: str, patience_s: float | None) -> None:
        until = _NEVER if patience_s is None else asyncio.get_running_loop().time() + patience_s
        self._idle.setdefault(client, {})[connection] = until

    def _wake(self, connection: Held, client: str) -> None:
        idle = self._idle.get(client)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[client]

    def _make_room(self) -> bool:
        if not self._idle:
            return False
        client = max(self._idle, key=lambda name: len(self._idle[name]))
        oldest = next(iter(self._idle[client]))
        self.leave(oldest)
        oldest.drop()
        return True

    def _look_around(self) -> None:
        """Close those whose time is over."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for late in [held for idle in self._idle.values() for held, until in idle.items() if until <= now]:
            self.leave(late)
            late.drop()
        again = min(LOOK_S, self._head_patience_s)
        self._look = loop.call_later(again, self._look_around) if self._client else None


_NEVER = float("inf")


def allowed() -> int:
    """Return how many connections this process may have: with what it asks for, each takes up to four files."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return PLACES if files == resource.RLIM_INFINITY else max(16, min(PLACES, files // 4))


def client_of(transport: asyncio.BaseTransport) -> str:
    """Name the other side of a connection: a process, or an address."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family == socket.AF_UNIX:
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return ""
        return f"pid {_CREDENTIALS.unpack(raw)[0]}"
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""


def refuse(transport: asyncio.Transport, places: int) -> None:
    """Answer a connection for which there is no place, and close it."""
    body = b'{"message":"too many connections: all %d have a request under way"}\n' % places
    transport.write(_FULL + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    transport.close()
