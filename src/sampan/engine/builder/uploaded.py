"""A session whose main context came as one archive: with the request of `POST /build`, or on a client's standard input.

A client that is connected besides has secrets, keys, credentials and further directories; they are asked of that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from sampan.engine.builder.files.filtered import Filtered
from sampan.engine.builder.files.spool import SpooledTree
from sampan.engine.builder.session import Forwarding, LocalRequest, Session
from sampan.engine.builder.trees import Tree
from sampan.errors import InvalidArgument, NotFound


class UploadedSession(Forwarding):
    """One received context. The tree's owner is the caller; each `local` gives a tree of its own over its contents."""

    def __init__(self, id: str, tree: SpooledTree | None, beside: Session | None = None) -> None:
        """tree: None when the context is elsewhere. beside: the client that is connected, if there is one."""
        super().__init__(beside if beside is not None else UnconnectedSession(id))
        self.id = id
        self._tree = tree

    async def local(self, wanted: LocalRequest) -> Tree:
        if self._tree is not None and wanted.name in ("context", "dockerfile"):
            return Filtered(self._tree.share(), include=wanted.include, exclude=wanted.exclude, owned=True)
        return await super().local(wanted)


class UnconnectedSession:
    """The session of a client that cannot be asked for anything."""

    def __init__(self, id: str) -> None:
        self.id = id

    async def local(self, wanted: LocalRequest) -> Tree:
        raise NotFound(f"the client has no context named {wanted.name}")

    async def secret(self, id: str) -> bytes:
        raise _unasked(f"secret {id}")

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise _unasked(f"ssh agent {id}")

    async def credentials(self, host: str) -> tuple[str, str]:
        return "", ""

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        raise _no_receiver()

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        raise _no_receiver()


def _unasked(what: str) -> NotFound:
    return NotFound(f"{what}: not found: the build has no session to ask")


def _no_receiver() -> InvalidArgument:
    return InvalidArgument("this output needs a session: use `docker buildx build` or `sampan build`")
