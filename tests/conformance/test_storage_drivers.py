"""One suite for every storage driver, and for one that only tests have.

A container sees its layers, what it changes comes out, removal leaves nothing.

btrfs gets a file system of its own in a loop-mounted file; fuse-overlayfs is skipped by name where it is not installed.
"""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.images.service import Images
from sampan.engine.layers.snapshots.table import DRIVERS
from sampan.errors import Conflict, Internal, NotFound
from tests.conftest import lacks
from tests.kernel.images.archives import archive, directory, hardlink, member, stream, symlink
from tests.kernel.images.test_service import WATCHED
from tests.support.deaths import deaths
from tests.support.engine import Engine, until
from tests.support.images import discard, open_images, prepare
from tests.support.storage_driver import TestCopies

pytestmark = pytest.mark.root

BASE = archive(
    directory("./", 0o755), directory("etc"), member("etc/passwd", b"root:x:0:0::/:/bin/sh\n", mode=0o640),
    member("etc/gone", b"soon"), directory("opaque"), member("opaque/old", b"old"), directory("bin"),
    member("bin/tool", b"#!" + bytes(5000), mode=0o4755), hardlink("bin/same", "bin/tool"), symlink("sh", "tool"),
    directory("tmp", 0o1777), member("replaced", b"a file"), directory("tree"), member("tree/leaf", b"1"),
)  # fmt: skip


@pytest.fixture(params=[*sorted(DRIVERS), TestCopies.name])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Path]]:
    """(driver, a directory on which it works)."""
    name: str = request.param
    monkeypatch.setitem(DRIVERS, TestCopies.name, TestCopies)
    if name == "fuse-overlayfs" and shutil.which("fuse-overlayfs") is None:
        lacks("fuse-overlayfs is not installed")
    if name != "btrfs":
        yield name, tmp_path
        assert unmounted(tmp_path), "the driver left a mount on the host"
        return
    if shutil.which("mkfs.btrfs") is None:
        lacks("mkfs.btrfs is not installed")
    file, mountpoint = tmp_path / "btrfs.img", tmp_path / "mnt"
    with file.open("wb") as f:
        f.truncate(1 << 30)
    mountpoint.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", str(file)], check=True)
    subprocess.run(["mount", "-o", "loop", str(file), str(mountpoint)], check=True)
    try:
        yield name, mountpoint
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)


def unmounted(path: Path) -> bool:
    """Take away what is mounted below a directory. True: there was nothing."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        left = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{path}/")]
    for mountpoint in left:
        subprocess.run(["umount", "-l", mountpoint], check=True)
    return not left


def service(driver: str, root: Path) -> AbstractAsyncContextManager[Images]:
    return open_images(root, driver)


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


async def imported(images: Images, data: bytes = BASE, repo: str = "app") -> str:
    return str([m async for m in images.transfer.import_(stream(data), repo=repo)][-1]["status"])


def write(images: Images, container: str, work: Callable[[Path], object]) -> None:
    fd = images.roots.open_root(container, writable=True)
    try:
        work(Path(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def change(root: Path) -> None:
    """A bit of everything."""
    (root / "etc/new").write_text("new")
    (root / "etc/gone").unlink()
    shutil.rmtree(root / "opaque")
    (root / "opaque").mkdir()
    (root / "opaque/young").write_text("young")
    (root / "replaced").unlink()
    (root / "replaced").mkdir(0o700)
    (root / "replaced/inside").write_text("x")
    (root / "etc/passwd").write_text("changed")
    os.chmod(root / "tree", 0o700)
    shutil.copy2(root / "bin/tool", root / "bin/mine")
    os.link(root / "bin/mine", root / "bin/mine2")
    os.symlink("/nowhere", root / "dangling")
    os.mkfifo(root / "pipe")
    os.setxattr(root / "etc/new", "user.note", b"kept")


CHANGES = [
    (0, "/bin"), (1, "/bin/mine"), (1, "/bin/mine2"), (1, "/dangling"), (0, "/etc"), (2, "/etc/gone"), (1, "/etc/new"),
    (0, "/etc/passwd"), (0, "/opaque"), (2, "/opaque/old"), (1, "/opaque/young"), (1, "/pipe"), (0, "/replaced"),
    (1, "/replaced/inside"), (0, "/tree"),
]  # fmt: skip


def look(images: Images, container: str) -> dict[str, tuple[int, int, bytes]]:
    """Path → (mode, links, content or target) of everything in a container's root."""
    found = {}
    fd = images.roots.open_root(container, writable=False)
    try:
        for above, names, files in os.walk(f"/proc/self/fd/{fd}/."):
            for name in names + files:
                path = f"{above}/{name}"
                status = os.lstat(path)
                data = b""
                if stat.S_ISREG(status.st_mode):
                    data = Path(path).read_bytes()
                elif stat.S_ISLNK(status.st_mode):
                    data = os.fsencode(os.readlink(path))
                links = status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0
                found[path.partition("/./")[2]] = (status.st_mode, links, data)
    finally:
        os.close(fd)
    return found


