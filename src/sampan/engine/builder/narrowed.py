"""The client of one build as its steps see it: of its directories only what the build uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from sampan.engine.builder.session import Session
from sampan.engine.builder.trees import Tree

ALL = "/"


class Narrowed:
    """A session that knows which paths of each context a build needs. `paths` may grow until the context is asked for.

    owned: trees that go with the build.
    """

    def __init__(self, session: Session) -> None:
        self.id = session.id
        self.paths: dict[str, tuple[str, ...]] = {}
        self.owned: list[Tree] = []  # closed with the build
        self.client = session

    async def local(
        self,
        name: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow: Sequence[str] = (),
        report: Callable[[int, bool], None] | None = None,
    ) -> Tree:
        wanted = self.paths.get(name, ())
        if not follow and wanted and ALL not in wanted:
            follow = [path.lstrip("/") for path in wanted]
        return await self.client.local(name, include=include, exclude=exclude, follow=follow, report=report)

    async def close(self) -> None:
        """The build has ended."""
        for tree in self.owned:
            await asyncio.to_thread(tree.close)

    async def secret(self, id: str) -> bytes:
        return await self.client.secret(id)

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self.client.ssh_agent(id)

    async def credentials(self, host: str) -> tuple[str, str]:
        return await self.client.credentials(host)

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        await self.client.put_tree(tree, exporter=exporter)

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        await self.client.put_file(chunks, metadata, exporter=exporter)
