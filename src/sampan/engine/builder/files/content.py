"""Contents on their way from a tree to a file: shared or copied inside the kernel where that can be.

Source: copy_file_range(2), ioctl_ficlone(2), sendfile(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import BinaryIO, Protocol, runtime_checkable

from sampan.engine.builder.trees import Tree

CHUNK = 1024 * 1024
SMALL_BYTES = 256 * 1024  # up to here a read and a write cost less than setting up a copy inside the kernel
_SENT = 64 * 1024 * 1024
_FICLONE = 0x40049409
_NOT_SO = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


@runtime_checkable
class Copying(Protocol):
    """A tree that knows a faster way than `open` to give a content away."""

    def copy_to(self, path: str, fd: int) -> None:
        """Write a regular file's content to the empty file `fd`; holes stay holes. Raises: NotFound, OSError."""


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of it, however often that takes. Raises: OSError (ENOSPC, …)."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def copy_range(source_fd: int, target_fd: int, length: int, source_at: int = 0, target_at: int = 0) -> None:
    """Copy a part of a file into another, within the kernel. Raises: OSError; EIO when the source is shorter."""
    by_range = True
    while length:
        if by_range:
            try:
                done = os.copy_file_range(source_fd, target_fd, length, source_at, target_at)
            except OSError as e:
                if e.errno not in _NOT_SO:
                    raise
                by_range = False  # from a layer's file system into an overlay, say
                os.lseek(target_fd, target_at, os.SEEK_SET)
                continue
        else:
            done = os.sendfile(target_fd, source_fd, source_at, min(length, _SENT))
        if not done:
            raise OSError(errno.EIO, "a file is shorter than it was")
        length -= done
        source_at += done
        target_at += done


def copy_whole(source_fd: int, target_fd: int, size: int) -> None:
    """Share the blocks of a file where the file system can, else copy them; holes stay holes."""
    try:
        fcntl.ioctl(target_fd, _FICLONE, source_fd)
        return
    except OSError as e:
        if e.errno not in _NOT_SO and e.errno != errno.ENOTTY:
            raise
    os.ftruncate(target_fd, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(source_fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        at = os.lseek(source_fd, start, os.SEEK_HOLE)
        copy_range(source_fd, target_fd, at - start, start, start)


def copy_file(file: BinaryIO, fd: int) -> None:
    """Write what is left of `file` to `fd`."""
    while chunk := file.read(CHUNK):
        write_all(fd, chunk)


def write(tree: Tree, path: str, fd: int) -> None:
    """Write a regular file of a tree to the empty file `fd`. Raises: NotFound, OSError."""
    if isinstance(tree, Copying):
        tree.copy_to(path, fd)
        return
    with tree.open(path) as file:
        copy_file(file, fd)
