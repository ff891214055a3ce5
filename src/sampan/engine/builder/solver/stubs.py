"""Mount points of a RUN step that the file system does not have: made before it, taken away after it.

A mount needs something to be mounted on, and that must not become part of the layer. Only what was made here is
removed, recognised by its inode, only inside the root (saferoot: CVE-2024-23652), and only while it is empty.
Directories above keep the times that they had; those that overlayfs copied up just for that leave the layer again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from sampan.linux import saferoot

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_COVERED = ("/dev", "/proc", "/sys")  # file systems of their own are mounted there anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """One thing that was made. parent: a path inside the root without symlinks."""

    parent: str
    name: str
    inode: int


def make(root_fd: int, targets: Iterable[tuple[str, bool]]) -> list[Stub]:
    """Make what is missing of (path, whether a directory). Blocking. Dangling links are left to the task's own init."""
    made: list[Stub] = []
    wanted = sorted((os.path.normpath("/" + path.lstrip("/")), directory) for path, directory in targets)
    paths = [path for path, _ in wanted]
    for path, directory in wanted:
        if path == "/" or path.startswith(tuple(f"{p}/" for p in (*_COVERED, *(p for p in paths if p != path)))):
            continue
        with suppress(NotADirectoryError, FileExistsError):
            _make(root_fd, path, directory, made)
    return made


def _make(root_fd: int, path: str, directory: bool, made: list[Stub]) -> None:
    parts = path.strip("/").split("/")
    for depth, name in enumerate(parts):
        parent_fd = saferoot.open_in_root(root_fd, "/".join(parts[:depth]), _DIRECTORY)
        try:
            try:
                os.close(saferoot.open_in_root(root_fd, "/".join(parts[: depth + 1])))
                continue
            except FileNotFoundError:
                pass
            times = _times(parent_fd)
            if directory or depth + 1 < len(parts):
                os.mkdir(name, 0o755, dir_fd=parent_fd)
                os.chmod(name, 0o755, dir_fd=parent_fd)
            else:
                fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=parent_fd)
                os.close(fd)
            inode = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_ino
            made.append(Stub(parent=os.readlink(f"/proc/self/fd/{parent_fd}"), name=name, inode=inode))
            _restore(parent_fd, times)
        finally:
            os.close(parent_fd)


def remove(root_fd: int, made: Iterable[Stub]) -> list[str]:
    """Take away what is still as it was made; returns the directories that held it. Blocking."""
    touched = []
    for stub in reversed(list(made)):
        try:
            parent_fd = saferoot.open_in_root(root_fd, stub.parent, _DIRECTORY)
        except OSError:
            continue  # the step removed it, or put something else there
        try:
            status = os.stat(stub.name, dir_fd=parent_fd, follow_symlinks=False)
            if status.st_ino != stub.inode:
                continue
            times = _times(parent_fd)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(stub.name, dir_fd=parent_fd)
            elif stat.S_ISREG(status.st_mode) and status.st_size == 0:
                os.unlink(stub.name, dir_fd=parent_fd)
            _restore(parent_fd, times)
            touched.append(stub.parent)
        except OSError:
            continue  # gone, or in use by the step: then it is a part of its result
        finally:
            os.close(parent_fd)
    return touched


def untouched(upper: str, lower_fd: int, paths: Iterable[str]) -> None:
    """Remove directories from an upper directory that are empty there and equal to those below. It is not mounted."""
    upper_fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in paths:
            while path.strip("/"):
                above, _, name = path.rpartition("/")
                if not _drop(upper_fd, lower_fd, above, name):
                    break
                path = above
    finally:
        os.close(upper_fd)


def _drop(upper_fd: int, lower_fd: int, above: str, name: str) -> bool:
    try:
        below_fd = saferoot.open_in_root(lower_fd, f"{above}/{name}", _DIRECTORY)
        try:
            old = os.fstat(below_fd)
        finally:
            os.close(below_fd)
        parent_fd = saferoot.open_in_root(upper_fd, above, _DIRECTORY, xdev=False)
    except OSError:
        return False
    try:
        new = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        same = (new.st_mode, new.st_uid, new.st_gid, new.st_mtime_ns) == (
            old.st_mode,
            old.st_uid,
            old.st_gid,
            old.st_mtime_ns,
        )
        if not same:
            return False
        times = _times(parent_fd)
        os.rmdir(name, dir_fd=parent_fd)
        _restore(parent_fd, times)
        return True
    except OSError:
        return False
    finally:
        os.close(parent_fd)


def _times(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_atime_ns, status.st_mtime_ns


def _restore(fd: int, times: tuple[int, int]) -> None:
    os.utime(f"/proc/self/fd/{fd}", ns=times)
