"""Contents on their way from a tree to a file. From file to file they are copied by linux/copying.py."""

from __future__ import annotations

import os
from typing import BinaryIO, Protocol, runtime_checkable

from sampan.engine.builder.trees import Tree

CHUNK = 1024 * 1024


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
