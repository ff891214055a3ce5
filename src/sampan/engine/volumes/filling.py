"""Filling an empty volume with what the image has at its place: contents, owner, mode, times, extended attributes.

Both sides are walked by descriptors and never followed through symlinks: neither a crafted image nor a container that
has the volume already can lead outside.

Source: Docker's documented behaviour of new volumes ("populate a volume using a container").
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat

from sampan.linux import copying, saferoot

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Filling:
    """One filling: the image's directory and the volume's, by descriptor. Owns both. All but `close` may block."""

    def __init__(self) -> None:
        self._source = self._target = -1

    def open_source(self, root_fd: int, path: str) -> bool:
        """Find the directory `path` below an open root; False when there is none. Raises: OSError."""
        try:
            self._source = saferoot.open_in_root(root_fd, path, _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def open_target(self, volume: str, subpath: str) -> bool:
        """Find the directory to fill, resolved inside the volume; False when there is none. Raises: OSError."""
        root = os.open(volume, os.O_PATH | os.O_CLOEXEC)
        try:
            self._target = saferoot.open_beneath(root, posixpath.normpath(subpath or "."), _DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as e:
            if e.errno == errno.EXDEV:
                return False  # a symlink leads out of the volume: the mount says so
            raise
        finally:
            os.close(root)
        return True

    def is_empty(self) -> bool:
        """Say whether there is nothing that must be kept. Raises: OSError."""
        return not os.listdir(self._target)

    def copy(self) -> None:
        """Copy everything, or nothing. Raises: OSError."""
        try:
            copying.copy_tree(self._source, self._target)
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Take away what a copy that failed, or was interrupted, has left. Raises: OSError."""
        for name in os.listdir(self._target):
            if stat.S_ISDIR(os.stat(name, dir_fd=self._target, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=self._target)
            else:
                os.unlink(name, dir_fd=self._target)

    def close(self) -> None:
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1
