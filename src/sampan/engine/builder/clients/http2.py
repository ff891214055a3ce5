"""HTTP/2 towards a client that serves us its files: one connection, our requests, made for many small messages.

A directory of 20,000 files arrives as 60,000 messages, a frame each (ADR 14). This is the part of the protocol that a
gRPC *client* needs, strict about what it reads: frames are cut out of whole reads, messages handed on in batches,
receive windows are wide and opened again as batches are taken.

    transport ─data_received─▶ frames ─▶ Stream.messages ─batch()─▶ the caller
    the caller ─write()─▶ Stream buffer ─(windows)─▶ transport

Not here: the server role (grpclib serves `/grpc`), status codes and unary calls (rpc.py).
Invariants: no frame is longer than announced; a stream holds at most a window of unread bytes; when the connection
ends, every stream ends with ConnectionResetError.

Source: RFC 9113, RFC 7541; gRPC's PROTOCOL-HTTP2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import hpack

from sampan.engine.builder.clients.headers import plain_encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
CANCEL = 8

FRAME_BYTES = 16384
"""The longest frame we accept: the protocol's default, which Go's gRPC never exceeds."""
WINDOW_BYTES = 4 * 1024 * 1024
"""How much of one stream may lie unread here."""
DEFAULT_WINDOW_BYTES = 65535
MAX_WINDOW_BYTES = 2**31 - 1
MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest gRPC message accepted, as in BuildKit."""
HEADER_BYTES = 1024 * 1024
OWED_ANSWERS = 10_000
"""So many answers (to PING, SETTINGS) may wait for a client that does not read."""


class ProtocolError(ConnectionError):
    """The other side breaks HTTP/2's rules; the connection is over."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame as bytes."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def message(payload: bytes) -> bytes:
    """Return a gRPC message, uncompressed, with its length in front."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


