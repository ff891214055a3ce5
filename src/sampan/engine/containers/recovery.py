"""After the daemon's own death, or the machine's: make records and reality agree, then follow the supervisor's events.

The supervisor's `list()` is the truth about tasks; the store is the truth about everything else. Every
`connected` event (the first, and each one after the supervisor came back) runs the same comparison, so nothing
depends on which process died.

    record says        supervisor says     then
    running, paused    running, paused     adopt (pid, start time; paused or running, as the kernel has it)
    running, paused    stopped             the exit is handled as if it came now
    running, paused    nothing             it died with the machine: exit 255, restart policy at boot
    created, exited    running             a start was interrupted after its last step: adopt
    anything           created             a start was interrupted before its last step: delete the task
    restarting         nothing             the pending restart is taken up
    exited             -                   and it was to be removed at its end: it is
    removing           -                   the task is deleted, the removal is finished
    anything           nothing, stopped    and nothing of it is on the disk: its removal outlived its record; finished
    no record          anything            delete the task; a build's, only when it is of an earlier daemon
"""

from __future__ import annotations

import asyncio
import logging
import os
import time

from sampan.engine.background import Background
from sampan.engine.containers import restart
from sampan.engine.containers.exec import Execs
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, with_status
from sampan.engine.containers.remove import ContainerRemover
from sampan.engine.containers.states import WITH_TASK, State
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.networks.service import Networks
from sampan.errors import SampanError
from sampan.supervisor.client import Exit, Supervisor, TaskEvent, TaskInfo, TaskKind

log = logging.getLogger(__name__)

LOST_EXIT_STATUS = 255
_SOURCES_S = 5.0  # how long a start at boot waits for those that the container is linked to, as Docker's