def emptied(root: Path) -> None:
    until(lambda: not os.listdir(root / "trash"), 10, "the trash is empty")


def test_layers_changes_commit_and_the_next_container(place: tuple[str, Path]) -> None:
    driver, base = place
    root = base / "d"

    async def main() -> None:
        async with service(driver, root) as images:
            await imported(images)
            await prepare(images, "c1", images.resolve("app"))
            seen = look(images, "c1")
            assert seen["etc/passwd"][2].startswith(b"root") and stat.S_IMODE(seen["etc/passwd"][0]) == 0o640
            assert stat.S_IMODE(seen["bin/tool"][0]) == 0o4755 and seen["bin/same"][1] == 2
            assert seen["sh"][2] == b"tool" and seen["dev/console"][2] == b"" and seen["etc/mtab"][2] == b"/proc/mounts"
            assert await images.roots.changes("c1") == [] and (await images.roots.usage("c1"))[0] == 0
            write(images, "c1", change)
            assert await images.roots.changes("c1") == CHANGES
            assert 5000 < (await images.roots.usage("c1"))[0] < 6000, "a file with two names counts once"
            image = images.resolve("app")
            made = await images.commit("c1", config=None, container_config={}, parent=image, repo="made")
            again = await images.commit("c1", config=None, container_config={}, parent=image)
            assert images.resolve(again).layers == images.resolve(made).layers, "the same snapshot gives the same bytes"
            await images.remove(again)
            assert await images.roots.changes("c1") == CHANGES, "looking changes nothing"
            await prepare(images, "c2", images.resolve("made"))
            assert look(images, "c2") == look(images, "c1")
            assert await images.roots.changes("c2") == []
            fd = images.roots.open_root("c2", writable=False)
            try:
                assert os.getxattr(f"/proc/self/fd/{fd}/etc/new", "user.note") == b"kept"
            finally:
                os.close(fd)
            write(images, "c2", lambda r: (r / "only").write_text("mine"))
            assert "only" not in look(images, "c1"), "containers do not see each other"
            chunks = b"".join([bytes(chunk) async for chunk in images.roots.export("c2")])
            with tarfile.open(fileobj=io.BytesIO(chunks)) as tar:
                assert {"only", "opaque/young", "replaced/inside"} <= set(tar.getnames())
                assert "opaque/old" not in tar.getnames()
            # a third layer, on top of both
            made3 = await images.commit("c2", config=None, container_config={}, parent=images.resolve("made"))
            await prepare(images, "c3", images.resolve(made3))
            assert look(images, "c3") == look(images, "c2")
            assert made != made3
        async with service(driver, root) as images:  # a restart finds everything
            assert look(images, "c3") == look(images, "c2")
            for container in ("c1", "c2", "c3"):
                discard(images, container)
            for image_id in (made3, "made", "app"):
                await images.remove(image_id, force=True)
            emptied(root)
            assert set(os.listdir(images.driver.root)) == {"init", "step"}
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            assert str(root) not in "".join(line for line in mounts if f" {root}" in line)

    run(main())


def test_what_is_saved_is_the_same_on_every_driver(place: tuple[str, Path], tmp_path: Path) -> None:
    driver, base = place

    async def saved(images: Images, name: str) -> dict[str, bytes]:
        data = b"".join([bytes(chunk) async for chunk in images.transfer.save([name])])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {m.name: f.read() for m in tar if m.name.startswith("blobs/") and (f := tar.extractfile(m))}

    async def main() -> None:
        async with service(driver, base / "d") as images, service("overlay2", tmp_path / "reference") as reference:
            assert images.store is not reference.store
            await imported(images)
            await prepare(images, "c", images.resolve("app"))
            write(images, "c", change)
            await images.commit("c", config=None, container_config={}, parent=images.resolve("app"), repo="made")
            data = b"".join([bytes(chunk) async for chunk in images.transfer.save(["made"])])
            [_ async for _ in reference.transfer.load(stream(data))]
            assert reference.resolve("made").id == images.resolve("made").id
            assert await saved(images, "made") == await saved(reference, "made")
            await prepare(reference, "c", reference.resolve("made"))
            await prepare(images, "c4", images.resolve("made"))
            assert look(reference, "c") == look(images, "c4")
            for container in ("c", "c4"):
                discard(images, container)

    run(main())


