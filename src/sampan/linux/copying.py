"""The one place that copies file data and file trees. Everything goes by descriptors; no symlink is ever followed.

Data: blocks are shared (FICLONE) where the file system can, else copied inside the kernel (copy_file_range, then
sendfile), else read and written. Holes stay holes. A way that the two files' file systems do not support gives place to
the next one; a way that reports success and moved nothing does too, because some files (procfs, sysfs) say so although
they have content. Only read(2) is believed when it says that a file has ended.

Trees: owner, mode, extended attributes, times, hard links, symlinks, device nodes and FIFOs are copied; sockets are
not. A name of the source is resolved once: what was opened is what is looked at and copied, so an entry that is
exchanged meanwhile gives the old or the new one and never a mixture. A name that is removed meanwhile is left out.

Invariants: no recursion, and at most `_HELD` levels of a tree are open at a time, however deep it is.

Source: ioctl_ficlone(2), copy_file_range(2), sendfile(2), lseek(2) SEEK_DATA, xattr(7); kernel
Documentation/filesystems/overlayfs.rst for `trusted.overlay.*`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator

FICLONE = 0x40049409
SMALL_BYTES = 256 * 1024  # up to here a read and a write cost less than setting up a copy inside the kernel
CHUNK_BYTES = 1024 * 1024  # of what goes through memory
_KERNEL_CHUNK_BYTES = 64 * 1024 * 1024
_UNSIZED_LIMIT_BYTES = 64 * 1024 * 1024  # of a file that says it is empty and is not: more than procfs has
_HELD = 64

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# Why a way of copying does not do for two files: other file systems, no such call, a seccomp profile's EPERM, a file
# that is swapped to (ETXTBSY), a target opened with O_APPEND (EBADF, EINVAL).
_REFUSED = frozenset({
    errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.ETXTBSY, errno.EBADF, errno.ENOTTY,
})  # fmt: skip
_UNSHARED = frozenset({errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS})  # of those: true of all its files

# Why a file system does not take or give an extended attribute. ENOSPC: ext4 has one block of them for each file.
_ATTRIBUTE_REFUSED = frozenset({
    errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENODATA, errno.E2BIG, errno.ERANGE, errno.ENOSPC,
})  # fmt: skip
_OVERLAYFS = "trusted.overlay."  # commands to the kernel that say how a layer lies over others: no part of a file

Enter = Callable[[int, int, str], None]
"""Called for each directory before its entries: (source, target, path below the top, "" for the top)."""
Admit = Callable[[int, str, os.stat_result], bool]
"""Called before an entry is made: (target's directory, name, the source's status). False: the entry is left out."""


# -- data -------------------------------------------------------------------------------------------------------------


def copy_file(old: int, new: int, status: os.stat_result, *, unshared: set[int] | None = None) -> int:
    """Make the empty regular file `new` a copy of `old`, whose status was taken before; return its size in bytes.

    What is added to `old` meanwhile is left out; when it became shorter, so is the copy. unshared: devices whose files
    share no blocks with the target's; the function adds to it, so that a copier of many files asks once.
    Raises: OSError.
    """
    size = status.st_size
    if not size:
        return _copy_unsized(old, new)
    if unshared is None or status.st_dev not in unshared:
        refused = _clone(old, new)
        if refused in _UNSHARED and unshared is not None:
            unshared.add(status.st_dev)
    else:
        refused = errno.EXDEV
    if not refused:
        there = os.fstat(new).st_size
        if there > size:
            os.ftruncate(new, size)
        return min(there, size)
    dense = status.st_blocks * 512 >= size
    if dense:
        done = _by_reading(old, new, size, 0, 0) if size <= SMALL_BYTES else 0
        done += _copy_region(old, new, size - done, done, done)
        return done
    os.ftruncate(new, size)
    for start, end in _data(old, size):
        done = start + _copy_region(old, new, end - start, start, start)
        if done < end:
            os.ftruncate(new, done)
            return done
    there = os.fstat(old).st_size  # a hole at the end cannot be told from an end that has come nearer
    if there < size:
        os.ftruncate(new, there)
    return min(there, size)


def copy_range(old: int, new: int, length: int, old_at: int = 0, new_at: int = 0) -> None:
    """Copy `length` bytes of a file from offset `old_at` to offset `new_at` of another; its position may change.

    Raises: OSError; EIO when the source ends before.
    """
    if _copy_region(old, new, length, old_at, new_at) < length:
        raise OSError(errno.EIO, "a file is shorter than it was")


def _clone(old: int, new: int) -> int:
    """Make an empty file share the blocks of another. Returns 0, or the number of the error that refuses it."""
    try:
        fcntl.ioctl(new, FICLONE, old)
    except OSError as e:
        if e.errno not in _REFUSED:
            raise
        return e.errno
    return 0


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The regions (start, end) of a file below `size` that are no holes."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if e.errno not in _REFUSED:
                raise
            start, end = at, size  # a file system that does not know its holes
        if start < size:
            yield start, min(end, size)
        at = end


def _copy_region(old: int, new: int, length: int, old_at: int, new_at: int) -> int:
    """Copy at most `length` bytes; return how many there were."""
    done = 0
    for way in (_by_range, _by_sendfile, _by_reading):
        while done < length:
            try:
                moved = way(old, new, length - done, old_at + done, new_at + done)
            except OSError as e:
                if e.errno not in _REFUSED or way is _by_reading:
                    raise
                break
            if not moved:
                break
            done += moved
    return done


def _by_range(old: int, new: int, length: int, old_at: int, new_at: int) -> int:
    return os.copy_file_range(old, new, min(length, _KERNEL_CHUNK_BYTES), old_at, new_at)


def _by_sendfile(old: int, new: int, length: int, old_at: int, new_at: int) -> int:
    os.lseek(new, new_at, os.SEEK_SET)
    return os.sendfile(new, old, old_at, min(length, _KERNEL_CHUNK_BYTES))


def _by_reading(old: int, new: int, length: int, old_at: int, new_at: int) -> int:
    data = os.pread(old, min(length, CHUNK_BYTES), old_at)
    done = os.pwrite(new, data, new_at) if data else 0
    while done < len(data):
        done += os.pwrite(new, memoryview(data)[done:], new_at + done)
    return len(data)


def _copy_unsized(old: int, new: int) -> int:
    """Copy a file whose size is said to be 0: it is empty, or procfs has not asked itself how long it is."""
    done = 0
    while done < _UNSIZED_LIMIT_BYTES and (moved := _by_reading(old, new, CHUNK_BYTES, done, done)):
        done += moved
    return done


# -- attributes -------------------------------------------------------------------------------------------------------


def copy_attributes(old: int | str, new: int | str, status: os.stat_result) -> None:
    """Give `new` owner, mode, extended attributes and times of `old`, whose status was taken before.

    old, new: descriptors, or paths /proc/self/fd/N of O_PATH descriptors. Extended attributes that the file system
    cannot hold are left out, as cp(1) does; those of overlayfs itself are neither copied nor removed.
    Raises: OSError.
    """
    os.chown(new, status.st_uid, status.st_gid)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(new, stat.S_IMODE(status.st_mode))
    wanted, there = _attributes(old), _attributes(new)
    for key in wanted:
        if not key.startswith(_OVERLAYFS):
            try:
                os.setxattr(new, key, os.getxattr(old, key))
            except OSError as e:
                if e.errno not in _ATTRIBUTE_REFUSED:
                    raise
    for key in there:
        if key not in wanted and not key.startswith(_OVERLAYFS):
            try:
                os.removexattr(new, key)
            except OSError as e:
                if e.errno not in _ATTRIBUTE_REFUSED:
                    raise
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))


def _attributes(file: int | str) -> list[str]:
    try:
        return os.listxattr(file)
    except OSError as e:
        if e.errno not in _ATTRIBUTE_REFUSED:
            raise
        return []


# -- trees ------------------------------------------------------------------------------------------------------------


def copy_entry(source: int, target: int, name: str) -> None:
    """Copy what is no directory from one directory to another; a name that is no longer there is left out.

    Raises: OSError; FileExistsError when the target has the name.
    """
    try:
        fd = os.open(name, _NODE, dir_fd=source)
    except FileNotFoundError:
        return
    try:
        _copy_node(fd, target, name, os.fstat(fd))
    finally:
        os.close(fd)


def copy_tree(source: int, target: int, *, enter: Enter | None = None, admit: Admit | None = None) -> None:
    """Copy what is in the directory `source` into the directory `target`, and the directory's own attributes.

    With `admit` a directory that the target has already is gone into; without it every name must be new there.
    Raises: OSError, and what `enter` and `admit` raise; then the target has a part of the tree.
    """
    _Tree(target, enter, admit).copy(source)


def _copy_regular(old: int, target: int, name: str, status: os.stat_result, unshared: set[int] | None = None) -> None:
    new = os.open(name, _NEW, 0o600, dir_fd=target)
    try:
        copy_file(old, new, status, unshared=unshared)
        copy_attributes(old, new, status)
    finally:
        os.close(new)


def _copy_node(fd: int, target: int, name: str, status: os.stat_result) -> None:
    """Copy what an O_PATH descriptor stands for to a new name."""
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG:
        old = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _copy_regular(old, target, name, status)
        finally:
            os.close(old)
        return
    if kind == stat.S_IFLNK:
        os.symlink(os.readlink("", dir_fd=fd), name, dir_fd=target)
    elif kind != stat.S_IFSOCK:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    else:
        return
    made = os.open(name, _NODE, dir_fd=target)
    try:
        copy_attributes(f"/proc/self/fd/{fd}", f"/proc/self/fd/{made}", status)
    finally:
        os.close(made)


class _Level:
    """A directory of the source and its copy. Its descriptors are -1 while the walk is far below."""

    __slots__ = ("identities", "name", "names", "source", "status", "target")

    def __init__(self, name: str, source: int, target: int) -> None:
        self.name, self.source, self.target = name, source, target
        self.status = os.fstat(source)
        self.identities = (_identity(self.status), _identity(os.fstat(target)))
        self.names: list[tuple[str, bool]] = []  # what is left to copy: (name, whether it is a regular file)

    def close(self) -> None:
        for fd in (self.source, self.target):
            if fd >= 0:
                os.close(fd)
        self.source = self.target = -1

    def reopen(self, below: _Level) -> None:
        """Open the directory again from one that is in it. Raises: OSError ESTALE when that was moved elsewhere."""
        for index, fd in enumerate((below.source, below.target)):
            above = os.open("..", _DIRECTORY, dir_fd=fd)
            if index == 0:
                self.source = above
            else:
                self.target = above
            if _identity(os.fstat(above)) != self.identities[index]:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.name)


class _Tree:
    """One tree on its way into one directory."""

    def __init__(self, top: int, enter: Enter | None, admit: Admit | None) -> None:
        self._top, self._enter, self._admit = top, enter, admit
        self._levels: list[_Level] = []
        self._unshared: set[int] = set()
        self._copied: dict[tuple[int, int], list[str]] = {}  # inodes with several names → the way to the first copy

    def copy(self, source: int) -> None:
        try:
            self._go_down("", source, self._top)
            while self._levels:
                level = self._levels[-1]
                if level.names:
                    self._copy(level, *level.names.pop())
                else:
                    self._go_up()
        finally:
            for level in self._levels:
                level.close()

    def _go_down(self, name: str, node: int, directory: int) -> None:
        """Begin with a directory. `node` and `directory` stay the caller's."""
        source = os.open(".", _DIRECTORY, dir_fd=node)
        try:
            target = os.open(name or ".", _DIRECTORY, dir_fd=directory)
            try:
                level = _Level(name, source, target)
            except BaseException:
                os.close(target)
                raise
        except BaseException:
            os.close(source)
            raise
        self._levels.append(level)
        if len(self._levels) > _HELD:
            self._levels[-_HELD - 1].close()
        if self._enter is not None:
            self._enter(source, target, "/".join(above.name for above in self._levels))
        with os.scandir(source) as entries:
            level.names = [(entry.name, entry.is_file(follow_symlinks=False)) for entry in entries]

    def _go_up(self) -> None:
        """Finish a directory: its times change no more."""
        level = self._levels.pop()
        try:
            copy_attributes(level.source, level.target, level.status)
            if self._levels and self._levels[-1].source < 0:
                self._levels[-1].reopen(level)
        finally:
            level.close()

    def _copy(self, level: _Level, name: str, is_file: bool) -> None:
        """Copy an entry.

        is_file: what the directory said of it; it is opened accordingly, at once if it still is one.
        """
        try:
            node = os.open(name, _FILE if is_file else _NODE, dir_fd=level.source)
        except FileNotFoundError:
            return
        except OSError:
            if not is_file:
                raise
            self._copy(level, name, False)  # a symlink or socket by now
            return
        try:
            status = os.fstat(node)
            if is_file and not stat.S_ISREG(status.st_mode):
                self._copy(level, name, False)
                return
            if self._admit is not None and not self._admit(level.target, name, status):
                return
            if stat.S_ISDIR(status.st_mode):
                try:
                    os.mkdir(name, 0o700, dir_fd=level.target)
                except FileExistsError:
                    if self._admit is None:
                        raise
                self._go_down(name, node, level.target)
            elif status.st_nlink == 1 or not self._linked(level, name, _identity(status)):
                if is_file:
                    _copy_regular(node, level.target, name, status, self._unshared)
                else:
                    _copy_node(node, level.target, name, status)
        finally:
            os.close(node)

    def _linked(self, level: _Level, name: str, identity: tuple[int, int]) -> bool:
        """Give a copy that was made before one more name. False: there is none, or it can take no more."""
        way = self._copied.get(identity)
        if way is not None:
            first = self._open(way)
            try:
                os.link(f"/proc/self/fd/{first}", name, dst_dir_fd=level.target, follow_symlinks=True)
                return True
            except OSError as e:
                if e.errno != errno.EMLINK:
                    raise
            finally:
                os.close(first)
        self._copied[identity] = [above.name for above in self._levels[1:]] + [name]
        return False

    def _open(self, way: list[str]) -> int:
        """An O_PATH descriptor of what was copied. Each step is one name: a path may be too long for one call."""
        at = os.open(".", _DIRECTORY, dir_fd=self._top)
        for name in way:
            try:
                below = os.open(name, _NODE, dir_fd=at)
            finally:
                os.close(at)
            at = below
        return at


def _identity(status: os.stat_result) -> tuple[int, int]:
    return (status.st_dev, status.st_ino)
