"""One log on disk: a live file and its rotated predecessors `<path>.1`, `<path>.2` … (`.gz` when compressed), as Docker
names them.

Invariants:
- The live file holds whole records only: what did not fit on a full disk is cut away again and counted as dropped; the
  caller never sees an error, because a log must not stop a container.
- A file is set aside once its size has reached `max_size`, before the next record, never inside a record.
- Nothing waits for compression (compression.py): a file that is not compressed yet is set aside like any other, so what
  lies on the disk is at most `max_files` whole files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from sampan.supervisor.logs import compression
from sampan.supervisor.logs.options import Rotation
from sampan.supervisor.notes import note

_COMPLAIN_EVERY_S = 60.0


class RotatingFile:
    """An append-only file that rotates. Not thread-safe: it belongs to one shim."""

    def __init__(self, path: str, rotation: Rotation) -> None:
        self._path = path
        self._rotation = rotation
        self._fd = self._open(0)
        self._size = os.fstat(self._fd).st_size
        self._compressor = compression.Compressor(path, rotation.max_files)
        self._complained_at = -_COMPLAIN_EVERY_S
        self.dropped_bytes = 0

    def write(self, block: bytes, boundary: Callable[[bytes, int], int]) -> None:
        """Append whole records.

        `boundary(block, n)` tells where the record that covers byte n - 1 ends; it is asked only at a rotation.
        """
        limit = self._rotation.max_size
        try:
            while limit and self._size + len(block) > limit:
                if self._size < limit:
                    end = boundary(block, limit - self._size)
                    self._append(block[:end])
                    block = block[end:]
                if not block:
                    return
                if not self._rotate():
                    break
            self._compressor.look_again()
            self._append(block)
        except OSError as e:
            self._complain(len(block), e)

    def close(self) -> None:
        """Compression that is under way goes on by itself."""
        if self._fd >= 0:
            self._compressor.look_again()
            self._compressor.close()
            os.close(self._fd)
            self._fd = -1

    def _append(self, block: bytes) -> None:
        view = memoryview(block)
        done = 0
        try:
            while done < len(view):
                done += os.write(self._fd, view[done:])
        except OSError as e:
            if done:
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - done)
            self._complain(len(block), e)
            return
        self._size += done

    def _rotate(self) -> bool:
        """Set the live file aside; False when that cannot be now, and the live file goes on."""
        if self._rotation.max_files < 2:
            os.ftruncate(self._fd, 0)
            self._size = 0
            return True
        with compression.lock(self._path, wait=False) as locked:
            if not locked:
                return False
            for extension in compression.EXTENSIONS:
                _unlink(f"{self._path}.{self._rotation.max_files - 1}{extension}")
            for number in range(self._rotation.max_files - 1, 1, -1):
                for extension in compression.EXTENSIONS:
                    try:
                        os.rename(f"{self._path}.{number - 1}{extension}", f"{self._path}.{number}{extension}")
                    except FileNotFoundError:
                        pass
            os.rename(self._path, f"{self._path}.1")
            fd = self._open(os.O_EXCL)
        os.close(self._fd)
        self._fd = fd
        self._size = 0
        if self._rotation.compress:
            self._compressor.start()
        return True

    def _open(self, flags: int) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o640)

    def _complain(self, lost: int, error: OSError) -> None:
        self.dropped_bytes += lost
        if time.monotonic() - self._complained_at >= _COMPLAIN_EVERY_S:
            self._complained_at = time.monotonic()
            note(f"log {self._path}: {error.strerror}; {self.dropped_bytes} bytes dropped so far")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
