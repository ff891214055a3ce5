"""The event loop of small processes: epoll, timers, and the arrival of SIGCHLD. Nothing else; callbacks run to their
end, one after the other.

Invariant: a callback may forget any descriptor, its own or another's; an event already fetched for a forgotten one is
not delivered.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from sampan.linux.process import set_handler

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANG_UP = select.EPOLLHUP
ERROR = select.EPOLLERR


class Timer:
    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None] | None) -> None:
        self.due = due
        self.callback = callback

    def cancel(self) -> None:
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due


class Loop:
    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._running = True
        self._pipe: tuple[int, ...] = ()

    def on_child(self, callback: Callable[[], None]) -> None:
        """Call back after SIGCHLD."""
        readable, writable = self._pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # a handler of our own, not SIG_IGN: the container's process must not inherit an ignored signal
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            set_handler(number, _nothing)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)

        def drain(_: int) -> None:
            os.read(readable, 512)
            callback()

        self.watch(readable, READ, drain)

    def watch(self, fd: int, mask: int, callback: Callable[[int], None]) -> None:
        self._epoll.register(fd, mask)
        self._callbacks[fd] = callback

    def change(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Stop watching; to be called before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def stop(self) -> None:
        self._running = False

    def close(self) -> None:
        self._epoll.close()
        signal.set_wakeup_fd(-1)
        for fd in self._pipe:
            os.close(fd)

    def run(self) -> None:
        self._running = True
        while self._running:
            for fd, mask in self._epoll.poll(self._timeout()):
                callback = self._callbacks.get(fd)
                if callback is not None:
                    _guarded(callback, mask)
            self._run_timers()

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        while self._timers and self._timers[0].due <= time.monotonic():
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                _guarded(lambda _, call=callback: call(), 0)  # type: ignore[misc]


def _guarded(callback: Callable[[int], None], mask: int) -> None:
    """A defect in one callback must not end the process: others depend on it."""
    try:
        callback(mask)
    except Exception:
        sys.excepthook(*sys.exc_info())


def _nothing(*_: object) -> None:
    pass
