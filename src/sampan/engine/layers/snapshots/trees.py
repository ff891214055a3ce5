"""File trees for drivers without overlayfs: put a layer onto a tree, and take what changed out of one. Blocking.

Both directions speak overlayfs' form of a difference, which all layers are kept in: a character device 0:0 removes a
name, `trusted.overlay.opaque` = y says that a directory hides the one below. Everything goes by descriptors, and no
symlink is ever followed: what is read may belong to a running container.

Source: kernel Documentation/filesystems/overlayfs.rst; ioctl_ficlone(2), copy_file_range(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from contextlib import suppress

from sampan.engine.archives.tar_writer import MAX_DEPTH
from sampan.errors import InvalidArgument

OPAQUE = "trusted.overlay.opaque"
FICLONE = 0x40049409
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 64 * 1024 * 1024
Links = dict[tuple[int, int], str]  # (device, inode) of a file with several names → where its copy is


def apply(difference_fd: int, tree_fd: int) -> None:
    """Put a layer onto a tree: the tree then is what overlayfs would show. Raises: OSError, InvalidArgument."""
    _Applied(difference_fd, tree_fd).directory(difference_fd, tree_fd, "")


class _Applied:
    """One difference on its way onto one tree."""

    def __init__(self, source: int, target: int) -> None:
        self._target = target
        self._links: Links = {}

    def directory(self, source: int, target: int, path: str) -> None:
        check_depth(path)
        if opaque(source):
            for name in os.listdir(target):
                _remove(target, name)
        for name in os.listdir(source):
            self._entry(source, target, name, f"{path}/{name}")
        copy_attributes(source, target, os.fstat(source))

    def _entry(self, source: int, target: int, name: str, path: str) -> None:
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        there = _stat(target, name)
        if is_whiteout(status):
            if there is not None:
                _remove(target, name)
        elif stat.S_ISDIR(status.st_mode):
            if there is not None and not stat.S_ISDIR(there.st_mode):
                _remove(target, name)
                there = None
            if there is None:
                os.mkdir(name, 0o700, dir_fd=target)
            old = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                new = os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    self.directory(old, new, path)
                finally:
                    os.close(new)
            finally:
                os.close(old)
        else:
            if there is not None:
                _remove(target, name)
            key = (status.st_dev, status.st_ino)
            known = self._links.get(key) if status.st_nlink > 1 else None
            if known is not None:
                os.link(known, name, src_dir_fd=self._target, dst_dir_fd=target, follow_symlinks=False)
                return
            copy(source, target, name, status)
            if status.st_nlink > 1:
                self._links[key] = path[1:]


def difference(new_fd: int, old_fd: int, into_fd: int) -> None:
    """Write what `new` has changed of `old` into the empty directory `into`, in overlayfs' form.

    Files become links or shared copies, so that this costs names and no data. Raises: OSError, InvalidArgument.
    """
    _differences(new_fd, old_fd, into_fd, "")
    copy_attributes(new_fd, into_fd, os.fstat(new_fd))


def _differences(new: int, old: int, into: int, path: str) -> bool:
    check_depth(path)
    found = False
    names = os.listdir(new)
    for name in names:
        status, before = _stat(new, name), _stat(old, name)
        if status is None:
            continue  # the container runs, and has removed it meanwhile
        if stat.S_ISDIR(status.st_mode):
            found |= _changed_directory(new, old, into, name, f"{path}/{name}", status, before)
        elif before is None or not same(new, old, name, status, before):
            _link(new, into, name, status)
            found = True
    removed_ns = os.fstat(new).st_mtime_ns  # a time that stays: the same difference gives the same archive
    for name in set(os.listdir(old)) - set(names):
        _whiteout(into, name, removed_ns)
        found = True
    return found


def _changed_directory(
    new: int, old: int, into: int, name: str, path: str, status: os.stat_result, before: os.stat_result | None
) -> bool:
    try:
        now = os.open(name, _DIRECTORY, dir_fd=new)
    except OSError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False  # the container has put something else in its place: the next look shows it
        raise
    try:
        os.mkdir(name, 0o700, dir_fd=into)
        made = os.open(name, _DIRECTORY, dir_fd=into)
        try:
            if before is not None and stat.S_ISDIR(before.st_mode):
                below = os.open(name, _DIRECTORY, dir_fd=old)
                try:
                    changed = _differences(now, below, made, path)
                finally:
                    os.close(below)
                if not changed and same(new, old, name, status, before):
                    os.rmdir(name, dir_fd=into)
                    return False
            else:
                _everything(now, made, path)
                if before is not None:
                    os.setxattr(made, OPAQUE, b"y")
            copy_attributes(now, made, status)
            return True
        finally:
            os.close(made)
    finally:
        os.close(now)


def _everything(new: int, into: int, path: str) -> None:
    """A directory that is new: all of it."""
    check_depth(path)
    for name in os.listdir(new):
        status = _stat(new, name)
        if status is None:
            continue
        if stat.S_ISDIR(status.st_mode):
            _changed_directory(new, -1, into, name, f"{path}/{name}", status, None)
        else:
            _link(new, into, name, status)


def cleaned(upper_fd: int, into_fd: int, mark: str, path: str = "") -> None:
    """Write an upper directory into the empty directory `into`, in overlayfs' form: of links, and no data.

    mark: the name of the files by which its program also tells that a directory is opaque.
    Raises: OSError, InvalidArgument.
    """
    check_depth(path)
    for name in os.listdir(upper_fd):
        status = _stat(upper_fd, name)
        if name == mark:
            os.setxattr(into_fd, OPAQUE, b"y")
        elif status is not None and stat.S_ISDIR(status.st_mode):
            os.mkdir(name, 0o700, dir_fd=into_fd)
            below, made = os.open(name, _DIRECTORY, dir_fd=upper_fd), os.open(name, _DIRECTORY, dir_fd=into_fd)
            try:
                cleaned(below, made, mark, f"{path}/{name}")
            finally:
                os.close(below)
                os.close(made)
        elif status is not None and is_whiteout(status):
            _whiteout(into_fd, name, status.st_mtime_ns)
        elif status is not None:
            _link(upper_fd, into_fd, name, status)
    if opaque(upper_fd):
        os.setxattr(into_fd, OPAQUE, b"y")
    copy_attributes(upper_fd, into_fd, os.fstat(upper_fd))


def _whiteout(directory: int, name: str, mtime_ns: int) -> None:
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory)
    os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=directory, follow_symlinks=False)


def _link(source: int, target: int, name: str, status: os.stat_result) -> None:
    if is_whiteout(status) or stat.S_ISSOCK(status.st_mode):
        return
    try:
        os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as e:
        if e.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
            raise
        copy(source, target, name, status)


def copy(source: int, target: int, name: str, status: os.stat_result) -> None:
    """Copy what is no directory, with owner, mode, times and extended attributes; data is shared where that can be."""
    if stat.S_ISREG(status.st_mode):
        old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        try:
            new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
            try:
                copy_data(old, new, status)
                copy_attributes(old, new, status)
            finally:
                os.close(new)
        finally:
            os.close(old)
        return
    if stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISSOCK(status.st_mode):
        return
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    old_name, new_name = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
    for key in os.listxattr(old_name, follow_symlinks=False):
        with suppress(OSError):
            os.setxattr(new_name, key, os.getxattr(old_name, key, follow_symlinks=False), follow_symlinks=False)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def copy_data(old: int, new: int, status: os.stat_result) -> None:
    """Share the blocks where the file system can, else copy them; holes stay holes."""
    try:
        fcntl.ioctl(new, FICLONE, old)
        return
    except OSError as e:
        if e.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS):
            raise
    os.ftruncate(new, status.st_size)
    at = 0
    while at < status.st_size:
        try:
            start = os.lseek(old, at, os.SEEK_DATA)
            end = os.lseek(old, start, os.SEEK_HOLE)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        at = start
        while at < end:
            copied = _copy_piece(old, new, min(_CHUNK, end - at), at)
            if copied == 0:
                return  # it was made shorter meanwhile
            at += copied


def _copy_piece(old: int, new: int, size: int, at: int) -> int:
    """Copy at most `size` bytes at offset `at` inside the kernel; between file systems of two kinds through a pipe."""
    try:
        return os.copy_file_range(old, new, size, at, at)
    except OSError as e:
        if e.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    os.lseek(new, at, os.SEEK_SET)
    return os.sendfile(new, old, at, size)


def copy_attributes(old: int, new: int, status: os.stat_result) -> None:
    """Owner, mode, extended attributes and times of a file or directory; overlayfs' own attributes stay behind."""
    os.fchown(new, status.st_uid, status.st_gid)
    os.fchmod(new, stat.S_IMODE(status.st_mode))
    wanted = {key for key in os.listxattr(old) if not key.startswith("trusted.overlay.")}
    for key in set(os.listxattr(new)) - wanted:
        if not key.startswith("trusted.overlay."):
            with suppress(OSError):
                os.removexattr(new, key)
    for key in wanted:
        with suppress(OSError):  # what the file system cannot hold is left out, as when a layer is unpacked
            os.setxattr(new, key, os.getxattr(old, key))
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def same(new: int, old: int, name: str, status: os.stat_result, before: os.stat_result) -> bool:
    """Whether the attributes tell of no change; times and sizes of directories tell nothing."""
    if (status.st_mode, status.st_uid, status.st_gid, status.st_rdev) != (
        before.st_mode, before.st_uid, before.st_gid, before.st_rdev,
    ):  # fmt: skip
        return False
    if not stat.S_ISDIR(status.st_mode):
        if (status.st_mtime_ns, status.st_size) != (before.st_mtime_ns, before.st_size):
            return False
        return _capability(new, name) == _capability(old, name)
    return True


def _capability(directory: int, name: str) -> bytes:
    try:
        return os.getxattr(f"/proc/self/fd/{directory}/{name}", "security.capability", follow_symlinks=False)
    except OSError:
        return b""


def opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def check_depth(path: str) -> None:
    """Raises: InvalidArgument for what is nested deeper than an archive of it could be."""
    if path.count("/") > MAX_DEPTH:
        raise InvalidArgument(f"directories are nested deeper than {MAX_DEPTH} levels below {path[:60]!r}…")


def _stat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _remove(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=directory)
