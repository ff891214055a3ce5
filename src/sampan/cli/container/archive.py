"""Tar for `cp`: local files into a stream of bytes, and a stream of bytes into local files.

Extracting trusts nothing: every directory on the way is opened without following symbolic links, from the descriptor
of the destination down; `..` and absolute names are refused. A container can therefore never make this write outside
of the destination (CVE-2018-15664 and its kin), whatever its archive says. Owners are not kept: files belong to the
user, as docker cp does.

Source: POSIX pax; openat(2) O_NOFOLLOW.
"""

from __future__ import annotations

import os
import stat
import tarfile

from sampan.cli.container.copying import renamed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

READ_BYTES = 1 << 20
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


TarError = tarfile.TarError


class UnsafeArchive(Exception):
    """An entry that would leave the destination, or that replaces a directory by something else."""


# -- packing ---------------------------------------------------------------------------------------------------------


def pack(path: str, name: str) -> Iterator[bytes]:
    """Pack the tree at `path` as tar; its entries begin with `name` (`.` for contents without a name)."""
    links: dict[tuple[int, int], str] = {}
    for found, entry in _walk(path, name):
        yield from _member(found, entry, links)
    yield b"\0" * 1024


def _walk(path: str, name: str) -> Iterator[tuple[str, str]]:
    yield path, name
    if stat.S_ISDIR(os.lstat(path).st_mode):
        for child in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, child), f"{name}/{child}" if name != "." else child)


def _member(path: str, name: str, links: dict[tuple[int, int], str]) -> Iterator[bytes]:
    info = os.lstat(path)
    member = tarfile.TarInfo(name)
    member.mode, member.uid, member.gid = stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid
    member.mtime = int(info.st_mtime)
    kinds = {
        stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE, stat.S_IFIFO: tarfile.FIFOTYPE,
        stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFREG: tarfile.REGTYPE,
    }  # fmt: skip
    kind = kinds.get(stat.S_IFMT(info.st_mode))
    if kind is None:
        return  # a socket has no place in an archive
    member.type = kind
    if kind == tarfile.SYMTYPE:
        member.linkname = os.readlink(path)
    elif kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
    elif kind == tarfile.REGTYPE:
        key = info.st_dev, info.st_ino
        if info.st_nlink > 1 and key in links:
            member.type, member.linkname = tarfile.LNKTYPE, links[key]
        else:
            links[key] = name
            member.size = info.st_size
    yield member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if member.type == tarfile.REGTYPE and member.size:
        yield from _contents(path, member.size)


def _contents(path: str, size: int) -> Iterator[bytes]:
    """Yield exactly `size` bytes of a file, padded to a block, even when it shrinks meanwhile."""
    left = size
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while left and (data := os.read(fd, min(left, READ_BYTES))):
            left -= len(data)
            yield data
    finally:
        os.close(fd)
    yield b"\0" * (left + -size % 512)


# -- extracting ------------------------------------------------------------------------------------------------------


class _ChunkFile:
    """Chunks as a file to read from, and how many bytes went by."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = b""
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        pieces, have = [self._buffer], len(self._buffer)
        while have < size and (chunk := next(self._chunks, b"")):
            pieces.append(chunk)
            have += len(chunk)
        joined = b"".join(pieces)
        data, self._buffer = joined[:size], joined[size:]
        self.count += len(data)
        return data


def extract(chunks: Iterable[bytes], directory: str, *, old: str = "", new: str = "") -> int:
    """Extract below `directory`, renaming the first element `old` to `new`. Returns how many bytes were read.

    Raises: UnsafeArchive, tarfile.TarError, OSError.
    """
    stream = _ChunkFile(chunks)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    late: list[tuple[tuple[str, ...], tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=READ_BYTES, errorlevel=2) as archive:  # type: ignore[call-overload]
            for member in archive:
                parts = _parts(renamed(member.name, old, new))
                if not parts:
                    continue
                parent = _descend(root, parts[:-1], create=True)
                try:
                    _put(root, parent, parts[-1], member, archive, (old, new))
                finally:
                    os.close(parent)
                if member.isdir():
                    late.append((parts, member))
        for parts, member in reversed(late):  # modes and times of directories last: their contents came after them
            _finish_directory(root, parts, member)
    finally:
        os.close(root)
    return stream.count


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in name:
        raise UnsafeArchive(f"invalid path in archive: {name!r}")
    return parts


def _descend(root: int, parts: tuple[str, ...], *, create: bool) -> int:
    """Open a descriptor of the directory, every step without following links. The caller closes it."""
    fd = os.dup(root)
    for part in parts:
        try:
            if create:
                try:
                    os.mkdir(part, 0o755, dir_fd=fd)
                except FileExistsError:
                    pass
            below = os.open(part, DIRECTORY, dir_fd=fd)
        except OSError as e:
            raise UnsafeArchive(f"cannot extract below {'/'.join(parts)!r}: {part!r} is not a directory") from e
        finally:
            os.close(fd)
        fd = below
    return fd


def _put(
    root: int, parent: int, name: str, member: tarfile.TarInfo, archive: tarfile.TarFile, rename: tuple[str, str]
) -> None:
    existing = _lstat(name, parent)
    if existing is not None:
        was_dir = stat.S_ISDIR(existing.st_mode)
        if was_dir and not member.isdir():
            raise UnsafeArchive(f'cannot overwrite directory "{name}" with non-directory')
        if not was_dir and member.isdir():
            raise UnsafeArchive(f'cannot overwrite non-directory "{name}" with directory')
        if not was_dir:
            os.unlink(name, dir_fd=parent)
    mode = member.mode & 0o7777
    if member.isdir():
        if existing is None:
            os.mkdir(name, 0o700, dir_fd=parent)
        return
    if member.issym():
        os.symlink(member.linkname, name, dir_fd=parent)
        os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        return
    if member.islnk():
        parts = _parts(renamed(member.linkname, *rename))
        source = _descend(root, parts[:-1], create=False)
        try:
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)
        return
    if member.isfifo():
        os.mkfifo(name, mode, dir_fd=parent)
        os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)
        return
    if member.ischr() or member.isblk():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(name, kind | mode, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
        return
    source_file = archive.extractfile(member)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=parent)
    try:
        while source_file is not None and (data := source_file.read(READ_BYTES)):
            while data:
                data = data[os.write(fd, data) :]
        os.fchmod(fd, mode)
        os.utime(fd, (member.mtime, member.mtime))
    finally:
        os.close(fd)


def _finish_directory(root: int, parts: tuple[str, ...], member: tarfile.TarInfo) -> None:
    fd = _descend(root, parts, create=False)
    try:
        os.fchmod(fd, member.mode & 0o7777)
        os.utime(fd, (member.mtime, member.mtime))
    finally:
        os.close(fd)


def _lstat(name: str, parent: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
