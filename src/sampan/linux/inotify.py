"""inotify: init, add_watch, rm_watch and the decoding of events. For readers that follow files; no recursion, no
policy.

Invariants: `Inotify` owns its descriptor, which is non-blocking and close-on-exec, so that an event loop can wait for
it. Source: inotify(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache
from types import TracebackType
from typing import NamedTuple

IN_MODIFY, IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
IN_CREATE, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x100, 0x200, 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = 0x4000, 0x8000, 0x1000000

_EVENT = struct.Struct("=iIII")


class InotifyEvent(NamedTuple):
    watch: int
    mask: int
    cookie: int
    name: str


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.inotify_init1.argtypes, libc.inotify_init1.restype = [ctypes.c_int], ctypes.c_int
    libc.inotify_add_watch.argtypes, libc.inotify_add_watch.restype = (
        [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32],
        ctypes.c_int,
    )
    libc.inotify_rm_watch.argtypes, libc.inotify_rm_watch.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return libc


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


class Inotify:
    """One inotify instance."""

    def __init__(self) -> None:
        self._fd = _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def __enter__(self) -> Inotify:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        return self._fd

    def add_watch(self, path: str, mask: int) -> int:
        return _checked(_libc().inotify_add_watch(self._fd, os.fsencode(path), mask), path)

    def rm_watch(self, watch: int) -> None:
        _checked(_libc().inotify_rm_watch(self._fd, watch))

    def read(self) -> list[InotifyEvent]:
        """Decode what is pending; an empty list when nothing is."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return []
        events, offset = [], 0
        while offset < len(data):
            watch, mask, cookie, length = _EVENT.unpack_from(data, offset)
            name = data[offset + 16 : offset + 16 + length].rstrip(b"\0")
            events.append(InotifyEvent(watch, mask, cookie, os.fsdecode(name)))
            offset += 16 + length
        return events
