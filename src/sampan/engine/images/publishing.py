"""Making images visible: a configuration, its layers and names, in one transaction; and changing what names mean.

Not here: removing (removal.py), where layers and configurations come from. Invariant: an image that a record names has
its configuration and all its layers; a durable one has them on the disk. Removals run beside all of this, so layers are
held from before the first await until the transaction, and what the transaction names is looked up again in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial

from msgspec.structs import replace

from sampan.engine.events import Events
from sampan.engine.images.catalog import Catalog, NoSuchImage
from sampan.engine.images.content import ContentStore
from sampan.engine.images.records import ImageRecord
from sampan.engine.layers.layers import Layers, Staged, holding
from sampan.engine.store import Op, Ref, Store
from sampan.errors import InvalidArgument
from sampan.spec import oci_image, times
from sampan.spec.reference import Reference


class ImagePublisher:
    """Writes images and names into the catalogue, and says so. Use on the event loop's thread."""

    def __init__(
        self,
        store: Store,
        events: Events,
        catalog: Catalog,
        content: ContentStore,
        layers: Layers,
        pool: Executor,
    ) -> None:
        self._store, self._events = store, events
        self._catalog, self._content, self._layers = catalog, content, layers
        self._pool = pool

    async def publish_image(
        self,
        config: bytes,
        *,
        staged: Iterable[Staged] = (),
        parent: str = "",
        names: Iterable[Reference] = (),
        beside: Sequence[str] = (),
        durable: bool = True,
    ) -> str:
        """Make an image visible: its config, layers that were just unpacked, and names, in one transaction.

        A name that pointed elsewhere moves. beside: images for other platforms that the names hold too. durable: False
        for the nameless images between a build's steps, which power loss may take. What was removed meanwhile of
        `beside`, and a `parent` that was, is left out. Returns the image's id.

        Raises: Internal when a layer of the image is not here: the caller must hold them; InvalidArgument, OSError.
        """
        staged, names = list(staged), list(names)
        diff_ids = oci_image.diff_ids(oci_image.decode(config))
        chain = oci_image.chain_ids(diff_ids)
        made = {layer.chain_id for layer in staged}
        below = next((chain_id for chain_id in reversed(chain) if chain_id not in made), "")
        with holding(self._layers, below):
            self._require(chain, diff_ids, made)
            if durable and below:
                await self._layers.sync(below)
            image_id = await self._put(config, durable=durable)
            self._write(image_id, chain, staged, parent, names, beside)
        if durable:
            await self._store.flushed()
        return image_id

    def _write(
        self,
        image_id: str,
        chain: Sequence[str],
        staged: Sequence[Staged],
        parent: str,
        names: Sequence[Reference],
        beside: Sequence[str],
    ) -> None:
        """The transaction of `publish_image`: its configuration is stored and its layers are held."""
        ops: list[Op] = []
        for layer in staged:
            if layer.chain_id in chain:  # an empty layer is no part of the image that a commit makes
                ops += self._layers.adopt(layer)
        if chain:
            ops.append(self._store.reference(Ref("image", image_id), Ref("layer", chain[-1])))
        known_parent = parent if parent in self._catalog.images else ""
        record = self._catalog.images.get(image_id) or ImageRecord(id=image_id, parent=known_parent)
        if names:
            record = replace(record, tagged_at=times.now())
        ops.append(self._catalog.images.put(record))
        moved = [tag.image for name in names if (tag := self._catalog.find_tag(name)) is not None]
        others = self._existing(beside)
        ops += [self._catalog.put_tag(name, *others, image_id) for name in names]
        self._store.apply_now(*ops)
        self._catalog.changed(image_id, *moved)

    def _require(self, chain: Sequence[str], diff_ids: Sequence[str], made: Collection[str]) -> None:
        """See that the layers which are here are those that the configuration names.

        A chain id alone does not tell: the id of a base layer is its diff_id, and a configuration may name another
        layer's chain id there. Raises: InvalidArgument, Internal when a layer is not here.
        """
        for chain_id, diff_id in zip(chain, diff_ids):
            if chain_id not in made and (found := self._layers.get(chain_id).diff_id) != diff_id:
                raise InvalidArgument(f'invalid diffID: expected "{diff_id}", got "{found}"')

    def _existing(self, image_ids: Sequence[str]) -> list[str]:
        """Those that have not been removed."""
        return [image_id for image_id in image_ids if image_id in self._catalog.images]

    async def _put(self, config: bytes, *, durable: bool) -> str:
        """Store a configuration. When this returns it is there, and stays until the caller awaits again."""
        put = partial(self._content.put, config, durable=durable)
        loop = asyncio.get_running_loop()
        image_id = await loop.run_in_executor(self._pool, put)
        while not self._content.has(image_id):  # a removal of the same image has just taken it
            await loop.run_in_executor(self._pool, put)
        return image_id

    async def make_durable(self, image_id: str) -> None:
        """Bring an image and those that it was made from to the disk, when they were published otherwise.

        Raises: NoSuchImage, OSError. It may be removed while this waits.
        """
        chain_id, line = self._catalog.get(image_id).chain_id, []
        while (record := self._catalog.images.get(image_id)) is not None:
            line.append(image_id)
            image_id = record.parent
        with holding(self._layers, chain_id):
            if waiting := self._content.unsynced(line):
                await asyncio.get_running_loop().run_in_executor(self._pool, self._content.sync, *waiting)
            await self._layers.sync(chain_id)
        await self._store.flushed()

    async def tag_image(self, image_id: str, name: Reference, *, beside: Sequence[str] = ()) -> None:
        """Give an image a name, taking it from another one if need be. beside: what it holds for other platforms.

        Raises: NoSuchImage, also when it was removed while its files were brought to the disk.
        """
        await self.make_durable(image_id)
        old = self._catalog.find_tag(name)
        record = self._catalog.images.get(image_id)
        if record is None:
            raise NoSuchImage(image_id)
        self._store.apply_now(
            self._catalog.put_tag(name, *self._existing(beside), image_id),
            self._catalog.images.put(replace(record, tagged_at=times.now())),
        )
        self._catalog.changed(image_id, *([old.image] if old else []))
        self.publish_event("tag", image_id, name.familiar())
        await self._store.flushed()

    def set_parent(self, image_id: str, parent_id: str) -> None:
        """Record what an image was made from; durable with the next durable write."""
        record = self._catalog.images.get(image_id)
        if record is not None:
            self._store.apply_now(self._catalog.images.put(replace(record, parent=parent_id)))
            self._catalog.changed(image_id)

    def publish_event(self, action: str, image_id: str, name: str) -> None:
        """Publish an event of type image, with the image's labels as attributes where it still exists."""
        attributes: dict[str, str] = {}
        if image_id in self._catalog.images:
            attributes.update((self._catalog.get(image_id).config.get("config") or {}).get("Labels") or {})
        attributes["name"] = name
        self._events.publish("image", action, image_id, dict(sorted(attributes.items())))
