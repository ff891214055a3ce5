"""Where files are written: below one root descriptor, and never outside of it.

A directory is resolved by openat2 in the root; what is made in it is made by name on its descriptor and never followed.
So no path of a source, and no symbolic link of the destination, leads out (CVE-2014-9356, zip slip).

Times: what is copied keeps its own. A directory that was there and only got something new keeps the time that it had,
one that was made on the way gets the newest time of what was written. So nothing is "now", and equal input gives equal
layers.

Source: openat2(2), utimensat(2), capabilities(7) "chown clears".
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sampan.engine.builder.files import content
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.errors import InvalidArgument
from sampan.linux import saferoot

MADE_MODE = 0o755
_LINKS = 40
Inode = tuple[int, int]
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOREIGN_XATTRS = ("trusted.overlay.", "user.overlay.")
_SPECIAL = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the written entries look like. owner None: their own. mode: a function of an entry, None: their own."""

    owner: tuple[int, int] | None = None
    mode: Callable[[TreeEntry], int] | None = None
    latest_ns: int | None = None  # nothing is younger

    def time(self, mtime_ns: int) -> int:
        return mtime_ns if self.latest_ns is None or mtime_ns < self.latest_ns else self.latest_ns


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino


def thread_umask() -> int:
    """Return the calling thread's umask, without changing it."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o777


class RootWriter:
    """Writes entries below `root_fd` (not owned). Use it within one thread; `finish` sets what must come last."""

    def __init__(
        self, root_fd: int, look: Look, implied_mode: int = MADE_MODE, implied_owner: tuple[int, int] | None = None
    ) -> None:
        """implied: of directories that are made on the way; their owner is `look`'s unless given."""
        self._root = root_fd
        self._look = look
        self._implied_mode = implied_mode
        self._implied_owner = implied_owner or look.owner or (0, 0)
        self._umask = thread_umask()
        self._kept: dict[
            Inode, tuple[str, int]
        ] = {}  # directories that were there → path, the time they get in the end
        self._made: dict[Inode, str] = {}  # directories made on the way
        self.newest_ns: int | None = None  # of what was written

    # -- directories ----------------------------------------------------------------------------------------------

    def directory(self, path: str, owner: tuple[int, int] | None = None, depth: int = 0) -> int:
        """Return the directory at `path`, made with its parents where missing: a descriptor for reading, the caller's.

        owner: of what is made, if not the one for implied directories. Raises: NotADirectoryError.
        """
        parts = [part for part in path.split("/") if part and part != "."]
        try:
            return saferoot.open_in_root(self._root, "/".join(parts), _DIRECTORY)
        except FileNotFoundError:
            pass
        if depth > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        above = os.open(".", _DIRECTORY, dir_fd=self._root)
        try:
            for index, part in enumerate(parts):
                here = "/".join(parts[: index + 1])
                try:
                    fd = saferoot.open_in_root(self._root, here, _DIRECTORY)
                except FileNotFoundError:
                    self.touch("/".join(parts[:index]), above)
                    fd = self._make(above, part, here, owner or self._implied_owner)
                    if fd < 0:  # a dangling link: what it names is made
                        link = os.readlink(part, dir_fd=above)
                        before = "" if link.startswith("/") else "/".join(parts[:index]) + "/"
                        fd = self.directory(before + link, owner, depth + 1)
                os.close(above)
                above = fd
            return above
        except BaseException:
            os.close(above)
            raise

    def _make(self, parent_fd: int, name: str, path: str, owner: tuple[int, int]) -> int:
        """One directory that is missing; -1 when something else has its name."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            return -1
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
        uid, gid = owner
        if uid or gid:
            os.fchown(fd, uid, gid)
        os.fchmod(fd, self._implied_mode)
        self._made[_inode(os.fstat(fd))] = path
        return fd

    def touch(self, path: str, fd: int) -> None:
        """Remember the times of the directory `fd`, at `path`: something will be made in it."""
        status = os.fstat(fd)
        key = _inode(status)
        if key not in self._kept and key not in self._made:
            self._kept[key] = (path, status.st_mtime_ns)

    def retime(self, path: str, fd: int, mtime_ns: int) -> None:
        """Have the directory `fd` get this time in the end."""
        mtime_ns = self._look.time(mtime_ns)
        key = _inode(os.fstat(fd))
        self._made.pop(key, None)
        self._kept[key] = (path, mtime_ns)
        self.wrote(mtime_ns)

    def wrote(self, mtime_ns: int) -> None:
        """Note that something of this time was written."""
        if self.newest_ns is None or mtime_ns > self.newest_ns:
            self.newest_ns = mtime_ns

    def finish(self, otherwise_ns: int = 0) -> int:
        """Set the times of directories that were touched or made.

        Returns the newest time that was written, `otherwise_ns` when nothing was.
        """
        newest = self._look.time(otherwise_ns) if self.newest_ns is None else self.newest_ns
        for key, path in self._made.items():
            self._set_time(key, path, newest)
        for key, (path, mtime_ns) in self._kept.items():
            self._set_time(key, path, mtime_ns)
        self._made, self._kept = {}, {}
        return newest

    def _set_time(self, key: Inode, path: str, mtime_ns: int) -> None:
        try:
            fd = saferoot.open_in_root(self._root, path, _DIRECTORY)
        except OSError as e:
            if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # a later entry took its place
            raise
        try:
            if _inode(os.fstat(fd)) == key:
                os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)

    # -- one entry ------------------------------------------------------------------------------------------------

    def put(
        self, entry: TreeEntry, parent_fd: int, name: str, fill: Callable[[int], None] | None, *, over: bool
    ) -> None:
        """Make what is no directory. fill: writes a regular file's content. over: something may be in its place.

        Raises: IsADirectoryError when a directory is; OSError.
        """
        make = self._file if entry.kind == "f" else self._special
        try:
            make(entry, parent_fd, name, fill)
        except FileExistsError:
            if not over:
                raise
            os.unlink(name, dir_fd=parent_fd)
            make(entry, parent_fd, name, fill)

    def _file(self, entry: TreeEntry, parent_fd: int, name: str, fill: Callable[[int], None] | None) -> None:
        look = self._look
        mode = entry.mode if look.mode is None else look.mode(entry)
        uid, gid = look.owner or (entry.uid, entry.gid)
        mtime_ns = look.time(entry.mtime_ns)
        fd = os.open(name, _NEW, mode, dir_fd=parent_fd)
        try:
            if fill is not None:
                fill(fd)
            if uid or gid:
                os.fchown(fd, uid, gid)
            if mode & (self._umask | 0o6000):
                os.fchmod(fd, mode)
            if entry.xattrs:
                set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)
        self.wrote(mtime_ns)

    def _special(self, entry: TreeEntry, parent_fd: int, name: str, fill: Callable[[int], None] | None) -> None:
        look = self._look
        mode = entry.mode if look.mode is None else look.mode(entry)
        uid, gid = look.owner or (entry.uid, entry.gid)
        mtime_ns = look.time(entry.mtime_ns)
        if entry.kind == "l":
            os.symlink(entry.link, name, dir_fd=parent_fd)
        else:
            if entry.kind == "c" and entry.device == (0, 0):
                raise InvalidArgument(f'invalid device 0:0 "{entry.path}": overlayfs would take it for a whiteout')
            os.mknod(name, _SPECIAL[entry.kind] | mode, os.makedev(*entry.device), dir_fd=parent_fd)
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=parent_fd, follow_symlinks=False)
        if entry.kind != "l" and mode & (self._umask | 0o6000):
            os.chmod(name, mode, dir_fd=parent_fd)
        if entry.xattrs:
            set_xattrs(f"/proc/self/fd/{parent_fd}/{name}", entry.xattrs)
        os.utime(name, ns=(mtime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
        self.wrote(mtime_ns)

    def link(self, source_fd: int, source: str, parent_fd: int, name: str, *, over: bool) -> None:
        """Give what was just written at `source` below `source_fd`, a path without links, a second name."""
        try:
            os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
        except FileExistsError:
            if not over:
                raise
            os.unlink(name, dir_fd=parent_fd)
            os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=parent_fd, follow_symlinks=False)

    def redress(self, entry: TreeEntry, parent_fd: int, name: str) -> None:
        """Set owner, mode and time of a file that is there; never of what a link names."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            self.dress(entry, fd)
        finally:
            os.close(fd)

    def make_directory(self, parent_fd: int, name: str) -> bool:
        """True: made, with mode 0700 until `dress`; False: a directory was there. Raises: NotADirectoryError."""
        try:
            os.mkdir(name, 0o700, dir_fd=parent_fd)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
            return False
        return True

    def dress(self, entry: TreeEntry, fd: int) -> None:
        """Set owner, mode, attributes and times; of a directory after everything in it was made."""
        look = self._look
        uid, gid = look.owner or (entry.uid, entry.gid)
        mtime_ns = look.time(entry.mtime_ns)
        if self._kept or self._made:
            key = _inode(os.fstat(fd))
            self._kept.pop(key, None)
            self._made.pop(key, None)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, entry.mode if look.mode is None else look.mode(entry))
        if entry.xattrs:
            set_xattrs(fd, entry.xattrs)
        os.utime(fd, ns=(mtime_ns, mtime_ns))
        self.wrote(mtime_ns)


