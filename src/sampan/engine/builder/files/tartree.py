"""A client's context: one archive, read once. It is kept as it came (decompressed) and indexed and hashed on the way.

    stream → decompress → ┬→ spool (one nameless file, the archive as it is)
                          └→ headers → entries;  contents → sha256

Nothing is unpacked: a build that finds everything in its cache has made no file. What the archive's names mean is what
unpacking it into an empty directory would give: later entries replace earlier ones, names that lead through a symbolic
link land where it leads inside the context, missing parents are made.

Most headers are plain ustar blocks without any extension; ustar.py reads these in a few operations. Everything else
goes to archives/tar.py, which knows the whole format. Both raise the same errors.

Source: POSIX.1-2017 pax; CVE-2014-9356 (names), CVE-2017-14992 (bombs).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from sampan.engine.archives import tar
from sampan.engine.archives.streams import (
    MAX_RATIO,
    RATIO_FROM_BYTES,
    Feed,
    FileSource,
    Source,
    Truncated,
    decompressed,
)
from sampan.engine.background import beside
from sampan.engine.builder.files import ustar
from sampan.engine.builder.files.content import write_all
from sampan.engine.builder.files.spool import SpooledTree, SpoolExtent, nameless
from sampan.engine.builder.trees import TreeEntry
from sampan.engine.layers.unpack import ID_MAX, IMPLIED_MODE, MTIME_MAX_NS, clean
from sampan.errors import Internal, InvalidArgument

PATH_MAX_BYTES = 4096
NAME_MAX_BYTES = 255
MAX_REPLACED_TREES = 1024
MAX_ENTRIES = 10_000_000
_LINKS = 40
_PIECE = 1024 * 1024


class TarTree(SpooledTree):
    """A context that came as an archive."""

    @classmethod
    async def receive(cls, chunks: AsyncIterator[bytes], directory: str, *, keep_owner: bool = False) -> TarTree:
        """Take an archive, compressed or not, to its end. directory: where the spool goes, with room for all of it.

        keep_owner: owners are the archive's; else everything is root's, as a context's files are.
        Raises: Internal for a bad archive, OSError (ENOSPC, …), what `chunks` raises; nothing remains then.
        """
        feed = Feed(chunks)
        async with beside(feed.pump(), "upload of a build's context", quiet=True) as pump:
            own = ThreadPoolExecutor(1, "builder-context")  # it waits for a client: no thread that others need
            work = asyncio.get_running_loop().run_in_executor(own, cls.read, feed, directory, keep_owner)
            own.shutdown(wait=False)
            try:
                return await asyncio.shield(work)
            except InvalidArgument as e:
                words = tar.InvalidHeader().message if isinstance(e, tar.InvalidHeader) else e.message
                raise Internal(words) from e  # status and words of the reference
            except BaseException:
                pump.cancel()
                feed.end()
                with suppress(BaseException):  # the thread ends with its stream
                    (await work).close()
                raise

    @classmethod
    def read(cls, source: Source, directory: str, keep_owner: bool = False) -> TarTree:
        """Read an archive from a blocking source, in the calling thread.

        Raises: InvalidArgument for a bad archive, OSError.
        """
        fd = nameless(directory)
        try:
            disk = os.fstatvfs(fd)
            limit = disk.f_blocks * disk.f_frsize
            index = _Index(decompressed(source, limit_bytes=limit), fd, limit, keep_owner)
            index.run()
            return cls(directory, fd, index.entries, index.places)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open_file(cls, path: str, directory: str, *, keep_owner: bool = False) -> TarTree:
        """Read an archive that is a file of the host. Raises: as `read`."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return cls.read(FileSource(fd), directory, keep_owner)
        finally:
            os.close(fd)


