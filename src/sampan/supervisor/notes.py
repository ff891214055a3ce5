"""Lines for the supervisor's log (standard error), which stands on the exec root's disk.

The log is emptied when it has LIMIT_BYTES. That disk may be full. Nothing that happens to a container may depend on a
line about it, so nothing here fails.
"""

from __future__ import annotations

import os
import sys

LIMIT_BYTES = 16 * 1024 * 1024


def note(text: str) -> None:
    """Write one line, in one piece; it is lost when it cannot be written."""
    try:
        if _size() >= LIMIT_BYTES:
            os.ftruncate(2, 0)  # it is open for appending: the next line is its first
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def _size() -> int:
    """Return the size of a log that is a file, else 0; without fstat(2), which confined processes do not have."""
    try:
        return os.lseek(2, 0, os.SEEK_END)
    except OSError:
        return 0


def flush() -> None:
    """Write what an exception hook has left in the buffer, if that can be."""
    try:
        sys.stderr.flush()
    except OSError:
        pass
