"""Looks at paths of the host that a user names: bind sources, devices, profiles.

Such a path may lie on a file system that does not answer (a hung NFS server): a thread that looks at it may never come
back. So these looks have threads of their own, made when they are needed, and nobody waits longer than PATIENCE_S. What
hangs costs its own requests an error and at most THREADS threads; the event loop and all other work of the engine go
on. Where LEFT looks at one path were given up and still hang, the next one is refused at once: who asks again and again
does not take the threads of the others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from sampan.engine.paced import PacedThreads
from sampan.errors import Unavailable

THREADS = 32
LEFT = 2
PATIENCE_S = 60.0
WALKS = 2
WALK_PATIENCE_S = 600.0
"""For walks over whole trees of the data root, where somebody may have mounted what does not answer."""

T = TypeVar("T")


class HostPaths:
    """The threads that look at the host's paths. `close` lets those end that do not hang."""

    def __init__(self, threads: int = THREADS, patience_s: float = PATIENCE_S) -> None:
        self._threads = PacedThreads(threads, "host-paths")
        self._patience_s = patience_s
        self._left: Counter[str] = Counter()  # path → looks that nobody waits for any more, and that hang

    async def run(self, path: str, look: Callable[[], T], drop: Callable[[T], object] = lambda result: None) -> T:
        """Return what `look` returns, called in a thread. path: what it looks at, for the message.

        drop: closes a result that comes when nobody waits for it any more.
        Raises: what `look` raises; Unavailable when it does not return in time.
        """
        if self._left[path] >= LEFT:
            raise Unavailable(f"cannot look at {path}: its file system does not answer")
        answer = self._threads.submit(look)
        waiting = asyncio.wrap_future(answer)
        try:
            async with asyncio.timeout(self._patience_s) as limit:
                return await waiting
        except BaseException as e:
            answer.add_done_callback(partial(_discard, drop))  # the limit or a cancellation may come before a result
            if not answer.done():
                self._left[path] += 1
                loop = asyncio.get_running_loop()
                answer.add_done_callback(lambda _: _tell(loop, self._returned, path))
            if isinstance(e, TimeoutError) and limit.expired():
                raise Unavailable(f"cannot look at {path}: its file system does not answer") from None
            raise

    def _returned(self, path: str) -> None:
        self._left[path] -= 1
        if not self._left[path]:
            del self._left[path]

    def close(self) -> None:
        """Let the threads end when they have done what they were given."""
        self._threads.shutdown()


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[[str], None], path: str) -> None:
    with suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(function, path)


def _discard(drop: Callable[[T], object], answer: Future[T]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        drop(answer.result())
