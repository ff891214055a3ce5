"""Big buffers are kept while layers go in and out, and given back afterwards.

The allocator returns every buffer above 128 KiB to the kernel when it is freed, and has it faulted in again, page by
page, for the next one: half of the processor time of a push (measured: 0.26 s of 0.5 for 40 MiB). While layers move, it
keeps them.

From any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.linux import allocator

KEPT_BYTES = 16 * 1024 * 1024  # buffers up to this size, and as much free memory
DEFAULT_BYTES = 128 * 1024
CALM_S = 1.0  # after the last of them

_lock = threading.RLock()  # a generator that is collected may end its block anywhere, in here too
_users = 0
_timer: threading.Timer | None = None


@contextmanager
def kept() -> Iterator[None]:
    """Keep big buffers for the block, and for a moment after it: the next layer may be about to come."""
    global _users, _timer
    with _lock:
        _users += 1
        if _timer is not None:
            _timer.cancel()
            _timer = None
        if _users == 1:
            _limit(KEPT_BYTES)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _timer = threading.Timer(CALM_S, _give_back)
                _timer.name = "images-buffers"
                _timer.daemon = True
                _timer.start()


def _give_back() -> None:
    with _lock:
        if not _users:
            _limit(DEFAULT_BYTES)
            allocator.malloc_trim(0)


def _limit(size_bytes: int) -> None:
    allocator.mallopt(allocator.M_TRIM_THRESHOLD, size_bytes)
    allocator.mallopt(allocator.M_MMAP_THRESHOLD, size_bytes)
