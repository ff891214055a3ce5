"""What the builder may ask of the client that started a build: files, secrets, keys, credentials, room for results.

    GrpcSession       a client that is connected                                            clients/sessions.py
    UploadedSession   a context that came with the request, and perhaps such a client too   uploaded.py
    NarrowedSession   one build's client: of its directories only what the build uses       narrowed.py
    BorrowingSession  directories that other sessions have                                  buildkit/borrowing.py

What a client cannot give raises NotFound; nothing of what it gives is ever written to a cache key, a log or an image's
history, and no secret to a layer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sampan.engine.builder.trees import Tree

Report = Callable[[int, bool], None]
"""Called with the number of bytes received so far, and whether that was all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRequest:
    """A directory of the client, `context`, `dockerfile` or a named context, and what is wanted of it.

    include, exclude: patterns as .dockerignore's. follow: the paths that are needed, () for all; a hint, more may come.
    fresh: contents are asked for again, also of files whose size and times are those of an earlier transfer: what is
    normalised to one time may have changed all the same.
    """

    name: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow: tuple[str, ...] = ()
    fresh: bool = False
    report: Report | None = None


class Session(Protocol):
    """The client's side of one build. Hashed by identity: two builds of one client are two sessions."""

    id: str

    async def local(self, wanted: LocalRequest) -> Tree:
        """Return a directory of the client, owned by the caller. Raises: NotFound."""

    async def secret(self, id: str) -> bytes:
        """Return a secret's value. Raises: NotFound."""

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open one connection to the client's agent. Raises: NotFound."""

    async def credentials(self, host: str) -> tuple[str, str]:
        """Return (user, password or identity token) for a registry host; ("", "") for none."""

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        """Hand a tree to the client (`--output type=local`). exporter: which of its outputs."""

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        """Hand one file to the client (`--output type=tar|oci|docker`). exporter: which of its outputs."""


class Forwarding:
    """A session that asks another one for everything; a subclass says what it does itself."""

    def __init__(self, session: Session) -> None:
        self.id = session.id
        self._session = session

    async def local(self, wanted: LocalRequest) -> Tree:
        return await self._session.local(wanted)

    async def secret(self, id: str) -> bytes:
        return await self._session.secret(id)

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self._session.ssh_agent(id)

    async def credentials(self, host: str) -> tuple[str, str]:
        return await self._session.credentials(host)

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        await self._session.put_tree(tree, exporter=exporter)

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        await self._session.put_file(chunks, metadata, exporter=exporter)
