"""Records in the database, directories in the file system: power loss may keep the one and lose the other.

Shown by putting the database back as it was before (its last writes were not flushed), or a directory (its rename was
not).
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from sampan.engine.layers.snapshots import choice
from sampan.errors import Internal
from tests.kernel.images.archives import archive, member, stream
from tests.kernel.images.test_service import collected, directories, emptied, imported
from tests.support.engine import Engine
from tests.support.images import discard, prepare
from tests.support.images import open_images as service

pytestmark = pytest.mark.root


def note(root: Path, into: Path) -> None:
    """Keep the database as it is now."""
    into.mkdir()
    for name in ("sampan.db", "sampan.db-wal"):
        if (root / name).exists():
            shutil.copy2(root / name, into / name)


def put_back(root: Path, kept: Path) -> None:
    for path in root.glob("sampan.db*"):
        path.unlink()
    for path in kept.iterdir():
        shutil.copy2(path, root / path.name)


def test_the_directory_of_a_layer_is_gone_and_its_record_is_not(tmp_path: Path) -> None:
    """A load that failed lets its layers go; the disk kept the renames and lost the notes. The layer comes anew."""
    root, kept = tmp_path / "d", tmp_path / "kept"

    async def before() -> None:
        async with service(root) as images:
            async with images.layers.unpacking(stream(archive(member("f", b"1")))) as staged:
                holder = images.layers.hold("")
                images.layers.keep(staged, holder)
            note(root, kept)
            images.layers.let_go(holder)
            assert images.layers.all() == [] and directories(root) == set()

    async def after() -> None:
        async with service(root) as images:
            assert images.layers.all() == [] and directories(root) == set()
            await imported(images, archive(member("f", b"1")))
            assert await collected(images.transfer.save(["app"])), "the layer is whole"

    asyncio.run(before())
    put_back(root, kept)
    asyncio.run(after())


def test_the_record_of_a_removed_image_is_gone_and_its_directory_is_not(tmp_path: Path) -> None:
    root, aside = tmp_path / "d", tmp_path / "aside"

    async def before() -> None:
        async with service(root) as images:
            await imported(images)
            await prepare(images, "c", images.resolve("app"))
            shutil.copytree(root / "snapshots", aside, symlinks=True)
            discard(images, "c")
            await images.remove("app")
            assert emptied(root)

    async def after() -> None:
        async with service(root) as images:
            assert directories(root) == set() and emptied(root)
            assert await imported(images)

    asyncio.run(before())
    strays = [path for path in aside.iterdir() if path.name.isdigit()]
    assert len(strays) == 2
    for path in strays:
        shutil.move(path, root / "snapshots" / path.name)
    asyncio.run(after())


def test_the_directories_of_a_container_are_gone_and_its_record_is_not(root: None, tmp_path: Path) -> None:
    """`rm` of a container whose image was removed by force before: after the power loss the removal is finished."""
    engine = Engine().start()
    try:
        engine.import_busybox()
        engine.call("POST", "/images/busybox/tag", repo="other", tag="x")
        container = engine.run("true", name="gone", image="other:x")
        engine.wait(container)
        stays = engine.run("sh", "-c", "echo mine > /own", name="stays")
        engine.wait(stays)
        assert engine.request("DELETE", "/images/other:x", force="1").status == 200
        note(engine.data_root, tmp_path / "kept")
        engine.remove(container)
        engine.kill()
        put_back(engine.data_root, tmp_path / "kept")
        engine.start()
        assert [c["Id"] for c in engine.call("GET", "/containers/json", all="1")] == [stays]
        assert engine.call("POST", "/system/fsck")["Findings"] == []
        again = engine.run("true", name="gone")
        assert engine.wait(again) == 0
        engine.call("POST", f"/containers/{stays}/start")
        assert engine.wait(stays) == 0
    finally:
        engine.close()


# -- the driver that a data root was used with ----------------------------------------------------------------------


def test_the_earlier_driver_is_taken(tmp_path: Path) -> None:
    root = str(tmp_path)

    def chosen() -> str:
        driver = choice.open_driver("", root, ())
        driver.close()
        return driver.name

    assert chosen() == "overlay2", "nothing is here yet"
    (tmp_path / "drivers/fuse-overlayfs/snapshots").mkdir(parents=True)
    (tmp_path / "drivers/vfs/snapshots/1").mkdir(parents=True)
    assert chosen() == "overlay2", "an empty home means nothing, and vfs is never guessed"
    (tmp_path / "drivers/btrfs/snapshots/3").mkdir(parents=True)
    driver = choice.open_driver("", root, ())
    with pytest.raises(Internal, match="btrfs does not work on"):
        driver.probe()
    driver.close()
    (tmp_path / "snapshots/1").mkdir()
    words = r"contains several valid graphdrivers: btrfs, overlay2; cleanup or explicitly choose storage driver"
    with pytest.raises(Internal, match=words):
        chosen()
    driver = choice.open_driver("overlay2", root, ())
    assert driver.name == "overlay2"
    driver.close()
