"""A socket that leads to the agent of a build's client: for RUN --mount=type=ssh, and for git over ssh."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sampan.engine.background import until_first
from sampan.engine.builder.session import Session
from sampan.errors import NotFound

MOST = 64
"""Connections to one socket at the same time: a step makes them, and each is a stream of the client's session."""


@asynccontextmanager
async def listening(session: Session, id: str, directory: str, name: str) -> AsyncIterator[str]:
    """Join every connection to a socket in `directory` with one to the client's agent; yields the socket's path.

    The path is the socket's own in the file system; owner and mode are the caller's to set.
    """
    forwarder = AgentForwarder(session, id)
    listener = _bound(directory, name)
    try:
        server = await asyncio.start_unix_server(forwarder.serve, sock=listener)
    except BaseException:
        listener.close()
        raise
    try:
        yield f"{directory}/{name}"
    finally:
        server.close()
        await forwarder.close()


def _bound(directory: str, name: str) -> socket.socket:
    """Return a socket bound to `directory/name`: by descriptor, for the address of a socket holds 108 bytes.

    That name is good only while the descriptor is open: nobody else is given it.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{name}")
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(fd)
    return listener


class AgentForwarder:
    """The connections of one socket."""

    def __init__(self, session: Session, id: str) -> None:
        self._session, self._id = session, id
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end, in the task that asyncio's server made for it; one too many is closed."""
        if len(self._tasks) >= MOST:
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(NotFound, OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        agent_reader, agent_writer = await self._session.ssh_agent(self._id)
        try:
            await until_first(_pump(reader, agent_writer), _pump(agent_reader, writer))
        finally:
            agent_writer.close()

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
