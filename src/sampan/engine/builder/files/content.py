"""Contents on their way from a tree to a file: shared or copied inside the kernel where that can be.

Source: copy_file_range(2), ioctl_ficlone(2), sendfile(2).
"""

from __future__ import annotations

import errno
import os
from typing import BinaryIO, Protocol, runtime_checkable

from sampan.engine.builder.trees import Tree

CHUNK = 1024 * 1024
SMALL_BYTES = 256 * 1024  # up to here a read and a write cost less than setting up a copy inside the kernel
_NOT_SO = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


@runtime_checkable
class Copying(Protocol):
    """A tree that knows a faster way than `open` to give a content away."""

    def copy_to(self, path: str, fd: int) -> None:
        """Write a regular file's content to the empty file `fd`; holes stay holes. Raises: NotFound, OSError."""


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Raises: OSError (ENOSPC, …)."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def copy_range(source_fd: int, target_fd: int, length: int, source_at: int = 0, target_at: int = 0) -> None:
    """Copy a part of a file into another. Raises: OSError; EIO when the source is shorter."""
    inside = True
    while length:
        if inside:
            try:
                done = os.copy_file_range(source_fd, target_fd, length, source_at, target_at)
            except OSError as e:
                if e.errno not in _NOT_SO:
                    raise
                inside = False
                continue
        else:
            done = os.pwrite(target_fd, os.pread(source_fd, min(length, CHUNK), source_at), target_at)
        if not done:
            raise OSError(errno.EIO, "a file is shorter than it was")
        length -= done
        source_at += done
        target_at += done


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
