"""What an attacker does between a check and a use: exchange two names as fast as the kernel can.

Source: renameat2(2), RENAME_EXCHANGE.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names in a loop until the end of the block."""
    stop = threading.Event()

    def work() -> None:
        a, b = os.fsencode(one), os.fsencode(other)
        while not stop.is_set():
            _libc.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _RENAME_EXCHANGE)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
