"""The volume service on a real filesystem: records, words, mounts, copy-up, prune. Needs root; leaves nothing."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import stat
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.store import Ref, Store
from sampan.engine.volumes.drivers import local
from sampan.engine.volumes.filling import Filling
from sampan.engine.volumes.service import Volumes, clone, size_bytes
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound
from sampan.linux import mounts
from tests.kernel.images.test_service import die_at
from tests.support.machine import leaves_nothing

pytestmark = pytest.mark.usefixtures("root")


@asynccontextmanager
async def service(directory: Path) -> AsyncIterator[tuple[Volumes, Store]]:
    store = await Store.open(str(directory / "sampan.db"))
    host_paths = HostPaths()
    volumes = Volumes(EngineConfig(data_root=str(directory)), store, Events(), host_paths)
    await volumes.start()
    try:
        yield volumes, store
    finally:
        await volumes.close()
        host_paths.close()
        await store.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    with leaves_nothing(cgroups=False):
        asyncio.run(test)


async def mounted(volumes: Volumes, name: str, container: str) -> str:
    """Mount a volume for a container; return its path."""
    volume = await volumes.mount(name, container)
    assert os.fstat(volume.fd).st_ino == os.stat(volume.path).st_ino
    os.close(volume.fd)
    return volume.path


def test_options_split_into_flags_and_data() -> None:
    assert local.parse_options("ro,size=1m,noexec,mode=700") == (0x9, "size=1m,mode=700")
    assert local.parse_options("ro,rw") == (0, "")
    assert local.bind_source({"type": "none", "o": "bind,ro", "device": "/srv"}) == "/srv"
    assert local.needs_host_mount({"type": "tmpfs", "device": "tmpfs"}) and not local.needs_host_mount({})


def test_a_volume_is_made_once_and_survives_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, _):
            made = await volumes.get_or_create("data", labels={"a": "b"})
            assert await volumes.get_or_create("data", labels={"a": "c"}) == made
            info = os.stat(volumes.path("data"))
            assert stat.S_IMODE(info.st_mode) == 0o755
            (Path(volumes.path("data")) / "f").write_text("kept")
            unnamed = await volumes.get_or_create()
            assert unnamed.anonymous and len(unnamed.name) == 64
        async with service(tmp_path) as (volumes, _):
            assert (Path(volumes.path("data")) / "f").read_text() == "kept"
            assert volumes.inspect(volumes.lookup("data"))["Labels"] == {"a": "b"}
            assert [v.name for v in volumes.list({"label": ["a=b"]})] == ["data"]
            assert [v.name for v in volumes.list({"name": ["ata"]})] == ["data"]

    run(test())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("a", None, "create a: volume name is too short, names should be at least two alphanumeric characters"),
        ("a/b", None, 'create a/b: "a/b" includes invalid characters for a local volume name'),
        ("../x", None, 'create ../x: "../x" includes invalid characters for a local volume name'),
        ("xx", {"nope": "1"}, 'create xx: invalid option: "nope"'),
        ("xx", {"type": "tmpfs"}, 'create xx: missing required option: "device"'),
        ("xx", {"size": "1m"}, "create xx: quota size requested but no quota support"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path: Path, name: str, options: dict[str, str] | None, words: str) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, _):
            with pytest.raises(InvalidArgument) as caught:
                await volumes.get_or_create(name, options=options)
            assert caught.value.message.startswith(words)
            assert not volumes.list() and not os.listdir(tmp_path / "volumes")
            with pytest.raises(NotFound, match=r'plugin "nope" not found'):
                await volumes.get_or_create("xx", driver="nope")

    run(test())


def test_in_use_is_what_the_store_says(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, store):
            await volumes.get_or_create("busy")
            await volumes.get_or_create("idle")
            await store.apply(store.reference(Ref("container", "abc"), Ref("volume", "busy")))
            with pytest.raises(Conflict, match=r"remove busy: volume is in use - \[abc\]"):
                await volumes.remove("busy", force=True)
            assert [v.name for v in volumes.list({"dangling": ["true"]})] == ["idle"]
            with pytest.raises(InvalidArgument, match=r"invalid filter 'dangling=\[x\]'"):
                volumes.list({"dangling": ["x"]})
            await volumes.remove("idle")
            with pytest.raises(NotFound, match="get idle: no such volume"):
                await volumes.remove("idle")
            await volumes.remove("idle", force=True)
            await store.apply(store.release(Ref("container", "abc")))
            await volumes.remove("busy")
        assert not os.listdir(tmp_path / "trash")

    run(test())


def test_prune_takes_anonymous_volumes_and_all_when_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, store):
            named = await volumes.get_or_create("named")
            lone = await volumes.get_or_create()
            held = await volumes.get_or_create()
            await store.apply(store.reference(Ref("container", "abc"), Ref("volume", held.name)))
            (Path(lone.mountpoint) / "f").write_bytes(b"x" * 1000)
            assert await volumes.prune() == ([lone.name], 1000)
            with pytest.raises(InvalidArgument, match=r"invalid filter 'all': strconv\.ParseBool"):
                await volumes.prune({"all": ["x"]})
            assert await volumes.prune({"all": ["1"], "label": ["nope"]}) == ([], 0)
            assert await volumes.prune({"all": ["1"]}) == ([named.name], 0)

    run(test())


def test_a_tmpfs_volume_is_shared_while_used_and_gone_after(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, _):
            options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=711"}
            made = await volumes.get_or_create("temp", options=options)
            first = await mounted(volumes, "temp", "one")
            assert first == made.mountpoint and os.path.ismount(first)
            assert (
                stat.S_IMODE(os.stat(first).st_mode) == 0o711
                and os.statvfs(first).f_blocks * os.statvfs(first).f_frsize == 1 << 20
            )
            (Path(first) / "f").write_text("shared")
            assert (Path(await mounted(volumes, "temp", "two")) / "f").read_text() == "shared"
            await volumes.unmount("temp", "one")
            assert os.path.ismount(first)
            await volumes.unmount("temp", "two")
            assert not os.path.ismount(first)
            await mounted(volumes, "temp", "one")
            await volumes.remove("temp")

    run(test())


def test_a_bind_volume_is_its_device_and_must_exist(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, _):
            (tmp_path / "src").mkdir()
            for name, device in (("good", tmp_path / "src"), ("bad", tmp_path / "nope")):
                await volumes.get_or_create(name, options={"type": "none", "o": "bind", "device": str(device)})
            assert await mounted(volumes, "good", "one") == str(tmp_path / "src")
            with pytest.raises(Internal) as caught:
                await volumes.mount("bad", "one")
            path = volumes.lookup("bad").mountpoint
            assert caught.value.message == (
                f"error while mounting volume '{path}': failed to mount local volume: "
                f"mount {tmp_path}/nope:{path}, flags: 0x1000: no such file or directory"
            )

    run(test())


def test_a_subpath_never_leads_out_of_the_volume(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, _):
            root = Path((await volumes.get_or_create("data")).mountpoint)
            (root / "in" / "side").mkdir(parents=True)
            (root / "out").symlink_to("/etc")
            (root / "etc").mkdir()
            (root / "link").symlink_to("etc")
            for subpath, found in (("in/side", "in/side"), ("link", "etc")):
                volume = await volumes.mount("data", "c", subpath=subpath)
                assert os.fstat(volume.fd).st_ino == (root / found).stat().st_ino
                assert volume.path == str(root / subpath)
                os.close(volume.fd)
            for bad in ("/etc", "../x", "nope", "out"):
                with pytest.raises((InvalidArgument, NotFound)):
                    await volumes.mount("data", "c", subpath=bad)

    run(test())


def test_filling_takes_everything_along_and_follows_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        image = tmp_path / "image"
        data = image / "var" / "data"
        (data / "d").mkdir(parents=True)
        (data / "d" / "f").write_bytes(b"x" * 100_000)
        os.link(data / "d" / "f", data / "hard")
        (data / "link").symlink_to("/etc/passwd")
        os.mkfifo(data / "fifo")
        os.chown(data / "d" / "f", 12, 34)
        os.chmod(data / "d" / "f", 0o4751)
        os.setxattr(data / "d" / "f", "user.a", b"b")
        os.utime(data / "d" / "f", ns=(1_000_000_007, 2_000_000_009))
        os.chown(data, 56, 78)
        os.chmod(data, 0o1777)
        (image / "alias").symlink_to("/var/data")
        root_fd = os.open(image, os.O_PATH | os.O_DIRECTORY)
        try:
            async with service(tmp_path) as (volumes, _):
                for name, path in (("one", "/var/data"), ("two", "/alias")):
                    await volumes.get_or_create(name)
                    await volumes.fill(name, "c", root_fd, path)
                    copied = Path(volumes.path(name))
                    info, top = (copied / "d" / "f").stat(), copied.stat()
                    assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (12, 34, 0o4751)
                    assert info.st_mtime_ns == 2_000_000_009 and os.getxattr(copied / "d" / "f", "user.a") == b"b"
                    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (56, 78, 0o1777)
                    assert (copied / "hard").stat().st_ino == info.st_ino
                    assert os.readlink(copied / "link") == "/etc/passwd"
                    assert stat.S_ISFIFO((copied / "fifo").stat().st_mode)
                    assert size_bytes(str(copied)) == 100_000
                (data / "new").write_text("x")
                await volumes.fill("one", "c", root_fd, "/var/data")
                assert not (Path(volumes.path("one")) / "new").exists()  # not empty: left alone
                await volumes.get_or_create("three")
                for nothing in ("/nope", "/var/data/d/f"):
                    await volumes.fill("three", "c", root_fd, nothing)
                assert not os.listdir(volumes.path("three"))
        finally:
            os.close(root_fd)

    run(test())


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    """An open root with a directory /data of 500 files."""
    data = tmp_path / "image" / "data"
    data.mkdir(parents=True)
    for n in range(500):
        (data / f"{n}").write_bytes(b"x" * 3000)
    root_fd = os.open(tmp_path / "image", os.O_PATH | os.O_DIRECTORY)
    yield root_fd
    os.close(root_fd)


def test_four_containers_at_once_on_a_fresh_volume_all_see_all_of_it(tmp_path: Path, image: int) -> None:
    async def container(volumes: Volumes, id: str) -> int:
        await volumes.get_or_create("fresh", claimant=id)
        await volumes.fill("fresh", id, image, "/data")
        volume = await volumes.mount("fresh", id)
        try:
            return len(os.listdir(f"/proc/self/fd/{volume.fd}"))
        finally:
            os.close(volume.fd)

    async def hurried(volumes: Volumes) -> int:
        """One that fills nothing itself does not come in between either."""
        await volumes.get_or_create("fresh")
        volume = await volumes.mount("fresh", "hurried")
        try:
            return len(os.listdir(f"/proc/self/fd/{volume.fd}"))
        finally:
            os.close(volume.fd)

    async def test() -> None:
        async with service(tmp_path / "data") as (volumes, _):
            seen = await asyncio.gather(*(container(volumes, f"c{n}") for n in range(4)), hurried(volumes))
            assert seen[:4] == [500] * 4 and seen[4] in (0, 500)
            assert not volumes.lookup("fresh").filling

    (tmp_path / "data").mkdir()
    run(test())


@pytest.mark.parametrize("subpath", ["", "in/side"])
def test_an_empty_bind_backed_volume_is_filled_and_a_full_one_is_not(tmp_path: Path, image: int, subpath: str) -> None:
    async def test() -> None:
        async with service(tmp_path / "data") as (volumes, _):
            device = tmp_path / "device"
            target = device / subpath
            target.mkdir(parents=True)
            options = {"type": "none", "o": "bind", "device": str(device)}
            await volumes.get_or_create("backed", options=options)
            await volumes.fill("backed", "c", image, "/nope", subpath=subpath)
            await volumes.fill("backed", "c", image, "/data", subpath="not/there")
            assert os.listdir(target) == []
            await volumes.fill("backed", "c", image, "/data", subpath=subpath)
            assert len(os.listdir(target)) == 500
            (target / "0").unlink()
            await volumes.fill("backed", "c", image, "/data", subpath=subpath)
            assert len(os.listdir(target)) == 499

    (tmp_path / "data").mkdir()
    run(test())


def test_a_volume_that_cannot_be_filled_is_left_empty(tmp_path: Path, image: int) -> None:
    async def test() -> None:
        async with service(tmp_path / "data") as (volumes, _):
            small = tmp_path / "small"
            small.mkdir()
            mounts.mount("tmpfs", str(small), "tmpfs", 0, "size=400k")
            try:
                options = {"type": "none", "o": "bind", "device": str(small)}
                await volumes.get_or_create("small", options=options)
                with pytest.raises(Internal, match=r"failed to populate volume: .*no space left on device"):
                    await volumes.fill("small", "c", image, "/data")
                assert os.listdir(small) == [] and not volumes.lookup("small").filling
                gone = {"type": "none", "o": "bind", "device": str(tmp_path / "nope")}
                await volumes.get_or_create("gone", options=gone)
                with pytest.raises(Internal, match="failed to populate volume: error while mounting volume"):
                    await volumes.fill("gone", "c", image, "/data")
                await volumes.fill("gone", "c", image, "/nope")
                await volumes.remove("gone")
            finally:
                mounts.umount2(str(small), mounts.MNT_DETACH)

    (tmp_path / "data").mkdir()
    run(test())


@pytest.mark.parametrize("held", [False, True])
def test_a_filling_that_was_killed_is_done_again_unless_somebody_has_the_volume(
    tmp_path: Path, image: int, held: bool
) -> None:
    async def killed() -> None:
        async with service(tmp_path / "data") as (volumes, _):
            await volumes.get_or_create("fresh")
            await volumes.fill("fresh", "c", image, "/data")

    async def after() -> None:
        async with service(tmp_path / "data") as (volumes, store):
            there = Path(volumes.path("fresh"))
            assert volumes.lookup("fresh").filling
            (there / "part").touch()
            if held:
                await store.apply(store.reference(Ref("container", "abc"), Ref("volume", "fresh")))
            await volumes.fill("fresh", "c", image, "/data")
            assert os.listdir(there) == ["part"] if held else len(os.listdir(there)) == 500
            os.close((await volumes.mount("fresh", "c")).fd)
            assert not volumes.lookup("fresh").filling

    (tmp_path / "data").mkdir()
    pid = os.fork()
    if pid == 0:
        Filling.copy = lambda self: os.kill(os.getpid(), 9)  # type: ignore[method-assign]
        asyncio.run(killed())
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 9
    run(after())


def test_a_cancelled_filling_is_waited_for(tmp_path: Path, image: int) -> None:
    async def test() -> None:
        async with service(tmp_path / "data") as (volumes, _):
            await volumes.get_or_create("fresh")
            filling = asyncio.ensure_future(volumes.fill("fresh", "c", image, "/data"))
            while not volumes.lookup("fresh").filling:  # noqa: ASYNC110 - nobody is told of it
                await asyncio.sleep(0)
            filling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await filling
            assert len(os.listdir(volumes.path("fresh"))) == 500
            await volumes.remove("fresh")

    (tmp_path / "data").mkdir()
    run(test())


def test_two_first_users_of_a_tmpfs_volume_mount_it_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, _):
            await volumes.get_or_create("temp", options={"type": "tmpfs", "device": "tmpfs"})
            for volume in await asyncio.gather(*(volumes.mount("temp", f"c{n}") for n in range(4))):
                os.close(volume.fd)
            path = volumes.path("temp")
            assert Path("/proc/self/mountinfo").read_text().count(f" {path} ") == 1
            await asyncio.gather(*(volumes.unmount("temp", f"c{n}") for n in range(4)))
            assert not os.path.ismount(path)

    run(test())


def test_a_volume_of_a_container_that_is_being_made_is_not_removed(tmp_path: Path) -> None:
    async def test() -> None:
        async with service(tmp_path) as (volumes, _):
            made, removed = await asyncio.gather(
                volumes.get_or_create("data", claimant="abc"), volumes.remove("data"), return_exceptions=True
            )
            assert not isinstance(made, BaseException)
            assert isinstance(removed, Conflict) and "volume is in use - [abc]" in removed.message
            assert volumes.holders("data") == ("abc",)
            assert await volumes.prune(named=True) == ([], 0)
            volumes.let_go("data", "abc")
            volumes.let_go("data", "abc")
            await volumes.remove("data")

    run(test())


def test_filling_changes_nothing_outside_while_names_are_exchanged(tmp_path: Path) -> None:
    """A container that has the volume already puts links to the host's files in the places of what is copied."""
    image, volume, host = tmp_path / "image", tmp_path / "volume", tmp_path / "host"
    for directory in (image / "data", host):
        directory.mkdir(parents=True)
    secret = host / "secret"
    secret.touch(0o600)
    for n in range(300):
        os.mkfifo(image / "data" / f"{n}")
        os.chmod(image / "data" / f"{n}", 0o777)
    stop = threading.Event()

    def attack() -> None:
        while not stop.is_set():
            with suppress(OSError):
                for name in os.listdir(volume):
                    if not (volume / name).is_symlink():
                        (host / "link").symlink_to(secret)
                        (host / "link").rename(volume / name)

    attacker = threading.Thread(target=attack)
    attacker.start()
    root_fd = os.open(image, os.O_PATH | os.O_DIRECTORY)
    try:
        for _ in range(10):
            volume.mkdir()
            filling = Filling()
            assert filling.open_source(root_fd, "/data") and filling.open_target(str(volume), "")
            with suppress(OSError):  # what was exchanged at the wrong moment
                filling.copy()
            filling.close()
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
            volume.rename(tmp_path / f"done-{secrets.token_hex(4)}")
    finally:
        stop.set()
        attacker.join()
        os.close(root_fd)


