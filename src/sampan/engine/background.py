"""The tasks that a service starts on its own: exits to handle, restarts that fell due, removals nobody waits for.

Every one of them is held here until it ends, its failure is logged once, and `close` ends them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

PATIENCE_S = 5.0

log = logging.getLogger(__name__)


class Background:
    """A set of running tasks with one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._finishing: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, Any], what: str, *, finish: bool = False) -> asyncio.Task[Any] | None:
        """Run `work`; what: words for the log, should it fail. finish: `close` lets it come to its end. None once closed."""
        if self._closed:
            work.close()
            return None
        task = asyncio.get_running_loop().create_task(work, name=what)
        self._tasks.add(task)
        if finish:
            self._finishing.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._finishing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s: %s", task.get_name(), error, exc_info=error)

    async def close(self) -> None:
        """Let finish what must (within PATIENCE_S), cancel the rest and wait for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while self._finishing:
                    await asyncio.wait(set(self._finishing))
        self._closed = True
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def first_failure(error: BaseException) -> BaseException:
    """Return the first error inside an exception group, however deep: the one that the others follow from.

    An error that is no group is returned as it is.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
