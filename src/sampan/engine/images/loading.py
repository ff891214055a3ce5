"""`load`: from an archive to images, one after the other; what is complete stays when a later one fails.

Not here: the archive's format (archive.py). Invariant: until an image is published its layers are held by this work
alone, so a failure or a crash lets them go.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, aclosing
from typing import Any

from sampan.engine import platforms
from sampan.engine.archives.streams import FileSource, feed_thread
from sampan.engine.background import beside
from sampan.engine.images import archive
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.publishing import ImagePublisher
from sampan.engine.images.verifying import Verifier
from sampan.engine.layers.layers import Layers
from sampan.engine.platforms import Platform
from sampan.engine.store import Ref
from sampan.errors import InvalidArgument
from sampan.spec import oci_image, reference
from sampan.spec.reference import Reference

PROGRESS_S = 0.1
AT_ONCE = 3  # layers: more than there are processors, as each waits for the disk at its end


class Loader:
    """Takes in archives of images."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        layers: Layers,
        publisher: ImagePublisher,
        ingest: str,
        pool: Executor,
        uploads: Executor,
        verifier: Verifier,
    ) -> None:
        self._catalog, self._layers, self._publisher = catalog, layers, publisher
        self._ingest, self._pool, self._uploads = ingest, pool, uploads
        self._verifier = verifier

    async def load(
        self, stream: AsyncIterator[bytes], *, quiet: bool, platform: Platform | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Yields Docker's messages: layers under way unless quiet, then one line a name.

        Raises: InvalidArgument, OSError.
        """
        loop = asyncio.get_running_loop()
        spooled = await loop.run_in_executor(self._pool, archive.Spooled, self._ingest)
        try:
            await feed_thread(stream, self._uploads, spooled.fill, "upload of an archive of images")
            offers = await loop.run_in_executor(self._pool, spooled.offers, platform)
            parents: list[tuple[str, str]] = []
            if platform is not None:
                offers = [x for x in offers if platform.accepts(platforms.of(oci_image.decode(x.config)))]
            if not offers:
                yield {}  # so the reference says that nothing was loaded
            spooled.expect(offers)
            groups: dict[str, list[str]] = {}  # the images of an index, by its digest
            for offer in offers:
                group = groups.setdefault(offer.index, []) if offer.index else []
                async for message in self._load_one(spooled, offer, parents, group, quiet=quiet):
                    yield message
            self._link_parents(parents)
        finally:
            await loop.run_in_executor(self._pool, spooled.remove)

    async def _load_one(
        self,
        spooled: archive.Spooled,
        offer: archive.Offered,
        parents: list[tuple[str, str]],
        group: list[str],
        *,
        quiet: bool,
    ) -> AsyncIterator[Mapping[str, Any]]:
        """group: what the same names hold for other platforms; the image joins it."""
        config = oci_image.decode(offer.config)
        expected = oci_image.diff_ids(config)
        if len(expected) != len(offer.layers):
            raise InvalidArgument(
                f"invalid manifest, layers length mismatch: expected {len(offer.layers)}, got {len(expected)}"
            )
        names = [_tag(name) for name in offer.names]
        for name in names:
            await self._verifier.verify(name, offer.descriptor, offer.manifest)
        holder = self._layers.hold("")
        try:
            paths = [spooled.path(member) for member in offer.layers]
            async with aclosing(self._load_layers(spooled, paths, expected, holder, quiet=quiet)) as messages:
                async for message in messages:
                    yield message
            for name in names:
                old = self._catalog.find_tag(name)
                if old is not None and old.image not in (oci_image.digest(offer.config), *group):
                    yield {
                        "stream": f"The image {name.familiar()} already exists, "
                        f"renaming the old one with ID {old.image} to empty string\n"
                    }
            image_id = await self._publisher.publish_image(offer.config, names=names, beside=group)
        finally:
            self._layers.let_go(holder)
        group.append(image_id)
        if offer.parent:
            parents.append((image_id, offer.parent))
        for name in names:
            yield {"stream": f"Loaded image: {name.familiar()}\n"}
        if not names:
            yield {"stream": f"Loaded image ID: {image_id}\n"}
        self._publisher.publish_event("load", image_id, image_id)

    async def _load_layers(
        self,
        spooled: archive.Spooled,
        paths: Sequence[str],
        expected: Sequence[str],
        holder: Ref,
        *,
        quiet: bool,
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Unpack what is missing, a few layers at a time: none needs the one below until it is complete."""
        slots = asyncio.Semaphore(AT_ONCE)
        below: str | asyncio.Task[str] = ""
        missing: list[_LoadingLayer] = []
        async with AsyncExitStack() as running:  # ends them, the top one first, when one fails or nobody listens
            for position, (path, diff_id, chain_id) in enumerate(zip(paths, expected, oci_image.chain_ids(expected))):
                if chain_id in self._layers:
                    self._layers.hold_more(holder, chain_id)
                    spooled.used(path)
                    below = chain_id
                else:
                    layer = _LoadingLayer(position, path, diff_id)
                    work = layer.load(self._layers, slots, below, holder)
                    task = await running.enter_async_context(beside(work, "layer of an archive", quiet=True))
                    below = layer.task = task
                    missing.append(layer)
            for layer in missing:
                assert layer.task is not None
                while not quiet and not layer.task.done():
                    yield _progress(layer)
                    await asyncio.wait({layer.task}, timeout=PROGRESS_S)
                await layer.task
                spooled.used(layer.path)
                if not quiet:
                    yield _progress(layer)

    def _link_parents(self, parents: list[tuple[str, str]]) -> None:
        """Restore which image was made from which, as far as both are here and the layers agree."""
        for image_id, parent_id in parents:
            child, parent = self._catalog.images.get(image_id), self._catalog.images.get(parent_id)
            if child is None or parent is None or child.parent or image_id == parent_id:
                continue
            below = self._catalog.get(parent_id).layers
            if self._catalog.get(image_id).layers[: len(below)] == below:
                self._publisher.set_parent(image_id, parent_id)


class _LoadingLayer:
    """One layer of an archive on its way in."""

    def __init__(self, position: int, path: str, diff_id: str) -> None:
        self.diff_id = diff_id
        self.done = 0
        self.total = os.stat(path).st_size
        self.task: asyncio.Task[str] | None = None
        self._position = position
        self.path = path

    async def load(self, layers: Layers, slots: asyncio.Semaphore, below: str | asyncio.Task[str], holder: Ref) -> str:
        """Unpack it on top of what `below` gives. Returns its chain id. Raises: InvalidArgument, OSError."""
        async with slots:
            with open(self.path, "rb", buffering=0) as file:
                source = _LayerFile(file.fileno(), self)
                async with layers.unpacking(source, parent=below, later=True) as staged:
                    found = staged.unpacked.diff_id
                    if found != self.diff_id:
                        raise InvalidArgument(
                            f'invalid diffID for layer {self._position}: expected "{self.diff_id}", got "{found}"'
                        )
                    layers.keep(staged, holder)
                    return staged.chain_id


class _LayerFile(FileSource):
    """A layer's file, which tells how far it was read."""

    def __init__(self, fd: int, layer: _LoadingLayer) -> None:
        super().__init__(fd)
        self._layer = layer

    def read(self) -> bytes:
        chunk = super().read()
        self._layer.done += len(chunk)
        return chunk


def _tag(name: str) -> Reference:
    """The tag that an archive gives an image. A digest is no name to give: only a registry vouches for it.

    Raises: InvalidArgument.
    """
    found = reference.parse(name)
    if found.digest or not found.tag:
        raise InvalidArgument(f'invalid tag "{name}"')
    return found


def _progress(layer: _LoadingLayer) -> dict[str, Any]:
    return {
        "status": "Loading layer",
        "progressDetail": {"current": layer.done, "total": layer.total},
        "progress": archive.progress_bar(layer.done, layer.total),
        "id": layer.diff_id.removeprefix("sha256:")[:12],
    }
