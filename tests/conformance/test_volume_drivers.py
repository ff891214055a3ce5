"""One suite for every volume driver: those of the engine's table, and one that exists only here.

That one proves that a new driver is one file and one line of the table.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.store import Store
from sampan.engine.volumes.drivers.choice import DRIVERS, DriverFactory
from sampan.engine.volumes.drivers.driver import Capabilities, VolumeDriver
from sampan.engine.volumes.records import Volume
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, Unavailable

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]


class ElsewhereDriver:
    """A driver as a plugin would be: its data is elsewhere, has a place only while mounted, and it may hang."""

    capabilities = Capabilities(scope="global")

    def __init__(self, config: EngineConfig, host_paths: HostPaths) -> None:
        self.root = Path(config.data_root) / "elsewhere"
        self.users: dict[str, set[str]] = {}
        self.hangs = False
        self.refuses = False

    def check(self, name: str, options: Mapping[str, str]) -> None:
        if name.startswith("-") or options.keys() - {"colour"}:
            raise InvalidArgument(f"create {name}: elsewhere does not know {sorted(options)}")

    async def start(self, volumes: Sequence[Volume]) -> None:
        self.root.mkdir(exist_ok=True)
        for volume in volumes:
            await self.create(volume)

    async def close(self) -> None:
        pass

    async def create(self, volume: Volume) -> str:
        await self._answer()
        (self.root / volume.name).mkdir(exist_ok=True)
        return ""

    async def remove(self, volume: Volume) -> None:
        await self._answer()
        if (self.root / volume.name).exists():
            (self.root / volume.name).rename(self.root / f".{volume.name}-removed")

    async def mount(self, volume: Volume, user: str) -> str:
        await self._answer()
        self.users.setdefault(volume.name, set()).add(user)
        return str(self.root / volume.name)

    async def unmount(self, volume: Volume, user: str, *, last: bool) -> None:
        await self._answer()
        self.users.get(volume.name, set()).discard(user)
        assert not last or not self.users.get(volume.name)

    def path(self, volume: Volume) -> str:
        return str(self.root / volume.name) if self.users.get(volume.name) else ""

    async def describe(self, volume: Volume) -> Mapping[str, Any]:
        await self._answer()
        return {"colour": (volume.options or {}).get("colour", "none")}

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuses:
            raise PermissionError(1, "Operation not permitted")


TABLE: Mapping[str, DriverFactory] = {**DRIVERS, "elsewhere": ElsewhereDriver}
OPTIONS = {"local": {"type": "tmpfs", "device": "tmpfs"}, "elsewhere": {"colour": "red"}}

Test = Callable[[VolumeDriver, Callable[..., Volume]], Coroutine[Any, Any, None]]


@pytest.fixture(params=sorted(TABLE))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_driver(name: str, directory: Path, test: Test) -> None:
    """Run a test with a driver that has been started, and a maker of records."""

    def volume(id: str, **values: Any) -> Volume:
        return Volume(id=id, driver=name, **values)

    async def run(host_paths: HostPaths) -> None:
        driver = TABLE[name](EngineConfig(data_root=str(directory)), host_paths)
        await driver.start([])
        try:
            await test(driver, volume)
        finally:
            await driver.close()

    with closing(HostPaths()) as host_paths:
        asyncio.run(run(host_paths))


async def made(driver: VolumeDriver, volume: Volume) -> Volume:
    return Volume(id=volume.id, driver=volume.driver, options=volume.options, mountpoint=await driver.create(volume))


def test_what_can_be_no_volume_is_refused_before_anything_is_made(name: str, tmp_path: Path) -> None:
    async def test(driver: VolumeDriver, volume: Callable[..., Volume]) -> None:
        before = sorted(tmp_path.rglob("*"))
        driver.check("good", {})
        driver.check("good", OPTIONS[name])
        for bad, options in (("-bad", {}), ("good", {"no-such-option": "1"})):
            with pytest.raises(InvalidArgument):
                driver.check(bad, options)
        assert sorted(tmp_path.rglob("*")) == before

    with_driver(name, tmp_path, test)


def test_data_is_there_for_all_users_and_after_them(name: str, tmp_path: Path) -> None:
    async def test(driver: VolumeDriver, volume: Callable[..., Volume]) -> None:
        v = await made(driver, volume("data"))
        first = Path(await driver.mount(v, "one"))
        assert first.is_dir() and driver.path(v) == str(first)
        (first / "f").write_text("kept")
        assert Path(await driver.mount(v, "two"), "f").read_text() == "kept"
        await driver.unmount(v, "one", last=False)
        assert Path(driver.path(v), "f").read_text() == "kept"
        await driver.unmount(v, "two", last=True)
        await driver.unmount(v, "two", last=True)  # already so
        assert await driver.create(v) == v.mountpoint, "what is there stays"
        assert Path(await driver.mount(v, "three"), "f").read_text() == "kept"
        await driver.unmount(v, "three", last=True)
        assert isinstance(await driver.describe(v), Mapping)
        await driver.remove(v)

    with_driver(name, tmp_path, test)


def test_removed_is_gone_and_twice_is_fine(name: str, tmp_path: Path) -> None:
    async def test(driver: VolumeDriver, volume: Callable[..., Volume]) -> None:
        kept, v = await made(driver, volume("kept")), await made(driver, volume("gone"))
        for each in (kept, v):
            Path(await driver.mount(each, "u"), "f").write_text("old")
            await driver.unmount(each, "u", last=True)
        await driver.remove(v)
        await driver.remove(v)
        again = await made(driver, volume("gone"))
        assert os.listdir(await driver.mount(again, "u")) == []
        assert os.listdir(await driver.mount(kept, "u")) == ["f"]

    with_driver(name, tmp_path, test)


def test_the_next_start_finds_the_data_and_makes_anew_what_is_lost(name: str, tmp_path: Path) -> None:
    records: list[Volume] = []

    async def first(driver: VolumeDriver, volume: Callable[..., Volume]) -> None:
        records.extend([await made(driver, volume("kept")), await made(driver, volume("lost"))])
        for v in records:
            Path(await driver.mount(v, "u"), "f").write_text("old")
        lost = Path(driver.path(records[1]))
        (lost / "f").unlink()
        lost.rmdir()

    async def second(driver: VolumeDriver, volume: Callable[..., Volume]) -> None:
        await driver.start(records)
        assert Path(await driver.mount(records[0], "u"), "f").read_text() == "old"
        assert os.listdir(await driver.mount(records[1], "u")) == []

    with_driver(name, tmp_path, first)
    with_driver(name, tmp_path, second)


def test_capabilities_are_what_the_api_can_say(name: str, tmp_path: Path) -> None:
    async def test(driver: VolumeDriver, volume: Callable[..., Volume]) -> None:
        assert driver.capabilities.scope in ("local", "global")
        v = await made(driver, volume("data"))
        assert not driver.capabilities.measured or os.path.isdir(v.mountpoint)

    with_driver(name, tmp_path, test)


# ── the service with the driver that it has never heard of ────────────────────────────────────────────────────────────


@asynccontextmanager
async def service(directory: Path, limit_s: float = 5) -> AsyncIterator[Volumes]:
    store = await Store.open(str(directory / "sampan.db"))
    host_paths, config = HostPaths(), EngineConfig(data_root=str(directory))
    volumes = Volumes(config, store, Events(), host_paths, TABLE, driver_limit_s=limit_s)
    await volumes.start()
    try:
        yield volumes
    finally:
        await volumes.close()
        host_paths.close()
        await store.close()


def the(volumes: Volumes) -> ElsewhereDriver:
    found = volumes._drivers["elsewhere"]
    assert isinstance(found, ElsewhereDriver)
    return found


def test_the_service_asks_the_table(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as volumes:
            assert volumes.driver_names() == ["elsewhere", "local"]
            v = await volumes.get_or_create("data", driver="elsewhere", options={"colour": "red"})
            shown = await volumes.describe(v)
            assert (shown["Driver"], shown["Scope"], shown["Mountpoint"]) == ("elsewhere", "global", "")
            assert shown["Status"] == {"colour": "red"} and "Status" not in volumes.inspect(v)
            (usage,) = await volumes.usage()
            assert usage["UsageData"]["Size"] == -1 and not volumes.measured()
            with pytest.raises(Conflict, match="create data: conflict: volume name must be unique"):
                await volumes.get_or_create("data", driver="local")
            with pytest.raises(
                NotFound, match='create x2: error looking up volume plugin nope: plugin "nope" not found'
            ):
                await volumes.get_or_create("x2", driver="nope")
            mounted = await volumes.mount("data", "c")
            assert os.fstat(mounted.fd).st_ino == (tmp_path / "elsewhere" / "data").stat().st_ino
            os.close(mounted.fd)
            await volumes.unmount("data", "c")
            assert the(volumes).users["data"] == set()
        async with service(tmp_path) as volumes:
            assert volumes.lookup("data").driver == "elsewhere"
            await volumes.remove("data")
            assert not (tmp_path / "elsewhere" / "data").exists()

    asyncio.run(test())


def test_a_driver_that_hangs_stops_nobody_else_and_is_usable_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path, limit_s=0.2) as volumes:
            await volumes.get_or_create("stuck", driver="elsewhere")
            the(volumes).hangs = True
            calls = [
                asyncio.ensure_future(call)
                for call in (
                    volumes.mount("stuck", "c"),
                    volumes.remove("stuck"),
                    volumes.describe(volumes.lookup("stuck")),
                    volumes.get_or_create("new", driver="elsewhere"),
                )
            ]
            await asyncio.sleep(0)
            other = await volumes.get_or_create("other")
            os.close((await volumes.mount(other.name, "c")).fd)
            assert not any(call.done() for call in calls)
            for call in calls:
                with pytest.raises(Unavailable, match=r"the volume driver elsewhere has not answered for 0.2 seconds"):
                    await call
            the(volumes).hangs = False
            assert volumes.get("new") is None and not volumes.lookup("stuck").removing
            os.close((await volumes.mount("stuck", "c")).fd)
            await volumes.unmount("stuck", "c")
            await volumes.remove("stuck")

    asyncio.run(test())


def test_what_a_driver_refuses_leaves_things_as_they_were(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as volumes:
            await volumes.get_or_create("data", driver="elsewhere")
            the(volumes).refuses = True
            with pytest.raises(Internal, match="remove data: operation not permitted"):
                await volumes.remove("data")
            with pytest.raises(Internal, match="create new: operation not permitted"):
                await volumes.get_or_create("new", driver="elsewhere")
            with pytest.raises(Internal, match="operation not permitted"):
                await volumes.mount("data", "c")
            the(volumes).refuses = False
            assert [v.name for v in volumes.list()] == ["data"] and not volumes.lookup("data").removing
            await volumes.remove("data")

    asyncio.run(test())
