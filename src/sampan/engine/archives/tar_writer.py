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
from dataclasses import dataclass
from typing import Any

from sampan.engine.archives.streams import FED
from sampan.errors import InvalidArgument
from sampan.spec import ustar

MAX_DEPTH = 460  # two descriptors a level where trees are compared, of the 1024 that a process has by default
_OPAQUE = "trusted.overlay.opaque"
_OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")


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
        short = name[: ustar.NAME_BYTES]
    if len(link) > ustar.NAME_BYTES:
        records.append((b"linkpath", link))
    seconds, fraction = divmod(mtime_ns, 10**9)
    if fraction or not 0 <= seconds < ustar.LONG_LIMIT:
        records.append((b"mtime", _decimal_time(mtime_ns)))
    for key, value, limit in (
        (b"uid", uid, ustar.SHORT_LIMIT),
        (b"gid", gid, ustar.SHORT_LIMIT),
        (b"size", size_bytes, ustar.LONG_LIMIT),
    ):
        if value >= limit:
            records.append((key, b"%d" % value))
    for xattr, data in sorted((xattrs or {}).items()):
        records.append((b"SCHILY.xattr." + os.fsencode(xattr), data))
    header_block = ustar.block(
        short,
        kind=kind,
        mode=mode,
        uid=uid if uid < ustar.SHORT_LIMIT else 0,
        gid=gid if gid < ustar.SHORT_LIMIT else 0,
        size_bytes=size_bytes if size_bytes < ustar.LONG_LIMIT else 0,
        mtime_s=seconds if 0 <= seconds < ustar.LONG_LIMIT else 0,
        link=link[: ustar.NAME_BYTES],
        device=device,
        prefix=prefix,
    )
    if not records:
        return header_block
    body = b"".join(ustar.pax_record(key, value) for key, value in sorted(records))
    name = b"PaxHeaders.0/" + short[-80:].lstrip(b"/")
    extended = ustar.block(name, kind=b"x", mode=0o644, size_bytes=len(body))
    return extended + body + ustar.padding(len(body)) + header_block


def _ustar_name(name: bytes) -> tuple[bytes, bytes | None]:
    """Split a name into ustar's prefix and name; (b"", None) when it does not fit."""
    if len(name) <= 100:
        return b"", name
    if len(name) <= 256:
        for cut in range(len(name) - 101, min(156, len(name))):
            if name[cut : cut + 1] == b"/" and len(name) - cut - 1 <= 100 and name[cut + 1 :]:
                return name[:cut], name[cut + 1 :]
    return b"", None


def _decimal_time(ns: int) -> bytes:
    sign, ns = (b"-", -ns) if ns < 0 else (b"", ns)
    whole, fraction = divmod(ns, 10**9)
    return sign + b"%d" % whole + (b".%09d" % fraction).rstrip(b"0") if fraction else sign + b"%d" % whole


class ChunkBuffer:
    """Collects headers and contents into chunks of a quarter of a MiB."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self.total = 0

    def add(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        self.total += len(data)

    def full(self) -> bool:
        return self._held >= FED

    def take(self) -> bytes:
        chunk = b"".join(self._parts)
        self._parts, self._held = [], 0
        return chunk


def tree(root_fd: int, *, overlay: bool = False) -> Iterator[bytes]:
    """The archive of everything below `root_fd`, in chunks. Blocking.

    overlay: translate overlayfs' whiteouts and opaque directories. The root itself is not an entry, as in Docker's
    diffs. Files that shrink while they are read are filled with zeros; those that vanish are left out.
    """
    out = ChunkBuffer()
    for member in members(root_fd, overlay=overlay):
        yield from _write(out, member)
    yield _end(out)


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive: its header blocks; for a file with contents a descriptor, open until the next one."""

    path: bytes
    head: bytes
    fd: int = -1
    size_bytes: int = 0
    link_bytes: int = 0


def members(root_fd: int, *, overlay: bool = False) -> Iterator[Member]:
    """What `tree` writes, entry by entry, for whoever needs headers and contents apart. Blocking."""
    links: dict[tuple[int, int], bytes] = {}
    own_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        for path, parent_fd, name, status in _walk(own_fd, b""):
            with suppress(FileNotFoundError):  # a container that runs may remove what was just listed
                yield from _member(links, path, parent_fd, name, status, overlay)
    finally:
        os.close(own_fd)


def entry(parent_fd: int, name: bytes, path: bytes) -> Iterator[bytes]:
    """The archive of one file, link or directory with all below it, called `path` in the archive. Blocking.

    `name` is looked up in `parent_fd` and not followed; "." is the directory itself.
    """
    out = ChunkBuffer()
    links: dict[tuple[int, int], bytes] = {}
    status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    for member in _member(links, path, parent_fd, name, status, False):
        yield from _write(out, member)
    if stat.S_ISDIR(status.st_mode):
        own_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            for inner, directory_fd, base, inner_status in _walk(own_fd, path.rstrip(b"/") + b"/"):
                for member in _member(links, inner, directory_fd, base, inner_status, False):
                    yield from _write(out, member)
        finally:
            os.close(own_fd)
    yield _end(out)


def _end(out: ChunkBuffer) -> bytes:
    """The end of an archive, with what is still held."""
    out.add(ustar.END)
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
    links: dict[tuple[int, int], bytes], path: bytes, parent_fd: int, name: bytes, status: os.stat_result, overlay: bool
) -> Iterator[Member]:
    """One member, or none: for a socket, which no archive format has, and for what is gone."""
    kind = ustar.KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return
    common: dict[str, Any] = {
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "mtime_ns": status.st_mtime_ns,
    }
    if overlay and kind == b"3" and status.st_rdev == 0:
        directory, slash, base = path.rpartition(b"/")
        yield Member(path, header(directory + slash + b".wh." + base, **{**common, "mode": 0o600}))
        return
    if kind == b"0" and status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), path)
        if first != path:
            yield Member(path, header(path, kind=b"1", link=first, **common))
            return
    xattrs, opaque = _xattrs(parent_fd, name)
    if kind == b"0":
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            size = status.st_size
            yield Member(path, header(path, size_bytes=size, xattrs=xattrs, **common), fd if size else -1, size)
        finally:
            os.close(fd)
    elif kind == b"5":
        head = header(path + b"/", kind=kind, xattrs=xattrs, **common)
        if overlay and opaque:
            head += header(path + b"/.wh..wh..opq", **{**common, "mode": 0o600})
        yield Member(path, head)
    elif kind == b"2":
        link = os.fsencode(os.readlink(name, dir_fd=parent_fd))  # procfs has links that lead nowhere, seen from here
        head = header(path, kind=kind, link=link, xattrs=xattrs, **{**common, "mode": 0o777})
        yield Member(path, head, link_bytes=len(link))
    elif kind in (b"3", b"4"):
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        yield Member(path, header(path, kind=kind, device=device, xattrs=xattrs, **common))
    else:
        yield Member(path, header(path, kind=kind, xattrs=xattrs, **common))


def _write(out: ChunkBuffer, member: Member) -> Iterator[bytes]:
    """Add a member; yields a chunk each time one is full."""
    out.add(member.head)
    left = member.size_bytes
    while left:
        data = os.read(member.fd, min(left, FED)) or bytes(min(left, FED))
        left -= len(data)
        out.add(data)
        if out.full():
            yield out.take()
    if member.size_bytes % ustar.BLOCK:
        out.add(ustar.padding(member.size_bytes))
    if out.full():
        yield out.take()


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
