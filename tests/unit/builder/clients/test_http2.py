"""Our side of HTTP/2 against another implementation of it, frame by frame, without a socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import hpack
import pytest

from sampan.engine.builder.buildkit.server import GrpcServer
from sampan.engine.builder.clients import http2
from sampan.engine.builder.clients.headers import plain_encoder
from sampan.engine.builder.clients.http2 import Http2Connection, frame, message


class Peer(asyncio.WriteTransport):
    """The other end: h2 in the server's role. What we write is read at once; what it says is delivered by `answer`."""

    def __init__(self, lost: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.events: list[Any] = []
        self.closed = False
        self.raw: list[bytes] = []
        self.ours = Http2Connection(lost)
        self.ours.connection_made(self)
        self.answer()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.raw.append(bytes(data))
        self.events += self.h2.receive_data(bytes(data))

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def answer(self, cut: int = 0) -> None:
        """Deliver what the peer has to say; in pieces of `cut` bytes, if given."""
        data = self.h2.data_to_send()
        for at in range(0, len(data), cut or len(data) or 1):
            self.ours.data_received(data[at : at + (cut or len(data))])

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def received(self) -> bytes:
        return b"".join(event.data for event in self.of(h2.events.DataReceived))

    def accept(self, stream: int = 1) -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_a_request_carries_its_path_and_metadata() -> None:
    async def test() -> None:
        peer = Peer()
        peer.ours.request("/s/M", [("dir-name", "context"), ("followpaths", "a"), ("followpaths", "b")])
        [request] = peer.of(h2.events.RequestReceived)
        headers = [(str(name), str(value)) for name, value in request.headers]
        assert (":path", "/s/M") in headers
        assert [value for name, value in headers if name == "followpaths"] == ["a", "b"]

    run(test)


@pytest.mark.parametrize("cut", [0, 1, 7, 4096])
def test_messages_come_out_whole_however_they_are_cut(cut: int) -> None:
    async def test() -> None:
        peer, sent = Peer(), [b"", b"x", b"y" * 20000, b"z" * 5]
        stream = peer.ours.request("/s/M")
        peer.accept()
        data = b"".join(map(message, sent))
        for at in range(0, len(data), 16384):
            peer.h2.send_data(1, data[at : at + 16384])
        peer.h2.send_headers(1, [("grpc-status", "0")], end_stream=True)
        peer.answer(cut)
        found: list[bytes] = []
        while batch := await stream.batch():
            found += batch
        assert found == sent
        assert stream.headers[":status"] == "200"
        assert stream.trailers == {"grpc-status": "0"}

    run(test)


def test_padding_is_no_content() -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        peer.accept()
        peer.h2.send_data(1, message(b"hello"), pad_length=9)
        peer.answer()
        assert await stream.batch() == [b"hello"]

    run(test)


def test_a_reader_that_does_not_read_stops_the_sender_and_opens_again() -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        peer.accept()
        sent = 0
        while (room := min(peer.h2.local_flow_control_window(1), 16384)) > 0:
            data = message(b"x" * (room - 5)) if room > 5 else b"\0" * room
            peer.h2.send_data(1, data)
            sent += room
        assert sent == http2.WINDOW_BYTES
        peer.answer()
        assert sum(map(len, await stream.batch())) > http2.WINDOW_BYTES // 2
        assert peer.h2.local_flow_control_window(1) > http2.WINDOW_BYTES // 2

    run(test)


def test_a_message_longer_than_the_window_comes_through() -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        peer.accept()
        data = message(b"m" * (http2.WINDOW_BYTES + 12345))
        while data:
            room = min(peer.h2.local_flow_control_window(1), 16384)
            assert room > 0, "the stream is stuck"
            peer.h2.send_data(1, data[:room])
            data = data[room:]
            peer.answer()
        assert [len(one) for one in await stream.batch()] == [http2.WINDOW_BYTES + 12345]

    run(test)


def test_what_the_windows_do_not_allow_waits() -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        stream.write(b"a" * 200_000)
        stream.end()
        assert len(peer.received()) == http2.DEFAULT_WINDOW_BYTES
        draining = asyncio.ensure_future(stream.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        peer.h2.increment_flow_control_window(200_000)
        peer.answer()
        assert len(peer.received()) == http2.DEFAULT_WINDOW_BYTES, "the stream's own window is still closed"
        peer.h2.increment_flow_control_window(200_000, 1)
        peer.answer()
        await draining
        assert peer.received() == b"a" * 200_000
        assert peer.of(h2.events.StreamEnded)

    run(test)


def test_the_initial_window_counts_for_streams_that_are_open() -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        stream.write(b"a" * 100_000)
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 200_000})
        peer.h2.increment_flow_control_window(200_000)
        peer.answer()
        assert len(peer.received()) == 100_000

    run(test)


