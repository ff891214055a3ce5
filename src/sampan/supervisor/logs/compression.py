"""Compress what a log has set aside, in a process of its own beside the one that writes.

The process goes through `<path>.1`, `<path>.2` … until none is left that is not compressed, and ends. The writer
renames those files meanwhile: both do it under a lock on the directory, held for some renames only, and the
compressor knows its file by the inode. It outlives the writer.

A fork, not a thread: the shim clones processes of containers, for which it must be its only thread.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from sampan.linux import process
from sampan.supervisor import title
from sampan.supervisor.notes import note

EXTENSIONS = ("", ".gz")
_PIECE_BYTES = 1 << 20
_LEVEL = 6
_GZIP_HEADER = 16  # added to zlib's window bits


@contextmanager
def lock(path: str, *, wait: bool) -> Iterator[bool]:
    """Hold the names of a log's files; say whether they are held, which without `wait` somebody else may prevent.

    Raises: OSError.
    """
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(directory)


class Compressor:
    """The writer's end: at most one process at a time."""

    def __init__(self, path: str, max_files: int) -> None:
        self._path = path
        self._max_files = max_files
        self._pid = -1
        self._pidfd = -1
        self._owed = False  # a file was set aside while a process was at work, which may have missed it

    def start(self) -> None:
        """Have everything compressed that has been set aside; when that cannot be now, `look_again` will."""
        self._owed = True
        if not self._busy():
            self._fork()

    def _fork(self, after: int = -1) -> None:
        """Start a process, whose work begins when another one has ended, of which `after` is the pidfd."""
        try:
            pid = process.fork()
            if pid == 0:
                _run(self._path, self._max_files, after)
            pidfd = process.pidfd_open(pid)
        except OSError as e:
            note(f"log {self._path}: compress: {e.strerror}")
            return
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self._pid, self._pidfd = pid, pidfd
        self._owed = False

    def look_again(self) -> None:
        """Start another process if the last one may have missed a file, and has ended."""
        if self._owed:
            self.start()

    def close(self) -> None:
        """End without waiting: what the process at work may have missed is left to one more, which comes after it."""
        if not self._busy():
            return
        if self._owed:
            self._fork(after=self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1

    def _busy(self) -> bool:
        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(0):
            return True
        os.close(self._pidfd)
        self._pidfd = -1
        try:
            os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:  # the shim's reaper was first
            pass
        return False


def _run(path: str, max_files: int, after: int) -> NoReturn:
    """The process: nothing of the writer's is kept, neither descriptors nor handlers."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.set_handler(number, process.SIG_DFL)
        if after >= 0:
            poll = select.poll()
            poll.register(after, select.POLLIN)
            poll.poll()
        process.close_range(3)
        title.set_title(f"sampan-compress {path}")
        process.set_name("sampan-compress")
        os.nice(10)
        compress_all(path, max_files)
        status = 0
    except OSError as e:
        note(f"log {path}: compress: {e.strerror}")
    finally:
        os._exit(status)


def compress_all(path: str, max_files: int) -> None:
    """Compress every file of a log that has been set aside. Raises: OSError, with nothing half done under a final
    name.
    """
    temporary = f"{path}.gz.tmp"
    while True:
        target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            try:
                fcntl.flock(target, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # of an earlier writer, which had the same log: it does it all
                return
            with lock(path, wait=True):
                source = _next(path, max_files)
            if source < 0:
                os.unlink(temporary)
                return
            try:
                os.ftruncate(target, 0)
                _compress(source, target)
                with lock(path, wait=True):
                    _put(path, max_files, source, temporary)
            finally:
                os.close(source)
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(target)


def _next(path: str, max_files: int) -> int:
    """Open the newest file that is not compressed; -1 when all are."""
    for number in range(1, max_files):
        try:
            return os.open(f"{path}.{number}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            pass
    return -1


def _compress(source: int, target: int) -> None:
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_HEADER + zlib.MAX_WBITS)
    while chunk := os.read(source, _PIECE_BYTES):
        _write(target, packer.compress(chunk))
    _write(target, packer.flush())


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _put(path: str, max_files: int, source: int, temporary: str) -> None:
    """Replace the file wherever it stands by now. The rename comes first: a reader finds one of both, whole."""
    wanted = os.fstat(source).st_ino
    for number in range(1, max_files):
        try:
            if os.stat(f"{path}.{number}").st_ino == wanted:
                os.rename(temporary, f"{path}.{number}.gz")
                os.unlink(f"{path}.{number}")
                return
        except FileNotFoundError:
            pass
    os.unlink(temporary)  # it was the oldest, and has gone
