"""The tar format, written: deterministic pax archives of a directory tree, sub-second times included.

The same tree gives the same bytes: entries sorted by name, no user names, times from the files, numbers octal where
they fit and pax records where they do not. Not here: reading (tar.py), docker cp (engine.containers).

Two dialects of removal: a plain tree (export), or overlayfs' upper directory (commit), where a 0:0 device becomes
`.wh.NAME` and an opaque directory gets `.wh..wh..opq`.

Source: POSIX.1-2017 pax; OCI image-spec 1.1 layer.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sampan.engine.images.streams import CHUNK
from sampan.errors import InvalidArgument

BLOCK = 512
MAX_DEPTH = 400  # one descriptor a level
END = bytes(2 * BLOCK)
_OPAQUE = "trusted.overlay.opaque"
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    size_bytes: int = 0,
    mtime_ns: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    xattrs: dict[str, bytes] | None = None,
) -> bytes:
    """The header block of one member, with a pax header before it where ustar cannot say everything."""
    records: list[tuple[bytes, bytes]] = []
    prefix, short = _ustar_name(name)
    if short is None:
        records.append((b"path", name))
        short = name[:100]
    if len(link) > 100:
        records.append((b"linkpath", link))
    seconds, fraction = divmod(mtime_ns, 10**9)
    if fraction or not 0 <= seconds < 8**11:
        records.append((b"mtime", _decimal_time(mtime_ns)))
    for key, value, limit in ((b"uid", uid, 8**7), (b"gid", gid, 8**7), (b"size", size_bytes, 8**11)):
        if value >= limit:
            records.append((key, b"%d" % value))
    for xattr, data in sorted((xattrs or {}).items()):
        records.append((b"SCHILY.xattr." + os.fsencode(xattr), data))
    block = _block(
        short, kind, mode, uid if uid < 8**7 else 0, gid if gid < 8**7 else 0, size_bytes if size_bytes < 8**11 else 0,
        seconds if 0 <= seconds < 8**11 else 0, link[:100], device, prefix,
    )  # fmt: skip
    if not records:
        return block
    body = b"".join(_pax_record(key, value) for key, value in sorted(records))
    extended = _block(b"PaxHeaders.0/" + short[-80:].lstrip(b"/"), b"x", 0o644, 0, 0, len(body), 0, b"", (0, 0), b"")
    return extended + body + bytes(-len(body) % BLOCK) + block


def _ustar_name(name: bytes) -> tuple[bytes, bytes | None]:
    """Split a name into ustar's prefix and name; (b"", None) when it does not fit."""
    if len(name) <= 100:
        return b"", name
    if len(name) <= 256:
        for cut in range(len(name) - 101, min(156, len(name))):
            if name[cut : cut + 1] == b"/" and len(name) - cut - 1 <= 100 and name[cut + 1 :]:
                return name[:cut], name[cut + 1 :]
    return b"", None


def _block(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, link: bytes,
    device: tuple[int, int], prefix: bytes,
) -> bytes:  # fmt: skip
    fields = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%s" % (
        name.ljust(100, b"\0"), mode, uid, gid, size, mtime, kind, link.ljust(100, b"\0"),
    )  # fmt: skip
    tail = b"ustar\00000%s%07o\0%07o\0%s" % (bytes(64), device[0], device[1], prefix.ljust(155, b"\0"))
    block = (fields + tail).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax_record(key: bytes, value: bytes) -> bytes:
    """`<length> key=value\\n`, where the length counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _decimal_time(ns: int) -> bytes:
    sign, ns = (b"-", -ns) if ns < 0 else (b"", ns)
    whole, fraction = divmod(ns, 10**9)
    return sign + b"%d" % whole + (b".%09d" % fraction).rstrip(b"0") if fraction else sign + b"%d" % whole


class Output:
    """Collects headers and contents into chunks of about a MiB."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self.total = 0

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        self.total += len(data)

    def full(self) -> bool:
        return self._held >= CHUNK

    def take(self) -> bytes:
        chunk = b"".join(self._parts)
        self._parts, self._held = [], 0
        return chunk


def tree(root_fd: int, *, overlay: bool = False) -> Iterator[bytes]:
    """The archive of everything below `root_fd`, in chunks. Blocking.

    overlay: translate overlayfs' whiteouts and opaque directories. The root itself is not an entry, as in Docker's diffs.
    Files that shrink while they are read are filled with zeros; those that vanish are left out.
    """
    out = Output()
    links: dict[tuple[int, int], bytes] = {}
    own_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        for path, parent_fd, name, status in _walk(own_fd, b""):
            with suppress(FileNotFoundError):  # a container that runs may remove what was just listed
                yield from _member(out, links, path, parent_fd, name, status, overlay)
    finally:
        os.close(own_fd)
    yield _end(out)