def test_a_ping_is_answered_and_a_cancelled_stream_reset() -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        peer.h2.ping(b"12345678")
        peer.answer()
        assert [event.ping_data for event in peer.of(h2.events.PingAckReceived)] == [b"12345678"]
        stream.cancel()
        assert [event.error_code for event in peer.of(h2.events.StreamReset)] == [8]
        peer.ours.data_received(frame(http2.DATA, 0, 1, message(b"on its way already")))
        assert not peer.closed

    run(test)


def test_a_reset_ends_the_reader() -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        peer.accept()
        peer.h2.reset_stream(1, 2)
        peer.answer()
        with pytest.raises(ConnectionResetError, match="code 2"):
            await stream.batch()

    run(test)


def test_the_end_of_the_connection_ends_every_stream_once() -> None:
    async def test() -> None:
        ends: list[int] = []
        peer = Peer(lambda: ends.append(1))
        stream = peer.ours.request("/s/M")
        waiting = asyncio.ensure_future(stream.batch())
        await asyncio.sleep(0)
        peer.ours.connection_lost(None)
        peer.ours.connection_lost(None)
        with pytest.raises(ConnectionResetError):
            await waiting
        assert ends == [1]
        with pytest.raises(ConnectionResetError):
            peer.ours.request("/s/M")

    run(test)


async def read_all(stream: http2.Stream) -> None:
    while await stream.batch():
        pass


def repr_of(data: bytes) -> str:
    return f"{data[3]}:{data[4]}:{len(data)}"


HUGE = (http2.FRAME_BYTES + 1).to_bytes(3, "big") + bytes(6)


@pytest.mark.parametrize(
    "hostile",
    [
        HUGE,
        frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, b"\0\0\0\2"),
        frame(http2.CONTINUATION, http2.END_HEADERS, 1, b""),
        frame(http2.HEADERS, 0, 1, b"") + frame(http2.DATA, 0, 1, b""),
        frame(http2.DATA, http2.PADDED, 1, b"\x09abc"),
        frame(http2.SETTINGS, 0, 0, b"12345"),
        frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frame(http2.DATA, 0, 1, b"\1" + bytes(9)),
        frame(http2.DATA, 0, 1, b"\0\xff\xff\xff\xff"),
        frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2,
        b"".join(frame(http2.DATA, 0, 1, bytes(http2.FRAME_BYTES)) for _ in range(300)),
    ],
    ids=repr_of,
)
def test_what_breaks_the_rules_ends_the_connection(hostile: bytes) -> None:
    async def test() -> None:
        peer = Peer()
        stream = peer.ours.request("/s/M")
        peer.ours.data_received(hostile)
        assert peer.closed
        with pytest.raises(ConnectionError):
            await read_all(stream)

    run(test)


def test_headers_are_written_as_they_are() -> None:
    """hpack's Huffman coding of 1 MiB, an error's details with a Dockerfile, would hold the loop for half an hour."""
    value = "x" * (1 << 20)
    block = plain_encoder().encode([("grpc-status-details-bin", value), ("a", "b")])
    assert value.encode() in block
    decoder = hpack.Decoder(max_header_list_size=2 << 20)
    assert decoder.decode(block) == [("grpc-status-details-bin", value), ("a", "b")]


def test_every_connection_writes_them_so() -> None:
    """Those that we open, and those that grpclib serves."""

    def plain(encoder: Any) -> bool:
        return b"xxxx" in encoder.encode([("name", "xxxx")])

    async def body() -> None:
        made: Any = GrpcServer([]).protocol()
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: made, ours)
            assert plain(made.connection._connection.encoder)
            made.handler.close()
            transport.close()
            await made.handler.wait_closed()
        assert plain(Http2Connection(lambda: None)._encoder)

    asyncio.run(body())
