"""The client of the classic door: everything it has to give came as one archive with the request.

A request that names a gRPC session (`session=`) has secrets, keys and credentials besides; they are asked of that one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from sampan.engine.builder.files.filtered import Filtered
from sampan.engine.builder.session import Session
from sampan.engine.builder.trees import Tree
from sampan.errors import InvalidArgument, NotFound


class ArchiveSession:
    """One received context. The tree's owner is the caller; what `local` gives are views of it."""

    def __init__(self, id: str, tree: Tree | None, beside: Session | None = None) -> None:
        self.id = id
        self._tree = tree
        self._beside = beside

    async def local(
        self,
        name: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow: Sequence[str] = (),
        report: Callable[[int, bool], None] | None = None,
    ) -> Tree:
        if self._tree is not None and name in ("context", "dockerfile"):
            return Filtered(self._tree, include=include, exclude=exclude, owned=False)
        if self._beside is not None:
            return await self._beside.local(name, include=include, exclude=exclude, follow=follow, report=report)
        raise NotFound(f"the client has no context named {name}")

    async def secret(self, id: str) -> bytes:
        return await self._other(f"secret {id}").secret(id)

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self._other(f"ssh agent {id}").ssh_agent(id)

    async def credentials(self, host: str) -> tuple[str, str]:
        return await self._beside.credentials(host) if self._beside is not None else ("", "")

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        await self._receiver().put_tree(tree, exporter=exporter)

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        await self._receiver().put_file(chunks, metadata, exporter=exporter)

    def _other(self, what: str) -> Session:
        if self._beside is None:
            raise NotFound(f"{what}: not found: the build has no session to ask")
        return self._beside

    def _receiver(self) -> Session:
        if self._beside is None:
            raise InvalidArgument("this output needs a session: use `docker buildx build` or `sampan build`")
        return self._beside
