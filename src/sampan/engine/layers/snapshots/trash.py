"""The trash of a data root: what is renamed here is gone for everybody, and leaves the disk in the background.

Invariant: whatever a container made can be removed with few descriptors and no recursion limit: a directory deeper
than `HOIST` levels is first renamed to the top of the trash and then treated as an entry of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable

from sampan.errors import NO_ROOM, words

HOIST = 50
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

log = logging.getLogger("sampan.images")


class Trash:
    """One directory and the thread that empties it.

    What cannot be removed is logged once and tried at the next start.
    """

    def __init__(self, path: str, destroy: Callable[[int, str], bool] | None = None) -> None:
        """destroy: removes a whole directory (parent, name) in one step where the file system can; True when it did."""
        self.path = path
        self._destroy = destroy
        os.makedirs(path, mode=0o700, exist_ok=True)
        self._fd = os.open(path, _READ)
        self._asked = threading.Event()
        self._stopping = False
        self._failed: dict[str, str] = {}  # name → reason
        self._asked.set()  # what the last run left
        self._thread = threading.Thread(target=self._run, name="images-reaper", daemon=True)
        self._thread.start()

    def take(self, path: str, label: str) -> None:
        """Rename `path` (on the same file system) into the trash; a missing one is already so."""
        discard(path, f"{self.path}/{label}-{os.urandom(4).hex()}")
        self._asked.set()  # others rename into the trash as well

    def stuck(self) -> list[tuple[str, str]]:
        """What could not be removed: (name, reason)."""
        there = set(os.listdir(self.path))
        return sorted((name, reason) for name, reason in self._failed.items() if name in there)

    def retry(self) -> None:
        """Try again what could not be removed."""
        self._failed = {}
        self._asked.set()

    def close(self) -> None:
        """Finish the directory at hand and stop; the rest waits for the next start."""
        self._stopping = True
        self._asked.set()
        self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            # by path: a descriptor that stays open shows, on btrfs, what was there at its last rewind
            while names := [name for name in os.listdir(self.path) if name not in self._failed]:
                for name in names:
                    if self._stopping:
                        return
                    self._remove_one(name)
            if self._stopping:
                return

    def _remove_one(self, name: str) -> None:
        try:
            self._remove(self._fd, name, 0)
        except (_Stopped, FileNotFoundError):  # other services empty their own entries as well
            return
        except OSError as e:
            self._failed[name] = words(e)
            where = f" ({e.filename})" if e.filename else ""
            log.warning(
                "cannot remove %s/%s%s: %s; it is tried again at the next start", self.path, name, where, words(e)
            )

    def _remove(self, parent_fd: int, name: str, depth: int) -> None:
        if self._destroy is not None and depth < 2 and self._destroy(parent_fd, name):
            return
        try:
            fd = os.open(name, _READ, dir_fd=parent_fd)
        except NotADirectoryError:
            os.unlink(name, dir_fd=parent_fd)
            return
        try:
            with os.scandir(fd) as entries:
                for entry in list(entries):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=fd)
                    elif self._stopping:
                        raise _Stopped
                    elif depth < HOIST:
                        self._remove(fd, entry.name, depth + 1)
                    else:
                        deep = f"deep-{os.urandom(8).hex()}"
                        os.rename(entry.name, deep, src_dir_fd=fd, dst_dir_fd=self._fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=parent_fd)


def discard(path: str, trash: str) -> None:
    """Rename `path` to its place in the trash, so that nobody waits for its removal; a missing one is already so.

    Where a full disk has no room for one more name it is removed here and now.
    """
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        pass
    except OSError as e:
        if e.errno not in NO_ROOM:
            raise
        shutil.rmtree(path)


class _Stopped(Exception):
    """The thread is to end in the middle of a tree."""
