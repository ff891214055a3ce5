"""Looks at paths of the host that a user names: bind sources, devices, profiles.

Such a path may lie on a file system that does not answer (a hung NFS server): a thread that looks at it may never come
back. So these looks have threads of their own, few of them, and nobody waits longer than PATIENCE_S. What hangs costs
its own requests an error and at most THREADS threads; the event loop and all other work of the engine go on.

The threads are made when they are needed. They are daemon threads: one that hangs does not keep the daemon from ending.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from sampan.errors import Unavailable

THREADS = 4
PATIENCE_S = 60.0

T = TypeVar("T")


class HostPaths:
    """The threads that look at the host's paths. `close` lets those end that do not hang."""

    def __init__(self, threads: int = THREADS, patience_s: float = PATIENCE_S) -> None:
        self._limit = threads
        self._patience_s = patience_s
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0  # looks that wait for a thread or have one

    async def run(self, path: str, look: Callable[[], T], drop: Callable[[T], object] = lambda result: None) -> T:
        """Return what `look` returns, called in a thread. path: what it looks at, for the message.

        drop: closes a result that comes when nobody waits for it any more.
        Raises: what `look` raises; Unavailable when it does not return in time.
        """
        answer: Future[T] = Future()
        answer.add_done_callback(self._finished)
        with self._lock:
            self._unfinished += 1
            missing = self._unfinished > self._threads < self._limit
            self._threads += missing
        if missing:
            threading.Thread(target=self._serve, name="host-paths", daemon=True).start()
        self._work.put(lambda: _settle(answer, look))
        waiting = asyncio.wrap_future(answer)
        try:
            async with asyncio.timeout(self._patience_s) as limit:
                return await waiting
        except BaseException as e:
            answer.add_done_callback(partial(_discard, drop))  # the limit or a cancellation may come before a result
            if isinstance(e, TimeoutError) and limit.expired():
                raise Unavailable(f"cannot look at {path}: its file system does not answer") from None
            raise

    def _finished(self, _: Future[T]) -> None:
        with self._lock:
            self._unfinished -= 1

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def close(self) -> None:
        """Let the threads end when they have done what they were given."""
        with self._lock:
            threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._work.put(None)


def _settle(answer: Future[T], look: Callable[[], T]) -> None:
    if not answer.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    try:
        answer.set_result(look())
    except BaseException as e:
        answer.set_exception(e)


def _discard(drop: Callable[[T], object], answer: Future[T]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        drop(answer.result())
