"""Start, stop, kill, pause, wait, and what happens when a task ends.

State changes happen under `live(id).lock` and are saved before the lock is let go. Waiting (for a process to obey a
signal) happens outside of it, so a container that hangs never blocks another request. The supervisor's exit event is
handled once, by `exited`: everything that depends on an exit (waiters, restart policy, --rm) is decided there.

A crash at any instruction converges at the next start (`recovery`): the supervisor's list says what runs, and a
record that claims otherwise is corrected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec.structs import replace

from sampan.engine.background import Background
from sampan.engine.containers import restart, signals
from sampan.engine.containers.launch import Launcher, StartFailed
from sampan.engine.containers.records import Container, with_status
from sampan.engine.containers.registry import ExitResult, Live, Registry, next_state
from sampan.engine.containers.states import WITH_TASK, Event, State
from sampan.engine.events import Events
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError
from sampan.supervisor.client import Exit, TaskInfo

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10
KILL_PATIENCE_S = 10.0
CONDITIONS = ("", "not-running", "next-exit", "removed")

Remove = Callable[[str], Coroutine[Any, Any, None]]


class Lifecycle:
    """Verbs on one container's process."""

    def __init__(self, registry: Registry, launcher: Launcher, events: Events, background: Background) -> None:
        self._registry = registry
        self._launcher = launcher
        self._events = events
        self._background = background
        self.auto_remove: Remove
        self.started: Callable[[Container], None] = lambda c: None
        self.shutting_down = False

    def publish(self, c: Container, action: str, **more: str) -> None:
        """Tell an event about a container: its labels, image and name, and what is particular to the action."""
        attributes = {**(c.config.labels or {}), **more, "image": c.config.image, "name": c.name}
        self._events.publish("container", action, c.id, dict(sorted(attributes.items())))

    # --- start -------------------------------------------------------------------------------------------------------

    async def start(self, ref: str) -> bool:
        """Start a container; False when it runs already."""
        id = self._registry.get(ref).id
        live = self._registry.live(id)
        async with live.lock:
            c = self._registry.get(id)
            self._check_startable(c)
            if c.active:
                return False
            live.back_off_s = 0.0
            await self._run(replace(c, restart_count=0, manually_stopped=False), live)
        return True

    @staticmethod
    def _check_startable(c: Container) -> None:
        if c.status.state is State.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if c.status.state in (State.REMOVING, State.DEAD):
            raise Conflict("container is marked for removal and cannot be started")

    async def _run(self, c: Container, live: Live) -> None:
        """Launch under the lock and record how it went."""
        try:
            await self._end_of_previous(c, live)
            task = await self._launcher.launch(c)
        except (SampanError, OSError) as e:
            await self._start_failed(c, live, e)
            raise self._client_error(e) from e
        await self._record_running(c, task)

    async def _end_of_previous(self, c: Container, live: Live) -> None:
        """Make sure that the last task of this container is gone."""
        cleanup, live.cleanup = live.cleanup, None
        if cleanup is None:
            return
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

    async def _start_failed(self, c: Container, live: Live, e: Exception) -> None:
        exit_status = e.failure.exit_status if isinstance(e, StartFailed) else 128
        text = e.message if isinstance(e, SampanError) else str(e)
        pending, live.pending = live.pending, []
        for session in pending:
            session.abandon()
        c = with_status(
            c,
            state=next_state(c, Event.START_FAILED),
            pid=0,
            error=text,
            exit_status=c.status.exit_status or exit_status,
        )
        c = await self._registry.save(replace(c, has_been_started=True))
        self._wake(live.exit_waiters, (exit_status, text))
        if c.host_config.auto_remove:
            self._background.spawn(self.auto_remove(c.id), f"remove {c.id[:12]} after a failed start", finish=True)

    async def _record_running(self, c: Container, task: TaskInfo) -> Container:
        c = with_status(
            c,
            state=next_state(c, Event.START),
            pid=task.pid,
            exit_status=0,
            error="",
            oom_killed=False,
            started_ns=task.started_at_ns or time.time_ns(),
        )
        shm = self._launcher.shm_of(c)
        c = await self._registry.save(replace(c, has_been_started=True, shm_path=shm))
        self.publish(c, "start")
        self.started(c)
        return c

    # --- signals -----------------------------------------------------------------------------------------------------

    async def kill(self, ref: str, text: str = "") -> None:
        """Send a signal; the default is KILL."""
        try:
            number = signals.parse(text) if text else int(signal.SIGKILL)
            if number > signal.SIGRTMAX:
                raise InvalidArgument(f"the linux daemon does not support signal {number}")
            await self._send(self._registry.get(ref), number)
        except (InvalidArgument, NotFound, Conflict) as e:
            raise type(e)(f"cannot kill container: {ref}: {e.message}") from None

    async def _send(self, c: Container, number: int) -> None:
        """Deliver a signal. It also calls off restarts, unless it is one that the stop signal is not."""
        live = self._registry.live(c.id)
        async with live.lock:
            c = self._registry.get(c.id)
            if not c.active:
                raise Conflict(f"container {c.id} is not running")
            own = c.config.stop_signal
            ends = not own or number == signal.SIGKILL or signals.parse(own) == number
            if not self.shutting_down and not c.manually_stopped:
                c = await self._registry.save(replace(c, manually_stopped=True))
            if c.status.state is State.RESTARTING:
                await self._cancel_restart(c, live)
                return
            with contextlib.suppress(NotFound):
                await self._launcher.supervisor.kill(c.id, number)
            self.publish(c, "kill", signal=str(number))
            if ends and c.status.state is State.PAUSED:  # a frozen process could not obey
                with contextlib.suppress(NotFound, Conflict):
                    await self._launcher.supervisor.resume(c.id)
                c = await self._registry.save(with_status(c, state=next_state(c, Event.UNPAUSE)))
                self.publish(c, "unpause")

    async def _cancel_restart(self, c: Container, live: Live) -> None:
        if live.restart is not None:
            live.restart.cancel()
            live.restart = None
        c = await self._registry.save(with_status(c, state=next_state(c, Event.CANCEL)))
        self._wake(live.exit_waiters, (c.status.exit_status, ""))

    async def stop(self, ref: str, *, signal_text: str = "", timeout_s: int | None = None) -> bool:
        """Ask the container to stop, then make it; False when it does not run."""
        c = self._registry.get(ref)
        if not c.active:
            return False
        number = signals.parse(signal_text or c.config.stop_signal or "TERM")
        if timeout_s is None:
            timeout_s = STOP_TIMEOUT_S if c.config.stop_timeout is None else c.config.stop_timeout
        stopped = self._next_exit(c)
        try:
            await self._send(c, number)
            if not await self._ends_within(stopped, None if timeout_s < 0 else float(timeout_s)):
                await self._send(c, signal.SIGKILL)
                if not await self._ends_within(stopped, KILL_PATIENCE_S):
                    raise Internal(
                        f"cannot stop container: {ref}: tried to kill container, but did not receive an exit event"
                    )
        except Conflict:
            pass  # it ended by itself in between
        finally:
            stopped.cancel()
        self.publish(self._registry.find(c.id) or c, "stop")
        return True

    async def kill_and_wait(self, c: Container) -> None:
        """Make sure that the task is gone: what a forced removal needs."""
        stopped = self._next_exit(c)
        try:
            await self._send(c, signal.SIGKILL)
            if not await self._ends_within(stopped, KILL_PATIENCE_S):
                raise Internal(f"container {c.id} does not end after SIGKILL")
        except Conflict:
            pass
        finally:
            stopped.cancel()

    @staticmethod
    async def _ends_within(future: asyncio.Future[ExitResult], timeout_s: float | None) -> bool:
        done, _ = await asyncio.wait([future], timeout=timeout_s)
        return bool(done)

    async def restart(self, ref: str, *, signal_text: str = "", timeout_s: int | None = None) -> None:
        """Stop (when it runs) and start. --rm does not remove it in between."""
        c = self._registry.get(ref)
        live = self._registry.live(c.id)
        live.keep = True
        try:
            if c.active:
                await self.stop(c.id, signal_text=signal_text, timeout_s=timeout_s)
        finally:
            live.keep = False
        try:
            await self.start(c.id)
        except SampanError as e:
            raise type(e)(f"Cannot restart container {ref}: {e.message}") from e
        self.publish(self._registry.get(c.id), "restart")

    # --- pause -------------------------------------------------------------------------------------------------------

    async def pause(self, ref: str) -> None:
        id = self._registry.get(ref).id
        async with self._registry.live(id).lock:
            c = self._registry.get(id)
            if c.status.state is State.PAUSED:
                raise Conflict(f"Container {c.id} is already paused")
            if c.status.state is State.RESTARTING:
                raise Conflict(f"Container {c.id} is restarting, wait until the container is running")
            if c.status.state is not State.RUNNING:
                raise Conflict(f"container {c.id} is not running")
            await self._launcher.supervisor.pause(c.id)
            c = await self._registry.save(with_status(c, state=next_state(c, Event.PAUSE)))
            self.publish(c, "pause")

    async def unpause(self, ref: str) -> None:
        id = self._registry.get(ref).id
        async with self._registry.live(id).lock:
            c = self._registry.get(id)
            if c.status.state is not State.PAUSED:
                raise Internal(f"Container {c.id} is not paused")
            await self._launcher.supervisor.resume(c.id)
            c = await self._registry.save(with_status(c, state=next_state(c, Event.UNPAUSE)))
            self.publish(c, "unpause")

    # --- wait --------------------------------------------------------------------------------------------------------

    def wait(self, ref: str, condition: str = "") -> asyncio.Future[ExitResult]:
        """Return a future of the exit status, registered now: an exit right after this call is not missed."""
        if condition not in CONDITIONS:
            raise InvalidArgument(f'invalid condition: "{condition}"')
        c = self._registry.get(ref)
        live = self._registry.live(c.id)
        future: asyncio.Future[ExitResult] = asyncio.get_running_loop().create_future()
        if condition == "removed":
            _register(future, live.removal_waiters)
        elif condition == "next-exit" or c.active:
            _register(future, live.exit_waiters)
        else:
            future.set_result((c.status.exit_status, ""))
        return future

    def _next_exit(self, c: Container) -> asyncio.Future[ExitResult]:
        future: asyncio.Future[ExitResult] = asyncio.get_running_loop().create_future()
        _register(future, self._registry.live(c.id).exit_waiters)
        return future

    @staticmethod
    def _wake(waiters: list[asyncio.Future[ExitResult]], result: ExitResult) -> None:
        for future in list(waiters):
            if not future.done():
                future.set_result(result)
        waiters.clear()

    def removed(self, c: Container, live: Live) -> None:
        """Wake those who wait for the end of the container itself."""
        result = (c.status.exit_status, "")
        self._wake(live.exit_waiters, result)
        self._wake(live.removal_waiters, result)

    # --- exit --------------------------------------------------------------------------------------------------------

    async def exited(self, id: str, exit: Exit, *, at_boot: bool = False) -> None:
        """Handle the end of a task: record it, free what it used, wake the waiters, restart or remove.

        `at_boot`: it ended before this daemon began; starting it again is no restart of a policy, and is not counted.
        """
        if self._registry.find(id) is None:
            await self._launcher.supervisor.delete(id)
            return
        live = self._registry.live(id)
        async with live.lock:
            c = self._registry.find(id)
            if c is None or c.status.state not in WITH_TASK:
                return  # recovery or a removal was first
            c = await self._record_exit(c, exit, live, at_boot=at_boot)
            result = (c.status.exit_status, "")
            self._wake(live.exit_waiters, result)
            try:
                await self._launcher.take_down(c)
            except (SampanError, OSError) as e:
                log.error("container %s: cannot free everything: %s", c.id, e)
            live.cleanup = self._background.spawn(self._launcher.delete_task(c.id), f"end of {c.id[:12]}", finish=True)
            ran_s = max(0, (c.status.finished_ns - c.status.started_ns) // 1_000_000_000)
            self.publish(c, "die", execDuration=str(ran_s), exitCode=str(c.status.exit_status))
            if c.status.state is State.RESTARTING:
                self._schedule(c, live)
                return
        if c.host_config.auto_remove and not live.keep and not self.shutting_down:
            await self.auto_remove(c.id)

    async def _record_exit(self, c: Container, exit: Exit, live: Live, *, at_boot: bool) -> Container:
        if live.health is not None:
            live.health.stop()
        finished = exit.exited_at_ns or time.time_ns()
        policy = policy_of(c)
        again = not self.shutting_down and restart.wants_restart(
            policy, exit_status=exit.status, manually_stopped=c.manually_stopped, restart_count=c.restart_count
        )
        ran_s = max(0.0, (finished - c.status.started_ns) / 1e9)
        live.back_off_s = restart.next_delay_s(live.back_off_s, ran_s) if again else 0.0
        restarts = 0 if at_boot else c.restart_count + 1
        c = with_status(
            c,
            state=next_state(c, Event.BACK_OFF if again else Event.EXIT),
            pid=0,
            exit_status=exit.status,
            oom_killed=exit.oom_killed,
            finished_ns=finished,
        )
        return await self._registry.save(
            replace(
                c,
                restart_count=restarts if again else c.restart_count,
                shm_path="",
                endpoints=self._launcher.remembered_endpoints(c),
            )
        )

    def _schedule(self, c: Container, live: Live) -> None:
        def due() -> None:
            live.restart = None
            self._background.spawn(self._restart_due(c.id), f"restart of {c.id[:12]}")

        live.restart = asyncio.get_running_loop().call_later(live.back_off_s, due)

    async def _restart_due(self, id: str) -> None:
        live = self._registry.live(id)
        async with live.lock:
            c = self._registry.find(id)
            if c is None or c.status.state is not State.RESTARTING:
                return
            try:
                await self._run(c, live)
            except SampanError as e:
                log.error("container %s: restart failed: %s", id, e.message)

    def resume_restart(self, c: Container) -> None:
        """Take up a pending restart after the daemon's own: the delay begins anew."""
        live = self._registry.live(c.id)
        live.back_off_s = restart.FIRST_DELAY_S
        self._schedule(c, live)

    async def adopt(self, c: Container, task: TaskInfo) -> Container:
        """Correct a record whose task runs although it says otherwise."""
        state = State.PAUSED if task.status == "paused" else State.RUNNING
        c = with_status(c, state=state, pid=task.pid, started_ns=task.started_at_ns or c.status.started_ns, error="")
        c = await self._registry.save(replace(c, has_been_started=True))
        self._launcher.adopt(c)
        self.started(c)
        return c

    async def boot(self, c: Container) -> None:
        """Start what the restart policy wants running when the daemon starts."""
        try:
            await self.start(c.id)
        except SampanError as e:
            log.error("container %s: cannot start: %s", c.id, e.message)


def _register(future: asyncio.Future[ExitResult], waiters: list[asyncio.Future[ExitResult]]) -> None:
    """Add a waiter that leaves the list again when it is cancelled."""
    waiters.append(future)
    future.add_done_callback(lambda f: waiters.remove(f) if f in waiters else None)


def policy_of(c: Container) -> restart.Policy:
    """Return the container's restart policy as the pure module wants it."""
    p = c.host_config.restart_policy
    return restart.Policy(p.name, p.maximum_retry_count)
