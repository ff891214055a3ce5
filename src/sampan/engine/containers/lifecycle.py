"""Start, restart, pause, and what happens when a task ends.

State changes happen under the container's lock and are saved before it is let go. The supervisor's exit event is
handled once, by `exited`: everything that depends on an exit (waiters, restart policy, --rm) is decided there.

A crash at any instruction converges at the next start (`recovery`): the supervisor's list says what runs, and a
record that claims otherwise is corrected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from sampan.engine.background import Background
from sampan.engine.containers import restart
from sampan.engine.containers.attach import PendingSessions
from sampan.engine.containers.backoff import BackOff
from sampan.engine.containers.launch import Launcher, StartFailed
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, with_status
from sampan.engine.containers.remove import ContainerRemover
from sampan.engine.containers.states import WITH_TASK, State, Trigger
from sampan.engine.containers.stopping import Stopper
from sampan.engine.containers.table import ContainerTable, next_state
from sampan.engine.containers.waiting import ExitWaiters
from sampan.engine.events import Events
from sampan.errors import Conflict, Internal, NotFound, SampanError
from sampan.supervisor.client import Exit, Supervisor, TaskInfo

log = logging.getLogger(__name__)


class Lifecycle:
    """Verbs on one container's process, and its end."""

    def __init__(
        self,
        table: ContainerTable,
        launcher: Launcher,
        supervisor: Supervisor,
        events: Events,
        stopper: Stopper,
        remover: ContainerRemover,
        waiting: ExitWaiters,
        pending: PendingSessions,
        back_off: BackOff,
        background: Background,
    ) -> None:
        self._table = table
        self._launcher = launcher
        self._supervisor = supervisor
        self._events = events
        self._stopper = stopper
        self._remover = remover
        self._waiting = waiting
        self._pending = pending
        self._back_off = back_off
        self._background = background
        self._cleanups: dict[str, asyncio.Task[None]] = table.live.notes({})  # last tasks on their way out
        self._restarting: Counter[str] = Counter()  # `docker restart` is under way: --rm waits

    # --- start -------------------------------------------------------------------------------------------------------

    async def start(self, ref: str) -> bool:
        """Start a container; False when it runs already."""
        id = self._table.get(ref).id
        async with self._table.live.lock(id):
            c = self._table.get(id)
            self._check_startable(c)
            if c.active:
                return False
            self._back_off.begin_anew(id)
            await self._run(replace(c, restart_count=0, manually_stopped=False))
        return True

    @staticmethod
    def _check_startable(c: Container) -> None:
        if c.status.state is State.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if c.status.state in (State.REMOVING, State.DEAD):
            raise Conflict("container is marked for removal and cannot be started")

    async def _run(self, c: Container) -> None:
        """Launch under the lock and record how it went."""
        try:
            await self._end_of_previous(c)
            task = await self._launcher.launch(c)
        except (SampanError, OSError) as e:
            await self._start_failed(c, e)
            raise self._client_error(e) from e
        await self._record_running(c, task)

    async def _end_of_previous(self, c: Container) -> None:
        """Make sure that the last task of this container is gone."""
        cleanup = self._cleanups.pop(c.id, None)
        if cleanup is None:
            return
        if self._table.store.behind:
            cleanup.cancel()
        await asyncio.wait([cleanup])
        if cleanup.cancelled() or cleanup.exception() is not None:
            await self._launcher.delete_task(c.id)

    @staticmethod
    def _client_error(e: Exception) -> SampanError:
        if isinstance(e, StartFailed):
            return e.failure.error
        if isinstance(e, SampanError):
            return e
        return Internal(str(e))

    async def _start_failed(self, c: Container, e: Exception) -> None:
        exit_status = e.failure.exit_status if isinstance(e, StartFailed) else 128
        text = e.message if isinstance(e, SampanError) else str(e)
        self._pending.abandon(c.id)
        restarting = c.status.state is State.RESTARTING
        again = restarting and restart.passes(e) and not self._stopper.shutting_down
        c = with_status(
            c,
            state=next_state(c, Trigger.BACK_OFF if again else Trigger.START_FAILED),
            pid=0,
            error=text,
            exit_status=c.status.exit_status or exit_status,
        )
        c = await self._table.save(replace(c, has_been_started=True))
        if again:  # the policy's next attempt, when there may be room again
            self._back_off.lengthen(c.id, 0.0)
            self._back_off.schedule(c.id, self._restart_due)
            return
        if restarting:  # one that did not run has not ended: who waits for its end goes on waiting
            self._waiting.exited(c.id, (exit_status, text))
        if c.host_config.auto_remove:
            removal = self._remover.auto_remove(c.id)
            self._background.spawn(removal, f"remove {c.id[:12]} after a failed start", finish=True)

    async def _record_running(self, c: Container, task: TaskInfo) -> Container:
        c = with_status(
            c,
            state=next_state(c, Trigger.START),
            pid=task.pid,
            exit_status=0,
            error="",
            oom_killed=False,
            started_ns=task.started_at_ns or time.time_ns(),
        )
        shm = self._launcher.shm_of(c)
        c = await self._table.save(replace(c, has_been_started=True, shm_path=shm))
        publish(self._events, c, "start")
        return c

    # --- restart -----------------------------------------------------------------------------------------------------

    async def restart(self, ref: str, *, signal: str = "", timeout_s: int | None = None) -> None:
        """Stop (when it runs) and start. --rm does not remove it in between."""
        c = self._table.get(ref)
        self._restarting[c.id] += 1
        try:
            if c.active:
                await self._stopper.stop(c.id, signal=signal, timeout_s=timeout_s)
        finally:
            self._restarting[c.id] -= 1
            if not self._restarting[c.id]:
                del self._restarting[c.id]
        try:
            await self.start(c.id)
        except SampanError as e:
            raise type(e)(f"Cannot restart container {ref}: {e.message}") from e
        publish(self._events, self._table.find(c.id) or c, "restart")

    # --- pause -------------------------------------------------------------------------------------------------------

    async def pause(self, ref: str) -> None:
        """Freeze every process of a container. Raises: Conflict."""
        id = self._table.get(ref).id
        async with self._table.live.lock(id):
            c = self._table.get(id)
            if c.status.state is State.PAUSED:
                raise Conflict(f"Container {c.id} is already paused")
            if c.status.state is State.RESTARTING:
                raise Conflict(f"Container {c.id} is restarting, wait until the container is running")
            if c.status.state is not State.RUNNING:
                raise Conflict(f"container {c.id} is not running")
            await self._freeze(c, self._supervisor.pause)
            c = await self._table.save(with_status(c, state=next_state(c, Trigger.PAUSE)))
            publish(self._events, c, "pause")

    async def unpause(self, ref: str) -> None:
        """Let a frozen container go on. Raises: Internal, as Docker answers 500, for one that is not frozen."""
        id = self._table.get(ref).id
        async with self._table.live.lock(id):
            c = self._table.get(id)
            if c.status.state is not State.PAUSED:
                raise Internal(f"Container {c.id} is not paused")
            await self._freeze(c, self._supervisor.resume)
            c = await self._table.save(with_status(c, state=next_state(c, Trigger.UNPAUSE)))
            publish(self._events, c, "unpause")

    async def _freeze(self, c: Container, verb: Callable[[str], Awaitable[None]]) -> None:
        """Freeze or thaw. Where it is unknown whether a failed call had its effect, the record follows the kernel."""
        try:
            await verb(c.id)
        except SampanError as e:
            task: TaskInfo | None = None
            with contextlib.suppress(SampanError):
                task = await self._supervisor.status(c.id)
                await self.follow_freezer(c, task)
            if isinstance(e, NotFound) or (task is not None and task.exit is not None):
                raise Conflict(f"container {c.id} is not running") from e  # its record is about to say so
            raise

    async def follow_freezer(self, c: Container, task: TaskInfo | None) -> None:
        """Make a record say paused or running as its task is. The caller holds the lock."""
        triggers = {"paused": (State.RUNNING, Trigger.PAUSE), "running": (State.PAUSED, Trigger.UNPAUSE)}
        wrong, trigger = triggers.get(task.status if task is not None else "", (None, Trigger.PAUSE))
        if c.status.state is wrong:
            c = await self._table.save(with_status(c, state=next_state(c, trigger)))
            publish(self._events, c, trigger.value)

    # --- exit --------------------------------------------------------------------------------------------------------

    async def exited(self, id: str, exit: Exit, *, at_boot: bool = False) -> None:
        """Handle the end of a task: record it, free what it used, wake the waiters, restart or remove.

        at_boot: it ended before this daemon began; starting it again is no restart of a policy, and is not counted.
        """
        if self._table.find(id) is None:
            await self._supervisor.delete(id)
            return
        async with self._table.live.lock(id):
            c = self._table.find(id)
            if c is None or c.status.state not in WITH_TASK:
                return  # recovery or a removal was first
            removes = (
                c.host_config.auto_remove and c.id not in self._restarting and not self._stopper.shutting_down
            )  # decided before a waiter is woken: a restart's goes on at once
            c = await self._record_exit(c, exit, at_boot=at_boot)
            self._waiting.exited(c.id, (c.status.exit_status, ""))
            try:
                await self._launcher.take_down(c)
            except (SampanError, OSError) as e:
                log.error("container %s: cannot free everything: %s", c.id, e)
            cleanup = self._background.spawn(self._clear_away(c.id), f"end of {c.id[:12]}", finish=True)
            if cleanup is not None:
                self._cleanups[c.id] = cleanup
            ran_s = max(0, (c.status.finished_ns - c.status.started_ns) // 1_000_000_000)
            heard = publish(self._events, c, "die", execDuration=str(ran_s), exitCode=str(c.status.exit_status))
            self._remover.told(c.id, heard)
            if c.status.state is State.RESTARTING:
                self._back_off.schedule(c.id, self._restart_due)
                return
        if removes:
            await self._remover.auto_remove(c.id)

    async def _clear_away(self, id: str) -> None:
        """Delete a task that has ended. It stays known until its end is in the database, which a full disk delays: an
        end of this daemon before that loses no exit status.
        """
        await self._table.store.written()
        await self._launcher.delete_task(id)

    async def _record_exit(self, c: Container, exit: Exit, *, at_boot: bool) -> Container:
        finished = exit.exited_at_ns or time.time_ns()
        if self._stopper.ended_by_signal(c, exit.status):
            c = replace(c, manually_stopped=True)
        again = not self._stopper.shutting_down and restart.wants_restart(
            c.host_config.restart_policy,
            exit_status=exit.status,
            manually_stopped=c.manually_stopped,
            restart_count=c.restart_count,
        )
        ran_s = max(0.0, (finished - c.status.started_ns) / 1e9)
        if again:
            self._back_off.lengthen(c.id, ran_s)
        else:
            self._back_off.begin_anew(c.id)
        restarts = 0 if at_boot else c.restart_count + 1
        c = with_status(
            c,
            state=next_state(c, Trigger.BACK_OFF if again else Trigger.EXIT),
            pid=0,
            exit_status=exit.status,
            oom_killed=exit.oom_killed,
            finished_ns=finished,
        )
        return await self._table.save(
            replace(
                c,
                restart_count=restarts if again else c.restart_count,
                shm_path="",
                endpoints=self._launcher.remembered_endpoints(c),
            )
        )

    async def _restart_due(self, id: str) -> None:
        async with self._table.live.lock(id):
            c = self._table.find(id)
            if c is None or c.status.state is not State.RESTARTING:
                return
            try:
                await self._run(c)
            except SampanError as e:
                log.error("container %s: restart failed: %s", id, e.message)

    def resume_restart(self, c: Container) -> None:
        """Take up a pending restart after the daemon's own: the delay begins anew."""
        self._back_off.begin_anew(c.id)
        self._back_off.schedule(c.id, self._restart_due)

    async def adopt(self, c: Container, task: TaskInfo) -> Container:
        """Correct a record whose task runs although it says otherwise."""
        state = State.PAUSED if task.status == "paused" else State.RUNNING
        c = with_status(c, state=state, pid=task.pid, started_ns=task.started_at_ns or c.status.started_ns, error="")
        c = await self._table.save(replace(c, has_been_started=True))
        self._launcher.adopt(c)
        return c

    async def boot(self, c: Container) -> None:
        """Start what the restart policy wants running when the daemon starts."""
        try:
            await self.start(c.id)
        except SampanError as e:
            log.error("container %s: cannot start: %s", c.id, e.message)