def test_kill_9_at_every_step_of_a_volumes_life_leaves_it_whole_or_no_trace(tmp_path: Path) -> None:
    async def life(root: Path) -> None:
        async with service(root) as (volumes, _):
            made = await volumes.get_or_create("data")
            (Path(made.mountpoint) / "f").write_text("kept")
            await volumes.remove("data")

    async def after(root: Path) -> bool:
        """True: the volume is still there."""
        async with service(root) as (volumes, _):
            known = volumes.get("data")
            directories = [name for name in os.listdir(root / "volumes") if name != "data" or known is None]
            for name in directories:  # a creation that was never acknowledged: nothing can be in it
                assert os.listdir(root / "volumes" / name) in ([], ["_data"])
                assert not (root / "volumes" / name / "_data/f").exists()
        assert os.listdir(root / "trash") == [], "the removal went on to its end"
        if known is not None and (root / "volumes/data/_data").exists():
            names = os.listdir(root / "volumes/data/_data")
            assert names in ([], ["f"])
            return bool(names)
        assert known is None
        return False

    seen = set()
    for step in range(1, 200):
        root = tmp_path / str(step)
        root.mkdir()
        if not die_at(step, life(root)):
            break
        seen.add(asyncio.run(after(root)))
    assert step > 8 and seen == {True, False}


