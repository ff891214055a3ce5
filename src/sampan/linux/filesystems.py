"""Calls on whole file systems. Names and argument order are C's.

Source: syncfs(2).
"""

from __future__ import annotations

from sampan.linux.syscalls import _int, bind_libc, fail

_syncfs = bind_libc("syncfs", _int)


def syncfs(fd: int) -> None:
    """Write everything dirty of the file system that `fd` is on; raises OSError when a write failed since the last time."""
    if _syncfs(fd) < 0:
        fail()
