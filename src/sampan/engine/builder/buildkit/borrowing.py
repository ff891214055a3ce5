"""A client whose directories lie with others of its sessions: a bake file's targets that share a context send it once.

Source: the option `local-sessionid:NAME` of buildx 0.29.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from sampan.engine.builder.clients.filesync import Report
from sampan.engine.builder.clients.sessions import GrpcSession
from sampan.engine.builder.exporters.results import TITLES
from sampan.engine.builder.progress import Progress, Status, Step, Warning_
from sampan.engine.builder.trees import Tree

EXPORTS = frozenset(TITLES.values())


class Borrowing:
    """A session; `lenders` says which other one has a directory."""

    def __init__(self, session: GrpcSession, lenders: Mapping[str, GrpcSession]) -> None:
        self.id = session.id
        self._session = session
        self._lenders = lenders

    async def local(
        self,
        name: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow: Sequence[str] = (),
        report: Report | None = None,
    ) -> Tree:
        owner = self._lenders.get(name, self._session)
        return await owner.local(name, include=include, exclude=exclude, follow=follow, report=report)

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


class Within:
    """The progress of a build inside another one: its own steps are shown, its exports are not."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._hidden: set[str] = set()

    def step(self, step: Step) -> None:
        if step.name in EXPORTS:
            self._hidden.add(step.key)
        else:
            self._progress.step(step)

    def status(self, status: Status) -> None:
        if status.key not in self._hidden:
            self._progress.status(status)

    def log(self, key: str, stream: int, data: bytes) -> None:
        self._progress.log(key, stream, data)

    def warning(self, warning: Warning_) -> None:
        self._progress.warning(warning)
