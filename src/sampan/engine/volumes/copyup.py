"""Filling an empty volume with what the image has at its place: contents, owner, mode, times, extended attributes.

Source and destination are walked by descriptors and never followed through symlinks: neither a crafted image nor a
concurrent change can lead outside. Hard links inside the tree stay hard links.

Source: Docker's documented behaviour of new volumes ("populate a volume using a container").
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from sampan.linux import saferoot

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 8 * 1024 * 1024


def copy_up(root_fd: int, path: str, volume: str) -> bool:
    """Copy the directory `path` of the root into the directory `volume` when that is empty; tell whether it was done.

    Raises OSError. A path that the image does not have, or that is no directory, is nothing to copy.
    """
    try:
        source = saferoot.open_in_root(root_fd, path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        target = os.open(volume, _DIRECTORY)
        try:
            if os.listdir(target):
                return False
            links: Links = {}
            try:
                _directory(source, target, links)
            finally:
                for fd in links.values():
                    os.close(fd)
            return True
        finally:
            os.close(target)
    finally:
        os.close(source)


Links = dict[tuple[int, int], int]
"""(device, inode) of files with several names → a descriptor of the copy."""


def _directory(source: int, target: int, links: Links) -> None:
    for name in os.listdir(source):
        _entry(source, target, name, links)
    _metadata(source, target, os.fstat(source))


def _entry(source: int, target: int, name: str, links: Links) -> None:
    info = os.stat(name, dir_fd=source, follow_symlinks=False)
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        below, made = os.open(name, _DIRECTORY, dir_fd=source), os.open(name, _DIRECTORY, dir_fd=target)
        try:
            _directory(below, made, links)
        finally:
            os.close(below)
            os.close(made)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(info.st_atime_ns, info.st_mtime_ns), dir_fd=target, follow_symlinks=False)
    elif kind == stat.S_IFREG:
        _file(source, target, name, info, links)
    elif kind != stat.S_IFSOCK:
        _node(target, name, info)


def _node(target: int, name: str, info: os.stat_result) -> None:
    """Make a device or fifo. Modes and times go by descriptor: by name they follow a link that was put in its place."""
    os.mknod(name, info.st_mode, info.st_rdev, dir_fd=target)
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
    try:
        if stat.S_IFMT(os.fstat(fd).st_mode) != stat.S_IFMT(info.st_mode):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        own = f"/proc/self/fd/{fd}"
        os.chown(own, info.st_uid, info.st_gid)
        os.chmod(own, stat.S_IMODE(info.st_mode))
        os.utime(own, ns=(info.st_atime_ns, info.st_mtime_ns))
    finally:
        os.close(fd)


def _file(source: int, target: int, name: str, info: os.stat_result, links: Links) -> None:
    known = links.get((info.st_dev, info.st_ino)) if info.st_nlink > 1 else None
    if known is not None:
        os.link(f"/proc/self/fd/{known}", name, dst_dir_fd=target, follow_symlinks=True)
        return
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.copy_file_range(old, new, _CHUNK):
                pass
            _metadata(old, new, info)
            if info.st_nlink > 1:
                links[(info.st_dev, info.st_ino)] = os.dup(new)
        finally:
            os.close(new)
    finally:
        os.close(old)


def _metadata(old: int, new: int, info: os.stat_result) -> None:
    os.fchown(new, info.st_uid, info.st_gid)
    os.fchmod(new, stat.S_IMODE(info.st_mode))
    for name in os.listxattr(old):
        if not name.startswith("trusted.overlay."):
            with suppress(OSError):  # a filesystem without this attribute: the copy goes on, as with cp -a
                os.setxattr(new, name, os.getxattr(old, name))
    os.utime(new, ns=(info.st_atime_ns, info.st_mtime_ns))
