"""Taking the connection over: attach, exec start, and the builder's gRPC connections.

After the answer's header the HTTP connection becomes a plain two-way byte stream. The client may have asked for it
with `Connection: Upgrade, Upgrade: tcp` (answer 101 UPGRADED) or not (answer 200); in both cases its half-close is
an end of input and not the end of the conversation.

    aiohttp's handler ──data──▶ (HTTP parser)             before
    transport.set_protocol() ▶ _Stream ──▶ StreamReader    after; connection_lost is passed on to aiohttp's handler

Bytes that came in the same packet as the request are not lost: `Connection` keeps them.

Source: moby 28.5 httputils.HijackConnection; aiohttp 3.9-3.14 web_protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from sampan.api.connection import Connection
from sampan.api.context import HEADERS, whole
from sampan.engine.containers.attach import GONE

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

LIMIT_BYTES = 64 * 1024
DRAIN_PATIENCE_S = 10.0
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class _Stream(asyncio.StreamReaderProtocol):
    """asyncio's stream protocol that tells the HTTP handler, too, when the connection is gone."""

    def __init__(self, reader: asyncio.StreamReader, http: asyncio.BaseProtocol) -> None:
        super().__init__(reader)
        self._http = http
        self._transport: asyncio.BaseTransport | None = None
        self._hang_up: _HangUp | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._transport = transport

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._hang_up is not None:
            self._hang_up.close()
        if not self.lost.done():
            self.lost.set_result(None)
        super().connection_lost(exc)  # type: ignore[arg-type]
        self._http.connection_lost(exc)  # type: ignore[arg-type]

    def eof_received(self) -> bool:
        super().eof_received()
        self.look_out()
        return True  # half-closed: the answer goes on

    def look_out(self) -> None:
        """After the end of input nothing is read any more: notice by other means when the client is gone for good."""
        if self._hang_up is None and self._transport is not None:
            self._hang_up = _HangUp.of(cast(asyncio.Transport, self._transport))  # uvloop's is one in all but name


class _HangUp:
    """Aborts a half-closed connection when the other side has closed it altogether.

    A connection whose input has ended is always readable, so only the kernel's hang-up is waited for (an epoll that
    asks for nothing else). Over TCP it comes by the answer to a probe.
    """

    def __init__(self, transport: asyncio.Transport, sock: socket.socket) -> None:
        """Owns `sock`, a descriptor of its own for the connection."""
        self._transport = transport
        self._sock = sock
        self._poll = select.epoll()
        self._poll.register(sock.fileno(), 0)
        asyncio.get_running_loop().add_reader(self._poll.fileno(), self._gone)

    @classmethod
    def of(cls, transport: asyncio.Transport) -> _HangUp | None:
        """Watch a connection; None when it has no descriptor any more."""
        theirs = transport.get_extra_info("socket")
        if theirs is None or theirs.fileno() < 0:
            return None
        sock = socket.socket(fileno=os.dup(theirs.fileno()))
        if sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _KEEPALIVE:
                    sock.setsockopt(socket.IPPROTO_TCP, option, value)
        return cls(transport, sock)

    def _gone(self) -> None:
        self.close()
        self._transport.abort()

    def close(self) -> None:
        if not self._poll.closed:
            asyncio.get_running_loop().remove_reader(self._poll.fileno())
            self._poll.close()
            self._sock.close()


class Taken:
    """A connection that was taken over: the caller reads, writes and returns `Hijacked()`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Future[None]) -> None:
        self.reader = reader
        self.writer = writer
        self._lost = lost

    async def gone(self) -> None:
        """Return when the client has gone."""
        await asyncio.shield(self._lost)

    async def end(self) -> None:
        """Say that the answer is complete, and read what the client still sends until it hangs up, for a while.

        To close at once would reset the connection, and the client could lose the end of the answer.
        """
        with contextlib.suppress(*GONE, TimeoutError):
            async with asyncio.timeout(DRAIN_PATIENCE_S):
                if self.writer.can_write_eof():
                    self.writer.write_eof()
                while await self.reader.read(LIMIT_BYTES):
                    pass


class Hijacked(web.StreamResponse):
    """What is returned when the connection is no longer HTTP, or is gone: nothing more is written to it."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self._keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: Any = b"") -> None:
        return None


async def hijack(request: web.Request, *, upgrade_content_type: str) -> Taken:
    """Answer the request and take its connection over.

    `upgrade_content_type` is the content type of the 101 answer; the plain answer always says raw-stream.

    Raises: ConnectionResetError when the client is gone.
    """
    http, transport = request.protocol, request.transport
    assert isinstance(http, Connection)
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has hung up")
    await whole(request)
    upgrade = "upgrade" in request.headers.get("Connection", "").lower() or "Upgrade" in request.headers
    reader = asyncio.StreamReader(limit=LIMIT_BYTES)
    stream = _Stream(reader, http)
    early = http.steal_behind()
    transport.set_protocol(stream)
    stream.connection_made(transport)
    if early:
        reader.feed_data(early)
    if http.half_closed:
        reader.feed_eof()
        stream.look_out()
    if not transport.is_reading():
        transport.resume_reading()
    writer = asyncio.StreamWriter(transport, stream, reader, asyncio.get_running_loop())
    if upgrade:
        head = (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {upgrade_content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        )
    else:
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n"
    common = "".join(f"{name}: {value}\r\n" for name, value in request.app[HEADERS].items())
    try:
        writer.write(f"{head}{common}\r\n".encode())
        await writer.drain()
    except RuntimeError as e:
        raise ConnectionResetError("the client has hung up") from e
    return Taken(reader, writer, stream.lost)


class _Upgraded(asyncio.Protocol):
    """Passes a connection's life on to another protocol; the HTTP handler is told when it is gone."""

    def __init__(self, inner: asyncio.Protocol, http: asyncio.BaseProtocol) -> None:
        self._inner = inner
        self._http = http
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)
        if not self.lost.done():
            self.lost.set_result(None)
        self._http.connection_lost(exc)


async def upgrade(request: web.Request, inner: asyncio.Protocol, *, protocol: str) -> None:
    """Answer 101, let `inner` speak on the connection, and return when it has ended.

    The caller returns `Hijacked()`. Raises: ConnectionResetError when the client is gone.
    """
    http, transport = request.protocol, request.transport
    assert isinstance(http, Connection)
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has hung up")
    await whole(request)
    upgraded = _Upgraded(inner, http)
    early = http.steal_behind()
    transport.set_protocol(upgraded)
    transport.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode())
    inner.connection_made(transport)
    if early:
        inner.data_received(early)
    if not transport.is_reading():
        transport.resume_reading()
    await upgraded.lost
