"""Kill and stop: signals to a container's process, and waiting for what they lead to.

Signals are sent under the container's lock. Waiting (for a process to obey) happens outside of it, so a container that
hangs never blocks another request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from signal import SIGINT, SIGKILL, SIGQUIT, SIGRTMAX, SIGTERM

from msgspec.structs import replace

from sampan.engine.containers import signals
from sampan.engine.containers.backoff import BackOff
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, with_status
from sampan.engine.containers.states import ACTIVE, State, Trigger
from sampan.engine.containers.table import ContainerTable, next_state
from sampan.engine.containers.waiting import ExitResult, ExitWaiters
from sampan.engine.events import Events
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError
from sampan.supervisor.client import Supervisor

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 10
KILL_PATIENCE_S = 10.0
_ASK_FOR_THE_END = (SIGINT, SIGQUIT, SIGTERM)


class Stopper:
    """Ends the processes of containers. `shutting_down`: all of them are being ended, and none is to start again."""

    def __init__(
        self, table: ContainerTable, supervisor: Supervisor, events: Events, waiting: ExitWaiters, back_off: BackOff
    ) -> None:
        self._table = table
        self._supervisor = supervisor
        self._events = events
        self._waiting = waiting
        self._back_off = back_off
        self._sent: dict[str, dict[int, float]] = table.live.notes({})  # by `kill`: signal → when
        self.shutting_down = False

    async def kill(self, ref: str, text: str = "") -> None:
        """Send a signal; the default is KILL."""
        try:
            number = signals.parse(text) if text else int(SIGKILL)
            if number > SIGRTMAX:
                raise InvalidArgument(f"the linux daemon does not support signal {number}")
            c = self._table.get(ref)
            if number == SIGKILL:
                await self._kill_and_see(c)
            else:
                await self._send(c, number)
        except (InvalidArgument, NotFound, Conflict) as e:
            raise type(e)(f"cannot kill container: {ref}: {e.message}") from None

    async def _kill_and_see(self, c: Container) -> None:
        """Send KILL and return when the end is recorded: the caller's next request finds a container that has ended.

        Raises: Conflict for one that does not run, Internal for one that does not end.
        """
        if not await self._end(c, SIGKILL, KILL_PATIENCE_S):
            raise Internal(f"container {c.id} does not end after SIGKILL")

    async def _end(self, c: Container, number: int, timeout_s: float | None) -> bool:
        """Send a signal that is to end the container for good; return whether its end is recorded in time."""
        with contextlib.ExitStack() as waiting:
            stopped: list[asyncio.Future[ExitResult]] = []

            def wait() -> None:  # under the lock: an earlier end is not the one that this signal leads to
                stopped.append(self._waiting.next_exit(c.id))
                waiting.callback(stopped[0].cancel)

            await self._send(c, number, stops=wait)
            return await _ends_within(stopped[0], timeout_s)

    async def _send(self, c: Container, number: int, *, stops: Callable[[], None] | None = None) -> None:
        """Deliver a signal. stops: it is to end the container for good, whatever the program makes of the signal; this
        is called before it is sent.

        Any other signal is noted, and calls off restarts only if the container ends by it (`ended_by_signal`).
        """
        async with self._table.live.lock(c.id):
            c = self._table.get(c.id)
            if not c.active:
                raise Conflict(f"container {c.id} is not running")
            if stops is not None:
                stops()
            own = signals.parse(c.config.stop_signal or "TERM")
            ends = number in (SIGKILL, own)
            thaws = ends or not c.config.stop_signal
            if stops is not None and not self.shutting_down and not c.manually_stopped:
                c = await self._table.save(replace(c, manually_stopped=True))
            if c.status.state is State.RESTARTING:
                if stops is not None or ends:
                    await self._cancel_restart(c)
                return
            if stops is None:
                self._sent.setdefault(c.id, {})[number] = time.monotonic()
            with contextlib.suppress(NotFound):
                await self._supervisor.kill(c.id, number)
            publish(self._events, c, "kill", signal=str(number))
            if thaws and c.status.state is State.PAUSED:  # a frozen process could not obey
                with contextlib.suppress(NotFound, Conflict):
                    await self._supervisor.resume(c.id)
                c = await self._table.save(with_status(c, state=next_state(c, Trigger.UNPAUSE)))
                publish(self._events, c, "unpause")

    def ended_by_signal(self, c: Container, exit_status: int) -> bool:
        """Tell whether a container that has ended did so because a client sent it a signal.

        It did when the signal killed it, or when it left by itself soon after a signal that asks for that.
        """
        asked = (signals.parse(c.config.stop_signal or "TERM"), *_ASK_FOR_THE_END)
        now = time.monotonic()
        for number, at in self._sent.pop(c.id, {}).items():
            if exit_status == 128 + number:
                return True
            if exit_status <= 128 and number in asked and now - at <= STOP_TIMEOUT_S:
                return True
        return False

    async def _cancel_restart(self, c: Container) -> None:
        self._back_off.cancel(c.id)
        c = await self._table.save(with_status(c, state=next_state(c, Trigger.CANCEL)))
        self._waiting.exited(c.id, (c.status.exit_status, ""))

    async def stop(self, ref: str, *, signal: str = "", timeout_s: int | None = None) -> bool:
        """Ask the container to stop, then make it; False when it does not run."""
        c = self._table.get(ref)
        if not c.active:
            return False
        number = signals.parse(signal or c.config.stop_signal or "TERM")
        if timeout_s is None:
            timeout_s = STOP_TIMEOUT_S if c.config.stop_timeout is None else c.config.stop_timeout
        try:
            ended = await self._end(c, number, None if timeout_s < 0 else float(timeout_s))
            if not ended and not await self._end(c, SIGKILL, KILL_PATIENCE_S):
                raise Internal(
                    f"cannot stop container: {ref}: tried to kill container, but did not receive an exit event"
                )
        except Conflict:
            pass  # it ended by itself in between
        publish(self._events, self._table.find(c.id) or c, "stop")
        return True

    async def kill_and_wait(self, c: Container) -> None:
        """Make sure that the task is gone: what a forced removal needs."""
        with contextlib.suppress(Conflict, NotFound):
            await self._kill_and_see(c)

    async def stop_all(self, timeout_s: float) -> None:
        """End every container, as the daemon's own end wants it. timeout_s: for those that name none."""
        self.shutting_down = True
        running = [c for c in self._table.all() if c.status.state in ACTIVE]
        await asyncio.gather(*(self._stop_for_shutdown(c, timeout_s) for c in running))

    async def _stop_for_shutdown(self, c: Container, timeout_s: float) -> None:
        limit = c.config.stop_timeout
        try:
            await self.stop(c.id, timeout_s=int(timeout_s) if limit is None else limit)
        except SampanError as e:
            log.error("container %s: cannot stop: %s", c.id, e.message)


async def _ends_within(future: asyncio.Future[ExitResult], timeout_s: float | None) -> bool:
    done, _ = await asyncio.wait([future], timeout=timeout_s)
    return bool(done)
