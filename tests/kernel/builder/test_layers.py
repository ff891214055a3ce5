"""A build step's snapshot becomes a layer in place, equal for equal files; nothing is left of one that does not."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.solver.cache import Cache
from sampan.engine.builder.solver.cachemounts import CacheMounts
from sampan.engine.builder.solver.layers import Work, empty_layer
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.state import LayerChain
from sampan.engine.images.service import Images
from sampan.engine.store import Ref
from sampan.spec import oci_image
from tests.kernel.images.test_service import die_at
from tests.support.images import open_images as service

pytestmark = pytest.mark.root

T0 = 1_000_000_000


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def put(root_fd: int, path: str, data: bytes, mtime_s: int = T0) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=root_fd)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.utime(path, (mtime_s, mtime_s), dir_fd=root_fd)


async def first(images: Images, holder: Ref, extra: bytes = b"") -> LayerChain:
    async with Work(images, LayerChain(), holder) as work:
        os.mkdir("etc", 0o755, dir_fd=work.root_fd)
        put(work.root_fd, "etc/a", b"aaa")
        put(work.root_fd, "etc/b", b"b" * 3_000_000 + extra)
        os.link("etc/a", "etc/c", src_dir_fd=work.root_fd, dst_dir_fd=work.root_fd)
        os.symlink("a", "etc/s", dir_fd=work.root_fd)
        os.utime("etc/s", (T0, T0), dir_fd=work.root_fd, follow_symlinks=False)
        os.utime("etc", (T0, T0), dir_fd=work.root_fd)
        done = await work.commit()
    assert not done.empty
    return done.state


def names(images: Images, chain_id: str) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(images.layers.replay(images.layers.get(chain_id))))) as archive:
        return archive.getnames()


def test_what_was_written_is_a_layer_that_replays_byte_for_byte(tmp_path: Path) -> None:
    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            state = await first(images, holder)
            record = images.layers.get(state.chain_id)
            assert state.diff_ids == (record.diff_id,) and state.chain_id == oci_image.chain_id("", record.diff_id)
            assert names(images, state.chain_id) == ["etc", "etc/a", "etc/b", "etc/c", "etc/s"]
            assert sorted(os.listdir(images.driver.path(record.snapshot))) == ["fs", "tar-split"]
            async with Work(images, state, holder) as work:
                os.unlink("etc/b", dir_fd=work.root_fd)
                put(work.root_fd, "etc/new", b"new")
                second = (await work.commit()).state
            assert ("etc/.wh.b" in names(images, second.chain_id)) and len(second.diff_ids) == 2
            async with Work(images, second) as work:
                assert os.stat("etc/new", dir_fd=work.root_fd).st_size == 3
                with pytest.raises(FileNotFoundError):
                    os.stat("etc/b", dir_fd=work.root_fd)
            images.layers.let_go(holder)
            assert not images.layers.all()

    run(body())


def test_equal_files_make_one_layer(tmp_path: Path) -> None:
    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            one, two = await first(images, holder), await first(images, holder)
            other = await first(images, holder, b"!")
            assert one == two and other != one
            assert len(images.driver.numbers()) == 2

    run(body())


def test_nothing_written_is_said_and_an_empty_layer_can_be_had(tmp_path: Path) -> None:
    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            base = await first(images, holder)
            async with Work(images, base, holder) as work:
                done = await work.commit()
            assert done.empty and done.state == base and len(images.layers.all()) == 1
            for _ in range(2):
                empty = await empty_layer(images, base, holder)
                assert empty.diff_ids == (*base.diff_ids, oci_image.EMPTY_LAYER_DIFF_ID)
            assert names(images, empty.chain_id) == []

    run(body())


def test_what_is_not_committed_is_gone_and_releases_its_base(tmp_path: Path) -> None:
    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            base = await first(images, holder)
            async with Work(images, base) as work:
                put(work.root_fd, "etc/x", b"x")
                images.layers.let_go(holder)
                assert base.chain_id in images.layers, "work under way keeps its base"
            assert not images.layers.all() and not images.driver.numbers()

    run(body())


def test_no_file_is_younger_than_the_epoch(tmp_path: Path) -> None:
    async def body() -> None:
        async with service(tmp_path / "root") as images:
            async with Work(images, LayerChain()) as work:
                put(work.root_fd, "old", b"1", T0 - 5)
                put(work.root_fd, "young", b"1", T0 + 5)
                done = await work.commit(epoch_s=T0)
                data = b"".join(images.layers.replay(images.layers.get(done.state.chain_id)))
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                assert {m.name: m.mtime for m in archive} == {"old": T0 - 5, "young": T0}

    run(body())


def test_after_power_loss_a_layer_that_was_never_synced_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with service(tmp_path / "root") as images:
            holder = images.layers.hold("")
            synced = await first(images, holder)
            await images.layers.sync(synced.chain_id)
            unsynced = await first(images, holder, b"later")
            for state in (synced, unsynced):
                images.store.apply_now(images.store.reference(Ref("build", "x"), Ref("layer", state.chain_id)))
        monkeypatch.setattr("sampan.engine.layers.layers.boot_id", lambda: "another boot")
        async with service(tmp_path / "root") as images:
            assert [record.id for record in images.layers.all()] == [synced.chain_id]
            assert len(images.driver.numbers()) == 1

    run(body())


def test_kill_9_at_every_step_of_a_commit_leaves_a_whole_layer_or_no_trace(tmp_path: Path) -> None:
    async def step(root: Path) -> None:
        async with service(root) as images:
            cache = cache_of(images, root)
            holder = images.layers.hold("")
            state = await first(images, holder)
            cache.put("key", state, empty=False, time_ns=1, description="x", size_bytes=1, parents=())
            images.layers.let_go(holder)

    async def check(root: Path) -> None:
        async with service(root) as images:
            cache = cache_of(images, root)
            record, layers = cache.find("key"), images.layers.all()
            assert len(images.driver.numbers()) == len(layers) <= 1
            assert bool(record) == bool(layers)
            if record is not None:
                assert names(images, record.chain_id) == ["etc", "etc/a", "etc/b", "etc/c", "etc/s"]

    killed = 0
    for number in range(1, 400):
        root = tmp_path / str(number)
        if not die_at(number, step(root)):
            break
        killed += 1
        run(check(root))
    assert killed > 10, "the steps are counted"


def cache_of(images: Images, root: Path) -> Cache:
    table = images.store.table("build_cache", CacheRecord)
    mounts = CacheMounts(str(root), images.store, table, images)
    mounts.start()
    cache = Cache(images.store, table, images, mounts)
    cache.start()
    return cache


def test_a_pruned_record_lets_its_layers_go_and_a_shared_one_stays(tmp_path: Path) -> None:
    async def body() -> None:
        async with service(tmp_path / "root") as images:
            cache = cache_of(images, tmp_path / "root")
            holder = images.layers.hold("")
            one, two = await first(images, holder), await first(images, holder, b"2")
            for key, state in (("one", one), ("two", two)):
                cache.put(key, state, empty=False, time_ns=1, description=key, size_bytes=5, parents=())
            document = {"rootfs": {"type": "layers", "diff_ids": list(two.diff_ids)}, "config": {}}
            await images.publisher.publish_image(oci_image.encode(document), durable=False)
            images.layers.let_go(holder)
            assert {row["Description"]: row["Shared"] for row in await cache.disk_usage()} == {
                "one": False,
                "two": True,
            }
            found = cache.find("one")
            assert found is not None
            cache.used(found, "build", keep=True)
            assert await cache.prune() == ([], 0), "one is in use, two is an image's"
            cache.let_go("build")
            removed, reclaimed = await cache.prune()
            assert len(removed) == 1 and reclaimed == 5 and one.chain_id not in images.layers
            removed, reclaimed = await cache.prune(all=True)
            assert len(removed) == 1 and reclaimed == 0 and two.chain_id in images.layers

    run(body())
