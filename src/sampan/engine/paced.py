"""Threads for work whose pace somebody else sets: a client that sends or reads, a file system that a container serves.

Such work may stand still for ever. So each kind of it has threads of its own, a bounded number, and what stands still
stops only its own kind: never the event loop, the default executor, or the work of the engine itself. The threads are
made when they are needed and end when they have been idle; they are daemon threads, so one that hangs in a system call
does not keep the daemon from ending.

Not here: an end to the patience of who waits (hostpaths.py).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

IDLE_S = 5.0

T = TypeVar("T")
P = ParamSpec("P")


class PacedThreads(Executor):
    """At most `limit` threads; what comes beyond waits for one of them. From any thread."""

    def __init__(self, limit: int, name: str, begin: Callable[[], object] = lambda: None) -> None:
        """begin: called first in each thread."""
        self._limit, self._name, self._begin = limit, name, begin
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], object]] | None] = queue.SimpleQueue()
        self._closed = False
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0  # what waits for a thread or has one

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have `fn` called in a thread. Raises: RuntimeError after `shutdown`."""
        answer: Future[T] = Future()
        answer.add_done_callback(self._finished)  # the first callback: a caller that comes back finds a free thread
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._unfinished += 1
            missing = self._unfinished > self._threads < self._limit
            self._threads += missing
            self._work.put((answer, lambda: fn(*args, **kwargs)))
        if missing:
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()
        return answer

    def _finished(self, _: Future[Any]) -> None:
        with self._lock:
            self._unfinished -= 1

    def _serve(self) -> None:
        self._begin()
        while True:
            try:
                given = self._work.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._work.empty():
                        self._threads -= 1
                        return
                continue
            if given is None:
                return
            _settle(*given)
            del given  # an idle thread keeps nothing alive

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. Nobody waits for a thread that may stand still, whatever `wait` says."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, 0
        while cancel_futures and not self._work.empty():
            if (given := self._work.get()) is not None:
                given[0].cancel()
        for _ in range(threads):
            self._work.put(None)


def _settle(answer: Future[Any], work: Callable[[], object]) -> None:
    if not answer.set_running_or_notify_cancel():
        return  # nobody waits for it any more
    try:
        answer.set_result(work())
    except BaseException as e:
        answer.set_exception(e)
