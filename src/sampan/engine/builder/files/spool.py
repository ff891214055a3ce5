"""A tree whose contents lie in one file without a name: what comes in a stream is kept as it came, and indexed.

Twenty thousand small files then cost one file, not twenty thousand, and nothing of them outlives the process: the
kernel frees a file without a name when its descriptor closes, also after a crash or a full disk.

Not here: who fills it (tartree.py: a client's archive; a session's file transfer).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from sampan.engine.builder.files import content
from sampan.engine.builder.files.target import remove, unfold
from sampan.engine.builder.trees import TreeEntry
from sampan.errors import NotFound
from sampan.linux import copying

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1024 * 1024
Region = tuple[int, int]  # where in the file, how long


class SpoolExtent(NamedTuple):
    """Where a content lies in the spool. regions: a sparse file's stored parts, which lie there one after the other."""

    offset: int
    size: int
    digest: str = ""
    regions: tuple[Region, ...] | None = None

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Yield (offset in the file, offset in the spool, length) of what is stored."""
        if self.regions is None:
            if self.size:
                yield 0, self.offset, self.size
            return
        at = self.offset
        for start, length in self.regions:
            yield start, at, length
            at += length


def nameless(directory: str) -> int:
    """Return a file for contents below `directory`: read and write, without a name.

    Owned by the caller. Raises: OSError.
    """
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    fd, path = tempfile.mkstemp(prefix="spool-", dir=directory)
    os.unlink(path)
    return fd


class SpooledTree:
    """A `Tree` over a spool. Owns the descriptor."""

    def __init__(
        self, directory: str, fd: int, entries: Mapping[str, TreeEntry], places: dict[str, SpoolExtent]
    ) -> None:
        self._scratch = directory
        self._fd = fd
        self._entries = entries
        self._places = places
        self._directory = ""

    def share(self) -> SpooledTree:
        """Return a tree of its own over what this one holds: either may be closed first. Raises: OSError."""
        return SpooledTree(self._scratch, os.dup(self._fd), self._entries, self._places)

    def entries(self) -> Mapping[str, TreeEntry]:
        return self._entries

    def digest(self, path: str) -> str:
        place = self._place(path)
        if not place.digest:
            place = self._places[path] = place._replace(digest=self._hash(path))
        return place.digest

    def open(self, path: str) -> BinaryIO:
        return io.BufferedReader(_SpoolReader(self._fd, self._place(path)), CHUNK)

    def copy_to(self, path: str, fd: int) -> None:
        """Write a regular file's content to the empty file `fd`; holes stay holes. Raises: NotFound, OSError."""
        place = self._places.get(path)
        if place is None:
            raise NotFound(f"{path}: no such file")
        if place.regions is None and place.size <= copying.SMALL_BYTES:
            if place.size:
                content.write_all(fd, os.pread(self._fd, place.size, place.offset))
            return
        if place.regions is not None:
            os.ftruncate(fd, place.size)
        for at, start, length in place.parts():
            copying.copy_range(self._fd, fd, length, start, at)

    def directory(self) -> str:
        if not self._directory:
            self._directory = unfold(self, self._scratch)
        return self._directory

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._directory:
            remove(self._directory)
            self._directory = ""

    def _place(self, path: str) -> SpoolExtent:
        place = self._places.get(path)
        if place is None:
            raise NotFound(f"{path}: no such file")
        return place

    def _hash(self, path: str) -> str:
        digest = hashlib.sha256()
        with self.open(path) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return "sha256:" + digest.hexdigest()


class _SpoolReader(io.RawIOBase):
    """One content of the spool, holes as zeros."""

    def __init__(self, fd: int, place: SpoolExtent) -> None:
        self._fd = fd
        self._size = place.size
        self._parts = list(place.parts())
        self._starts = [start for start, _, _ in self._parts]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._at)
        if wanted <= 0:
            return 0
        index = bisect_right(self._starts, self._at) - 1
        start, place, length = self._parts[index] if index >= 0 else (0, 0, 0)
        inner = self._at - start
        if inner < length:
            got = os.preadv(self._fd, [view[: min(wanted, length - inner)]], place + inner)
            if not got:
                raise OSError(errno.EIO, "a spooled content is shorter than it was")
        else:  # a hole, up to the next part
            end = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
            got = min(wanted, end - self._at)
            view[:got] = bytes(got)
        self._at += got
        return got