@pytest.mark.parametrize(
    ("subpath", "found"),
    [
        ("d", "in"), ("rel", "in"), ("d/../ok", ""), ("up/../d", "in"), (".", "d"), ("d/side", ""),
        ("abs", "path concatenation escapes the base directory, base: {base}, subpath: abs"),
        ("abs/etc", "escapes the base directory"), ("up", "escapes the base directory"),
        ("chain", "escapes the base directory"), ("passwd", "escapes the base directory"),
        ("nope", "cannot access path {base}/nope"), ("dangling", "cannot access path {base}/dangling"),
        ("../x", "must be a relative path"), ("/d", "must be a relative path"),
        ("d/../../x", "must be a relative path"),
    ],
)  # fmt: skip
def test_a_subpath_never_leaves_its_volume(tmp_path: Path, subpath: str, found: str) -> None:
    """Verdicts of Docker Engine 28.5.2: a symlink that leads out is refused, not read as one inside."""
    base = tmp_path / "v"
    (base / "d/in").mkdir(parents=True)
    (base / "ok").mkdir()
    for name, target in {
        "abs": "/", "up": "../../..", "rel": "d", "d/side": "../ok", "chain": "abs", "dangling": "nowhere",
        "passwd": "/etc/passwd",
    }.items():  # fmt: skip
        (base / name).symlink_to(target)
    if " " not in found:
        fd = clone(str(base), subpath, True)
        try:
            assert found in ["", *os.listdir(f"/proc/self/fd/{fd}")]
        finally:
            os.close(fd)
        return
    with pytest.raises((InvalidArgument, NotFound), match=re.escape(found.format(base=base))):
        clone(str(base), subpath, True)