class _Window(tar.Input):
    """The stream's next bytes in one piece. All that passes is written to the spool, so positions are the spool's."""

    def __init__(self, source: Source, spool_fd: int) -> None:
        super().__init__(source)
        self._spool = spool_fd
        self.data = b""
        self.at = 0  # in data
        self.base = 0  # of data, in the spool

    @property
    def offset(self) -> int:
        return self.base + self.at

    def more(self) -> bool:
        """Put another chunk behind what is left. False: the stream has ended."""
        chunk = self._source.read()
        if not chunk:
            return False
        write_all(self._spool, chunk)
        self.base += self.at
        self.data = self.data[self.at :] + chunk if self.at < len(self.data) else bytes(chunk)
        self.at = 0
        return True

    def take(self, size: int) -> bytes:
        while len(self.data) - self.at < size:
            if not self.more():
                break
        start = self.at
        self.at = min(start + size, len(self.data))
        return self.data[start : self.at]

    def hold(self, size: int) -> None:
        """Have so many bytes at hand. Raises: Truncated."""
        while len(self.data) - self.at < size:
            if not self.more():
                raise Truncated()

    def skip(self, size: int) -> None:
        """Pass over so many bytes; padding at the stream's end may be missing."""
        end = self.at + size
        self.at = min(end, len(self.data))
        if end > self.at:
            self.take(end - self.at)

    def piece(self, size: int) -> memoryview:
        if self.at >= len(self.data) and not self.more():
            raise Truncated()
        start = self.at
        self.at = min(start + size, len(self.data))
        return memoryview(self.data)[start : self.at]

    def rest(self) -> int:
        """Read the stream to its end; what follows an archive is not kept."""
        total = len(self.data) - self.at
        while chunk := self._source.read():
            total += len(chunk)
            if total > 64 * tar.MAX_SPECIAL_BYTES:
                raise tar.InvalidHeader("too much data after the end of the archive")
        return total