def test_images_of_another_driver_are_hidden_and_untouched(tmp_path: Path) -> None:
    root = tmp_path / "d"

    async def main() -> None:
        async with service("overlay2", root) as images:
            id = await imported(images, repo="mine")
            await prepare(images, "c", images.resolve("mine"))
            write(images, "c", lambda r: (r / "kept").write_text("kept"))
        for _turn in range(2):
            async with service("vfs", root) as images:
                with pytest.raises(NotFound):
                    images.resolve("mine")
                assert await images.list(all=True) == []
                with pytest.raises(NotFound):
                    images.roots.mounts("c")
                assert await imported(images, archive(member("f", b"1")), repo="other") != id
                await prepare(images, "c", images.resolve("other"))
                with pytest.raises(Conflict):
                    await images.remove("other")
                discard(images, "c")
                images.roots.retain((), images.unclaim)
                await images.prune({"dangling": ["false"]})
                assert await images.list(all=True) == []
        async with service("overlay2", root) as images:
            assert images.resolve("mine").id == id and "kept" in look(images, "c")
            with pytest.raises(NotFound):
                images.resolve("other")
            with pytest.raises(Conflict):
                await images.remove("mine")
            assert len(b"".join([bytes(chunk) async for chunk in images.transfer.save(["mine"])])) > 5000

    run(main())


async def a_life(driver: str, root: Path) -> None:
    """Everything that changes the disk, once, on a small image."""
    async with service(driver, root) as images:
        await imported(images, archive(directory("d"), member("d/f", b"1"), member("g", b"2")))
        await prepare(images, "c", images.resolve("app"))
        write(images, "c", lambda r: (r / "g").unlink())
        write(images, "c", lambda r: (r / "new").write_text("1"))
        await images.commit("c", config=None, container_config={}, parent=images.resolve("app"), repo="made")
        await prepare(images, "c2", images.resolve("made"))
        for container in ("c", "c2"):
            discard(images, container)
        await images.remove("made")
        await images.remove("app")


async def after_the_crash(driver: str, root: Path) -> int:
    """What is visible is whole, what is on the disk has an owner. The number of images and containers."""
    async with service(driver, root) as images:
        everything = await images.list(all=True)
        for row in everything:
            assert [chunk async for chunk in images.transfer.save([row["Id"]])], "every visible image is whole"
        wanted = {str(layer.snapshot) for layer in images.layers.all()}
        wanted |= {str(snapshot.snapshot) for snapshot in images.roots.all()}
        assert set(os.listdir(images.driver.root)) == wanted | {"init", "step"}
        count = len(everything) + len(images.roots.all())
        for snapshot in images.roots.all():
            assert "d/f" in look(images, snapshot.id), "every container that is there is whole"
        await prepare(images, "after", images.resolve(everything[0]["Id"]) if everything else None)
        assert await images.roots.changes("after") == [] and ("d/f" in look(images, "after") or not everything)
        images.roots.retain((), images.unclaim)
        emptied(root)
        for number in images.driver.numbers():
            left = set(os.listdir(images.driver.path(number)))
            assert not any(name.endswith(".new") or name.startswith("changed-") for name in left), left
    return count


@pytest.mark.parametrize("driver", ["vfs", "overlay2"])
def test_kill_9_at_every_step_leaves_the_object_or_no_trace(driver: str) -> None:
    step, seen = 0, set()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="sampan-driver-") as where:
        root, left = Path(where) / "d", Path(where) / "left"
        for step in deaths(a_life(driver, root), WATCHED, root, left):
            try:
                seen.add(asyncio.run(after_the_crash(driver, left)))
            except BaseException as e:
                e.add_note(f"killed before step {step}")
                raise
    assert step > 50 and seen >= {0, 1, 2, 3}, (step, seen)


def test_unknown_drivers_and_options_are_refused(tmp_path: Path) -> None:
    async def start(driver: str, *options: str) -> None:
        async with open_images(tmp_path, driver, *options):
            pass

    for driver, options, words in (
        ("zfs", (), "driver not supported: zfs"),
        ("overlay2", ("overlay2.nope=1",), "overlay2: unknown option overlay2.nope"),
        ("vfs", ("size=1g",), "vfs: unknown option size"),
        ("overlay2", ("overlay2.size=1g",), "only supported for backingFS XFS"),
        ("btrfs", (), "btrfs does not work on .*: it is no btrfs"),
    ):
        with pytest.raises(Internal, match=words):
            run(start(driver, *options))
    run(start("overlay2", "overlay2.override_kernel_check=true", "btrfs.min_space=1g"))


