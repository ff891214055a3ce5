"""Caches that travel: as a directory, inside an image, through a registry, from an image that the client trusts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.classic.output import ClassicOutput as Output_
from sampan.engine.builder.classic.walk import Voice, dialect
from sampan.engine.builder.request import BuildRequest, CacheEnd, Output
from sampan.spec.dockerfile.errors import DockerfileError
from tests.kernel.builder.bench import failing, mount_points
from tests.kernel.builder.files.test_git import served as repositories  # noqa: F401
from tests.kernel.builder.rig import PREFIX, Rig, rig, run
from tests.support import busybox
from tests.support.registry import Debian

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert not [path for path in mount_points() if PREFIX in path]


CACHED = (
    "FROM scratch AS base\nADD root.tar /\nFROM base AS tool\nRUN echo $RANDOM > /t && true\nFROM base\n"
    "RUN echo $RANDOM > /made\nRUN true\nCOPY --from=tool /t /\n"
)


def ran(r: Rig) -> set[str]:
    """The RUN steps that were really run."""
    done = [step for step in r.watch.steps if step.completed_ns and not step.cached and not step.error]
    return {step.name.partition("] ")[2] for step in done if "] RUN" in step.name}


def with_root(r: Rig) -> None:
    r.write(**{"root.tar": busybox.root_tar()})
    os.utime(r.context / "root.tar", (1_600_000_000, 1_600_000_000))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_cache_goes_to_another_engine_as_a_directory(mode: str, tmp_path: Path) -> None:
    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            end = CacheEnd(type="local", attrs={"dest": "x", "mode": mode, "exporter": "5"})
            first = await r.build(CACHED, cache_to=(end,))
            for path, data in r.client.trees[5].items():
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                if data:
                    (tmp_path / path).write_bytes(data)
        async with rig(base=False) as r:
            with_root(r)
            r.client.directories["cache"] = tmp_path
            again = await r.build(CACHED, cache_from=(CacheEnd(type="local", attrs={"src": "x"}),))
            # in the smaller cache the stage that was only copied from is missing: its step runs again
            assert ran(r) == ({"RUN echo $RANDOM > /t && true"} if mode == "min" else set())
            if mode == "max":
                assert again.image_id == first.image_id
            await r.build(CACHED, cache_from=(CacheEnd(type="local", attrs={"src": "x", "context": "gone"}),))

    run(body())


def test_a_cache_travels_inside_the_image() -> None:
    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            outputs = (Output(type="image"), Output(type="docker", exporter=1))
            await r.build(CACHED, *outputs, tags=("app",), cache_to=(CacheEnd(type="inline"),))
            archive = r.client.files[1]
        async with rig(base=False) as r:
            with_root(r)

            async def chunks() -> AsyncIterator[bytes]:
                yield archive

            async for _ in r.engine.images.transfer.load(chunks()):
                pass
            await r.build(CACHED, cache_from=(CacheEnd(type="registry", attrs={"ref": "app"}),))
            assert ran(r) == {"RUN echo $RANDOM > /t && true"}

    run(body())


def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            await r.build(CACHED, cache_to=(CacheEnd(type="local", attrs={"exporter": "5", "mode": "max"}),))
            for path, data in r.client.trees[5].items():
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                if data:  # every layer is another one than it says
                    (tmp_path / path).write_bytes(data if data[:1] == b"{" else data[:-9] + bytes(9))
        async with rig(base=False) as r:
            with_root(r)
            r.client.directories["cache"] = tmp_path
            await r.build(CACHED, cache_from=(CacheEnd(type="local", attrs={"src": "x"}),))
            assert len(ran(r)) == 3

    run(body())


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_a_registry_takes_and_gives_caches_images_and_bases(tmp_path: Path) -> None:
    """push=true, FROM an image that is not here, --pull, and a cache that another engine left there."""
    server = Debian(tmp_path)
    host = f"localhost:{server.port}"
    to = CacheEnd(type="registry", attrs={"ref": f"{host}/cache", "mode": "max"})

    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            pushed = Output(type="image", attrs={"name": f"{host}/app:1", "push": "true"})
            first = await r.build(CACHED, pushed, cache_to=(to,))
        async with rig(base=False) as r:
            with_root(r)
            again = await r.build(CACHED, cache_from=(CacheEnd(type="registry", attrs={"ref": f"{host}/cache"}),))
            assert not ran(r) and again.image_id == first.image_id
            await r.engine.images.remove(again.image_id)
            await r.build(f"FROM {host}/app:1\nENV A=b\n", tags=("up",))
            assert len(r.config("up")["history"]) == len(r.engine.images.resolve(f"{host}/app:1").config["history"]) + 1
            await r.build(f"FROM {host}/app:1\nCOPY --from={host}/app:1 /made /\n", pull=True)
            with failing(DockerfileError, match=f"{host}/none: failed to resolve source metadata") as failed:
                await r.build(f"FROM {host}/none\n")
            assert failed.failure.lines == ((1, 1),)
            await r.engine.images.remove(f"{host}/app:1", force=True)
            said: list[Any] = []
            voice = Voice(Output_(said.append, quiet=False, remove=True))
            text = f"FROM {host}/app:1\nENV A=c\n".encode()
            request = BuildRequest(id="c", dialect="classic", dockerfile=text, network="none", tags=("c:1",))
            await r.engine.builder.build(request, r.client, voice, dialect(voice))
            assert {"status": "Pulling from app", "id": "1"} in said
            gone = CacheEnd(type="registry", attrs={"ref": f"{host}/nothing"})
            await r.build(CACHED, cache_from=(gone,))
            assert any(step.error for step in r.watch.steps if "importing cache" in step.name)

    try:
        run(body())
    finally:
        server.close()


def test_a_classic_build_takes_steps_from_an_image_that_it_trusts() -> None:
    text = "FROM scratch\nADD root.tar /\nRUN echo $RANDOM > /one\nCOPY f /\nRUN echo $RANDOM > /two\nCMD x\n"

    async def build(r: Rig, *trusted: str) -> str:
        lines: list[Any] = []
        voice = Voice(Output_(lines.append, quiet=False, remove=True))
        ends = tuple(CacheEnd(type="registry", attrs={"ref": name}) for name in trusted)
        request = BuildRequest(
            id="c", dialect="classic", dockerfile=text.encode(), network="none", tags=("c:1",), cache_from=ends
        )
        return (await r.engine.builder.build(request, r.client, voice, dialect(voice))).image_id

    async def body() -> None:
        async with rig(base=False) as r:
            with_root(r)
            r.write(f="content")
            os.utime(r.context / "f", (1_600_000_000, 1_600_000_000))
            first = await build(r)
            saved = b"".join([chunk async for chunk in r.engine.images.transfer.save(["c:1"])])
        async with rig(base=False) as r:
            with_root(r)
            r.write(f="content")
            os.utime(r.context / "f", (1_600_000_000, 1_600_000_000))

            async def chunks() -> AsyncIterator[bytes]:
                yield saved

            async for _ in r.engine.images.transfer.load(chunks()):
                pass
            await r.engine.images.tag("c:1", "trusted", "")
            assert await build(r, "trusted", "nothing:here") == first
            (r.context / "f").write_text("changed")
            image = r.engine.images.resolve(await build(r, "trusted"))
            old = r.engine.images.resolve("trusted").layers
            assert image.layers[:2] == old[:2] and image.layers[2] != old[2] and image.layers[3] != old[3]
            r.write(f="content")
            os.utime(r.context / "f", (1_600_000_000, 1_600_000_000))
            own = await build(r)
            assert own != first  # without a word nothing of an image is believed
            assert await build(r) == own
            assert await build(r, "nothing:here") != own  # with a word nothing else counts, as in Docker

    run(body())
