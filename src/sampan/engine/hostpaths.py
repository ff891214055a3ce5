"""Looks at paths of the host that a user names: bind sources, devices, profiles.

Such a path may lie on a file system that does not answer (a hung NFS server): a thread that looks at it may never come
back. So these looks have threads of their own, few of them, and nobody waits longer than PATIENCE_S. What hangs costs
its own requests an error and at most THREADS threads; the event loop and all other work of the engine go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from sampan.engine.paced import PacedThreads
from sampan.errors import Unavailable

THREADS = 4
PATIENCE_S = 60.0

T = TypeVar("T")


class HostPaths:
    """The threads that look at the host's paths. `close` lets those end that do not hang."""

    def __init__(self, threads: int = THREADS, patience_s: float = PATIENCE_S) -> None:
        self._threads = PacedThreads(threads, "host-paths")
        self._patience_s = patience_s

    async def run(self, path: str, look: Callable[[], T], drop: Callable[[T], object] = lambda result: None) -> T:
        """Return what `look` returns, called in a thread. path: what it looks at, for the message.

        drop: closes a result that comes when nobody waits for it any more.
        Raises: what `look` raises; Unavailable when it does not return in time.
        """
        answer = self._threads.submit(look)
        waiting = asyncio.wrap_future(answer)
        try:
            async with asyncio.timeout(self._patience_s) as limit:
                return await waiting
        except BaseException as e:
            answer.add_done_callback(partial(_discard, drop))  # the limit or a cancellation may come before a result
            if isinstance(e, TimeoutError) and limit.expired():
                raise Unavailable(f"cannot look at {path}: its file system does not answer") from None
            raise

    def close(self) -> None:
        """Let the threads end when they have done what they were given."""
        self._threads.shutdown()


def _discard(drop: Callable[[T], object], answer: Future[T]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        drop(answer.result())
