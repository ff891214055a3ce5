"""The C library's allocator, which is Python's for everything above 512 bytes. Names are C's.

Source: mallopt(3), malloc_trim(3).
"""

from __future__ import annotations

from sampan.linux.syscalls import INT, SIZE, bind_libc

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

_mallopt = bind_libc("mallopt", INT, INT)
_malloc_trim = bind_libc("malloc_trim", SIZE)


def mallopt(param: int, value: int) -> None:
    """Set a parameter; one that this C library does not have is left out, as it is only about speed."""
    _mallopt(param, value)


def malloc_trim(pad: int) -> None:
    """Give what is free back to the kernel."""
    _malloc_trim(pad)