class Stream:
    """One request. `headers` and `trailers` are filled in as they arrive."""

    def __init__(self, connection: Http2Connection, id: int, window: int) -> None:
        self.id = id
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self._connection = connection
        self._messages: list[bytes] = []
        self._partial = b""
        self._unread = 0
        self._ended = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._window = window
        self._out = bytearray()
        self._closing = False
        self._closed = False
        self._drained: asyncio.Future[None] | None = None

    # ── for the caller ───────────────────────────────────────────────────────────────────────────────────────────────

    async def batch(self) -> list[bytes]:
        """Wait for messages and return all there are; [] when the other side has ended the stream.

        Raises: ConnectionError.
        """
        while not self._messages:
            if self._error is not None:
                raise self._error
            if self._ended:
                return []
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        found, self._messages = self._messages, []
        unread, self._unread = self._unread, 0
        if not self._ended:
            self._connection.send(frame(WINDOW_UPDATE, 0, self.id, unread.to_bytes(4, "big")))
        return found

    def write(self, data: bytes) -> None:
        """Queue framed messages; they leave as the other side's windows allow."""
        self._out += data
        self.flush()

    async def drain(self, limit: int = 0) -> None:
        """Wait until no more than `limit` bytes are queued. Raises: ConnectionError when the stream is broken."""
        while len(self._out) > limit or self._connection.paused:
            if self._error is not None:
                raise self._error
            if self._ended:
                return
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def end(self) -> None:
        """Say that nothing more is written."""
        self._closing = True
        self.flush()

    def cancel(self) -> None:
        """Give the stream up, if it has not ended."""
        if not self._ended and self._error is None:
            self._connection.send(frame(RST_STREAM, 0, self.id, CANCEL.to_bytes(4, "big")))
        self.fail(asyncio.CancelledError("the stream was cancelled"))

    # ── for the connection ───────────────────────────────────────────────────────────────────────────────────────────

    def feed(self, data: bytes) -> None:
        """Take the payload of one DATA frame: most often it is one whole message."""
        self._unread += len(data)
        if self._unread > WINDOW_BYTES:
            raise ProtocolError(f"stream {self.id} sends beyond its window")
        if self._partial:
            data = self._partial + data
        at, end = 0, len(data)
        while end - at >= 5:
            size = int.from_bytes(data[at + 1 : at + 5], "big")
            if data[at] or size > MESSAGE_BYTES:
                raise ProtocolError("a compressed or oversized message")
            if end - at - 5 < size:
                break
            self._messages.append(data[at + 5 : at + 5 + size])
            at += 5 + size
        self._partial = data[at:] if at < end else b""
        if self._partial and self._unread >= WINDOW_BYTES // 2 and not self._messages:
            self._credit()  # one message longer than the window: nobody can take it yet

    def _credit(self) -> None:
        unread, self._unread = self._unread, 0
        self._connection.send(frame(WINDOW_UPDATE, 0, self.id, unread.to_bytes(4, "big")))

    def wake(self) -> None:
        """Tell the reader that there is something new."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def fail(self, error: BaseException) -> None:
        if self._error is None and not self._ended:
            self._error = error if isinstance(error, Exception) else ConnectionAbortedError(str(error))
        self._connection.streams.pop(self.id, None)
        self._release()

    def finish(self) -> None:
        """Take that the other side has ended the stream."""
        self._ended = True
        self._connection.streams.pop(self.id, None)
        self._release()

    def _release(self) -> None:
        self.wake()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def open_window(self, by: int) -> None:
        self._window += by
        if self._window > MAX_WINDOW_BYTES:
            raise ProtocolError("a window that overflows")

    def flush(self) -> None:
        """Send what the windows allow."""
        if self._closed or self._error is not None:
            return
        connection = self._connection
        room = min(self._window, connection.window, len(self._out))
        if room > 0:
            data = bytes(self._out[:room])
            del self._out[:room]
            self._window -= room
            connection.window -= room
            size = connection.frame_bytes
            connection.send(b"".join(frame(DATA, 0, self.id, data[at : at + size]) for at in range(0, room, size)))
        if self._closing and not self._out:
            self._closed = True
            connection.send(frame(DATA, END_STREAM, self.id))
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


class Http2Connection(asyncio.Protocol):
    """The client role on an established transport. `lost` is called once when the connection has ended."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self.streams: dict[int, Stream] = {}
        self.window = DEFAULT_WINDOW_BYTES
        self.frame_bytes = FRAME_BYTES
        self.paused = False
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._next = 1
        self._stream_window = DEFAULT_WINDOW_BYTES
        self._encoder = plain_encoder()
        self._decoder = hpack.Decoder(max_header_list_size=HEADER_BYTES)
        self._rest = b""
        self._unread = 0
        self._block: tuple[int, int, bytes] | None = None  # headers that CONTINUATION goes on with
        self._going_away = False
        self._owed = 0

    @property
    def closed(self) -> bool:
        return self._transport is None or self._going_away

    def request(self, path: str, metadata: Sequence[tuple[str, str]] = ()) -> Stream:
        """Open a gRPC stream. Raises: ConnectionError when the connection has ended."""
        if self._transport is None or self._going_away:
            raise ConnectionResetError("the session has ended")
        stream = Stream(self, self._next, self._stream_window)
        self._next += 2
        self.streams[stream.id] = stream
        block = self._encoder.encode(
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                *metadata,
            ]
        )
        parts = [block[at : at + self.frame_bytes] for at in range(0, len(block), self.frame_bytes)]
        kinds = [HEADERS] + [CONTINUATION] * (len(parts) - 1)
        flags = [0] * (len(parts) - 1) + [END_HEADERS]
        self.send(b"".join(frame(k, f, stream.id, part) for k, f, part in zip(kinds, flags, parts)))
        return stream

    def close(self) -> None:
        """End the connection and with it every stream."""
        if self._transport is not None:
            self.send(frame(GOAWAY, 0, 0, bytes(8)))
            self._transport.close()
            self.connection_lost(None)

    def send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    # ── asyncio's protocol ───────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are of no class of asyncio's
        ours = ((ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW_BYTES), (MAX_FRAME_SIZE, FRAME_BYTES))
        settings = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in ours)
        widen = (MAX_WINDOW_BYTES - DEFAULT_WINDOW_BYTES).to_bytes(4, "big")
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, widen))

    def data_received(self, data: bytes) -> None:
        try:
            self._read(self._rest + data if self._rest else data)
        except (ProtocolError, hpack.HPACKError, ValueError) as e:
            transport = self._transport
            self._end(e if isinstance(e, ProtocolError) else ProtocolError(str(e)))
            if transport is not None:
                transport.abort()  # what a client does not read would keep it open

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(ConnectionResetError("the client has ended the session"))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused, self._owed = False, 0
        for stream in list(self.streams.values()):
            stream.flush()

    # ── frames ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self, error: Exception) -> None:
        transport, self._transport = self._transport, None
        for stream in list(self.streams.values()):
            stream.fail(error)
        if transport is not None:
            transport.close()
            self._lost()

    def _read(self, data: bytes) -> None:
        """Take every whole frame of `data`; what is left waits for more."""
        at, end = 0, len(data)
        touched: dict[int, Stream] = {}
        streams = self.streams
        while end - at >= 9:
            size = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if size > FRAME_BYTES:
                raise ProtocolError(f"a frame of {size} bytes")
            begin, next_ = at + 9, at + 9 + size
            if next_ > end:
                break
            kind, flags = data[at + 3], data[at + 4]
            id = int.from_bytes(data[at + 5 : begin], "big") & MAX_WINDOW_BYTES
            if kind == DATA and not flags and self._block is None:
                self._unread += size
                stream = streams.get(id)
                if stream is not None:
                    stream.feed(data[begin:next_])
                    touched[id] = stream
            else:
                self._other(kind, flags, id, data[begin:next_])
            at = next_
        self._rest = data[at:]
        if self._unread >= MAX_WINDOW_BYTES // 4:
            self.send(frame(WINDOW_UPDATE, 0, 0, self._unread.to_bytes(4, "big")))
            self._unread = 0
        for stream in touched.values():
            stream.wake()

    def _other(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        if self._block is not None and kind != CONTINUATION:
            raise ProtocolError("headers that are not continued")
        if kind == DATA:
            self._data(flags, id, payload)
        elif kind == HEADERS:
            self._headers(flags, id, _unpadded(flags, payload))
        elif kind == CONTINUATION:
            self._continuation(flags, id, payload)
        elif kind == SETTINGS:
            self._settings(flags, payload)
        elif kind == WINDOW_UPDATE:
            self._window_update(id, int.from_bytes(payload, "big") & MAX_WINDOW_BYTES)
        elif kind == PING and not flags & ACK:
            self._answer(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM and id in self.streams:
            code = int.from_bytes(payload, "big")
            if code:
                self.streams[id].fail(ConnectionResetError(f"the client has reset the stream (code {code})"))
            else:
                self.streams[id].finish()
        elif kind == GOAWAY:
            self._going_away = True
        elif kind == PUSH_PROMISE:
            raise ProtocolError("a promise nobody asked for")

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        self._unread += len(payload)
        stream = self.streams.get(id)
        if stream is None:
            return
        stream.feed(_unpadded(flags & PADDED, payload))
        stream.wake()
        if flags & END_STREAM:
            stream.finish()

    def _headers(self, flags: int, id: int, block: bytes) -> None:
        if flags & END_HEADERS:
            self._decoded(flags, id, block)
        else:
            self._block = (flags, id, block)

    def _continuation(self, flags: int, id: int, payload: bytes) -> None:
        if self._block is None or self._block[1] != id:
            raise ProtocolError("a continuation of nothing")
        first, _, block = self._block
        block += payload
        if len(block) > HEADER_BYTES:
            raise ProtocolError("headers without end")
        if flags & END_HEADERS:
            self._block = None
            self._decoded(first, id, block)
        else:
            self._block = (first, id, block)

    def _decoded(self, flags: int, id: int, block: bytes) -> None:
        headers = {str(name): str(value) for name, value in self._decoder.decode(block)}  # also for a stream we gave up
        stream = self.streams.get(id)
        if stream is None:
            return
        if flags & END_STREAM:
            if not stream.headers:
                stream.headers = headers
            stream.trailers = headers
            stream.finish()
        else:
            stream.headers = headers

    def _settings(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            return
        if len(payload) % 6:
            raise ProtocolError("settings of a wrong length")
        for at in range(0, len(payload), 6):
            key, value = int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big")
            if key == INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.open_window(value - self._stream_window)
                self._stream_window = value
            elif key == MAX_FRAME_SIZE:
                self.frame_bytes = max(FRAME_BYTES, min(value, 2**20))
            elif key == HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, 4096)
        self._answer(frame(SETTINGS, ACK, 0))
        for stream in list(self.streams.values()):
            stream.flush()

    def _answer(self, data: bytes) -> None:
        """Send what the other side is owed, as long as it reads."""
        if self.paused:
            self._owed += 1
            if self._owed > OWED_ANSWERS:
                raise ProtocolError("the client asks and does not read")
        self.send(data)

    def _window_update(self, id: int, by: int) -> None:
        if id == 0:
            self.window += by
            if self.window > MAX_WINDOW_BYTES:
                raise ProtocolError("a window that overflows")
            for stream in list(self.streams.values()):
                stream.flush()
        elif id in self.streams:
            self.streams[id].open_window(by)
            self.streams[id].flush()


def _unpadded(flags: int, payload: bytes) -> bytes:
    """Return a frame's payload without padding and priority."""
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise ProtocolError("padding longer than its frame")
        payload = payload[1 : len(payload) - payload[0]]
    if flags & WITH_PRIORITY:
        payload = payload[5:]
    return payload
