"""Durable records and references: one SQLite file, read from memory, written through.

What it is: every noun of the engine keeps its records in a `Table` (JSON documents, one SQL table a noun), and
"is X in use?" is answered by references `holder → target`. What it is not: a query engine, or a place for state
that can be read back from the kernel. It knows no noun.

Invariants:
- Reads never touch SQL: a table is loaded once and kept in memory, SQL first and memory second on every write.
- A write is one transaction: all operations of one `apply` are there, or none is.
- `durable=True` returns after fdatasync: it survives power loss. `durable=False` returns after write(2): it
  survives the death of the process at any instruction, not that of the machine.
- Writes are totally ordered, so a durable write makes all earlier non-durable ones durable too.
- A row that cannot be decoded hides no other: it is kept as it is, out of sight (`aside`), until it is removed or
  written over. What it refers to is unknown, so nobody may take anything for left over meanwhile.
- On a full disk deletions go on (store_reserve.py). A change that adds no record is kept in memory when it cannot be
  written, unless it was to be durable: what the kernel has done is so, and is written as soon as it can be.
- One process a database, none of whose files is mapped into memory (store_file.py).

How: one connection in WAL mode with synchronous=NORMAL writes inline (some tens of microseconds: a commit is one
pwrite to the WAL). Durability is a separate fdatasync of the WAL file in the writer thread, shared by everybody
who waits at that moment (group commit). That is what synchronous=FULL does, without holding SQLite's write lock,
and so the event loop, during the disk's flush. Checkpoints run in the same thread on a connection of their own.

Source: sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous, fdatasync(2).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from sampan.engine import store_file
from sampan.engine.store_file import CHECKPOINT_BYTES, DiskFull, StoreError
from sampan.engine.store_reserve import Reserve
from sampan.errors import words

log = logging.getLogger(__name__)


RETRY_S = 1.0  # until what a full disk did not take is tried again


class Record(msgspec.Struct, kw_only=True):
    """What a table holds; subclass per noun. `id` is unique in its table.

    Treat as frozen: change by `replace` and put.
    """

    id: str


T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """One thing that the engine keeps: what kind it is and its name, `Ref("layer", chain_id)`.

    `noun`: container, image, layer, snapshot, volume, network, blob, build, work; without a colon. `id`: unique among
    its noun, may have colons. In the database it is the text `<noun>:<id>`.
    """

    noun: str
    id: str

    def __str__(self) -> str:
        return f"{self.noun}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read what `str` wrote."""
        noun, _, id = text.partition(":")
        return cls(noun, id)


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What a watcher is told: the record as it is now, or None when it is gone."""

    id: str
    record: T | None


class Watch(Generic[T]):
    """The changes of one table from the moment it was made: an async iterator, to be used in a `with` statement.

    `snapshot` is the table at that moment; every later change comes once, the newest state of a record in the place
    of older ones that were not read yet. So a slow reader holds at most one entry a record, and never misses the last
    state. Changes come in the order in which each record was first changed since the last read.
    """

    def __init__(self, snapshot: tuple[T, ...], leave: Callable[[Watch[T]], None]) -> None:
        self.snapshot = snapshot
        self._leave = leave
        self._waiting: dict[str, T | None] = {}
        self._arrived = asyncio.Event()

    def __enter__(self) -> Watch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(self)

    def __aiter__(self) -> Watch[T]:
        return self

    async def __anext__(self) -> Change[T]:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        id = next(iter(self._waiting))
        return Change(id, self._waiting.pop(id))

    def tell(self, id: str, record: T | None) -> None:
        """Take one change. Called by the table, after the database has it."""
        self._waiting[id] = record
        self._arrived.set()


@dataclass(frozen=True, slots=True, order=True)
class Aside:
    """A row that cannot be decoded, and why. `table`: as it is called in the database."""

    table: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Op:
    """One change: its SQL, and what to do in memory once SQL has it. Made by tables and by `reference`/`release`.

    adds: it makes something that was not there, which a full disk has no room for.
    """

    sql: str
    parameters: tuple[str | bytes, ...]
    remember: Callable[[], None]
    adds: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        """What it does, to what: of two with the same key only the later one counts."""
        return (self.sql, *(p for p in self.parameters if isinstance(p, str)))


class InvalidRecord(ValueError):
    """A row is no record of its table."""


def decode_row(decoder: msgspec.json.Decoder[T], id: str, blob: bytes) -> T:
    """Return the record of a row. Raises: InvalidRecord."""
    try:
        record = decoder.decode(blob)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, TypeError) as e:
        raise InvalidRecord(f"{type(e).__name__}: {e}") from e
    if record.id != id:
        raise InvalidRecord(f"it is the record of {record.id!r}")
    return record


class Table(Generic[T]):
    """All records of one noun. `get` and `all` read memory; `put` and `delete` return an Op for `Store.apply`."""

    def __init__(self, name: str, type_: type[T], stored: Iterable[tuple[str, bytes]]) -> None:
        self.name = name
        self._rows: dict[str, T] = {}
        self.aside: dict[str, str] = {}  # id → why the row cannot be decoded
        decoder = msgspec.json.Decoder(type_)
        for id, blob in stored:
            try:
                self._rows[id] = decode_row(decoder, id, blob)
            except InvalidRecord as e:
                self.aside[id] = str(e)
        self._watches: set[Watch[T]] = set()
        self._encoder = msgspec.json.Encoder()
        self._put = f'INSERT INTO "{name}" (id, json) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET json = excluded.json'
        self._delete = f'DELETE FROM "{name}" WHERE id = ?'

    def get(self, id: str) -> T | None:
        return self._rows.get(id)

    def all(self) -> list[T]:
        """Every record, oldest put first."""
        return list(self._rows.values())

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id: str) -> bool:
        return id in self._rows

    def hide(self, hidden: Callable[[T], bool]) -> list[T]:
        """Forget records of which `hidden` says so, in memory only: they stay in the database as they are."""
        gone = [record for record in self._rows.values() if hidden(record)]
        for record in gone:
            del self._rows[record.id]
        return gone

    def put(self, record: T) -> Op:
        return Op(
            self._put,
            (record.id, self._encoder.encode(record)),
            lambda: self._remember(record.id, record),
            adds=record.id not in self._rows,
        )

    def delete(self, id: str) -> Op:
        """A missing record is "already so"."""
        return Op(self._delete, (id,), lambda: self._remember(id, None))

    def watch(self) -> Watch[T]:
        """Watch this table; see `Store.watch`."""
        watch = Watch(tuple(self._rows.values()), self._watches.discard)
        self._watches.add(watch)
        return watch

    def _remember(self, id: str, record: T | None) -> None:
        self.aside.pop(id, None)
        if record is not None:
            self._rows[id] = record
        elif self._rows.pop(id, None) is None:
            return
        for watch in self._watches:
            watch.tell(id, record)


class Store:
    """The one database of an engine. Use from the event loop's thread; `close` on every path."""

    def __init__(self, path: str, connection: sqlite3.Connection, lock_fd: int) -> None:
        self.path = path
        self._connection = connection
        self._lock_fd = lock_fd
        self._tables: dict[str, Table[Any]] = {}
        self._holders: dict[Ref, set[Ref]] = {}  # target → holders
        self._targets: dict[Ref, set[Ref]] = {}  # holder → targets
        self._reserve = Reserve(path)
        self._unwritten: dict[tuple[str, ...], Op] = {}  # the last of each kind on each object, in order
        self._written = asyncio.Event()  # all that is in memory is in the database
        self._written.set()
        self._retry: asyncio.TimerHandle | None = None
        self._flusher = _Flusher(path, self._reserve)
        self._reserve.hold()
        for holder, target in connection.execute("SELECT holder, target FROM refs"):
            self._remember_reference(Ref.parse(holder), Ref.parse(target))

    @classmethod
    async def open(cls, path: str, *, move_aside: bool = False) -> Store:
        """Open or create the database at `path`.

        move_aside: when the file is corrupt, rename it to `<path>.corrupt-<unix time>` and begin anew; only ever
        on the user's explicit word.
        Raises: StoreError, naming the file, the reason and the remedy.
        """
        lock_fd = store_file.lock(path)
        try:
            try:
                connection = store_file.open_database(path)
            except StoreError as error:
                if not move_aside or isinstance(error, DiskFull):
                    raise
                store_file.move_aside(path)
                connection = store_file.open_database(path)
            try:
                return cls(path, connection, lock_fd)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock_fd)
            raise

    async def close(self) -> None:
        """Flush, checkpoint and close. Idempotent."""
        if self._lock_fd < 0:
            return
        if self._retry is not None:
            self._retry.cancel()
        if self._unwritten:
            self._write_again()
            if self._retry is not None:
                self._retry.cancel()
        await asyncio.get_running_loop().run_in_executor(None, self._flusher.close)
        self._connection.close()
        os.close(self._lock_fd)
        self._lock_fd = -1

    def table(self, name: str, type_: type[T]) -> Table[T]:
        """The table called `name` (a plain identifier), created when missing, with all its rows in memory.

        A row that cannot be decoded is kept aside. Raises: StoreError.
        """
        if not name.isidentifier() or name == "refs":
            raise ValueError(f"not a table name: {name!r}")
        if name in self._tables:
            raise ValueError(f"table {name} is open already")
        try:
            self._connection.execute(
                f'CREATE TABLE IF NOT EXISTS "{name}" (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, json BLOB '
                f"NOT NULL)"
            )
            stored = self._connection.execute(f'SELECT id, json FROM "{name}" ORDER BY seq').fetchall()
        except sqlite3.Error as e:
            raise store_file.why_not(self.path, e) from e
        table = Table(name, type_, stored)
        for id, reason in table.aside.items():
            log.warning("record %r of table %s cannot be read and is left out: %s", id, name, reason)
        self._tables[name] = table
        return table

    def aside(self) -> list[Aside]:
        """The rows that cannot be decoded, of all open tables."""
        tables = self._tables.items()
        return sorted(Aside(name, id, reason) for name, table in tables for id, reason in table.aside.items())

    def remove_aside(self, aside: Aside) -> Op:
        """The operation that removes such a row; to be applied at once."""
        return self._tables[aside.table].delete(aside.id)

    async def apply(self, *ops: Op, durable: bool = True) -> None:
        """Carry out all operations in one transaction, or none.

        durable: return after the disk has it (a few milliseconds, shared by all who wait); else after write(2).
        Raises: StoreError; nothing has changed then, in SQL or memory, except that a failed flush leaves the
        change written but not promised.
        """
        self.apply_now(*ops, kept=not durable)
        if durable:
            await self.flushed()

    def apply_now(self, *ops: Op, kept: bool = True) -> None:
        """`apply(durable=False)` for callers that cannot await: written inline.

        kept: what a full disk does not take is remembered all the same, and written later.
        """
        try:
            self._write(ops)
        except sqlite3.Error as error:
            failure: sqlite3.Error | None = error
            full = self._reserve.full(error)
            if full and not any(op.adds for op in ops):
                failure = self._write_with_reserve(ops)
            if failure is not None and full and kept and not any(op.adds for op in ops):
                if not self._unwritten:
                    log.error("the database %s cannot be written, and is kept in memory: %s", self.path, failure)
                for op in ops:
                    self._unwritten.pop(op.key, None)
                    self._unwritten[op.key] = op
                self._written.clear()
                self._write_later()
            elif failure is not None:
                kind = DiskFull if full else StoreError
                raise kind(f"cannot write to the database {self.path}: {failure}; nothing was changed") from error
        for op in ops:
            op.remember()

    def _write(self, ops: Iterable[Op]) -> None:
        """Write operations, and before them what could not be written until now. Raises: sqlite3.Error."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for op in (*self._unwritten.values(), *ops):
                connection.execute(op.sql, op.parameters)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite rolls some failures back itself (a full disk at COMMIT)
                connection.execute("ROLLBACK")
            raise
        if self._unwritten:
            log.warning("the database %s is written again", self.path)
            self._unwritten.clear()
            self._written.set()

    def _write_with_reserve(self, ops: Iterable[Op]) -> sqlite3.Error | None:
        """Write into the log from its beginning, and then with what the reserve gives; return why it cannot be."""
        failure = self._write_from_the_beginning(ops)
        if failure is not None and self._reserve.release():
            log.warning("the disk of the database %s is full: its reserve is used", self.path)
            failure = self._write_from_the_beginning(ops)
        self._write_later()
        return failure

    def _write_from_the_beginning(self, ops: Iterable[Op]) -> sqlite3.Error | None:
        """Write after a checkpoint: where that was whole, SQLite writes over the log, which has its blocks."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._write(ops)
        except sqlite3.Error as error:
            return error
        return None

    def _write_later(self) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._write_again)

    def _write_again(self) -> None:
        """Write what is only in memory, and take the reserve again; try later what cannot be done."""
        self._retry = None
        try:
            if self._unwritten:
                self._write(())
        except sqlite3.Error:
            self._write_later()
        else:
            if not self._reserve.hold():
                self._write_later()

    @property
    def reserve_bytes(self) -> int:
        """What the reserve for a full disk takes now."""
        return self._reserve.size_bytes

    @property
    def behind(self) -> bool:
        """Whether something is in memory only, because a full disk does not take it."""
        return not self._written.is_set()

    async def written(self) -> None:
        """Return when nothing is in memory only: it survives the death of the process then."""
        await self._written.wait()

    async def flushed(self) -> None:
        """Return when everything written so far is on the disk."""
        await asyncio.wrap_future(self._flusher.flush())

    def watch(self, table: Table[T]) -> Watch[T]:
        """Return the changes of a table from now on, its records first:

        with store.watch(table) as watch:
            for record in watch.snapshot: …
            async for change in watch: …
        """
        return table.watch()

    def reference(self, holder: Ref, target: Ref, *, passing: bool = False) -> Op:
        """Note that `holder` uses `target`. passing: it ends with this process, so memory does where a disk is full."""
        return Op(
            "INSERT INTO refs (holder, target) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (str(holder), str(target)),
            lambda: self._remember_reference(holder, target),
            adds=not passing,
        )

    def release(self, holder: Ref, target: Ref | None = None) -> Op:
        """Drop one reference of `holder`, or, without a target, all of them."""
        forget = lambda: self._forget_references(holder, target)  # noqa: E731
        if target is None:
            return Op("DELETE FROM refs WHERE holder = ?", (str(holder),), forget)
        return Op("DELETE FROM refs WHERE holder = ? AND target = ?", (str(holder), str(target)), forget)

    def holders(self, target: Ref) -> frozenset[Ref]:
        """Return who uses `target`; empty when nobody does."""
        return frozenset(self._holders.get(target, ()))

    def targets(self, holder: Ref) -> frozenset[Ref]:
        """Return what `holder` uses."""
        return frozenset(self._targets.get(holder, ()))

    def scope(self, prefix: str) -> Store:
        """Return the part of this store under a prefix: its tables and references are its own."""
        return ScopedStore(self, prefix)

    def references(self) -> list[tuple[Ref, Ref]]:
        """Return every reference, (holder, target)."""
        return [(holder, target) for holder, targets in self._targets.items() for target in targets]

    def _remember_reference(self, holder: Ref, target: Ref) -> None:
        self._holders.setdefault(target, set()).add(holder)
        self._targets.setdefault(holder, set()).add(target)

    def _forget_references(self, holder: Ref, only: Ref | None) -> None:
        mine = self._targets.get(holder, set())
        for target in list(mine) if only is None else [only]:
            mine.discard(target)
            left = self._holders.get(target)
            if left is not None:
                left.discard(holder)
                if not left:
                    del self._holders[target]
        if not mine:
            self._targets.pop(holder, None)