def test_containers_run_on_every_driver(place: tuple[str, Path]) -> None:
    driver, base = place
    own = Path(tempfile.mkdtemp(prefix="sampan-driver-", dir=base))
    engine = Engine(own, "--storage-driver", driver)
    if driver == TestCopies.name:
        engine.program = [sys.executable, "-m", "tests.support.sampand_with_driver"]
    engine.start()
    try:
        engine.import_busybox()
        assert engine.call("GET", "/info")["Driver"] == driver
        container = engine.run("sh", "-c", "echo out; echo data > /made; rm /bin/ls; cat /etc/hostname")
        assert engine.wait(container) == 0 and engine.logs(container).startswith(b"out\n")
        assert {"Kind": 1, "Path": "/made"} in engine.call("GET", f"/containers/{container}/changes")
        assert {"Kind": 2, "Path": "/bin/ls"} in engine.call("GET", f"/containers/{container}/changes")
        engine.call("POST", "/commit", {}, container=container, repo="made")
        second = engine.run("sh", "-c", "cat /made; sleep 60", image="made")
        until(lambda: engine.logs(second) == b"data\n", 10, "the second container has written")
        assert engine.cli("docker", "exec", second, "cat", "/made").stdout == "data\n"
        engine.cli("docker", "exec", second, "sh", "-c", "echo more >> /made")
        assert engine.cli("docker", "cp", f"{second}:/made", "-").stdout.count("more") == 1
        engine.kill()
        engine.start()
        assert engine.cli("docker", "exec", second, "cat", "/made").stdout == "data\nmore\n", "it outlives the daemon"
        engine.cli("docker", "restart", "-t", "0", second)
        assert engine.cli("docker", "exec", second, "cat", "/made").stdout == "data\nmore\n"
        assert engine.call("POST", "/system/fsck")["Findings"] == []
        df = engine.call("GET", "/system/df")["DataRoot"]
        du = subprocess.run(["du", "-s", "-B1", *(["-x"] if driver.startswith("fuse") else []), str(engine.data_root)],
                            capture_output=True, text=True, check=True)  # fmt: skip
        said = int(du.stdout.split()[0])
        assert abs(df["Total"] - said) <= said / 100 + 8192, (df, said)
    finally:
        engine.close()
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        assert str(own) not in mounts.read()


def test_an_engine_that_changes_its_driver_and_comes_back(tmp_path: Path) -> None:
    engine = Engine(Path(tempfile.mkdtemp(prefix="sampan-driver-"))).start()
    try:
        engine.import_busybox()
        container = engine.run("sh", "-c", "echo mine > /data/f; echo own > /own", name="first", Binds=["shared:/data"])
        engine.wait(container)
        engine.stop()
        engine.flags = ("--storage-driver", "vfs")
        engine.start()
        assert engine.call("GET", "/containers/json", all=1) == [] and engine.call("GET", "/images/json") == []
        assert engine.request("GET", f"/containers/{container}/json").status == 404
        assert [v["Name"] for v in engine.call("GET", "/volumes")["Volumes"]] == ["shared"]
        assert engine.call("POST", "/system/fsck", repair=1)["Findings"] == []
        assert engine.request("DELETE", "/volumes/shared").status == 409, "a hidden container holds it"
        engine.import_busybox()
        taken = engine.request("POST", "/containers/create", {"Image": "busybox", "Cmd": ["x"]}, name="first")
        assert taken.status == 409 and container in taken.message
        other = engine.run("cat", "/data/f", Binds=["shared:/data"])
        assert engine.wait(other) == 0 and engine.logs(other) == b"mine\n"
        df = engine.call("GET", "/system/df")["DataRoot"]
        assert df["Images"] > 2 * 1_900_000, "images of both drivers take space"
        engine.stop()
        engine.flags = ()
        engine.start()
        assert [c["Id"] for c in engine.call("GET", "/containers/json", all=1)] == [container]
        assert engine.call("POST", "/system/fsck", repair=1)["Findings"] == []
        assert engine.cli("docker", "cp", f"{container}:/own", "-").stdout.count("own") >= 1
        engine.call("POST", f"/containers/{container}/start")
        assert engine.wait(container) == 0
        engine.remove(container)
        engine.stop()
        engine.flags = ("--storage-driver", "vfs")
        engine.start()
        assert [c["Id"] for c in engine.call("GET", "/containers/json", all=1)] == [other]
    finally:
        engine.close()
