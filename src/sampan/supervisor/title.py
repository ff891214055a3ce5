"""Set what `ps` shows for this process, without the setproctitle package: its import (logging and more) would be in
every shim's memory.

The kernel shows the bytes from arg_start on; when the last byte of the argument area is not NUL it reads on into the
environment's area, up to the first NUL. So both areas together hold the title. The environment is cleared first for the
C library: nobody may read it there any more (os.environ is Python's own copy).
Source: proc(5) "/proc/pid/cmdline", "/proc/pid/stat" fields 48 to 51; fs/proc/base.c get_mm_cmdline.
"""

from __future__ import annotations

import ctypes

_area: tuple[int, int] | None = None


def _find_area() -> tuple[int, int]:
    """(address, size) of arguments and environment; they are adjacent."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    arg_start, _, env_start, env_end = (int(f) for f in fields[45:49])
    ctypes.CDLL(None).clearenv()
    return arg_start, (env_end if env_start else arg_start) - arg_start


def set_title(title: str) -> None:
    """Show `title` in the place of the command line, cut to the room there is."""
    global _area
    if _area is None:
        _area = _find_area()
    address, size = _area
    text = title.encode()[: size - 1]
    ctypes.memmove(address, text.ljust(size, b"\0"), size)