class ScopedStore(Store):
    """A part of a store under a prefix: tables and references of its own, which the rest never sees.

    The transactions are those of the whole store.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self.path = store.path
        self._store = store
        self._prefix = f"{prefix}/"
        self._suffix = "_" + "".join(c if c.isalnum() else "_" for c in prefix)

    async def close(self) -> None:
        """The whole store is closed by its owner."""

    def table(self, name: str, type_: type[T]) -> Table[T]:
        return self._store.table(name + self._suffix, type_)

    def apply_now(self, *ops: Op, kept: bool = True) -> None:
        self._store.apply_now(*ops, kept=kept)

    async def flushed(self) -> None:
        await self._store.flushed()

    @property
    def behind(self) -> bool:
        return self._store.behind

    async def written(self) -> None:
        await self._store.written()

    def aside(self) -> list[Aside]:
        return self._store.aside()

    def remove_aside(self, aside: Aside) -> Op:
        return self._store.remove_aside(aside)

    def reference(self, holder: Ref, target: Ref, *, passing: bool = False) -> Op:
        return self._store.reference(self._inside(holder), self._inside(target), passing=passing)

    def release(self, holder: Ref, target: Ref | None = None) -> Op:
        return self._store.release(self._inside(holder), None if target is None else self._inside(target))

    def holders(self, target: Ref) -> frozenset[Ref]:
        return frozenset(map(self._outside, self._store.holders(self._inside(target))))

    def targets(self, holder: Ref) -> frozenset[Ref]:
        return frozenset(map(self._outside, self._store.targets(self._inside(holder))))

    def references(self) -> list[tuple[Ref, Ref]]:
        mine = [pair for pair in self._store.references() if pair[0].noun.startswith(self._prefix)]
        return [(self._outside(holder), self._outside(target)) for holder, target in mine]

    def _inside(self, ref: Ref) -> Ref:
        return Ref(self._prefix + ref.noun, ref.id)

    def _outside(self, ref: Ref) -> Ref:
        return Ref(ref.noun.removeprefix(self._prefix), ref.id)


class _Flusher:
    """The writer thread: one fdatasync of the WAL answers everybody who asked before it began.

    It makes checkpoints in idle moments.
    """

    def __init__(self, path: str, reserve: Reserve) -> None:
        self._reserve = reserve
        self._wal_path = path + "-wal"
        self._path = path
        self._wal_fd = os.open(self._wal_path, os.O_RDWR | os.O_CLOEXEC)
        self._asked: queue.SimpleQueue[concurrent.futures.Future[None] | None] = queue.SimpleQueue()
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="store-flush", daemon=True)
        self._thread.start()

    def flush(self) -> concurrent.futures.Future[None]:
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._asked.put(future)
        return future

    def close(self) -> None:
        self._asked.put(None)
        self._thread.join()
        os.close(self._wal_fd)

    def _run(self) -> None:
        running = True
        checkpointer = store_file.connection_to(self._path)
        checkpointer.execute("SELECT 1 FROM refs LIMIT 1").fetchall()  # opens its files now, not in the middle of a run
        while running:
            waiting = [self._asked.get()]
            while not self._asked.empty():
                waiting.append(self._asked.get())
            self._flush_once()
            for future in waiting:
                if future is None:
                    running = False
                elif not future.set_running_or_notify_cancel():
                    continue
                elif self._failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(StoreError(self._failure))
            if self._failure is None and os.fstat(self._wal_fd).st_size > CHECKPOINT_BYTES:
                try:
                    # PASSIVE never makes the writer wait; what it cannot move now it moves next time
                    checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                except sqlite3.Error as e:  # the WAL still has everything: not a loss, but never silent
                    if self._reserve.full(e):
                        log.warning("the database %s is not made shorter: %s", self._path, e)
                    else:
                        self._failure = f"cannot checkpoint the database {self._path}: {e}"
        checkpointer.close()

    def _flush_once(self) -> None:
        """fdatasync the WAL. A failed one is for ever: the kernel may have dropped the pages it could not write."""
        if self._failure is not None:
            return
        try:
            os.fdatasync(self._wal_fd)
        except OSError as e:
            self._failure = (
                f"cannot flush the database {self._path} to disk: {words(e)}; check the disk, then restart the daemon"
            )
