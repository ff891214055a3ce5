"""`load`: from an archive to images, one after the other; what is complete stays when a later one fails.

Not here: the archive's format (archive.py). Invariant: until an image is published its layers are held by this work
alone, so a failure or a crash lets them go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sampan.engine.images import archive, platforms
from sampan.engine.images.platforms import Platform
from sampan.engine.images.streams import Feed
from sampan.errors import InvalidArgument
from sampan.spec import oci_image, reference

if TYPE_CHECKING:
    from sampan.engine.images.service import Images

PROGRESS_S = 0.1


async def load(
    images: Images, stream: AsyncIterator[bytes], *, quiet: bool, platform: Platform | None = None
) -> AsyncIterator[Mapping[str, Any]]:
    """Yields Docker's messages: layers under way unless quiet, then one line a name. Raises: InvalidArgument, OSError."""
    loop = asyncio.get_running_loop()
    spooled = await loop.run_in_executor(images.pool, archive.Spooled, images.content.ingest)
    try:
        feed = Feed(stream)
        pump = asyncio.create_task(feed.pump())
        try:
            await asyncio.shield(filling := loop.run_in_executor(images.streaming, spooled.fill, feed))
        finally:
            pump.cancel()
            feed.end()
            with suppress(BaseException):  # a cancelled request: the thread ends with its stream
                await filling
            with suppress(BaseException):
                await pump
        offers = await loop.run_in_executor(images.pool, spooled.offers, platform)
        parents: list[tuple[str, str]] = []
        if platform is not None:
            offers = [x for x in offers if platform.accepts(platforms.of(oci_image.decode(x.config)))]
        if not offers:
            yield {}  # so the reference says that nothing was loaded
        groups: dict[str, list[str]] = {}  # the images of an index, by its digest
        for offer in offers:
            group = groups.setdefault(offer.index, []) if offer.index else []
            async for message in _load_one(images, spooled, offer, parents, group, quiet=quiet):
                yield message
        _link_parents(images, parents)
    finally:
        await loop.run_in_executor(images.pool, spooled.remove)


async def _load_one(
    images: Images,
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
    names = [reference.parse(name).tagged() for name in offer.names]
    holder = images.layers.hold("")
    try:
        parent = ""
        for position, (member, diff_id) in enumerate(zip(offer.layers, expected)):
            chain_id = oci_image.chain_id(parent, diff_id)
            if chain_id in images.layers:
                images.layers.hold_more(holder, chain_id)
            else:
                async for message in _load_layer(images, spooled, member, position, diff_id, parent, holder, quiet):
                    yield message
            parent = chain_id
        for name in names:
            old = images.catalog.find_tag(name)
            if old is not None and old.image not in (oci_image.digest(offer.config), *group):
                yield {
                    "stream": f"The image {name.familiar()} already exists, renaming the old one with ID {old.image} "
                    "to empty string\n"
                }
        image_id = await images.publish_image(offer.config, names=names, beside=group)
    finally:
        images.layers.let_go(holder)
    group.append(image_id)
    if offer.parent:
        parents.append((image_id, offer.parent))
    for name in names:
        yield {"stream": f"Loaded image: {name.familiar()}\n"}
    if not names:
        yield {"stream": f"Loaded image ID: {image_id}\n"}
    images.publish_event("load", image_id, image_id)


async def _load_layer(
    images: Images, spooled: archive.Spooled, member: str, position: int, diff_id: str, parent: str, holder: str,
    quiet: bool,
) -> AsyncIterator[Mapping[str, Any]]:  # fmt: skip
    file = archive.CountingFile(spooled.path(member))
    done: asyncio.Task[None] | None = None
    try:

        async def unpack() -> None:
            async with images.layers.unpacking(file, parent=parent) as staged:
                if staged.unpacked.diff_id != diff_id:
                    raise InvalidArgument(
                        f'invalid diffID for layer {position}: expected "{diff_id}", got "{staged.unpacked.diff_id}"'
                    )
                images.layers.keep(staged, holder)

        done = asyncio.create_task(unpack())
        while not quiet and not done.done():
            yield _progress(diff_id, file)
            await asyncio.wait({done}, timeout=PROGRESS_S)
        await done
        if not quiet:
            yield _progress(diff_id, file)
    finally:
        if done is not None and not done.done():
            done.cancel()
            with suppress(BaseException):
                await done
        file.close()


def _progress(diff_id: str, file: archive.CountingFile) -> dict[str, Any]:
    return {
        "status": "Loading layer",
        "progressDetail": {"current": file.done, "total": file.total},
        "progress": archive.progress_bar(file.done, file.total),
        "id": diff_id.removeprefix("sha256:")[:12],
    }


def _link_parents(images: Images, parents: list[tuple[str, str]]) -> None:
    """Restore which image was made from which, as far as both are here and the layers agree."""
    for image_id, parent_id in parents:
        child, parent = images.catalog.images.get(image_id), images.catalog.images.get(parent_id)
        if child is None or parent is None or child.parent or image_id == parent_id:
            continue
        below = images.catalog.get(parent_id).layers
        if images.catalog.get(image_id).layers[: len(below)] == below:
            images.set_parent(image_id, parent_id)
