"""`docker cp`: describe, read and write files of a container, running or not.

Safety, which is the point of this module (CVE-2018-15664, CVE-2019-14271, GHSA-rg2x-37c3-w2rh):
- Every path is resolved by `linux.saferoot` below a descriptor of the container's root: openat2 with
  RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS. There is no moment between a check and a use: what was opened is used.
- Nothing is ever chrooted and nothing of the container is executed or loaded; names, owners and archives are
  handled by code that was imported before.
- A running container's root is entered through /proc/<pid>/root, held by descriptor; a stopped one's through a
  detached mount that no other process can see. Volumes of a stopped container are reached by their own roots.

Source: Engine API 1.51, ContainerArchiveInfo, ContainerArchive, PutContainerArchive; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from msgspec.structs import replace

from sampan.engine.archives import streams, tar_writer
from sampan.engine.containers.extract import ExtractOptions, extract, owner_of
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, MountPoint, rfc3339
from sampan.engine.containers.states import WITH_TASK
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.layers.roots import Roots
from sampan.engine.paced import PacedThreads
from sampan.engine.tasks import procfs
from sampan.engine.volumes.service import Volumes
from sampan.errors import Forbidden, Internal, InvalidArgument, NotFound, words
from sampan.linux import saferoot
from sampan.spec import go_modes

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


T = TypeVar("T")


@dataclass(slots=True)
class Root:
    """A container's root by descriptor, and the path inside it that is meant. Owns the descriptor."""

    fd: int
    path: str
    name: str = ""  # what the client calls it, where that is not the path's last part: a volume's root

    @property
    def base(self) -> str:
        """The last part of the path as the client knows it: `/` for the root, `.` for what a path/. holds."""
        if self.path.endswith("/."):
            return "."
        return self.name or posixpath.basename(posixpath.normpath(self.path)) or "/"

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *exc: object) -> None:
        os.close(self.fd)


PACKERS = 64  # downloads hold a thread while they are read, never while the client is slow
UPLOADS = 64  # an upload holds one until its client has sent it all


