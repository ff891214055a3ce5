"""Calls on whole file systems. Names and argument order are C's.

Source: syncfs(2), ioctl_iflags(2).
"""

from __future__ import annotations

import fcntl
import struct

from sampan.linux.syscalls import INT, bind_libc, fail

_syncfs = bind_libc("syncfs", INT)


def syncfs(fd: int) -> None:
    """Write everything dirty of the file system that `fd` is on; raises OSError when a write failed since the last time."""
    if _syncfs(fd) < 0:
        fail()


FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_TOPDIR_FL = 0x00020000


def get_inode_flags(fd: int) -> int:
    flags: int = struct.unpack("I", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(4)))[0]
    return flags


def set_inode_flags(fd: int, flags: int) -> None:
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("I", flags))
