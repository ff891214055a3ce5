"""`docker cp`: describe, read and write files of a container, running or not.

Safety, which is the point of this module (CVE-2018-15664, CVE-2019-14271, GHSA-rg2x-37c3-w2rh):
- Every path is resolved by `linux.saferoot` below a descriptor of the container's root: openat2 with
  RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS. There is no moment between a check and a use: what was opened is used.
- Nothing is ever chrooted and nothing of the container is executed or loaded; names, owners and archives are
  handled by code that was imported before.
- A running container's root is entered through /proc/<pid>/root, held by descriptor; a stopped one's is assembled
  with all its mounts, and no other process can see it (assembly.py).

Source: Engine API 1.51, ContainerArchiveInfo, ContainerArchive, PutContainerArchive; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import posixpath
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from sampan.engine.archives import streams, tar_writer
from sampan.engine.containers.assembly import (
    RUNNING_ONLY,
    Part,
    SourceLost,
    assemble,
    make_destinations,
    missing,
    mount_id,
    mount_ids,
)
from sampan.engine.containers.extract import ExtractOptions, extract, owner_of
from sampan.engine.containers.mountpoints import clean
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, MountPoint, rfc3339
from sampan.engine.containers.states import WITH_TASK
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.layers.roots import Roots
from sampan.engine.layers.unpack import adopt_thread
from sampan.engine.paced import PacedThreads
from sampan.engine.tasks import etcfiles, procfs
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, Forbidden, Internal, InvalidArgument, NotFound, SampanError, words
from sampan.linux import saferoot
from sampan.spec import go_modes

T = TypeVar("T")


@dataclass(slots=True)
class Root:
    """A container's root by descriptor, and the path inside it that is meant. Owns the descriptor."""

    fd: int
    path: str
    absent: frozenset[int] = frozenset()  # ids of mounts that stand for what only a running container has

    @property
    def base(self) -> str:
        """The last part of the path as the client knows it: `/` for the root, `.` for what a path/. holds."""
        if posixpath.basename(self.path.rstrip("/")) == ".":
            return "."
        return posixpath.basename(posixpath.normpath(self.path)) or "/"

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

    def __init__(
        self,
        table: ContainerTable,
        roots: Roots,
        events: Events,
        looks: HostPaths,
        volumes: Volumes,
        directory: Callable[[str], str],
    ) -> None:
        """directory: where the engine keeps its own files of a container, by its id."""
        self._volumes = volumes
        self._directory = directory
        self._table = table
        self._roots = roots
        self._events = events
        self._looks = looks
        # Clients set the pace of these: nothing else of the engine may wait behind them.
        self._packing = PacedThreads(PACKERS, "archives")
        self._unpacking = PacedThreads(UPLOADS, "archives")
        self._uploads: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by container

    def close(self) -> None:
        """Start nothing more; what runs ends with its client."""
        for pool in (self._packing, self._unpacking):
            pool.shutdown(wait=False, cancel_futures=True)

    async def stat(self, ref: str, path: str) -> dict[str, Any]:
        """Describe what is at a path: ContainerPathStat."""

        def look(root: Root) -> dict[str, Any]:
            with root, _told(ref, path):
                return describe(root)

        async with AsyncExitStack() as used:
            return await self._look(self._table.get(ref), path, look, used)

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

        async with AsyncExitStack() as used:
            described, chunks = await self._look(c, path, look, used, drop=lambda found: found[1].close())
            publish(self._events, c, "archive-path")
            sent = self._sent(chunks, used.pop_all())
            await anext(sent)  # from here on it lets go of everything at its end, also when nobody asks for a chunk
            return described, sent

    async def _sent(self, chunks: Generator[bytes, None, None], used: AsyncExitStack) -> AsyncGenerator[bytes, None]:
        async with used, aclosing(streams.drain(chunks, self._packing)) as drained:
            yield b""
            async for chunk in drained:
                yield chunk

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
        async with AsyncExitStack() as used:
            try:
                await self._put(used, ref, c, path, body, no_overwrite_dir_non_dir, copy_uid_gid)
            except (Internal, OSError):
                self._table.get(c.id)  # it was removed meanwhile: that is why
                raise
        publish(self._events, c, "extract-to-dir")

    async def _put(
        self,
        used: AsyncExitStack,
        ref: str,
        c: Container,
        path: str,
        body: AsyncIterator[bytes],
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        def look(root: Root) -> tuple[int, int, tuple[int, int] | None]:
            """Return (the tree, the directory in it, owner)."""
            try:
                with _told(ref, path):
                    target = saferoot.open_in_root(root.fd, root.path, os.O_PATH | os.O_CLOEXEC)
                try:
                    _check_target(c, root, target)
                    with _told(ref, "/etc/passwd"):
                        user = c.config.user if copy_uid_gid else ""
                        return root.fd, target, owner_of(root.fd, user) if user else None
                except BaseException:
                    os.close(target)
                    raise
            except BaseException:
                os.close(root.fd)
                raise

        def drop(found: tuple[int, int, object]) -> None:
            os.close(found[1])
            os.close(found[0])

        found = await self._look(c, path, look, used, writable=True, drop=drop)
        try:
            await self._extract(found[1], body, ExtractOptions(no_overwrite_dir_non_dir, found[2], path))
        finally:
            drop(found)

    async def _extract(self, target: int, body: AsyncIterator[bytes], options: ExtractOptions) -> None:
        def work(source: streams.Source) -> None:
            adopt_thread()
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
        used: AsyncExitStack,
        *,
        writable: bool = False,
        drop: Callable[[T], object] = lambda found: None,
    ) -> T:
        """Open the container's file tree and look at it; `look` takes over the root.

        used: lets go of the volumes of a container that does not run, and of the turn of one who is to write there:
        each has a mount of its own, which would know nothing of what is written through another one. drop: closes what
        `look` has found when nobody waits for it any more.
        """
        if not path:
            raise InvalidArgument("bad parameter: pathcannot be empty")
        path = "/" + path.lstrip("/")
        if c.status.state in WITH_TASK and c.status.pid:
            with contextlib.suppress(_HasEnded):
                return await self._looks.run(f"{c.name}:{path}", lambda: look(_entered(c, path)), drop)
        if writable:
            await used.enter_async_context(self._uploads.setdefault(c.id, asyncio.Lock()))
        parts = [part async for part in self._parts(c, path, used, writable=writable)]
        if not parts:
            return look(Root(self._roots.open_root(c.id, writable=writable), path))

        def assembled() -> T:
            return look(self._assembled(c, path, parts, writable=writable))

        return await self._looks.run(f"{c.name}:{path}", assembled, drop)

    async def _parts(self, c: Container, path: str, used: AsyncExitStack, *, writable: bool) -> AsyncIterator[Part]:
        """What is mounted in a container that does not run."""
        for m in c.mounts:
            if m.type == "bind":
                yield Part(m.destination, source=m.source, recursive=m.recursive, writable=m.rw)
            elif m.type == "volume":
                try:
                    fd = await self._volume(m, used)
                except SampanError:
                    if writable or _holds(m.destination, path):
                        raise
                    continue
                yield Part(m.destination, fd=fd, writable=m.rw)
        directory = self._directory(_owner_of_files(self._table, c))
        started = os.path.exists(f"{directory}/hosts")
        if started or writable:
            for name in etcfiles.NAMES:
                yield Part(f"/etc/{name}", source=f"{directory}/{name}", own=True)
        if writable:
            for destination in (*RUNNING_ONLY, *_tmpfs(c)):
                yield Part(destination)

    async def _volume(self, m: MountPoint, used: AsyncExitStack) -> int:
        """Have a volume mounted as long as `used` is open; return it as a detached mount."""
        user = f"archive-{secrets.token_hex(8)}"
        volume = await self._volumes.mount(m.name, user, subpath=m.subpath, recursive=m.recursive)
        used.push_async_callback(self._volumes.unmount, m.name, user)
        used.callback(os.close, volume.fd)
        return volume.fd

    def _assembled(self, c: Container, path: str, parts: Sequence[Part], *, writable: bool) -> Root:
        """Mount everything. Blocking. Raises: OSError, NotFound."""
        try:
            fd = self._assemble(c, parts, writable=writable)
        except SourceLost as e:
            raise NotFound(f"invalid mount {e.part.destination}: {e.part.source} does not exist") from e
        absent = (*RUNNING_ONLY, *_tmpfs(c)) if writable else ()
        return Root(fd, path, frozenset(mount_ids(fd, absent)))

    def _assemble(self, c: Container, parts: Sequence[Part], *, writable: bool) -> int:
        with self._opened(c, writable=writable) as root_fd:
            lacking = () if writable else missing(root_fd, parts)
            if not lacking:
                return assemble(root_fd, parts, writable=writable)
        with self._opened(c, writable=True) as root_fd:
            make_destinations(root_fd, lacking)
        with self._opened(c, writable=writable) as root_fd:
            return assemble(root_fd, parts, writable=writable)

    @contextlib.contextmanager
    def _opened(self, c: Container, *, writable: bool) -> Iterator[int]:
        root_fd = self._roots.open_root(c.id, writable=writable)
        try:
            yield root_fd
        finally:
            os.close(root_fd)


