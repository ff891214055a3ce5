"""The mount calls: the new file-descriptor interface (5.2 and later, 5.12 for attributes), and the two old calls.

A mount is made detached (`fsopen` … `fsmount`, or `open_tree` with OPEN_TREE_CLONE), gets its attributes
(`mount_setattr`), and is attached with `move_mount` at a target that is itself a descriptor: no path is looked up
twice.

Source: fsopen(2), fsconfig(2), fsmount(2), move_mount(2), open_tree(2), mount_setattr(2), mount(2), pivot_root(2).
"""

from __future__ import annotations

import errno
import os
import struct
from functools import cache

from sampan.linux.syscalls import (
    INT,
    SIZE,
    STR,
    UINT,
    ULONG,
    Path,
    bind,
    bind_libc,
    fail,
    number,
    raw,
)

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

FSOPEN_CLOEXEC = 1
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8
FSMOUNT_CLOEXEC = 1

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_BINARY = 2
FSCONFIG_SET_PATH = 3
FSCONFIG_SET_PATH_EMPTY = 4
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSCONFIG_STRING_LIMIT = 255  # strndup_user(value, 256) in fs/fsopen.c

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = 0o2000000

MOVE_MOUNT_F_SYMLINKS = 0x1
MOVE_MOUNT_F_AUTOMOUNTS = 0x2
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_AUTOMOUNTS = 0x20
MOVE_MOUNT_T_EMPTY_PATH = 0x40

_mount = bind_libc("mount", STR, STR, STR, ULONG, STR)
_umount2 = bind_libc("umount2", STR, INT)
_pivot_root = bind(number("pivot_root"), STR, STR)
_open_tree = bind(428, INT, STR, UINT)
_move_mount = bind(429, INT, STR, INT, STR, UINT)
_fsopen = bind(430, STR, UINT)
_fsconfig = bind(431, INT, UINT, STR, STR, INT)
_fsmount = bind(432, INT, UINT, UINT)
_fspick = bind(433, INT, STR, UINT)
_mount_setattr = bind(442, INT, STR, UINT, STR, SIZE)


def mount(source: Path | None, target: Path, fstype: str | None, flags: int, data: Path | None = None) -> None:
    """Mount (mount(2)). Raises: OSError, E2BIG for data of more than a page: the kernel would cut it there, and
    mount that.
    """
    if data is not None and len(raw(data)) >= os.sysconf("SC_PAGE_SIZE"):
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), os.fsdecode(target))
    s = None if source is None else raw(source)
    f = None if fstype is None else fstype.encode()
    if _mount(s, raw(target), f, flags, None if data is None else raw(data)) < 0:
        fail(source if source is not None else target, target)


def umount2(target: Path, flags: int = 0) -> None:
    if _umount2(raw(target), flags) < 0:
        fail(target)


def pivot_root(new_root: Path, put_old: Path) -> None:
    if _pivot_root(raw(new_root), raw(put_old)) < 0:
        fail(new_root, put_old)


def open_tree(dirfd: int, path: Path, flags: int) -> int:
    """Open a mount, or with OPEN_TREE_CLONE (and AT_RECURSIVE) a detached copy of it."""
    fd = _open_tree(dirfd, raw(path), flags | OPEN_TREE_CLOEXEC)
    if fd < 0:
        fail(path)
    return fd


def move_mount(from_dirfd: int, from_path: Path, to_dirfd: int, to_path: Path, flags: int) -> None:
    if _move_mount(from_dirfd, raw(from_path), to_dirfd, raw(to_path), flags) < 0:
        fail(from_path, to_path)


def attach(mount_fd: int, target_fd: int) -> None:
    """Attach a detached mount at an open target: `move_mount` with both paths empty."""
    if _move_mount(mount_fd, b"", target_fd, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0:
        fail()


def fsopen(fstype: str, flags: int = FSOPEN_CLOEXEC) -> int:
    fd = _fsopen(fstype.encode(), flags)
    if fd < 0:
        fail(fstype)
    return fd


def fspick(dirfd: int, path: Path, flags: int = FSPICK_CLOEXEC) -> int:
    fd = _fspick(dirfd, raw(path), flags)
    if fd < 0:
        fail(path)
    return fd


def fsconfig(fs_fd: int, command: int, key: str | None = None, value: Path | None = None, aux: int = 0) -> None:
    """Set one parameter of a file system context, or run a command on it. Errors name the key."""
    k = None if key is None else key.encode()
    if _fsconfig(fs_fd, command, k, None if value is None else raw(value), aux) < 0:
        fail(key)


def fsmount(fs_fd: int, flags: int = FSMOUNT_CLOEXEC, attributes: int = 0) -> int:
    fd = _fsmount(fs_fd, flags, attributes)
    if fd < 0:
        fail()
    return fd


@cache
def overlay_takes_layers() -> bool:
    """Tell whether fsconfig gives overlayfs its layers one by one, as `lowerdir+` (Linux 6.8).

    Before 6.5 a context takes every key and refuses what it does not know only at the end, with a line in the kernel's
    log: so a key that no kernel knows is tried first. Raises: OSError, ENODEV without overlayfs.
    """
    context = fsopen("overlay")
    try:
        return not _accepts(context, "no-such-option") and _accepts(context, "lowerdir+")
    finally:
        os.close(context)


def _accepts(context: int, key: str) -> bool:
    try:
        fsconfig(context, FSCONFIG_SET_STRING, key, "/")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """Change attributes, propagation or id mapping of a mount, with AT_RECURSIVE of all below it."""
    attributes = struct.pack("QQQQ", attr_set, attr_clr, propagation, userns_fd)
    if _mount_setattr(dirfd, raw(path), flags, attributes, 32) < 0:
        fail(path)
