"""The database's file: who has it, how it is opened, checked and brought to this version, and what is wrong with it.

Invariants:
- No file of the database is mapped into memory: a page that a full disk cannot give would be a SIGBUS. SQLite's index
  of the WAL, which is a mapped file by default, is on the heap (`connection`).
- A full disk stops no start: what opening would write can wait (`open_database`).
- A database that is sound is never called damaged.

Source: sqlite.org/wal.html, sqlite.org/vfs.html (unix-excl), sqlite.org/rescode.html; flock(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import time
import urllib.parse
from collections.abc import Callable

from sampan.engine.store_reserve import Reserve
from sampan.errors import NO_ROOM, Internal, words

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
APPLICATION_ID = 0x53414D50  # "SAMP": `file sampan.db` and we ourselves can tell whose database this is
CHECKPOINT_BYTES = 4 * 1024 * 1024
WAIT_S = 10  # of one connection for another of this process

# from version n to n+1: MIGRATIONS[n](connection), inside one transaction with the new version number
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {}


class StoreError(Internal):
    """The database cannot be opened, read or written: names the file, the reason and what to do."""


class DiskFull(StoreError):
    """The database is as it was, and its disk has no room for what was to be written."""


def _unusable(path: str, reason: str) -> StoreError:
    return StoreError(
        f"the database {path} cannot be used: {reason}. Restore it from a backup, or move it away to begin with an "
        f"empty one (images, containers and networks that it describes are then unknown)"
    )


def _no_room(path: str, reason: str) -> DiskFull:
    return DiskFull(
        f"the database {path} cannot be opened: {reason}. Its disk is full: make some room there (a megabyte will do)"
        f" and start again. The database is sound; do not move it away"
    )


def why_not(path: str, error: sqlite3.Error) -> StoreError:
    """Return the error that says why SQLite cannot open or read the database."""
    if Reserve(path).full(error):
        return _no_room(path, str(error))
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(f"the database {path} is in use by another program (sqlite3?): end it and start again")
    return _unusable(path, str(error))


def _sick(path: str, reason: str) -> StoreError:
    return StoreError(
        f"the database {path} cannot be written: {reason}. Check the disk, make its file system writable again (a "
        f"kernel that has met errors makes it read-only) and start again. Containers run on meanwhile. Do not move the "
        f"database away"
    )


def lock(path: str) -> int:
    """Take `<path>.lock`; returns the descriptor that holds it."""
    try:
        fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        if e.errno in (errno.EROFS, errno.EIO):
            raise _sick(path, words(e)) from e
        raise StoreError(f"cannot open the database {path}: {path}.lock: {words(e)}") from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreError(
            f"the database {path} is in use by another daemon (pid {pid or 'unknown'}): "
            f"stop it, or choose another --data-root"
        ) from e
    with contextlib.suppress(OSError):  # for people only, and a full disk may not take it
        os.truncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def open_database(path: str) -> sqlite3.Connection:
    """Open the database, on a full disk with what its reserve gives. Raises: StoreError, DiskFull."""
    try:
        return _connect(path)
    except DiskFull:
        if not Reserve(path).release():
            raise
    return _connect(path)


def connection_to(path: str) -> sqlite3.Connection:
    """Open a connection to a database that is there. In autocommit mode: transactions are written out.

    `unix-excl` locks the file for this process, so that connections of it, and of no other one, share the index of the
    WAL: it is on the heap then, and not in the mapped file `-shm`.
    """
    uri = f"file:{urllib.parse.quote(os.path.abspath(path))}?vfs=unix-excl&mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WAIT_S, check_same_thread=False)


def _connect(path: str) -> sqlite3.Connection:
    """Open, check, migrate."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(fd)
    except OSError as e:
        if e.errno in NO_ROOM:
            raise _no_room(path, words(e)) from e
        if e.errno in (errno.EROFS, errno.EIO):
            raise _sick(path, words(e)) from e
        raise _unusable(path, words(e)) from e
    connection = connection_to(path)
    try:
        connection.execute("PRAGMA busy_timeout = 1000")  # ms; who has it now is another program
        version = _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {2 * CHECKPOINT_BYTES}")
        connection.execute(f"PRAGMA busy_timeout = {WAIT_S * 1000}")
        if version == SCHEMA_VERSION:
            _write_first(connection, path)
        else:
            _migrate(connection, version)
    except sqlite3.Error as e:
        connection.close()
        raise why_not(path, e) from e
    except BaseException:
        connection.close()
        raise
    with contextlib.suppress(OSError):
        os.unlink(path + "-shm")  # of a release that had the WAL's index there
    _sync_directory(os.path.dirname(os.path.abspath(path)))
    return connection


def _check(connection: sqlite3.Connection, path: str) -> int:
    """Return the schema version. Raises: StoreError for a foreign, newer or damaged file."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if version and application != APPLICATION_ID:
        raise _unusable(path, "it is the database of another program")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"the database {path} has version {version}; this program knows versions up to {SCHEMA_VERSION}: "
            f"use the newer release that wrote it"
        )
    problems = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if problems != ["ok"]:
        raise _unusable(path, "damaged: " + "; ".join(problems))
    return version


def _write_first(connection: sqlite3.Connection, path: str) -> None:
    """Write something, so that a database that cannot be written is found now. A full disk is one that can, later."""
    try:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except sqlite3.Error as e:
        if not Reserve(path).full(e):
            raise
        log.error("the disk of the database %s is full: the start goes on, and what needs room is refused", path)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the schema from `version` (0: an empty file) to SCHEMA_VERSION, one transaction a step."""
    connection.execute("BEGIN IMMEDIATE")
    if version == 0:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(
            "CREATE TABLE refs (holder TEXT NOT NULL, target TEXT NOT NULL, PRIMARY KEY (holder, target)) WITHOUT ROWID"
        )
        version = SCHEMA_VERSION
    while version < SCHEMA_VERSION:
        MIGRATIONS[version](connection)
        version += 1
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("COMMIT")


def move_aside(path: str) -> None:
    aside = f"{path}.corrupt-{int(time.time())}"
    os.rename(path, aside)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
