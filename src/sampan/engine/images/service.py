"""Images: what containers are made of. The one object that the rest of the engine and the API talk to.

It owns the content store, the layers, the catalogue of names, the containers' snapshots and one pool of worker
threads for everything that blocks. Not here: running containers, the wire format of the API, registries' protocol.

Invariants: an image is visible only when its config and all its layers are on the disk; whatever fails or is
interrupted before that leaves no trace after the next start (gc.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.images import unpack
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.content import ContentStore
from sampan.engine.images.layers import Layers, Staged
from sampan.engine.images.records import Image, ImageRecord, SnapshotRecord
from sampan.engine.images.snapshots.overlay2 import Overlay2
from sampan.engine.store import Op, Store
from sampan.errors import Internal, NotFound
from sampan.spec import oci_image, reference
from sampan.spec.reference import Reference

log = logging.getLogger("sampan.images")

WORKERS = 4


class Images:
    """The image service of one engine. Use on the event loop's thread."""

    def __init__(self, config: EngineConfig, store: Store, events: Events) -> None:
        self.config = config
        self.store = store
        self.events = events
        self.pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="images", initializer=unpack.adopt_thread)
        self.content = ContentStore(os.path.join(config.data_root, "content"))
        self.driver = Overlay2(config.data_root)
        self.layers = Layers(store, self.driver, self.pool)
        self.catalog = Catalog(store, self.content, self.layers)
        self._snapshots = store.table("snapshots", SnapshotRecord)

    async def start(self) -> None:
        """Bring records and directories together again after whatever ended the last run."""

    async def close(self) -> None:
        """Wait for the work under way, then stop the threads."""
        await asyncio.get_running_loop().run_in_executor(None, self.pool.shutdown)
        self.driver.close()

    # -- images -----------------------------------------------------------------------------------------------

    def resolve(self, ref: str) -> Image:
        """The image of a name, digest, id or beginning of an id. Raises: NotFound `No such image: …`, InvalidArgument."""
        return self.catalog.resolve(ref)

    async def publish_image(
        self, config: bytes, *, staged: Iterable[Staged] = (), parent: str = "", names: Iterable[Reference] = ()
    ) -> str:
        """Make an image visible: its config, layers that were just unpacked, and names, in one transaction.

        A name that pointed elsewhere moves. Returns the image's id.
        """
        image_id = await asyncio.get_running_loop().run_in_executor(self.pool, self.content.put, config)
        chain = oci_image.chain_ids(oci_image.diff_ids(oci_image.decode(config)))
        ops: list[Op] = []
        for layer in staged:
            ops += self.layers.adopt(layer)
        if chain:
            ops.append(self.store.reference(f"image:{image_id}", f"layer:{chain[-1]}"))
        names = list(names)
        known = self.catalog.images.get(image_id)
        record = known or ImageRecord(id=image_id, parent=parent)
        if names:
            record = ImageRecord(id=image_id, parent=record.parent, tagged_at=now())
        ops.append(self.catalog.images.put(record))
        moved = [tag.image for name in names if (tag := self.catalog.find_tag(name)) is not None]
        ops += [self.catalog.put_tag(name, image_id) for name in names]
        self.store.apply_now(*ops)
        self.catalog.changed(image_id, *moved)
        await self.store.flushed()
        return image_id

    def publish_event(self, action: str, image_id: str, name: str) -> None:
        """One event of type image, with the image's labels as attributes where it still exists."""
        attributes: dict[str, str] = {}
        if image_id in self.catalog.images:
            attributes.update((self.catalog.get(image_id).config.get("config") or {}).get("Labels") or {})
        attributes["name"] = name
        self.events.publish("image", action, image_id, attributes)

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        """Give an image one more name. Raises: NotFound, InvalidArgument."""
        image = self.resolve(ref)
        await self.tag_image(image.id, parse_target(repo, tag))

    async def tag_image(self, image_id: str, name: Reference) -> None:
        """Give an image a name, taking it from another one if need be."""
        old = self.catalog.find_tag(name)
        record = self.catalog.images.get(image_id)
        if record is None:
            raise Internal(f"image {image_id} has no record")
        self.store.apply_now(
            self.catalog.put_tag(name, image_id),
            self.catalog.images.put(ImageRecord(id=image_id, parent=record.parent, tagged_at=now())),
        )
        self.catalog.changed(image_id, *([old.image] if old else []))
        self.publish_event("tag", image_id, name.familiar())
        await self.store.flushed()

    # -- containers' snapshots ----------------------------------------------------------------------------------

    async def prepare(self, container_id: str, image: Image | None) -> None:
        """Make the writable snapshot of a container: directories and a record, nothing is mounted.

        The record is durable with the next durable write, which is the container's own.
        """
        chain_id = image.chain_id if image is not None else ""
        parent = self.layers.get(chain_id).snapshot if chain_id else None
        number = self.driver.new_container(parent)
        ops = [self._snapshots.put(SnapshotRecord(id=container_id, snapshot=number, chain_id=chain_id))]
        if chain_id:
            ops.append(self.store.reference(f"snapshot:{container_id}", f"layer:{chain_id}"))
        if image is not None:
            ops.append(self.store.reference(f"container:{container_id}", f"image:{image.id}"))
        try:
            self.store.apply_now(*ops)
        except BaseException:
            self.driver.remove(number)
            raise

    def mounts(self, container_id: str) -> list[dict[str, Any]]:
        """The OCI mounts that make the container's root file system."""
        record = self._snapshot(container_id)
        return self.driver.mounts(record.snapshot, self.layers.numbers(record.chain_id))

    def graph_driver(self, container_id: str) -> dict[str, str]:
        """GraphDriver.Data of the container for inspect."""
        record = self._snapshot(container_id)
        return self.driver.data(record.snapshot, self.layers.numbers(record.chain_id), container=True)

    async def remove_snapshot(self, container_id: str) -> None:
        """Throw the container's writable layer away; what is not there is already so.

        Releases the container's hold on its image, and drops layers that nothing needs any more.
        """
        record = self._snapshots.get(container_id)
        if record is None:
            return
        holder = f"snapshot:{container_id}"
        unused = self.layers.unused_after(record.chain_id, holder)
        ops = [self._snapshots.delete(container_id), self.store.release(holder), *self.layers.forget(unused)]
        for target in self.store.targets(f"container:{container_id}"):
            if target.startswith("image:"):
                ops.append(self.store.release(f"container:{container_id}", target))
        self.store.apply_now(*ops)
        self.driver.remove(record.snapshot)
        self.layers.discard(unused)

    def open_root(self, container_id: str, *, writable: bool) -> int:
        """A detached mount of a stopped container's root: a descriptor that the caller closes. Raises: NotFound, OSError."""
        record = self._snapshot(container_id)
        return self.driver.open_root(record.snapshot, self.layers.numbers(record.chain_id), writable=writable)

    def _snapshot(self, container_id: str) -> SnapshotRecord:
        record = self._snapshots.get(container_id)
        if record is None:
            raise NotFound(f"container {container_id} has no snapshot")
        return record

    # -- import ---------------------------------------------------------------------------------------------------

    async def import_(
        self,
        stream: AsyncIterator[bytes],
        *,
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Iterable[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Make an image of one layer out of an archive of files. Yields Docker's progress messages; the last is the id.

        Raises: InvalidArgument (reference, change, archive), OSError.
        """
        name = parse_target(repo, tag) if repo else None
        async with self.layers.unpacking(stream) as staged:
            created = now()
            document: dict[str, Any] = {
                "architecture": "amd64",
                "comment": message or f"Imported from {source}",
                "config": oci_image.run_config({}),
                "container_config": oci_image.run_config({}),
                "created": created,
                "docker_version": "28.5.2",
                "history": [{"created": created, "comment": message or f"Imported from {source}"}],
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [staged.unpacked.diff_id]},
            }
            image_id = await self.publish_image(
                oci_image.encode(document), staged=[staged], names=[name] if name else []
            )
        if name:
            self.publish_event("tag", image_id, name.familiar())
        self.publish_event("import", image_id, image_id)
        yield {"status": image_id}


def parse_target(repo: str, tag: str) -> Reference:
    """The reference that `repo` and `tag` parameters name; a digest is refused. Raises: InvalidArgument."""
    name = reference.parse(repo)
    if tag:
        name = reference.with_tag(name, tag)
    return name.tagged()


def now() -> str:
    """RFC 3339 with nanoseconds, UTC."""
    ns = time.time_ns()
    whole = datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{ns % 1_000_000_000:09d}".rstrip("0")
    return f"{whole}.{fraction}Z" if fraction else f"{whole}Z"
