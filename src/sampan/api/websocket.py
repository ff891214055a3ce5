"""Attach over a websocket, for browsers: what comes in goes to stdin, what comes out is sent as binary messages.

Docker sends both output streams unframed here, so the frames of a container without a terminal are taken off.

Source: Engine API 1.51, ContainerAttachWebsocket; RFC 6455.
"""

from __future__ import annotations

import asyncio
import socket

from aiohttp import WSMsgType, web

from sampan.api.hijack import LIMIT_BYTES
from sampan.engine.background import beside
from sampan.engine.containers.attach import AttachSession

_HEADER = 8


async def serve_websocket(request: web.Request, session: AttachSession) -> web.WebSocketResponse:
    """Join a session to a websocket until either side ends."""
    ws = web.WebSocketResponse(max_msg_size=1024 * 1024)
    await ws.prepare(request)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours, limit=LIMIT_BYTES)
    session_reader, session_writer = await asyncio.open_connection(sock=theirs, limit=LIMIT_BYTES)

    async def run() -> None:
        try:
            await session.run(session_reader, session_writer)
        finally:
            session_writer.close()

    async def incoming() -> None:
        async for message in ws:
            if message.type in (WSMsgType.BINARY, WSMsgType.TEXT):
                data = message.data
                writer.write(data.encode() if isinstance(data, str) else data)
                await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    async def outgoing() -> None:
        if session.tty:
            while data := await reader.read(LIMIT_BYTES):
                await ws.send_bytes(data)
            return
        try:
            while True:
                header = await reader.readexactly(_HEADER)
                await ws.send_bytes(await reader.readexactly(int.from_bytes(header[4:], "big")))
        except asyncio.IncompleteReadError:
            return

    try:
        async with beside(run(), "session on a websocket") as running, beside(incoming(), "input of a websocket"):
            await outgoing()
            await running
    finally:
        writer.close()
        await ws.close()
    return ws