class Archive:
    """Copies between clients and containers.

    What is in a container, and what is mounted there, is looked at in `looks`' threads.
    """

    def __init__(self, table: ContainerTable, roots: Roots, events: Events, looks: HostPaths, volumes: Volumes) -> None:
        self._volumes = volumes
        self._table = table
        self._roots = roots
        self._events = events
        self._looks = looks
        # Clients set the pace of these: nothing else of the engine may wait behind them.
        self._packing = PacedThreads(PACKERS, "archives")
        self._unpacking = PacedThreads(UPLOADS, "archives")

    def close(self) -> None:
        """Start nothing more; what runs ends with its client."""
        for pool in (self._packing, self._unpacking):
            pool.shutdown(wait=False, cancel_futures=True)

    async def stat(self, ref: str, path: str) -> dict[str, Any]:
        """Describe what is at a path: ContainerPathStat."""

        def look(root: Root) -> dict[str, Any]:
            with root, _told(ref, path):
                return describe(root)

        return await self._look(self._table.get(ref), path, look)

    async def get(self, ref: str, path: str) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
        """Return (description, tar archive) of what is at a path."""
        c = self._table.get(ref)

        def look(root: Root) -> tuple[dict[str, Any], Generator[bytes, None, None]]:
            try:
                with _told(ref, path):
                    return describe(root), pack(root)
            except BaseException:
                os.close(root.fd)
                raise

        described, chunks = await self._look(c, path, look, drop=lambda found: found[1].close())
        publish(self._events, c, "archive-path")
        return described, streams.drain(chunks, self._packing)

    async def put(
        self,
        ref: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool = False,
        copy_uid_gid: bool = False,
    ) -> None:
        """Unpack a tar archive, compressed or not, into the directory at a path.

        copy_uid_gid: all of it belongs to the container's user, where it has one; else to whom the archive says.
        """
        c = self._table.get(ref)
        _check_path(path)
        read_only = _read_only(c, "/" + path.lstrip("/"))

        def look(root: Root) -> int:
            with root, _told(ref, path):
                return saferoot.open_in_root(root.fd, root.path, os.O_PATH | os.O_CLOEXEC)

        target = await self._look(c, path, look, writable=True, drop=os.close)
        try:
            if not stat.S_ISDIR(os.fstat(target).st_mode):
                raise InvalidArgument("extraction point is not a directory")
            if read_only:
                raise Forbidden("container rootfs is marked read-only")
            owner = await self._owner(c) if copy_uid_gid and c.config.user else None
            await self._extract(target, body, ExtractOptions(no_overwrite_dir_non_dir, owner))
        finally:
            os.close(target)
        publish(self._events, c, "extract-to-dir")

    async def _owner(self, c: Container) -> tuple[int, int]:
        """The container's user in its own root. Raises: InvalidArgument."""

        def look(root: Root) -> tuple[int, int]:
            with root, _told(c.id, "/etc/passwd"):
                return owner_of(root.fd, c.config.user)

        return await self._look(c, "/", look)

    async def _extract(self, target: int, body: AsyncIterator[bytes], options: ExtractOptions) -> None:
        def work(source: streams.Source) -> None:
            extract(source, target, options)

        try:
            await streams.feed_thread(body, self._unpacking, work, "upload of an archive")
        except OSError as e:
            reason = f"{words(e)}: {e.filename or ''}".rstrip(": ")
            raise Internal(f"Error processing tar file(exit status 1): {reason}") from e

    async def _look(
        self,
        c: Container,
        path: str,
        look: Callable[[Root], T],
        *,
        writable: bool = False,
        drop: Callable[[T], object] = lambda found: None,
    ) -> T:
        """Open the file tree that holds `path` and look at it; `look` takes over the root.

        drop: closes what `look` has found when nobody waits for it any more.
        """
        _check_path(path)
        path = "/" + path.lstrip("/")
        if c.status.state in WITH_TASK and c.status.pid:
            with contextlib.suppress(_HasEnded):
                return await self._looks.run(f"{c.name}:{path}", lambda: look(_entered(c, path)), drop)
        if (point := _mount_of(c, path)) is not None and point.type == "volume":
            point = replace(point, source=self._volumes.path(point.name))
        if point is not None and point.source:
            return await self._looks.run(point.source, lambda: look(_mounted(point, path)), drop)
        return look(Root(self._roots.open_root(c.id, writable=writable), path))


class _HasEnded(Exception):
    """The container's process has ended since its record was read."""


def _entered(c: Container, path: str) -> Root:
    """Open the root of a running container. Raises: _HasEnded."""
    try:
        return Root(procfs.open_root(c.status.pid, c.id), path)
    except OSError as e:
        raise _HasEnded from e


def _check_path(path: str) -> None:
    if not path:
        raise InvalidArgument("bad parameter: pathcannot be empty")


def _mount_of(c: Container, path: str) -> MountPoint | None:
    """Return the volume or bind of a stopped container that holds a path, the innermost one."""
    clean = posixpath.normpath(path) + "/"
    holding = [
        m for m in c.mounts if m.type in ("volume", "bind") and clean.startswith(m.destination.rstrip("/") + "/")
    ]
    return max(holding, key=lambda m: len(m.destination), default=None)


def _mounted(m: MountPoint, path: str) -> Root:
    """Open a volume's or bind's own root; a bound file is reached through its directory."""
    clean = posixpath.normpath(path)
    tail = "/." if path.endswith("/.") else "/" if path.endswith("/") else ""
    rest = clean[len(m.destination.rstrip("/")) :] or "/"
    name = posixpath.basename(clean)
    if m.subpath:
        return _below(m, rest + tail, name)
    try:
        return Root(os.open(m.source, _DIRECTORY), rest + tail, name)
    except NotADirectoryError:
        return Root(os.open(os.path.dirname(m.source), _DIRECTORY), "/" + os.path.basename(m.source), name)


