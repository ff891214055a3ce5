"""A directory that takes what an engine sends, and nothing outside of it.

Every name is resolved from the directory's own descriptor, component by component, without following a symbolic link. A
file is written under a name of its own and put in place by a rename when it is complete; what stood there before under
another hard link is untouched. Owners are the user's own, as docker leaves them.

Source: openat(2) O_NOFOLLOW; Go's os.FileMode.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from sampan.cli.session import CommandError
from sampan.spec import go_modes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.spec.buildkit.filesync_pb2 import Stat

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def kind(entry: Stat) -> int:
    """Return an entry's type as in st_mode. Raises: CommandError for one that no directory can take."""
    found = go_modes.kind(entry.mode)
    if found is None or found == stat.S_IFSOCK:
        raise CommandError(f"{entry.path}: not a type of file that can be received")
    return found


class Place:
    """Owns the directory's descriptor, the one of the directory that was used last, and those of unfinished files."""

    def __init__(self, directory: str) -> None:
        self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._above = ""
        self._above_fd = os.dup(self._root)
        self._open: dict[int, tuple[Stat, int, str]] = {}

    def close(self) -> None:
        """Drop what is not complete."""
        for entry, fd, temporary in self._open.values():
            os.close(fd)
            with suppress(OSError, CommandError):
                os.unlink(temporary, dir_fd=self._parent(entry.path)[0])
        self._open.clear()
        os.close(self._above_fd)
        os.close(self._root)

    def make(self, entry: Stat) -> None:
        """Make a directory (its owner may write to it until `finish`), a symbolic link, a fifo or a device."""
        above, name = self._parent(entry.path)
        what = kind(entry)
        if what == stat.S_IFDIR:
            self._directory(above, name)
            return
        temporary = _temporary()
        if what == stat.S_IFLNK:
            os.symlink(entry.linkname, temporary, dir_fd=above)
        else:
            os.mknod(temporary, what | 0o600, os.makedev(entry.devmajor, entry.devminor), dir_fd=above)
            os.chmod(temporary, go_modes.permissions(entry.mode), dir_fd=above)
        _dated(temporary, entry, above)
        self._rename(temporary, name, above, entry.path)

    def begin(self, number: int, entry: Stat) -> None:
        above, _ = self._parent(entry.path)
        temporary = _temporary()
        self._open[number] = (entry, os.open(temporary, _NEW, 0o600, dir_fd=above), temporary)

    def write(self, number: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._open[number][1], left) :]

    def end(self, number: int) -> None:
        entry, fd, temporary = self._open[number]
        above, name = self._parent(entry.path)
        os.fchmod(fd, go_modes.permissions(entry.mode))
        os.utime(fd, ns=(entry.modTime, entry.modTime))
        self._rename(temporary, name, above, entry.path)
        del self._open[number]
        os.close(fd)

    def link(self, entry: Stat) -> None:
        """Give a file that has been received a further name."""
        first = entry.linkname.lstrip("/")
        source, source_name = self._parent(first)
        held = os.dup(source)
        try:
            above, name = self._parent(entry.path)
            temporary = _temporary()
            os.link(source_name, temporary, src_dir_fd=held, dst_dir_fd=above, follow_symlinks=False)
            self._rename(temporary, name, above, entry.path)
            with suppress(FileNotFoundError):  # a rename to another name of the same file does nothing
                os.unlink(temporary, dir_fd=above)
        finally:
            os.close(held)

    def finish(self, entry: Stat) -> None:
        """Set a directory's mode and time, once nothing more is put into it."""
        above, name = self._parent(entry.path)
        fd = os.open(name, _DIRECTORY, dir_fd=above)
        try:
            os.fchmod(fd, go_modes.permissions(entry.mode))
            os.utime(fd, ns=(entry.modTime, entry.modTime))
        finally:
            os.close(fd)

    def _parent(self, path: str) -> tuple[int, str]:
        """(descriptor of the directory above, last name).

        Raises: CommandError for a name that is not clean, OSError.
        """
        parts = path.split("/")
        if "\0" in path or any(part in ("", ".", "..") for part in parts):
            raise CommandError(f"the engine sent an unclean path {path!r}")
        above = "/".join(parts[:-1])
        if above != self._above:
            fd = os.dup(self._root)
            try:
                for part in parts[:-1]:
                    inner = os.open(part, _DIRECTORY, dir_fd=fd)
                    os.close(fd)
                    fd = inner
            except OSError as e:
                os.close(fd)
                raise OSError(e.errno, e.strerror, above) from e
            os.close(self._above_fd)
            self._above, self._above_fd = above, fd
        return self._above_fd, parts[-1]

    def _directory(self, above: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=above)  # a file or a link in the place of a directory
                os.mkdir(name, 0o700, dir_fd=above)
            else:
                fd = os.open(name, _DIRECTORY, dir_fd=above)
                try:
                    os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) | 0o700)
                finally:
                    os.close(fd)

    def _rename(self, temporary: str, name: str, above: int, path: str) -> None:
        try:
            os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
        except OSError as e:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=above)
            raise OSError(e.errno, e.strerror, path) from e


def _temporary() -> str:
    return f".tmp.{os.urandom(8).hex()}"


def _dated(name: str, entry: Stat, above: int) -> None:
    os.utime(name, ns=(entry.modTime, entry.modTime), dir_fd=above, follow_symlinks=False)
