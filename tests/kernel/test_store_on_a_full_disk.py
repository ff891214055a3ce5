"""The store on a disk without a free block: what frees it goes on, no fact is lost, and the next start is made."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.engine.store import Record, Ref, Store, Table
from sampan.engine.store_file import DiskFull, StoreError
from tests.kernel.net_host import until


class Thing(Record):
    state: str = ""
    padding: str = ""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(disk: Path) -> None:
    fd = os.open(disk / "fill", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for size in (1 << 20, 4096, 1):
        with pytest.raises(OSError, match="No space left"):
            write_for_ever(fd, bytes(size))
    os.close(fd)


def write_for_ever(fd: int, data: bytes) -> None:
    while True:
        os.write(fd, data)


async def add_for_ever(store: Store, things: Table[Thing]) -> None:
    for n in itertools.count(100):
        await store.apply(things.put(big(n)))


def big(n: int, state: str = "running") -> Thing:
    return Thing(id=f"t{n}", state=state, padding="x" * 3000)


def test_what_frees_the_disk_and_what_has_happened_is_written(disk: Path) -> None:
    path = str(disk / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        await store.apply(*(things.put(big(n)) for n in range(40)), store.reference(Ref("c", "1"), Ref("i", "1")))
        fill(disk)
        with pytest.raises(DiskFull, match="nothing was changed"):
            await add_for_ever(store, things)
        added = len(things)
        for n in range(39):
            await store.apply(things.delete(f"t{n}"))
        await store.apply(store.release(Ref("c", "1")))
        await store.apply(things.put(big(39, "exited")))
        assert len(things) == added - 39 and not os.path.exists(f"{path}.reserve"), "the reserve was needed"
        os.unlink(disk / "fill")
        await until(lambda: os.path.exists(f"{path}.reserve"))
        await store.close()
        store = await Store.open(path)
        found = store.table("things", Thing)
        assert "t1" not in found and (exited := found.get("t39")) is not None and exited.state == "exited"
        assert store.holders(Ref("i", "1")) == frozenset()
        await store.close()

    asyncio.run(main())


def test_facts_go_to_memory_when_there_is_no_reserve_either(disk: Path) -> None:
    path = str(disk / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        await store.apply(*(things.put(big(n)) for n in range(9)))
        fill(disk)
        os.unlink(f"{path}.reserve")
        fill(disk)
        with store.watch(things) as watch:
            for round in range(300):
                await store.apply(things.put(big(round % 8, f"state {round}")), durable=False)
            assert {(await anext(watch)).id for _ in range(8)} == {f"t{n}" for n in range(8)}, "who waits is told"
        now = things.get("t0")
        assert now is not None and now.state == "state 296"
        with pytest.raises(DiskFull):
            await store.apply(things.put(big(5, "promised")))
        os.unlink(disk / "fill")
        await until(lambda: os.path.exists(f"{path}.reserve"))
        await store.apply(things.put(big(5, "promised")))
        await store.close()
        store = await Store.open(path)
        states = [thing.state for thing in store.table("things", Thing).all()]
        assert states[0] == "state 296" and states[5] == "promised" and states[7] == "state 295"
        await store.close()

    asyncio.run(main())


def test_a_read_only_disk_is_named_and_the_database_left_alone(disk: Path) -> None:
    """As a kernel leaves it that has met errors. Nothing is said of backups, or of moving it away."""
    path = str(disk / "s.db")

    async def main() -> None:
        await (await Store.open(path, move_aside=True)).close()

    asyncio.run(main())
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreError, match=r"read-only file system.*start again.*Do not move the database away"):
        asyncio.run(main())
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    asyncio.run(main())


def test_what_waits_to_be_written_is_bounded_by_what_there_is(disk: Path) -> None:
    """Of many changes of one thing only the last is kept; holders of this process's own work need no room."""
    path = str(disk / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        await store.apply(*(things.put(big(n)) for n in range(9)))
        fill(disk)
        os.unlink(f"{path}.reserve")
        fill(disk)
        for round in range(600):
            store.apply_now(things.put(big(round % 8, f"state {round}")))
            store.apply_now(store.reference(Ref("work", "1"), Ref("layer", str(round % 8)), passing=True))
            store.apply_now(store.release(Ref("work", "1")))
        assert store.behind and len(store._unwritten) <= 8 + 8 + 1
        os.unlink(disk / "fill")
        await asyncio.wait_for(store.written(), 10)
        await store.close()
        store = await Store.open(path)
        assert [thing.state for thing in store.table("things", Thing).all()][:2] == ["state 592", "state 593"]
        assert not store.targets(Ref("work", "1"))
        await store.close()

    asyncio.run(main())


def test_a_store_is_opened_on_a_full_disk(disk: Path) -> None:
    """Also where not even the reserve is left: what is there is known, facts go to memory, nothing new comes."""
    path = str(disk / "s.db")

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        await store.apply(*(things.put(big(n)) for n in range(2)))
        await store.close()
        fill(disk)
        store = await Store.open(path)
        things = store.table("things", Thing)
        assert things.get("t1") == big(1)
        await store.apply(things.delete("t1"))
        await store.close()
        fill(disk)
        for state in ("one", "two"):
            store = await Store.open(path, move_aside=True)
            things = store.table("things", Thing)
            assert [thing.id for thing in things.all()] == ["t0"]
            with pytest.raises(DiskFull, match="nothing was changed"):
                await store.apply(things.put(big(2)))
            await store.apply(things.put(big(0, state)), durable=False)
            assert (now := things.get("t0")) is not None and now.state == state
            await store.close()
        os.unlink(disk / "fill")
        store = await Store.open(path)
        assert [thing.id for thing in store.table("things", Thing).all()] == ["t0"]
        await store.close()

    asyncio.run(main())


def test_a_first_start_on_a_full_disk_says_what_to_do(disk: Path) -> None:
    fill(disk)
    with pytest.raises((DiskFull, StoreError), match=r"[Nn]o space left on device|make some room there"):
        asyncio.run(Store.open(str(disk / "s.db"), move_aside=True))


def test_nothing_of_the_database_is_mapped(disk: Path) -> None:
    """SQLite maps the index of the WAL, and a page that a full disk cannot give is a SIGBUS."""
    path = str(disk / "s.db")
    (disk / "s.db-shm").write_bytes(bytes(32768))  # of a release that did so

    async def main() -> None:
        store = await Store.open(path)
        things = store.table("things", Thing)
        for n in range(2000):
            await store.apply(things.put(big(n)), durable=False)
        await store.flushed()
        maps = Path("/proc/self/maps").read_text()
        assert str(disk) not in maps and sorted(p.name for p in disk.iterdir()) == [
            "s.db", "s.db-wal", "s.db.lock", "s.db.reserve",
        ]  # fmt: skip
        await store.close()

    asyncio.run(main())


def test_a_database_that_another_program_has_open_is_not_called_damaged(disk: Path) -> None:
    path = str(disk / "s.db")

    async def main() -> None:
        await (await Store.open(path)).close()

    asyncio.run(main())
    hold = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); print(flush=True)"
    command = [sys.executable, "-c", f"{hold}; input()", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(StoreError, match=r"is in use by another program .*end it and start again"):
            asyncio.run(main())
        other.communicate(b"\n")
    asyncio.run(main())