def _below(m: MountPoint, path: str, name: str) -> Root:
    """Open what a volume has at the mount's subpath, resolved inside the volume."""
    volume = os.open(m.source, _DIRECTORY)
    try:
        with _told(name, m.subpath):
            fd = saferoot.open_in_root(volume, m.subpath)
    except BaseException:
        os.close(volume)
        raise
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(volume)
        return Root(fd, path, name)
    os.close(fd)
    return Root(volume, "/" + m.subpath, name)


def _read_only(c: Container, path: str) -> bool:
    clean = posixpath.normpath(path) + "/"
    for m in sorted(c.mounts, key=lambda m: -len(m.destination)):
        if clean.startswith(m.destination.rstrip("/") + "/"):
            if not m.rw:
                raise Forbidden("mounted volume is marked read-only")
            return False
    if any(clean.startswith(t.rstrip("/") + "/") for t in c.host_config.tmpfs or ()):
        return False
    return c.host_config.readonly_rootfs


@contextlib.contextmanager
def _told(ref: str, path: str) -> Iterator[None]:
    """Translate what the kernel says of a path into Docker's words."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ESRCH):
            raise NotFound(f"Could not find the file {path} in container {ref}") from e
        if e.errno == errno.ENOTDIR:
            raise Internal(f"lstat {path}: not a directory") from e
        raise Internal(f"lstat {path}: {words(e)}") from e


def _open(root: Root) -> tuple[int, os.stat_result]:
    """Open what is at the path without following a link in its last part, unless the path ends in a slash."""
    follow = root.path.endswith("/") or posixpath.basename(root.path) in ("", ".", "..")
    flags = os.O_PATH | os.O_CLOEXEC | (os.O_DIRECTORY if root.path.rstrip("/") and follow else 0)
    fd = saferoot.open_in_root(root.fd, root.path, flags if follow else flags | os.O_NOFOLLOW)
    return fd, os.fstat(fd)


def describe(root: Root) -> dict[str, Any]:
    """Return ContainerPathStat."""
    fd, st = _open(root)
    try:
        target = ""
        if stat.S_ISLNK(st.st_mode):
            target = _link_target(root, os.readlink("", dir_fd=fd))
        return {
            "name": root.base,
            "size": st.st_size,
            "mode": go_modes.from_unix(st.st_mode),
            "mtime": rfc3339(st.st_mtime_ns),
            "linkTarget": target,
        }
    finally:
        os.close(fd)


def _link_target(root: Root, link: str) -> str:
    """Return where a link leads inside the container, as an absolute path; symlinks on the way are followed."""
    path = link if link.startswith("/") else posixpath.join(posixpath.dirname(root.path), link)
    return posixpath.normpath("/" + path.lstrip("/"))


def pack(root: Root) -> Generator[bytes, None, None]:
    """Return the archive of what is at the path, named by its last part.

    Takes over the root's descriptor, unless it raises.
    """
    fd, st = _open(root)
    if stat.S_ISDIR(st.st_mode):
        return _begun(_packed(root, fd, b".", os.fsencode(root.base.strip("/"))))
    name = os.fsencode(posixpath.basename(posixpath.normpath(root.path)))
    try:
        above = posixpath.dirname(root.path) or "/"
        parent = saferoot.open_in_root(root.fd, above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(fd)
    return _begun(_packed(root, parent, name, os.fsencode(root.base)))


def _begun(chunks: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
    """Enter a generator's `try`: from here on it closes what it owns, also when nobody ever asks for a chunk."""
    next(chunks)
    return chunks


def _packed(root: Root, parent: int, name: bytes, path: bytes) -> Generator[bytes, None, None]:
    try:
        yield b""
        yield from tar_writer.entry(parent, name, path)
    finally:
        os.close(parent)
        os.close(root.fd)
