"""ADD of an archive: its entries are written below the destination, as unpacking it there would.

An archive is a regular file that is a tar, plain or compressed (gzip, bzip2, xz, zstd), told by its content and not by
its name. What is there already is merged: directories become one, anything else is replaced by what the archive has.

Every entry's parent is resolved by openat2 inside the destination, its name is never followed (CVE-2014-9356, zip
slip); names that lead out by `..` are refused. What an archive may expand to is bounded (CVE-2017-14992).

Source: POSIX.1-2017 pax; measured on the reference engine.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import suppress
from typing import BinaryIO

from sampan.engine.archives import tar
from sampan.engine.archives.streams import Source, decompressed
from sampan.engine.builder.files import ustar
from sampan.engine.builder.files.content import CHUNK, write_all
from sampan.engine.builder.files.target import RootWriter
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.engine.layers.unpack import ID_MAX, MTIME_MAX_NS, clean
from sampan.errors import InvalidArgument, words
from sampan.linux import saferoot

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def is_archive(tree: Tree, path: str, root_fd: int) -> bool:
    """Return whether the file begins as an archive does."""
    with tree.open(path) as file:
        try:
            return tar.Reader(tar.Input(_plain(file, root_fd))).next() is not None
        except InvalidArgument:
            return False


def unpack(tree: Tree, path: str, target: RootWriter, dest_fd: int) -> None:
    """Write the archive's entries below `dest_fd`, the root of `target`. Raises: InvalidArgument, OSError."""
    with tree.open(path) as file:
        unpacking = _Unpacking(tar.Reader(tar.Input(_plain(file, dest_fd))), target, dest_fd)
        try:
            unpacking.run()
        finally:
            unpacking.close()


class FileReader:
    """An open file as a source. Does not own it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self) -> bytes:
        return self._file.read(CHUNK)


def _plain(file: BinaryIO, fd: int) -> Source:
    disk = os.fstatvfs(fd)
    return decompressed(FileReader(file), limit_bytes=disk.f_blocks * disk.f_frsize)


class _Unpacking:
    def __init__(self, reader: tar.Reader, target: RootWriter, root_fd: int) -> None:
        self._reader = reader
        self._target = target
        self._root = root_fd
        self._parent: tuple[str, int] | None = None
        self._directories: dict[str, TreeEntry] = {}

    def run(self) -> None:
        input = self._reader.input
        while (header := self._reader.next()) is not None:
            input.recorded.clear()
            try:
                self._add(header)
            except OSError as e:
                if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EIO):
                    raise
                raise InvalidArgument(f"openat {header.name}: {words(e)}") from e
        for path, entry in reversed(self._directories.items()):
            with suppress(FileNotFoundError, NotADirectoryError):  # a later entry took its place
                fd = saferoot.open_in_root(self._root, path or "/", _DIRECTORY | os.O_NOFOLLOW)
                try:
                    self._target.dress(entry, fd)
                finally:
                    os.close(fd)

    def close(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _add(self, header: tar.Entry) -> None:
        if "\0" in header.name or "\0" in header.link or abs(header.mtime_ns) > MTIME_MAX_NS:
            raise tar.InvalidHeader()
        if not 0 <= header.uid <= ID_MAX or not 0 <= header.gid <= ID_MAX:
            raise InvalidArgument(f'invalid owner {header.uid}:{header.gid} of "{header.name}"')
        path = clean(header.name)
        above, _, name = path.rpartition("/")
        if header.type == tar.HARDLINK:
            self._hardlink(header, above, name)
            return
        kind = ustar.KINDS.get(header.type)
        if kind is None:
            raise InvalidArgument(f'unhandled tar header type {header.type[0]} of "{header.name}"')
        entry = _entry(header, kind, path)
        if not path:
            if kind not in "df":
                raise InvalidArgument(f'invalid entry name "{header.name}"')
            self._pass_over(header)  # what is there keeps its mode and owner, as with Docker
            return
        parent = self._open(above)
        self._clear(parent, name, kind)
        if kind == "d":
            self._target.make_directory(parent, name)
            self._directories.pop(path, None)
            self._directories[path] = entry
        else:
            fill = (lambda fd: self._payload(header, fd)) if kind == "f" else None
            self._target.put(entry, parent, name, fill, over=False)

    def _pass_over(self, header: tar.Entry) -> None:
        left = header.stored_bytes
        while left:
            left -= len(self._reader.input.piece(left))
        self._reader.skip_padding(header.stored_bytes)

    def _payload(self, header: tar.Entry, fd: int) -> None:
        input = self._reader.input
        if header.regions is not None:
            os.ftruncate(fd, header.size_bytes)
        for offset, length in header.regions if header.regions is not None else ((0, header.stored_bytes),):
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                piece = input.piece(length)
                write_all(fd, piece)
                length -= len(piece)
        self._reader.skip_padding(header.stored_bytes)

    def _hardlink(self, header: tar.Entry, above: str, name: str) -> None:
        try:
            target = clean(header.link)
        except InvalidArgument:
            raise InvalidArgument(f'invalid hardlink target "{header.link}"') from None
        directory, _, base = target.rpartition("/")
        if not base or not name:
            raise InvalidArgument(f'invalid hardlink target "{header.link}"')
        parent = self._open(above)
        try:
            source = saferoot.open_in_root(self._root, directory or "/", os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError as e:
            raise InvalidArgument(f"link {header.link} {header.name}: no such file or directory") from e
        try:
            own, there = _status(source, base), _status(parent, name)
            if own is None:
                raise InvalidArgument(f"link {header.link} {header.name}: no such file or directory")
            if there is not None and (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
                return
            self._clear(parent, name, "f")
            os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            if stat.S_ISREG(own.st_mode):
                self._target.redress(_entry(header, "f", ""), parent, name)
        finally:
            os.close(source)

    def _open(self, path: str) -> int:
        """The directory of the next entry; stays open until another is asked for."""
        if self._parent is None or self._parent[0] != path:
            self.close()
            fd = self._target.directory(path)
            self._parent = (path, fd)
            self._target.touch(path, fd)
        return self._parent[1]

    def _clear(self, parent: int, name: str, kind: str) -> None:
        """Take away what is in the way."""
        status = _status(parent, name)
        if status is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent)
        elif kind != "d":
            shutil.rmtree(name, dir_fd=parent)


def _entry(header: tar.Entry, kind: str, path: str) -> TreeEntry:
    return TreeEntry(
        path=path,
        kind=kind,
        mode=header.mode & 0o7777,
        uid=header.uid,
        gid=header.gid,
        size=header.size_bytes,
        mtime_ns=header.mtime_ns,
        link=header.link,
        device=header.device,
        xattrs=header.xattrs,
    )


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
