"""Room for the database on a full disk: a file that takes space nobody needs, until deleting needs some.

To delete a record, SQLite writes pages too. On a disk without a free block it could not, so whatever would free the
disk would be refused. The reserve is given up for changes that add nothing (deletions, changes of state), and taken
again when there is room.

Source: sqlite.org/rescode.html (SQLITE_FULL, SQLITE_IOERR_*); fallocate(2).
"""

from __future__ import annotations

import os
import sqlite3

RESERVE_BYTES = 5 * 1024 * 1024  # more than the log has when it is checkpointed: that goes into the database then
ROOM_BYTES = 8 * RESERVE_BYTES  # free space that must be there before the reserve is taken again
_NEXT_TO_NOTHING_BYTES = 256 * 1024
_FULL, _IO_ERROR, _CANNOT_OPEN = 13, 10, 14  # primary result codes


class Reserve:
    """The reserve of the database at `path`: the file `<path>.reserve`."""

    def __init__(self, path: str) -> None:
        self._path = f"{path}.reserve"

    @property
    def held(self) -> bool:
        return os.path.exists(self._path)

    @property
    def size_bytes(self) -> int:
        """What the reserve takes on the disk now."""
        return RESERVE_BYTES if self.held else 0

    def hold(self) -> bool:
        """Take the reserve when there is room enough; return whether it is there now."""
        if self.held:
            return True
        try:
            if self._free_bytes() < ROOM_BYTES:
                return False
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> bool:
        """Give the reserve up; return whether there was one."""
        try:
            os.unlink(self._path)
        except OSError:
            return False
        return True

    def full(self, error: sqlite3.Error) -> bool:
        """Return whether a failure of SQLite is the disk's being full.

        Some of its files cannot even be made then, which it reports as other failures.
        """
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == _FULL:
            return True
        try:
            return code in (_IO_ERROR, _CANNOT_OPEN) and self._free_bytes() < _NEXT_TO_NOTHING_BYTES
        except OSError:
            return False

    def _free_bytes(self) -> int:
        found = os.statvfs(os.path.dirname(os.path.abspath(self._path)))
        return found.f_bavail * found.f_frsize if found.f_favail else 0
