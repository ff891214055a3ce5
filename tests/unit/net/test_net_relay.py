"""The relay on the loopback: everything arrives, in both directions, and ends when a side ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from sampan.engine.networks.firewall import Published
from sampan.engine.networks.relay import Relay

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
pytestmark = pytest.mark.asyncio


@contextlib.asynccontextmanager
async def relayed(serve: Serve) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client connected through a relay to a server."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    relay = Relay()
    relay.open(listening, Published(proto="tcp", host_ip="127.0.0.1", host_port=1, address="127.0.0.1", port=port))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    try:
        async with asyncio.timeout(10):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        relay.close(listening)
        await relay.stop()
        listening.close()
        server.close()
        await server.wait_closed()


async def test_half_close_and_bulk() -> None:
    """The server answers only when the client has ended its side: a relay without half-close would hang."""

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(data[::-1])
        writer.close()

    sent = bytes(range(256)) * 8192  # 2 MiB: more than all buffers on the way hold
    async with relayed(count) as (reader, writer):
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent[::-1]


async def test_the_server_may_speak_first() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\n")
        writer.write(await reader.readline())
        writer.close()

    async with relayed(greet) as (reader, writer):
        assert await reader.readline() == b"220 ready\n"
        writer.write(b"quit\n")
        assert await reader.read() == b"quit\n"


async def test_a_server_that_ends_ends_the_client() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with relayed(hang_up) as (reader, _):
        assert await reader.read() == b""


async def test_nobody_listens_inside() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    relay = Relay()
    relay.open(listening, Published(proto="tcp", host_ip="127.0.0.1", host_port=1, address="127.0.0.1", port=port))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    await relay.stop()
    listening.close()


async def test_an_unpublished_port_ends_its_connections() -> None:
    """A container that was killed cannot say that its connections are over."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address, port = server.sockets[0].getsockname()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    relay = Relay()
    relay.open(listening, Published(proto="tcp", host_ip="127.0.0.1", host_port=1, address=address, port=port))
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(b"hello")
    async with asyncio.timeout(5):
        while not relay.connections:  # noqa: ASYNC110 - the relay tells nobody
            await asyncio.sleep(0.001)
        relay.close(listening)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    assert relay.connections == 0
    writer.close()
    await relay.stop()
    listening.close()
    server.close()
    await server.wait_closed()


async def test_udp_clients_get_their_own_answers() -> None:
    loop = asyncio.get_running_loop()
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    server.setblocking(False)
    front = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    front.bind(("::1", 0))
    front.setblocking(False)
    relay = Relay()
    address, port = server.getsockname()
    relay.open(front, Published(proto="udp", host_ip="::1", host_port=1, address=address, port=port))
    clients = [socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(3)]
    async with asyncio.timeout(5):
        for n, client in enumerate(clients):
            client.setblocking(False)
            client.connect(front.getsockname()[:2])
            client.send(b"%d" % n)
        for _ in clients:
            data, peer = await loop.sock_recvfrom(server, 100)
            server.sendto(b"answer " + data, peer)
        for n, client in enumerate(clients):
            assert await loop.sock_recv(client, 100) == b"answer %d" % n
    relay.close(front)
    await relay.stop()
    for sock in (server, front, *clients):
        sock.close()
