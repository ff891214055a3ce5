"""One run of a step, for all builds that want it at this moment: who joins late hears what was said before.

The run goes on as long as somebody waits for it, and is cancelled with the last one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.progress import Progress, Step
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver.records import CacheRecord
from sampan.errors import SampanError

REMEMBERED_BYTES = 1024 * 1024  # of output, for those who join late


class Flight:
    """A step under way. `join` and `leave` once each for every build."""

    def __init__(self, work: Callable[[Flight], Awaitable[CacheRecord]], landed: Callable[[], None]) -> None:
        self._landed = landed
        self._listeners: list[tuple[Progress, Vertex]] = []
        self._waiting = 0
        self.clients: list[Session] = []  # of the builds that wait
        self._said: deque[tuple[int, bytes]] = deque()
        self._said_bytes = 0
        self._started = 0
        self.doomed = False  # it is being cancelled: nobody joins any more
        self._task = asyncio.ensure_future(work(self))

    # -- for the builds -----------------------------------------------------------------------------------------------

    async def join(self, progress: Progress, vertex: Vertex, client: Session) -> CacheRecord:
        """Wait for the result and keep it until `leave`. A failure or a cancellation leaves by itself."""
        self._waiting += 1
        self.clients.append(client)
        listener = (progress, vertex)
        self._listeners.append(listener)
        if self._started:
            progress.step(Step.of(vertex, started_ns=self._started))
            for stream, data in self._said:
                progress.log(vertex.digest, stream, data)
        error = ""
        try:
            record = await asyncio.shield(self._task)
        except asyncio.CancelledError:
            error = "context canceled"
            self._listeners.remove(listener)
            self.clients.remove(client)
            await self._abandon()
            raise
        except BaseException as e:
            error = e.message if isinstance(e, SampanError) else str(e)
            self.leave()
            raise
        finally:
            now = time.time_ns()
            result = "" if error else record.chain_id
            progress.step(
                Step.of(vertex, started_ns=self._started or now, completed_ns=now, error=error, result=result)
            )
        return record

    def leave(self) -> None:
        """Take that the build has what it wanted."""
        self._waiting -= 1
        if not self._waiting:
            self._landed()

    async def _abandon(self) -> None:
        """A build gave up; the last one ends the step and waits until it is cleared away."""
        if self._waiting == 1:
            self.doomed = True
            await self.end()
        self.leave()

    async def end(self) -> None:
        """Cancel the run, and return when nothing of it is left."""
        self._task.cancel()
        while not self._task.done():  # also when the caller is cancelled again: what the step uses is given back next
            with suppress(asyncio.CancelledError):
                await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()

    # -- for the step -------------------------------------------------------------------------------------------------

    def begun(self) -> None:
        """Tell that the work itself begins: it has waited for its turn until now."""
        self._started = time.time_ns()
        for progress, vertex in self._listeners:
            progress.step(Step.of(vertex, started_ns=self._started))

    async def room(self) -> None:
        """Wait until those who listen can take more."""
        for progress, _ in list(self._listeners):
            await progress.room()

    def output(self, stream: int, data: bytes) -> None:
        self._said.append((stream, data))
        self._said_bytes += len(data)
        while self._said_bytes > REMEMBERED_BYTES and len(self._said) > 1:
            self._said_bytes -= len(self._said.popleft()[1])
        for progress, vertex in self._listeners:
            progress.log(vertex.digest, stream, data)