class _HasEnded(Exception):
    """The container's process has ended since its record was read."""


def _entered(c: Container, path: str) -> Root:
    """Open the root of a running container. Raises: _HasEnded."""
    try:
        return Root(procfs.open_root(c.status.pid, c.id), path)
    except OSError as e:
        raise _HasEnded from e


def _holds(destination: str, path: str) -> bool:
    return (posixpath.normpath(path) + "/").startswith(destination.rstrip("/") + "/")


def _owner_of_files(table: ContainerTable, c: Container) -> str:
    """The id of the container whose /etc/hosts and so on a container has: with a joined network, the network's."""
    mode, _, other = c.host_config.network_mode.partition(":")
    if mode == "container":
        with contextlib.suppress(NotFound, Conflict):
            return table.get(other).id
    return c.id


def _tmpfs(c: Container) -> Sequence[str]:
    asked = (clean(path) for path in c.host_config.tmpfs or ())
    return (*asked, *(m.destination for m in c.mounts if m.type == "tmpfs"))


def _check_target(c: Container, root: Root, target: int) -> None:
    """Refuse what nothing can be unpacked into. Raises: InvalidArgument, Forbidden."""
    if not stat.S_ISDIR(os.fstat(target).st_mode):
        raise InvalidArgument("extraction point is not a directory")
    mount = mount_id(target)
    if mount == mount_id(root.fd):
        if c.host_config.readonly_rootfs:
            raise Forbidden("container rootfs is marked read-only")
    elif mount in root.absent:
        raise Forbidden(f"{root.path} is in a file system that the container has only while it runs")
    elif os.fstatvfs(target).f_flag & os.ST_RDONLY:
        raise Forbidden("mounted volume is marked read-only")


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
