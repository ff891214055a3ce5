"""The store: what was acknowledged is there, after any death of the process; what cannot be read is named."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sampan.engine.store import Change, Op, Record, Ref, Store
from sampan.engine.store_file import StoreError


class Thing(Record):
    name: str = ""
    size: int = 0


T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


async def reopened(path: str) -> tuple[Store, list[Thing]]:
    store = await Store.open(path)
    return store, store.table("things", Thing).all()


def test_records_and_references_survive_a_reopen(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        await store.apply(
            things.put(Thing(id="b", size=1)), things.put(Thing(id="a")), store.reference(Ref("c", "1"), Ref("i", "1"))
        )
        await store.apply(
            things.put(Thing(id="b", size=2)), store.reference(Ref("c", "2"), Ref("i", "1")), durable=False
        )
        assert store.holders(Ref("i", "1")) == {Ref("c", "1"), Ref("c", "2")}
        await store.apply(store.release(Ref("c", "1")))
        await store.close()
        store, rows = await reopened(path)
        assert [(r.id, r.size) for r in rows] == [("b", 2), ("a", 0)], "order of first put is kept"
        assert store.holders(Ref("i", "1")) == {Ref("c", "2")} and store.targets(Ref("c", "2")) == {Ref("i", "1")}
        await store.apply(store.release(Ref("c", "2"), Ref("i", "1")))
        assert store.holders(Ref("i", "1")) == frozenset()
        await store.close()

    run(main())


def test_apply_is_atomic_in_sql_and_in_memory(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        bad = things.put(Thing(id="x"))
        object.__setattr__(bad, "sql", "INSERT INTO nowhere VALUES (?, ?)")
        with pytest.raises(StoreError, match=f"cannot write to the database {path}: .*nowhere.*nothing was changed"):
            await store.apply(things.put(Thing(id="a")), bad)
        assert things.get("a") is None
        await store.apply(things.put(Thing(id="b")))
        await store.close()
        store, rows = await reopened(path)
        assert [r.id for r in rows] == ["b"]
        await store.close()

    run(main())


def test_durable_writes_of_many_share_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []
    real = os.fdatasync

    def counted(fd: int) -> None:
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counted)

    async def main() -> None:
        store = await Store.open(str(tmp_path / "s.db"))
        things = store.table("things", Thing)
        await asyncio.gather(*(store.apply(things.put(Thing(id=str(n)))) for n in range(200)))
        assert len(things) == 200
        assert len(syncs) < 50, "group commit"
        await store.close()

    run(main())


def test_a_failed_flush_is_reported_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        store = await Store.open(str(tmp_path / "s.db"))
        things = store.table("things", Thing)

        def fail(fd: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail)
        for _ in range(2):
            with pytest.raises(StoreError, match=r"cannot flush the database .*s\.db to disk: input/output error"):
                await store.apply(things.put(Thing(id="a")))
        await store.close()

    run(main())


def test_large_wal_is_checkpointed(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        for n in range(60):
            await store.apply(things.put(Thing(id=str(n % 10), name="x" * 400_000)))
        assert os.stat(path + "-wal").st_size < 40_000_000
        await store.close()
        assert not os.path.exists(path + "-wal"), "the last close folds the WAL into the file"
        store, rows = await reopened(path)
        assert len(rows) == 10
        await store.close()

    run(main())


WRITER = """
import asyncio, sys
from sampan.engine.store import Record, Ref, Store
class Thing(Record):
    name: str = ""
    size: int = 0
async def main():
    store = await Store.open(sys.argv[1])
    things = store.table("things", Thing)
    n = len(things)
    while True:
        ops = things.put(Thing(id=str(n), name="n" * 300)), store.reference(Ref("h", str(n)), Ref("t", ""))
        await store.apply(*ops, durable=n % 7 == 0)
        sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
        n += 1
