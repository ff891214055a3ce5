"""`docker attach`: Docker's rules for who may join, then a session.

Source: Engine API 1.51, ContainerAttach; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from sampan.engine.containers.attach import DEFAULT_DETACH_KEYS, AttachSession, PendingSessions
from sampan.engine.containers.logs import Logs
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container
from sampan.engine.containers.states import WITH_TASK, State
from sampan.engine.containers.table import ContainerTable
from sampan.engine.containers.waiting import ExitWaiters
from sampan.engine.events import Events
from sampan.errors import Conflict, NotFound, SampanError
from sampan.supervisor.client import Supervisor

EVENT_PATIENCE_S = 0.1
STATUS_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOptions:
    """What a client asks for: which streams, whether what was logged before comes first, and how it wants to leave."""

    stream: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    logs: bool = False
    detach_keys: bytes = DEFAULT_DETACH_KEYS


class Attaching:
    """Joins clients to the processes of containers."""

    def __init__(
        self,
        table: ContainerTable,
        supervisor: Supervisor,
        events: Events,
        pending: PendingSessions,
        logs: Logs,
        waiting: ExitWaiters,
    ) -> None:
        self._table = table
        self._supervisor = supervisor
        self._events = events
        self._pending = pending
        self._logs = logs
        self._waiting = waiting

    async def attach(self, ref: str, options: AttachOptions) -> AttachSession:
        """Join a client to the container's process; before a start it waits for it and misses nothing."""
        c = self._table.get(ref)
        if c.status.state is State.PAUSED:
            raise Conflict(f"container {c.id} is paused, unpause the container before attach")
        if c.status.state is State.RESTARTING:
            raise Conflict(f"container {c.id} is restarting, wait until the container is running")
        session = AttachSession(
            c.id,
            tty=c.config.tty,
            stdin=options.stdin and c.config.open_stdin,
            stdout=options.stdout,
            stderr=options.stderr,
            detach_keys=options.detach_keys,
            stream=options.stream,
        )
        session.on_detach = lambda: publish(self._events, c, "detach")
        session.settle = lambda: self._recorded(c.id)
        if options.stream:
            await self._join(c, session)
        if options.logs and (options.stdout or options.stderr):
            session.history = self._logs.history(
                c, stdout=options.stdout, stderr=options.stderr, before_ns=session.joined_at_ns
            )
        publish(self._events, c, "attach")
        return session

    async def _recorded(self, id: str) -> None:
        """Return when the end that closed the output is in the record: a client that sees the one asks for the other.

        Output can end although the container goes on; then there is nothing to wait for.
        """
        c = self._table.find(id)
        if c is None or c.status.state not in WITH_TASK:
            return
        ended = self._waiting.next_exit(id)
        try:
            if (await asyncio.wait([ended], timeout=EVENT_PATIENCE_S))[0]:
                return
            with contextlib.suppress(SampanError, TimeoutError):
                async with asyncio.timeout(STATUS_PATIENCE_S):
                    task = await self._supervisor.status(id)
                if task is not None and task.exit is not None:
                    await asyncio.wait([ended], timeout=STATUS_PATIENCE_S)
        finally:
            ended.cancel()

    async def _join(self, c: Container, session: AttachSession) -> None:
        async with self._table.live.lock(c.id):  # a start either has connected its sessions, or is still to come
            now = self._table.get(c.id)
            if now.status.state in WITH_TASK:
                try:
                    await session.connect(self._supervisor)
                except NotFound:  # it has ended, and its record is about to say so: there is nothing more to see
                    session.abandon()
            else:
                self._pending.add(session)