class _Index:
    """What an archive holds, by path."""

    def __init__(self, source: Source, spool_fd: int, limit_bytes: int, keep_owner: bool) -> None:
        self._window = _Window(source, spool_fd)
        self._reader = tar.Reader(self._window)
        self._limit = limit_bytes
        self._keep_owner = keep_owner
        self._holes = 0
        self._replaced = 0
        self._implied: set[str] = set()
        self._directories = {""}
        self._linked: dict[str, None] = {}  # every path that took part in a hard link
        self.entries: dict[str, TreeEntry] = {}
        self.places: dict[str, SpoolExtent] = {}

    def run(self) -> None:
        """Read everything. Raises: InvalidArgument, OSError."""
        while self.plain():
            entry = self._reader.next()
            if entry is None:
                break
            self._other(entry)
            if len(self.entries) > MAX_ENTRIES:
                raise InvalidArgument(f"the archive has more than {MAX_ENTRIES} entries")
        self._window.rest()
        self._finish()

    # -- plain headers --------------------------------------------------------------------------------------------

    def plain(self) -> bool:
        """Read entries as long as their headers are plain and say nothing unusual; False at the stream's end.

        The block that stops it is left in the window, untouched.
        """
        window, entries, directories, keep_owner = self._window, self.entries, self._directories, self._keep_owner
        read, block, make = ustar.read, ustar.BLOCK, TreeEntry  # this loop runs once for each file of a context
        while True:
            data, at = window.data, window.at
            if len(data) - at < block:
                if window.more():
                    continue
                return len(data) > at
            header = read(data[at : at + block], keep_owner)
            if header is None:
                return True
            path, kind, mode, uid, gid, size, mtime_ns, link = header
            if path in entries or path.rpartition("/")[0] not in directories:
                return True
            if kind == "f":
                if not self._plain_content(path, size):
                    return True
            else:
                size, window.at = 0, at + block
                if kind == "d":
                    directories.add(path)
            entries[path] = make(
                path=path, kind=kind, mode=mode, uid=uid, gid=gid, size=size, mtime_ns=mtime_ns, link=link
            )

    def _plain_content(self, path: str, size: int) -> bool:
        """Hash the content behind the header in the window, and pass over both; False when it is too large for that.

        Raises: Truncated.
        """
        window = self._window
        if ustar.BLOCK + size > len(window.data) - window.at:
            if size > _PIECE:
                return False
            window.hold(ustar.BLOCK + size)
        start = window.at + ustar.BLOCK
        end = start + size
        digest = hashlib.sha256(memoryview(window.data)[start:end]).hexdigest()
        self.places[path] = SpoolExtent(window.base + start, size, "sha256:" + digest)
        window.at = end
        if padding := -size & 511:
            window.skip(padding)
        return True

    # -- everything else ------------------------------------------------------------------------------------------

    def _other(self, header: tar.Entry) -> None:
        """One entry of any kind, wherever it says it goes."""
        _check(header, self._keep_owner)
        path = self._place_for(clean(header.name))
        if header.type == tar.HARDLINK:
            self._hardlink(header, path)
            return
        kind = ustar.KINDS.get(header.type)
        if kind is None:
            raise InvalidArgument(f'unhandled tar header type {header.type[0]} of "{header.name}"')
        if not path:
            if kind not in "df" or header.stored_bytes:
                raise InvalidArgument(f'invalid entry name "{header.name}"')
            return
        place = self._content(header) if kind == "f" else None
        self._clear(path, kind)
        if place is not None:
            self.places[path] = place
        if kind == "d":
            self._directories.add(path)
            self._implied.discard(path)
        self.entries[path] = TreeEntry(
            path=path,
            kind=kind,
            mode=header.mode & 0o7777,
            uid=header.uid if self._keep_owner else 0,
            gid=header.gid if self._keep_owner else 0,
            size=header.size_bytes,
            mtime_ns=header.mtime_ns,
            link=header.link if kind == "l" else "",
            device=header.device,
            xattrs=header.xattrs,
        )

    def _content(self, header: tar.Entry) -> SpoolExtent:
        """Hash a payload on its way to the spool."""
        window, digest = self._window, hashlib.sha256()
        offset = window.offset
        if header.regions is None:
            self._hash(header.stored_bytes, digest.update)
        else:
            self._holes += header.size_bytes - header.stored_bytes
            if self._holes > self._limit or (
                self._holes > RATIO_FROM_BYTES and self._holes > MAX_RATIO * (offset + header.stored_bytes)
            ):
                raise InvalidArgument("the holes of the archive's sparse files are larger than this disk could hold")
            at = 0
            for start, length in header.regions:
                _zeros(start - at, digest.update)
                self._hash(length, digest.update)
                at = start + length
            _zeros(header.size_bytes - at, digest.update)
        self._reader.skip_padding(header.stored_bytes)
        regions = None if header.regions is None else tuple(header.regions)
        return SpoolExtent(offset, header.size_bytes, "sha256:" + digest.hexdigest(), regions)

    def _hash(self, left: int, update: Callable[[bytes | memoryview], object]) -> None:
        while left:
            piece = self._window.piece(min(left, _PIECE))
            left -= len(piece)
            update(piece)

    def _hardlink(self, header: tar.Entry, path: str) -> None:
        """Another name of a content; of a symbolic link or a device, a second one like it."""
        try:
            target = self._place_for(clean(header.link), make=False)
        except InvalidArgument:
            raise InvalidArgument(f'invalid hardlink target "{header.link}"') from None
        found = self.entries.get(target)
        if found is None or found.kind == "d" or not path:
            reason = "no such file or directory" if found is None else "operation not permitted"
            raise InvalidArgument(f"linkat {target} {path}: {reason}")
        if target == path:
            return
        place = self.places.get(target)
        self._clear(path, found.kind)
        self.entries[path] = replace(found, path=path, hardlink="")
        if place is not None:
            self.places[path] = place
            self._linked |= {target: None, path: None}

    def _place_for(self, path: str, *, make: bool = True) -> str:
        """Where a cleaned name lands: its parents exist, or are made, and are no links."""
        parent, _, base = path.rpartition("/")
        if parent in self._directories:
            return path
        return f"{self._real(parent, base, make)}/{base}".lstrip("/")

    def _real(self, path: str, base: str, make: bool) -> str:
        """A directory's path without links, resolved inside the archive as if that were the root."""
        todo, real, followed = path.split("/")[::-1], "", 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not real:
                    raise InvalidArgument(f"statat {path}: path escapes from parent")
                real = real.rpartition("/")[0]
                continue
            here = f"{real}/{part}" if real else part
            found = self.entries.get(here)
            if found is None:
                if not make:
                    return "/".join([here, *todo[::-1]])
                self.entries[here] = TreeEntry(path=here, kind="d", mode=IMPLIED_MODE)
                self._implied.add(here)
                self._directories.add(here)
            elif found.kind == "l":
                followed += 1
                if followed > _LINKS:
                    raise InvalidArgument(f"statat {path}: too many levels of symbolic links")
                if found.link.startswith("/"):
                    real = ""
                todo += found.link.split("/")[::-1]
                continue
            elif found.kind != "d":
                raise InvalidArgument(f"openat {here}/{'/'.join([*todo[::-1], base])}: not a directory")
            real = here
        return real

    def _clear(self, path: str, kind: str) -> None:
        """Take away what an earlier entry put here; two directories become one."""
        found = self.entries.get(path)
        if found is None:
            return
        if found.kind == "d":
            if kind == "d":
                return
            self._replaced += 1
            if self._replaced > MAX_REPLACED_TREES:
                raise InvalidArgument(f"the archive replaces more than {MAX_REPLACED_TREES} directories by files")
            prefix = path + "/"
            for below in [name for name in self.entries if name.startswith(prefix)]:
                self._forget(below)
        self._forget(path)

    def _forget(self, path: str) -> None:
        del self.entries[path]
        self.places.pop(path, None)
        self._directories.discard(path)
        self._implied.discard(path)

    def _finish(self) -> None:
        """Make further names of a content refer to its first, and set the times of directories without an entry.

        Such a directory gets the newest time of what it holds.
        """
        first: dict[int, str] = {}
        for path in self._linked:
            place = self.places.get(path)
            if place is not None and first.setdefault(id(place), path) != path:
                self.entries[path] = replace(self.entries[path], hardlink=first[id(place)])
        if self._implied:
            newest = dict.fromkeys(sorted(self._implied, reverse=True), 0)
            for path, entry in self.entries.items():
                parent = path.rpartition("/")[0]
                if parent in newest and path not in newest:
                    newest[parent] = max(newest[parent], entry.mtime_ns)
            for path, mtime_ns in newest.items():  # what is below comes first
                self.entries[path] = replace(self.entries[path], mtime_ns=mtime_ns)
                parent = path.rpartition("/")[0]
                if parent in newest:
                    newest[parent] = max(newest[parent], mtime_ns)


def _check(header: tar.Entry, owner: bool) -> None:
    """Raises: InvalidArgument for what no file system could hold."""
    if "\0" in header.name or "\0" in header.link:
        raise tar.InvalidHeader("a NUL in a name")
    raw = os.fsencode(header.name)
    if len(raw) >= PATH_MAX_BYTES or any(len(part) > NAME_MAX_BYTES for part in raw.split(b"/")):
        raise InvalidArgument(f"openat {header.name[:PATH_MAX_BYTES]}: file name too long")
    if owner and not (0 <= header.uid <= ID_MAX and 0 <= header.gid <= ID_MAX):
        raise InvalidArgument(f'invalid owner {header.uid}:{header.gid} of "{header.name}"')
    if abs(header.mtime_ns) > MTIME_MAX_NS:
        raise tar.InvalidHeader("a time out of range")


def _zeros(count: int, update: Callable[[bytes | memoryview], object]) -> None:
    block = bytes(min(count, _PIECE))
    while count > 0:
        update(block[:count])
        count -= len(block)