class Recovery:
    """The one consumer of the supervisor's events."""

    def __init__(
        self,
        table: ContainerTable,
        launcher: Launcher,
        supervisor: Supervisor,
        events: Events,
        lifecycle: Lifecycle,
        remover: ContainerRemover,
        execs: Execs,
        networks: Networks,
        background: Background,
    ) -> None:
        self._table = table
        self._launcher = launcher
        self._supervisor = supervisor
        self._events = events
        self._lifecycle = lifecycle
        self._remover = remover
        self._execs = execs
        self._networks = networks
        self._background = background
        self._first = asyncio.Event()
        self._booting: dict[str, asyncio.Task[None]] = {}

    async def begin(self) -> None:
        """Start following; returns when the first comparison is done."""
        self._background.spawn(self._follow(), "supervisor events")
        await self._first.wait()

    async def _follow(self) -> None:
        async for event in self._supervisor.events():
            try:
                await self._handle(event)
            except SampanError as e:
                log.error("event %s of %s: %s", event.kind, event.id, e.message)
            except Exception:  # a defect in handling one event must not end the handling of all others
                log.exception("event %s of %s", event.kind, event.id)

    async def _handle(self, event: TaskEvent) -> None:
        if event.kind == "connected":
            try:
                await self._compare(await self._supervisor.list())
            finally:
                self._first.set()
        elif event.task_kind is not TaskKind.CONTAINER:
            return  # whoever made it waits for it
        elif event.kind == "exit" and event.exit is not None:
            # not awaited: the lock may be held by a start that is still being recorded
            self._background.spawn(self._exited(event.id, event.exit), f"exit of {event.id[:12]}", finish=True)
        elif event.kind == "exec-exit" and event.exit is not None:
            self._execs.exited(event.id, event.exec_id, event.exit)
        elif event.kind == "oom":
            c = self._table.find(event.id)
            if c is not None:
                publish(self._events, c, "oom")
                self._background.spawn(self._oom_killed(event.id), f"OOM kill in {event.id[:12]}")

    async def _oom_killed(self, id: str) -> None:
        async with self._table.live.lock(id):
            c = self._table.find(id)
            if c is not None and c.status.pid:
                await self._table.save(with_status(c, oom_killed=True))

    async def _exited(self, id: str, exit: Exit, *, at_boot: bool = False) -> None:
        self._execs.container_ended(id)
        await self._lifecycle.exited(id, exit, at_boot=at_boot)

    # --- comparison --------------------------------------------------------------------------------------------------

    async def _compare(self, tasks: list[TaskInfo]) -> None:
        by_id = {t.id: t for t in tasks}
        first = not self._first.is_set()
        known = {c.id for c in self._table.all()}
        for task in tasks:
            if task.id not in known | self._table.unreadable and (first or task.kind is TaskKind.CONTAINER):
                await self._supervisor.delete(task.id)
        if first:
            await self._restore_networks(by_id)
            self._sweep_directories(known)
        for c in self._table.all():
            if self._table.live.lock(c.id).locked():
                continue  # a verb is at work on it and will record the truth itself
            try:
                await self._converge(c, by_id.get(c.id), first=first)
            except SampanError as e:
                log.error("container %s: cannot be restored: %s", c.id, e.message)

    async def _restore_networks(self, by_id: dict[str, TaskInfo]) -> None:
        running = {t.id: t.pid for t in by_id.values() if t.status in ("running", "paused")}
        await self._networks.restore({id: pid for id, pid in running.items() if self._table.find(id) is not None})
        await self._networks.ways_changed()

    def _sweep_directories(self, known: set[str]) -> None:
        """Directories of containers whose creation never got as far as a record."""
        root = os.path.dirname(self._launcher.directory("x"))
        os.makedirs(root, mode=0o700, exist_ok=True)
        for name in os.listdir(root):
            if name not in known and name not in self._table.hidden:
                self._remover.discard_directory(name)

    async def _converge(self, c: Container, task: TaskInfo | None, *, first: bool) -> None:
        state = c.status.state
        over = task is None or task.exit is not None
        removed = first and over and self._remover.was_removed(c)
        if state is State.REMOVING or removed:
            if task is not None:
                await self._supervisor.delete(c.id)
            self._background.spawn(self._remover.resume_removal(c), f"removal of {c.id[:12]}", finish=True)
            return
        if task is not None and task.status == "created":
            await self._supervisor.delete(c.id)
            task = None
        if task is not None and task.status in ("running", "paused"):
            if state not in WITH_TASK or c.status.pid != task.pid or first:
                await self._lifecycle.adopt(c, task)
            else:
                await self._lifecycle.follow_freezer(c, task)
            return
        if task is not None and task.exit is not None and state in WITH_TASK:
            ended = self._exited(c.id, task.exit, at_boot=first)
            self._background.spawn(ended, f"exit of {c.id[:12]}", finish=True)
            return
        if task is not None:
            await self._supervisor.delete(c.id)
        if state in WITH_TASK:
            lost = Exit(status=LOST_EXIT_STATUS, exited_at_ns=time.time_ns(), oom_killed=False)
            await self._lifecycle.exited(c.id, lost, at_boot=first)
        elif state is State.RESTARTING and first:
            self._lifecycle.resume_restart(c)
        elif first and c.has_been_started and c.host_config.auto_remove:
            self._background.spawn(self._remover.auto_remove(c.id), f"removal of {c.id[:12]}", finish=True)
        elif first and c.has_been_started and self._wants_start(c):
            booting = self._background.spawn(self._boot(c), f"start of {c.id[:12]}")
            if booting is not None:
                self._booting[c.id] = booting

    async def _boot(self, c: Container) -> None:
        """Start a container when those that it is linked to have been started, or after a while."""
        sources = [self._booting[link.id] for link in c.links.values() if link.id in self._booting]
        if sources:
            await asyncio.wait(sources, timeout=_SOURCES_S)
        try:
            await self._lifecycle.boot(c)
        finally:
            self._booting.pop(c.id, None)

    @staticmethod
    def _wants_start(c: Container) -> bool:
        return restart.wants_start_at_boot(
            c.host_config.restart_policy,
            manually_stopped=c.manually_stopped,
            was_active=True,
            exit_status=c.status.exit_status,
            restart_count=c.restart_count,
        )
