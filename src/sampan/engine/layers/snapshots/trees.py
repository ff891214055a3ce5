"""File trees for drivers without overlayfs: put a layer onto a tree, and take what changed out of one. Blocking.

Both directions speak overlayfs' form of a difference, which all layers are kept in: a character device 0:0 removes a
name, `trusted.overlay.opaque` = y says that a directory hides the one below. Everything goes by descriptors, and no
symlink is ever followed: what is read may belong to a running container.

Source: kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

from sampan.engine.archives.tar_writer import MAX_DEPTH
from sampan.errors import InvalidArgument
from sampan.linux import copying

OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def apply(difference_fd: int, tree_fd: int) -> None:
    """Put a layer onto a tree: the tree then is what overlayfs would show. Raises: OSError, InvalidArgument."""
    copying.copy_tree(difference_fd, tree_fd, enter=_begin, admit=_make_way)


def _begin(source: int, target: int, path: str) -> None:
    check_depth(path)
    if opaque(source):
        for name in os.listdir(target):
            _remove(target, name)


def _make_way(target: int, name: str, status: os.stat_result) -> bool:
    """Remove what an entry replaces or takes away. False: the entry says only that something is gone."""
    there = status_of(target, name)
    gone = is_whiteout(status)
    if there is not None and (gone or not (stat.S_ISDIR(status.st_mode) and stat.S_ISDIR(there.st_mode))):
        _remove(target, name)
    return not gone


def difference(new_fd: int, old_fd: int, into_fd: int) -> None:
    """Write what `new` has changed of `old` into the empty directory `into`, in overlayfs' form.

    Files become links or shared copies, so that this costs names and no data. Raises: OSError, InvalidArgument.
    """
    _differences(new_fd, old_fd, into_fd, "")
    copying.copy_attributes(new_fd, into_fd, os.fstat(new_fd))


def _differences(new: int, old: int, into: int, path: str) -> bool:
    check_depth(path)
    found = False
    names = os.listdir(new)
    for name in names:
        status, before = status_of(new, name), status_of(old, name)
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
            copying.copy_attributes(now, made, status)
            return True
        finally:
            os.close(made)
    finally:
        os.close(now)


def _everything(new: int, into: int, path: str) -> None:
    """A directory that is new: all of it."""
    check_depth(path)
    for name in os.listdir(new):
        status = status_of(new, name)
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
        status = status_of(upper_fd, name)
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
    copying.copy_attributes(upper_fd, into_fd, os.fstat(upper_fd))


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
        copying.copy_entry(source, target, name)


def same(new: int, old: int, name: str, status: os.stat_result, before: os.stat_result) -> bool:
    """Tell whether two entries of one name are equal as far as their attributes say.

    new, old: directories; status, before: what they have under the name. Of directories times and sizes are not
    compared: they change with what is in them.
    """
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
    """Tell whether a layer's directory hides what the layers below have in it."""
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError:
        return False


def is_whiteout(status: os.stat_result) -> bool:
    """Tell whether a layer's entry says that a name of the layers below is gone."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def check_depth(path: str) -> None:
    """Raises: InvalidArgument for what is nested deeper than an archive of it could be."""
    if path.count("/") > MAX_DEPTH:
        raise InvalidArgument(f"directories are nested deeper than {MAX_DEPTH} levels below {path[:60]!r}…")


def status_of(directory: int, name: str) -> os.stat_result | None:
    """Return the status of an entry, None when there is none. Follows no symlink. Raises: OSError."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _remove(directory: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=directory)
