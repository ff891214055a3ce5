"""The image service on a data root of a test's own, with the storage below it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.images.records import Image
from sampan.engine.images.service import Images
from sampan.engine.images.verifying import Verifier
from sampan.engine.layers.storage import Storage
from sampan.engine.store import Store


@asynccontextmanager
async def open_images(
    root: Path, driver: str = "", *options: str, verifier: Verifier | None = None
) -> AsyncIterator[Images]:
    """The service on `root`, started and closed."""
    root.mkdir(mode=0o700, exist_ok=True)
    config = EngineConfig(data_root=str(root), storage_driver=driver, storage_opts=options)
    async with AsyncExitStack() as stack:
        store = await Store.open(str(root / "sampan.db"))
        stack.push_async_callback(store.close)
        storage = Storage(config, store)
        stack.push_async_callback(storage.close)
        images = Images(config, storage, Events(), verifier)
        stack.push_async_callback(images.close)
        await images.start()
        yield images


async def prepare(images: Images, container_id: str, image: Image | None) -> None:
    """Make a container's root of an image, which the container holds from then on."""
    if image is None:
        await images.roots.prepare(container_id, "")
    else:
        await images.roots.prepare(container_id, image.chain_id, partial(images.claim, container_id, image))


def discard(images: Images, container_id: str) -> None:
    """Throw a container's root away; its image is held no more."""
    images.roots.remove(container_id, images.unclaim(container_id))
