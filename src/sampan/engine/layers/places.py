"""Makes the files of a layer where the file system makes files quickly, and links them where they belong.

Why: ext4 without a journal does not reuse an inode for one to six minutes after its removal, and walks over each such
inode of a block group whenever it makes a file there. Where thousands were removed a moment ago, by whomever, a file
costs 0.2 to 0.9 ms instead of 0.03 (measured, 6.18). A file's group is that of the directory it is made in.

So creations are timed; when many were slow, files are made without a name in a directory elsewhere
(snapshots/<n>/places-…, which the file system puts far away) and linked to their place: 0.05 ms.

Source: kernel fs/ext4/ialloc.c (find_inode_bit, recently_deleted; find_group_orlov: FS_TOPDIR_FL), open(2) O_TMPFILE.
"""

from __future__ import annotations

import os
import time

from sampan.linux import filesystems

SLOW_S = 120e-6  # to make a file
PATIENCE = 16  # slow creations more than quick ones, before the next place is tried
PLACES = 8

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMELESS = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Places:
    """For one layer, from one thread; `close` on every path."""

    def __init__(self, layer_fd: int) -> None:
        self._layer_fd = layer_fd
        self._elsewhere = -1  # the directory to make files in; -1: their own
        self._name = ""  # its name
        self._slow = 0
        self._left = PLACES

    def create(self, name: str, mode: int, directory_fd: int) -> int:
        """A new file, open for writing. Raises: FileExistsError, OSError."""
        began = time.perf_counter()
        if self._elsewhere < 0:
            fd = os.open(name, _NEW, mode, dir_fd=directory_fd)
        else:
            fd = os.open(".", _NAMELESS, mode, dir_fd=self._elsewhere)
        if time.perf_counter() - began > SLOW_S:
            self._slow += 1
        elif self._slow:
            self._slow -= 1
        if self._elsewhere >= 0:
            try:
                os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory_fd)
            except BaseException:
                os.close(fd)
                raise
        if self._slow > PATIENCE and self._left:
            self._move()
        return fd

    def _move(self) -> None:
        """To another place; what cannot be is left as it is."""
        self.close()
        self._slow = 0
        self._left -= 1
        try:
            filesystems.set_inode_flags(
                self._layer_fd, filesystems.get_inode_flags(self._layer_fd) | filesystems.FS_TOPDIR_FL
            )
            self._name = f"places-{os.urandom(4).hex()}"  # the place depends on it
            os.mkdir(self._name, 0o700, dir_fd=self._layer_fd)
            self._elsewhere = os.open(self._name, _DIRECTORY, dir_fd=self._layer_fd)
        except OSError:  # no such file system
            self._left = 0

    def close(self) -> None:
        if self._elsewhere >= 0:
            os.close(self._elsewhere)
            os.rmdir(self._name, dir_fd=self._layer_fd)
            self._elsewhere = -1