asyncio.run(main())
"""


def test_kill_9_in_a_loop_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")
    acknowledged = -1
    for turn in range(12):
        child = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        time.sleep(random.Random(turn).uniform(0.0, 0.06))  # any instruction will do
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        acknowledged = max([acknowledged, *(int(x) for x in lines if x.isdigit())])

        async def main(least: int) -> int:
            store, rows = await reopened(path)
            ids = sorted(int(r.id) for r in rows)
            assert ids == list(range(len(ids))), "no hole"
            assert len(ids) > least, "an acknowledged record is missing"
            assert len(store.holders(Ref("t", ""))) == len(ids), "record and reference came in one transaction"
            await store.close()
            return len(ids)

        acknowledged = max(acknowledged, run(main(acknowledged)) - 1)
    assert acknowledged > 50, "the test wrote something"


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        with pytest.raises(StoreError, match=rf"in use by another daemon \(pid {os.getpid()}\).*--data-root"):
            await Store.open(path)
        await store.close()
        await (await Store.open(path)).close()

    run(main())


@pytest.mark.parametrize("content", [b"this is not a database, just long enough text" * 200, b"\0" * 8192])
def test_a_corrupt_database_is_named_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(content)

    async def main() -> None:
        with pytest.raises(StoreError, match=rf"the database {path} cannot be used: .*Restore it from a backup"):
            await Store.open(str(path))
        assert path.read_bytes() == content, "nothing was changed"
        store = await Store.open(str(path), move_aside=True)
        assert store.table("things", Thing).all() == []
        await store.close()
        assert [p.read_bytes() for p in tmp_path.glob("s.db.corrupt-*")] == [content]

    run(main())


def test_a_damaged_page_is_found_at_open(tmp_path: Path) -> None:
    path = tmp_path / "s.db"

    async def main() -> None:
        store = await Store.open(str(path))
        things = store.table("things", Thing)
        await store.apply(*(things.put(Thing(id=str(n), name="y" * 500)) for n in range(300)))
        await store.close()
        with path.open("r+b") as f:
            f.seek(6 * 4096)
            f.write(os.urandom(4096 * 4))
        with pytest.raises(StoreError, match="cannot be used: damaged: "):
            await Store.open(str(path))

    run(main())


@pytest.mark.parametrize(
    "blob", [b'{"id": 5}', b"", b"{", b"\xff", b'{"id": "other"}', b"[" * 100_000, b"null", "text", 5]
)
def test_an_undecodable_record_is_kept_aside(tmp_path: Path, blob: object) -> None:
    path = str(tmp_path / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        await store.apply(*(things.put(Thing(id=id)) for id in ("one", "two", "three")))
        await store.close()
        with sqlite3.connect(path) as raw:
            raw.execute("UPDATE things SET json = ? WHERE id = 'two'", (blob,))
        raw.close()
        for attempt in range(2):  # as it is, also after a start with it
            store = await Store.open(path)
            things = store.table("things", Thing)
            assert [thing.id for thing in things.all()] == ["one", "three"], attempt
            assert [(row.table, row.id) for row in store.aside()] == [("things", "two")] and store.aside()[0].reason
            if attempt == 0:
                await store.close()
        store.apply_now(store.remove_aside(store.aside()[0]))
        assert store.aside() == []
        await store.close()
        store = await Store.open(path)
        assert [thing.id for thing in store.table("things", Thing).all()] == ["one", "three"] and not store.aside()
        await store.close()

    run(main())


def test_a_newer_or_foreign_database_is_refused(tmp_path: Path) -> None:
    newer, foreign = str(tmp_path / "newer.db"), str(tmp_path / "foreign.db")

    async def main() -> None:
        await (await Store.open(newer)).close()
        for path, pragma, message in (
            (newer, "user_version = 99", "has version 99; this program knows versions up to 1: use the newer release"),
            (foreign, "user_version = 1", "it is the database of another program"),
        ):
            raw = sqlite3.connect(path)
            raw.execute(f"PRAGMA {pragma}")
            raw.close()
            with pytest.raises(StoreError, match=message):
                await Store.open(path)

    run(main())


def test_an_unreadable_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot open the database .*/missing/s\.db: .* no such file or directory"):
        run(Store.open(str(tmp_path / "missing" / "s.db")))
    (tmp_path / "dir.db").mkdir()
    with pytest.raises(StoreError, match=r"the database .*/dir\.db cannot be used: is a directory"):
        run(Store.open(str(tmp_path / "dir.db")))


def test_a_reference_is_read_as_it_was_written() -> None:
    for ref in (Ref("layer", "sha256:0a"), Ref("work", "1"), Ref("volume", "a b:c")):
        assert Ref.parse(str(ref)) == ref
    assert str(Ref("image", "sha256:0a")) == "image:sha256:0a"


def test_references_of_a_part_do_not_meet_those_of_the_whole(tmp_path: Path) -> None:
    async def main() -> None:
        store = await Store.open(str(tmp_path / "s.db"))
        part = store.scope("btrfs")
        holder, target = Ref("image", "i"), Ref("layer", "l")
        await store.apply(part.reference(holder, target))
        assert part.holders(target) == {holder} and part.targets(holder) == {target}
        assert part.references() == [(holder, target)]
        assert store.holders(target) == frozenset()
        await part.apply(part.release(holder))
        assert store.references() == []
        await store.close()

    run(main())


def test_a_watcher_gets_a_snapshot_and_then_every_change(tmp_path: Path) -> None:
    async def main() -> None:
        store = await Store.open(str(tmp_path / "s.db"))
        things = store.table("things", Thing)
        await store.apply(things.put(Thing(id="a", size=1)))
        with store.watch(things) as watch:
            assert [t.id for t in watch.snapshot] == ["a"]
            store.apply_now(things.put(Thing(id="b", size=1)), things.delete("a"), things.delete("never there"))
            assert await anext(watch) == Change("b", Thing(id="b", size=1))
            assert await anext(watch) == Change("a", None)
            waiting = asyncio.create_task(anext(watch))
            await asyncio.sleep(0)
            assert not waiting.done()
            store.apply_now(things.put(Thing(id="c")))
            assert (await waiting).id == "c"
        store.apply_now(things.put(Thing(id="d")))
        with store.watch(things) as watch:
            assert {t.id for t in watch.snapshot} == {"b", "c", "d"}
        await store.close()

    run(main())


def test_a_slow_watcher_holds_one_entry_a_record_and_gets_the_last_state(tmp_path: Path) -> None:
    async def main() -> None:
        store = await Store.open(str(tmp_path / "s.db"))
        things = store.table("things", Thing)
        with store.watch(things) as watch:
            for n in range(1000):
                store.apply_now(things.put(Thing(id=str(n % 3), size=n)))
            store.apply_now(things.delete("0"))
            seen = [await anext(watch) for _ in range(3)]
            assert [(c.id, c.record and c.record.size) for c in seen] == [("0", None), ("1", 997), ("2", 998)]
        await store.close()

    run(main())


def test_what_was_not_written_is_not_told(tmp_path: Path) -> None:
    async def main() -> None:
        store = await Store.open(str(tmp_path / "s.db"))
        things = store.table("things", Thing)
        with store.watch(things) as watch:
            with pytest.raises(StoreError):
                store.apply_now(things.put(Thing(id="a")), Op("INSERT INTO nowhere VALUES (1)", (), lambda: None))
            store.apply_now(things.put(Thing(id="b")))
            assert (await anext(watch)).id == "b"
        await store.close()

    run(main())
