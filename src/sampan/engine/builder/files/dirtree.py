"""A directory of the host as a tree: a git checkout, an unpacked download.

Nothing may change it while the tree is open.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO

from sampan.engine.builder.files import content, inodes
from sampan.engine.builder.files.target import remove
from sampan.engine.builder.trees import TreeEntry
from sampan.errors import NotFound, words
from sampan.linux import copying, saferoot

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DirTree:
    """A `Tree` of everything below `path`. owned: a directory that goes with the tree, with all in it."""

    def __init__(self, path: str, *, owned: str = "", keep_owner: bool = True) -> None:
        self._path = path
        self._owned = owned
        self._keep_owner = keep_owner
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._entries: dict[str, TreeEntry] | None = None
        self._digests: dict[str, str] = {}

    def entries(self) -> Mapping[str, TreeEntry]:
        if self._entries is None:
            self._entries = {entry.path: entry for entry in self._walk()}
        return self._entries

    def digest(self, path: str) -> str:
        found = self._digests.get(path)
        if found is None:
            found = self._digests[path] = file_digest(self._open(path))
        return found

    def open(self, path: str) -> BinaryIO:
        return os.fdopen(self._open(path), "rb")

    def copy_to(self, path: str, fd: int) -> None:
        """Write a regular file's content to the empty file `fd`; holes stay holes. Raises: NotFound, OSError."""
        copy_from(self._open(path), fd)

    def directory(self) -> str:
        return self._path

    def close(self) -> None:
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
            if self._owned:
                remove(self._owned)

    def _open(self, path: str) -> int:
        return open_file(self._root, path)

    def _walk(self) -> Iterator[TreeEntry]:
        first: dict[tuple[int, int], str] = {}
        pending = [""]
        while pending:
            above = pending.pop()
            fd = saferoot.open_in_root(self._root, above or "/", _READ, xdev=False)
            try:
                for name in sorted(os.listdir(fd)):
                    path = f"{above}/{name}" if above else name
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    hardlink = ""
                    if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
                        holder = first.setdefault((status.st_dev, status.st_ino), path)
                        hardlink = holder if holder != path else ""
                    entry = inodes.entry(path, status, fd, name, hardlink)
                    if entry is None:
                        continue
                    if entry.kind == "d":
                        pending.append(path)
                    yield entry if self._keep_owner else _roots(entry)
            finally:
                os.close(fd)


def _roots(entry: TreeEntry) -> TreeEntry:
    return replace(entry, uid=0, gid=0)


def open_file(root_fd: int, path: str) -> int:
    """Return a regular file below a directory, the caller's. Raises: NotFound."""
    try:
        fd = saferoot.open_in_root(root_fd, path, _FILE, xdev=False)
    except OSError as e:
        raise NotFound(f"{path}: {words(e)}") from e
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotFound(f"{path}: not a regular file")
    return fd


def file_digest(fd: int) -> str:
    """Return `sha256:…` of a file's content; closes it."""
    try:
        digest, left = hashlib.sha256(), os.fstat(fd).st_size
        while left > 0 and (data := os.read(fd, min(left, content.CHUNK))):
            digest.update(data)
            left -= len(data)
        return "sha256:" + digest.hexdigest()
    finally:
        os.close(fd)


def copy_from(source: int, fd: int) -> None:
    """Share or copy a file's content, holes stay holes; closes the source."""
    try:
        status = os.fstat(source)
        if copying.copy_file(source, fd, status) < status.st_size:
            raise OSError(errno.EIO, "a file is shorter than it was")
    finally:
        os.close(source)
