"""The verify step: asked for every name before anything is fetched or unpacked; a refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.images import pull
from sampan.engine.images.service import Images
from sampan.errors import Forbidden
from sampan.registry.auth import ANONYMOUS
from sampan.registry.manifests import Descriptor
from sampan.spec import oci_image
from sampan.spec.reference import Reference
from tests.kernel.images.archives import stream
from tests.kernel.images.test_service import collected, directories, imported
from tests.support import registry
from tests.support.images import open_images

pytestmark = pytest.mark.root


class Refuses:
    """Refuses the names that it was given, and notes what it was asked."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.asked: list[tuple[str, str, str]] = []

    async def verify(self, name: Reference, descriptor: Descriptor, manifest: bytes) -> None:
        assert (descriptor.digest, descriptor.size) == (oci_image.digest(manifest), len(manifest))
        self.asked.append((name.familiar(), descriptor.media_type, descriptor.digest))
        if name.familiar() in self.names:
            raise Forbidden(f"{name.familiar()} is not signed")


@pytest.fixture
def liar() -> Iterator[registry.Liar]:
    server = registry.Liar()
    yield server
    server.close()


async def pulled(images: Images, name: str) -> list[Any]:
    wanted = pull.request(name, "", platform="", credentials=ANONYMOUS)
    return [message async for message in images.transfer.pull(wanted)]


async def loaded(images: Images, data: bytes) -> list[Any]:
    return [message async for message in images.transfer.load(stream(data))]


async def nothing(images: Images, root: Path) -> None:
    """No image, name, layer, blob, download, or reference."""
    assert await images.list(all=True) == [] and images.catalog.tags.all() == []
    assert images.layers.all() == [] and images.store.references() == []
    assert directories(root) == set() and os.listdir(images.content.ingest) == [] and images.content.all() == {}


def test_a_pull_that_is_refused_leaves_nothing(tmp_path: Path, liar: registry.Liar) -> None:
    image = registry.Image([registry.layer({"f": b"x" * 1000})])
    fetched: list[str] = []

    def noted(handler: Any, digest: str, raw: bytes) -> bool:
        fetched.append(digest)
        return False

    liar.images["good"] = liar.images["bad"] = image
    liar.lies["bad"] = noted
    good, bad = f"{liar.host}/good:1", f"{liar.host}/bad:1"

    async def main() -> None:
        verifier = Refuses(bad)
        async with open_images(tmp_path / "d", verifier=verifier) as images:
            with pytest.raises(Forbidden, match=f"^{bad} is not signed$"):
                await pulled(images, bad)
            await nothing(images, tmp_path / "d")
            assert fetched == [], "asked before any blob was fetched"
            await pulled(images, good)
            assert images.resolve(good).id == image.id
            with pytest.raises(Forbidden):
                await pulled(images, bad)
            assert [str(name) for name in images.resolve(good).repo_tags] == [good], "the image is here; no name for it"
            manifest = (registry.DOCKER_MANIFEST, registry.digest(image.manifest))
            assert verifier.asked == [(bad, *manifest), (good, *manifest), (bad, *manifest)]

    asyncio.run(main())


def test_a_load_that_is_refused_leaves_nothing_of_its_image(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_images(tmp_path / "source") as images:
            first = await imported(images, repo="first")
            both = await collected(images.transfer.save(["first"]))
            await imported(images, repo="second", message="another")
            both_named = await collected(images.transfer.save(["first", "second"]))
        verifier = Refuses("first:latest")
        async with open_images(tmp_path / "d", verifier=verifier) as images:
            with pytest.raises(Forbidden, match="first:latest is not signed"):
                await loaded(images, both)
            await nothing(images, tmp_path / "d")
            assert verifier.asked == [("first:latest", oci_image.MEDIA_CONFIG, first)], "no manifest: the configuration"
            with pytest.raises(Forbidden):
                await loaded(images, both_named)
            await nothing(images, tmp_path / "d")
        async with open_images(tmp_path / "other", verifier=Refuses("second:latest")) as images:
            with pytest.raises(Forbidden):
                await loaded(images, both_named)
            assert images.resolve("first").id == first, "what is complete stays when a later one fails"
            assert len(images.catalog.tags.all()) == 1

    asyncio.run(main())
