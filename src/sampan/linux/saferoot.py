"""The only code that resolves a path inside a container's root or a layer.

Every function takes a descriptor of the root directory and resolves below it as a process chrooted there would:
`..` stops at the root, absolute symlinks begin at it, magic links (/proc/<pid>/fd/N, /proc/self/exe …) are refused.
A component that is exchanged during the walk makes the kernel fail the lookup (EAGAIN is tried again), it never leads
outside. What must not cross a mount (layers, procfs) says so with `xdev=False`.

Source: openat2(2).
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux.syscalls import (
    PROC_SUPER_MAGIC,
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    fstatfs_type,
    openat2,
)

_LINK_LIMIT = 40
_RACE_LIMIT = 64


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH, mode: int = 0, *, xdev: bool = True) -> int:
    """Open `path` inside the root; the last component's symlink is followed unless O_NOFOLLOW is given."""
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (0 if xdev else RESOLVE_NO_XDEV)
    for _ in range(_RACE_LIMIT):
        try:
            return openat2(root_fd, path.lstrip("/") or ".", flags, mode, resolve)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise OSError(error.errno, error.strerror, path) from None
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def open_beneath(root_fd: int, path: str, flags: int = os.O_PATH) -> int:
    """Open `path`, where no symlink may lead out of the root, as an absolute one always does.

    Raises: OSError; EXDEV when one leads out.
    """
    for _ in range(_RACE_LIMIT):
        try:
            return openat2(root_fd, path or ".", flags, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise OSError(error.errno, error.strerror, path) from None
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def open_or_make(root_fd: int, path: str, *, directory: bool, mode: int = 0o755) -> tuple[int, bool]:
    """Open `path` with O_PATH, making it (and its parents) as directory or empty file when it is missing.

    Returns (descriptor, made). Dangling symlinks are followed inside the root: what they name is made. Raises: OSError
    ELOOP on too many links, ENOTDIR when a parent is no directory, EINVAL on `..` below what is missing.
    """
    try:
        return open_in_root(root_fd, path), False
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    todo = [part for part in path.split("/") if part and part != "."]
    for _ in range(_LINK_LIMIT):
        existing, missing = _longest_prefix(root_fd, todo)
        result, link = _make_missing(existing, missing, directory=directory, mode=mode, path=path)
        if link is None:
            return result, True
        target, index = link
        if target.startswith("/"):
            todo = []
        else:
            todo = todo[: len(todo) - len(missing) + index]
        todo += [part for part in target.split("/") if part and part != "."] + missing[index + 1 :]
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _longest_prefix(root_fd: int, parts: list[str]) -> tuple[int, list[str]]:
    """Open the longest existing prefix of `parts`; return its descriptor and what is missing."""
    for end in range(len(parts), -1, -1):
        try:
            return open_in_root(root_fd, "/".join(parts[:end])), parts[end:]
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(parts))


def _make_missing(
    fd: int, missing: list[str], *, directory: bool, mode: int, path: str
) -> tuple[int, tuple[str, int] | None]:
    """Make `missing` one by one below `fd`, which is consumed.

    Returns (descriptor, None), or (-1, (target, index)) when component `index` is a dangling symlink to `target`.
    """
    try:
        for index, part in enumerate(missing):
            if part == "..":
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
            last = index == len(missing) - 1
            try:
                if last and not directory:
                    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode, dir_fd=fd))
                else:
                    os.mkdir(part, mode, dir_fd=fd)
            except FileExistsError:
                pass
            child = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            if stat.S_ISLNK(os.fstat(child).st_mode):
                target = os.readlink("", dir_fd=child)
                os.close(child)
                os.close(fd)
                fd = -1
                return -1, (target, index)
            os.close(fd)
            fd = child
        return fd, None
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise


def mkdirs(root_fd: int, path: str, mode: int = 0o755) -> tuple[int, bool]:
    """Open a directory inside the root, making what is missing; return (O_PATH descriptor, made).

    Raises: NotADirectoryError when the path exists as something else.
    """
    fd, made = open_or_make(root_fd, path, directory=True, mode=mode)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    return fd, made


def open_in_proc(proc_fd: int, path: str, flags: int) -> int:
    """Open a file of procfs below the handle `proc_fd` (the root of a proc mount).

    The handle must be procfs and the way to the file must cross neither a mount nor a symlink, so that a file system
    mounted over part of /proc cannot receive what is meant for the kernel (CVE-2025-52881, CVE-2019-19921).
    """
    if fstatfs_type(proc_fd) != PROC_SUPER_MAGIC:
        raise OSError(errno.EXDEV, "not a proc file system", "/proc")
    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    return openat2(proc_fd, path, flags, 0, resolve)