def set_xattrs(target: int | str, xattrs: Mapping[str, bytes]) -> None:
    """Set extended attributes, but for what the file system cannot hold and for those of overlayfs itself."""
    for name, value in xattrs.items():
        if name.startswith(_FOREIGN_XATTRS):
            continue
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as e:
            if e.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise


class Merge:
    """Puts a part of a tree over a directory: directories become one, anything else replaces what is there."""

    def __init__(self, target: RootWriter, tree: Tree, base_fd: int, *, name: str = "", replaces: bool = False) -> None:
        """base_fd: the directory (not owned). name: how an error calls it. replaces: a file takes the place of a
        directory, and a directory that of a file or link.
        """
        self._replaces = replaces
        self._target = target
        self._tree = tree
        self._base = base_fd
        self._name = name
        self._links: dict[str, str] = {}  # first path in the tree of a content with several names → where it is now
        self._copy: Callable[[str, int], None]
        self._copy = tree.copy_to if isinstance(tree, content.Copying) else self._by_open

    def _by_open(self, path: str, fd: int) -> None:
        content.write(self._tree, path, fd)

    def run(self, entries: Iterable[tuple[str, TreeEntry]], *, fresh: bool) -> None:
        """Put these entries below the base.

        entries: (path, what to put there), parents first. fresh: the base is empty.

        Raises: InvalidArgument when a file would replace a directory or the other way; OSError.
        """
        held: dict[str, list[tuple[str, TreeEntry]]] = {}
        for path, entry in entries:
            held.setdefault(path.rpartition("/")[0], []).append((path, entry))
        new = {""} if fresh else set()
        own: dict[str, TreeEntry] = {}
        pending = [""]
        while pending:
            path = pending.pop()
            inside = held.pop(path, ())
            mine = own.get(path)
            fd = saferoot.open_in_root(self._base, path, _DIRECTORY | os.O_NOFOLLOW, xdev=False)
            try:
                if not path and inside:
                    self._target.touch(self._name, fd)
                for here, found in inside:
                    self._put(here, found, fd, path not in new, own, new)
                    if found.kind == "d":
                        pending.append(here)
                if mine is not None:
                    self._target.dress(mine, fd)
            finally:
                os.close(fd)

    def _put(self, path: str, entry: TreeEntry, fd: int, over: bool, own: dict[str, TreeEntry], new: set[str]) -> None:
        name = path.rpartition("/")[2]
        if entry.kind == "d":
            try:
                made = self._target.make_directory(fd, name)
            except NotADirectoryError as e:
                if self._replaces:
                    os.unlink(name, dir_fd=fd)
                    self._put(path, entry, fd, over, own, new)
                    return
                raise InvalidArgument(f"cannot copy to non-directory: {self._name}/{path}") from e
            if made:
                new.add(path)
            own[path] = entry
            return
        try:
            first = entry.hardlink or entry.path
            there = self._links.get(first)
            if there is not None:
                self._target.link(self._base, there, fd, name, over=over)
                return
            fill = (lambda out: self._copy(entry.path, out)) if entry.kind == "f" and entry.size else None
            self._target.put(entry, fd, name, fill, over=over)
            if entry.kind == "f":
                self._links[first] = path
        except IsADirectoryError as e:
            if self._replaces:
                shutil.rmtree(name, dir_fd=fd)
                self._put(path, entry, fd, over, own, new)
                return
            raise InvalidArgument(f"cannot replace to directory {self._name}/{path} with file") from e


def remove(path: str) -> None:
    """Delete a directory that `unfold` made."""
    shutil.rmtree(path, ignore_errors=True)


def unfold(tree: Tree, scratch: str | None) -> str:
    """Return a tree as a new directory below `scratch` (None: the system's place for temporary files); its path.

    Nothing is left when it fails.
    """
    path = tempfile.mkdtemp(prefix="tree-", dir=scratch)
    try:
        os.chmod(path, 0o755)
        fd = os.open(path, _DIRECTORY)
        try:
            target = RootWriter(fd, Look())
            Merge(target, tree, fd).run(sorted(tree.entries().items()), fresh=True)
            target.finish()
        finally:
            os.close(fd)
    except BaseException:
        remove(path)
        raise
    return path
