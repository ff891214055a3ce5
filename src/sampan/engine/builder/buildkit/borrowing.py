"""A client whose directories lie with others of its sessions: a bake file's targets that share a context send it once.

Source: the option `local-sessionid:NAME` of buildx 0.29.
"""

from __future__ import annotations

from collections.abc import Mapping

from sampan.engine.builder.exporters.results import TITLES
from sampan.engine.builder.progress import BuildWarning, Progress, Step, StepStatus
from sampan.engine.builder.session import Forwarding, LocalRequest, Session
from sampan.engine.builder.trees import Tree

EXPORTS = frozenset(TITLES.values())


class BorrowingSession(Forwarding):
    """A session; `lenders` says which other one has a directory, by the directory's name."""

    def __init__(self, session: Session, lenders: Mapping[str, Session]) -> None:
        super().__init__(session)
        self._lenders = lenders

    async def local(self, wanted: LocalRequest) -> Tree:
        lender = self._lenders.get(wanted.name)
        return await (lender.local(wanted) if lender is not None else super().local(wanted))


class InnerProgress:
    """The progress of a build inside another one: its own steps are shown, its exports are not."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._hidden: set[str] = set()

    def step(self, step: Step) -> None:
        if step.name in EXPORTS:
            self._hidden.add(step.key)
        else:
            self._progress.step(step)

    def status(self, status: StepStatus) -> None:
        if status.key not in self._hidden:
            self._progress.status(status)

    def log(self, key: str, stream: int, data: bytes) -> None:
        self._progress.log(key, stream, data)

    def warning(self, warning: BuildWarning) -> None:
        self._progress.warning(warning)

    async def room(self) -> None:
        await self._progress.room()
