"""Owners of tasks: every task of the engine and of its API has one, which ends it and reports its failure once.

Background        what a service starts on its own: exits to handle, restarts that fell due, removals nobody waits for
Background.finish a request that must not stop half-way when its client goes away
beside            what runs beside a block of code and ends with it: the other direction of a stream
thread_to_its_end, to_its_end   work in a thread that its caller must not leave alone: it uses what the caller closes
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

PATIENCE_S = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class Background:
    """A set of running tasks with one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._finishing: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, Any], what: str, *, finish: bool = False) -> asyncio.Task[Any] | None:
        """Run `work`; what: words for the log, should it fail. finish: `close` lets it come to its end.

        Returns None once closed: then nothing is started any more.
        """
        if self._closed:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        if finish:
            self._finishing.add(task)
        task.add_done_callback(self._done)
        return task

    async def finish(self, work: Coroutine[Any, Any, T], what: str) -> T:
        """Run `work` to its end, even when the caller is cancelled meanwhile; return what it returns.

        Its failure is the caller's, or is logged when the caller is gone.
        """
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        self._finishing.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_report)
            raise

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._forget(task)
        _report(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._finishing.discard(task)

    def cancel(self) -> None:
        """Cancel everything and start nothing more; for an owner that cannot wait for the end."""
        self._closed = True
        for task in self._tasks:
            task.cancel()

    async def close(self, patience_s: float = PATIENCE_S) -> None:
        """Let finish what must (within `patience_s`), cancel the rest and wait for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while self._finishing:
                    await asyncio.wait(set(self._finishing))
        self._closed = True
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, T], what: str, *, quiet: bool = False) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` beside a block: it is cancelled when the block ends, and has ended when this returns.

    Its failure is raised at the end of the block, or is logged when the block itself has failed. what: words for the
    log. quiet: its failure reaches the block by another way, and is dropped here.
    """
    task = asyncio.get_running_loop().create_task(work, name=what)
    try:
        yield task
    except BaseException:
        await _end(task)
        if not quiet:
            _report(task)
        raise
    await _end(task)
    if not task.cancelled() and (error := task.exception()) is not None and not quiet:
        raise error


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s: %s", task.get_name(), error, exc_info=error)


def first_failure(error: BaseException) -> BaseException:
    """Return the first error inside an exception group, however deep: the one that the others follow from.

    An error that is no group is returned as it is.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def until_first(*works: Coroutine[Any, Any, None]) -> None:
    """Run these side by side until one of them ends, and cancel the others.

    Raises: what the first failed one raised.
    """
    tasks = [asyncio.get_running_loop().create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for one in ended:
        if isinstance(one, Exception):
            raise one


async def thread_to_its_end(work: Callable[[], T]) -> T:
    """Run `work` in a thread and return what it returns. A cancelled caller waits for its end first.

    Raises: what `work` raised.
    """
    return await to_its_end(asyncio.ensure_future(asyncio.to_thread(work)))


async def to_its_end(running: asyncio.Future[T]) -> T:
    """Return what a thread's work returns. A cancelled caller waits for its end first, and for nothing else of it.

    Raises: what the work raised.
    """
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():  # also when it is cancelled again
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        with contextlib.suppress(Exception):
            running.result()
        raise
