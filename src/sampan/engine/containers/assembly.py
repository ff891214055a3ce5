"""The file tree of a container that does not run, as the container would see it: its root with all that is mounted.

A path inside may lead through symlinks from the root into a volume, from a bind into the root and back: only the
kernel, walking over real mounts, follows it as the running container would. So they are really mounted, in the mount
namespace of a thread that ends at once; what is left is a detached tree that vanishes with its descriptor, and that
no other process can see.

What only a running container has (a tmpfs, /proc, /dev, /sys) is not in it. Nothing can be put there: the container
would never see it.

Source: open_tree(2), move_mount(2), mount_namespaces(7), unshare(2).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sampan.linux import mounts, saferoot
from sampan.linux.apart import in_mount_namespace
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE

RUNNING_ONLY = ("/proc", "/dev", "/sys")
_WHOLE = AT_EMPTY_PATH | AT_RECURSIVE
_THREAD = "container-tree"


@dataclass(frozen=True, slots=True)
class Part:
    """What is mounted at a path. One of: a detached mount `fd`, a path `source` of the host, and nothing, which is
    what a running container alone has.

    fd: stays its owner's. own: for a path of the host that is not there, what is at the destination itself.
    """

    destination: str
    fd: int = -1
    source: str = ""
    recursive: bool = True
    writable: bool = True
    own: bool = False


class SourceLost(Exception):
    """A path of the host that is to be mounted is not there."""

    def __init__(self, part: Part) -> None:
        super().__init__(part.source)
        self.part = part


def missing(root_fd: int, parts: Sequence[Part]) -> Sequence[Part]:
    """Return the parts whose destination a root lacks, but for those that go below another one."""
    found = []
    for part in parts:
        above = (p.destination.rstrip("/") + "/" for p in parts if p is not part)
        if not any(part.destination.startswith(destination) for destination in above):
            try:
                os.close(saferoot.open_in_root(root_fd, part.destination))
            except FileNotFoundError:
                found.append(part)
            except OSError:
                continue
    return found


def make_destinations(root_fd: int, parts: Sequence[Part]) -> None:
    """Make in a writable root what the first start would make. Blocking. Raises: OSError."""

    def work() -> None:
        for part in parts:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found = os.stat(part.fd if part.fd >= 0 else part.source)
                fd, _ = saferoot.open_or_make(root_fd, part.destination, directory=stat.S_ISDIR(found.st_mode))
                os.close(fd)

    in_mount_namespace(work, _THREAD)


def assemble(root_fd: int, parts: Sequence[Part], *, writable: bool) -> int:
    """Return a detached tree: the mount `root_fd` with all parts, outer ones first. Blocking.

    root_fd, and the descriptors of the parts: detached mounts, which are used up. writable: missing destinations are
    made, missing sources are refused; else such a part is left out. The caller owns the descriptor that is returned.
    Raises: OSError, SourceLost.
    """

    def work() -> int:
        mounts.move_mount(root_fd, b"", AT_FDCWD, "/", mounts.MOVE_MOUNT_F_EMPTY_PATH)
        for part in sorted(parts, key=lambda part: part.destination.count("/")):
            _add(root_fd, part, writable)
        return mounts.open_tree(root_fd, b"", mounts.OPEN_TREE_CLONE | _WHOLE)

    return in_mount_namespace(work, _THREAD)


def _add(root_fd: int, part: Part, writable: bool) -> None:
    """Mount one part. Raises: OSError, SourceLost."""
    with contextlib.ExitStack() as opened:
        try:
            mount_fd = _opened(root_fd, part)
        except (FileNotFoundError, NotADirectoryError) as e:
            if writable and part.source and not part.own:
                raise SourceLost(part) from e
            return
        opened.callback(os.close, mount_fd)
        if not part.writable:
            mounts.mount_setattr(mount_fd, b"", _WHOLE, attr_set=mounts.MOUNT_ATTR_RDONLY)
        try:
            directory = stat.S_ISDIR(os.fstat(mount_fd).st_mode)
            target, _ = saferoot.open_or_make(root_fd, part.destination, directory=directory)
        except OSError:
            if writable:
                raise
            return
        opened.callback(os.close, target)
        mounts.attach(mount_fd, target)


def _opened(root_fd: int, part: Part) -> int:
    """Return a detached mount of what is to be seen at a destination."""
    if part.fd >= 0:
        return os.dup(part.fd)
    flags = mounts.OPEN_TREE_CLONE | (AT_RECURSIVE if part.recursive else 0)
    if part.source:
        try:
            return mounts.open_tree(AT_FDCWD, part.source, flags)
        except FileNotFoundError:
            if not part.own:
                raise
    there = saferoot.open_in_root(root_fd, part.destination)
    try:
        return mounts.open_tree(there, b"", flags | AT_EMPTY_PATH)
    finally:
        os.close(there)


def mount_id(fd: int) -> int:
    """Return the id of the mount that a descriptor is on."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def mount_ids(root_fd: int, paths: Sequence[str]) -> Iterator[int]:
    """The ids of the mounts at some paths of a tree; those that are not there have none."""
    for path in paths:
        with contextlib.suppress(OSError):
            fd = saferoot.open_in_root(root_fd, path)
            try:
                yield mount_id(fd)
            finally:
                os.close(fd)