def entry(parent_fd: int, name: bytes, path: bytes) -> Iterator[bytes]:
    """The archive of one file, link or directory with all below it, called `path` in the archive. Blocking.

    `name` is looked up in `parent_fd` and not followed; "." is the directory itself.
    """
    out = Output()
    links: dict[tuple[int, int], bytes] = {}
    status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    yield from _member(out, links, path, parent_fd, name, status, False)
    if stat.S_ISDIR(status.st_mode):
        own_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            for inner, directory_fd, base, inner_status in _walk(own_fd, path.rstrip(b"/") + b"/"):
                yield from _member(out, links, inner, directory_fd, base, inner_status, False)
        finally:
            os.close(own_fd)
    yield _end(out)


def _end(out: Output) -> bytes:
    """The end of an archive, with what is still held."""
    out.add(END)
    return out.take()


def _walk(directory_fd: int, prefix: bytes, depth: int = 0) -> Iterator[tuple[bytes, int, bytes, os.stat_result]]:
    """(path, parent descriptor, name, lstat) of everything below, parents first, sorted, without following symlinks."""
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"directories are nested deeper than {MAX_DEPTH} levels below {prefix[:60]!r}…")
    for name in sorted(os.fsencode(n) for n in os.listdir(directory_fd)):
        try:
            status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        path = prefix + name
        yield path, directory_fd, name, status
        if stat.S_ISDIR(status.st_mode):
            try:
                child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                yield from _walk(child, path + b"/", depth + 1)
            finally:
                os.close(child)


def _member(
    out: Output, links: dict[tuple[int, int], bytes], path: bytes, parent_fd: int, name: bytes,
    status: os.stat_result, overlay: bool,
) -> Iterator[bytes]:  # fmt: skip
    kind = _TYPES.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return  # a socket: no archive format has it
    common: dict[str, Any] = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid}
    mtime_ns = status.st_mtime_ns
    if overlay and kind == b"3" and status.st_rdev == 0:
        directory, slash, base = path.rpartition(b"/")
        out.add(header(directory + slash + b".wh." + base, mtime_ns=mtime_ns, **{**common, "mode": 0o600}))
        return
    if kind == b"0" and status.st_nlink > 1:
        key = (status.st_dev, status.st_ino)
        first = links.setdefault(key, path)
        if first != path:
            out.add(header(path, kind=b"1", link=first, mtime_ns=mtime_ns, **common))
            return
    xattrs, opaque = _xattrs(parent_fd, name)
    if kind == b"5":
        out.add(header(path + b"/", kind=kind, mtime_ns=mtime_ns, xattrs=xattrs, **common))
        if overlay and opaque:
            out.add(header(path + b"/.wh..wh..opq", mtime_ns=mtime_ns, **{**common, "mode": 0o600}))
    elif kind == b"2":
        try:
            link = os.fsencode(os.readlink(name, dir_fd=parent_fd))
        except FileNotFoundError:
            return  # procfs has links that lead nowhere, seen from here
        out.add(header(path, kind=kind, link=link, mtime_ns=mtime_ns, xattrs=xattrs, **{**common, "mode": 0o777}))
    elif kind in (b"3", b"4"):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        out.add(header(path, kind=kind, device=device, mtime_ns=mtime_ns, xattrs=xattrs, **common))
    elif kind == b"6":
        out.add(header(path, kind=kind, mtime_ns=mtime_ns, xattrs=xattrs, **common))
    else:
        yield from _contents(out, path, parent_fd, name, status, xattrs, common)
    if out.full():
        yield out.take()


def _contents(
    out: Output, path: bytes, parent_fd: int, name: bytes, status: os.stat_result, xattrs: dict[str, bytes],
    common: dict[str, Any],
) -> Iterator[bytes]:  # fmt: skip
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent_fd)
    except FileNotFoundError:
        return
    try:
        size = status.st_size
        out.add(header(path, size_bytes=size, mtime_ns=status.st_mtime_ns, xattrs=xattrs, **common))
        left = size
        while left:
            data = os.read(fd, min(left, CHUNK)) or bytes(min(left, CHUNK))
            left -= len(data)
            out.add(data)
            if out.full():
                yield out.take()
        if size % BLOCK:
            out.add(bytes(-size % BLOCK))
    finally:
        os.close(fd)


def _xattrs(parent_fd: int, name: bytes) -> tuple[dict[str, bytes], bool]:
    """The attributes of one file worth keeping, and whether overlayfs calls it opaque."""
    path = b"/proc/self/fd/%d/%s" % (parent_fd, name)
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}, False
    if not names:
        return {}, False
    found: dict[str, bytes] = {}
    opaque = False
    for xattr in names:
        if xattr == _OPAQUE:
            opaque = os.getxattr(path, xattr, follow_symlinks=False) == b"y"
        elif not xattr.startswith(_OVERLAY_XATTRS) and (xattr == "security.capability" or xattr.startswith("user.")):
            found[xattr] = os.getxattr(path, xattr, follow_symlinks=False)
    return found, opaque
