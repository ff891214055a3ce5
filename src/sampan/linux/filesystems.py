"""Calls on whole file systems. Names and argument order are C's.

Source: syncfs(2), sync_file_range(2), ioctl_iflags(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import struct

from sampan.linux.syscalls import INT, UINT, bind_libc, fail

SYNC_FILE_RANGE_WAIT_BEFORE = 1
SYNC_FILE_RANGE_WRITE = 2
SYNC_FILE_RANGE_WAIT_AFTER = 4

_syncfs = bind_libc("syncfs", INT)
_sync_file_range = bind_libc("sync_file_range", INT, ctypes.c_int64, ctypes.c_int64, UINT)


def syncfs(fd: int) -> None:
    """Write everything dirty of the file system that `fd` is on; Raises: OSError when a write failed since the
    last time.
    """
    if _syncfs(fd) < 0:
        fail()


def sync_file_range(fd: int, offset: int, nbytes: int, flags: int) -> None:
    """Write out a part of a file's data, 0 bytes meaning to its end; neither metadata nor the disk's own cache."""
    if _sync_file_range(fd, offset, nbytes, flags) < 0:
        fail()


FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_TOPDIR_FL = 0x00020000


def get_inode_flags(fd: int) -> int:
    flags: int = struct.unpack("I", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(4)))[0]
    return flags


def set_inode_flags(fd: int, flags: int) -> None:
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("I", flags))
