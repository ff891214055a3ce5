"""Images: what containers are made of. The one object that the rest of the engine and the API talk to.

It owns the content store and the catalogue of names. Not here: layers and containers' roots (engine/layers), the wire
format of the API, registries' protocol.

Invariants: an image is visible only when its config and all its layers are on the disk; whatever fails or is
interrupted before that leaves no trace after the next start (gc.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from sampan.engine.archives import tar_writer
from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.images import commit, gc
from sampan.engine.images.catalog import Catalog, NoSuchImage, parse_target
from sampan.engine.images.content import ContentStore
from sampan.engine.images.publishing import ImagePublisher
from sampan.engine.images.records import ENGINE_VERSION, Image
from sampan.engine.images.registries import Registries
from sampan.engine.images.removal import Remover
from sampan.engine.images.transfer import Transfer
from sampan.engine.images.verifying import AnyManifest, Verifier
from sampan.engine.images.views import Filters, Objects, Views
from sampan.engine.layers.storage import Storage
from sampan.engine.platforms import Platform
from sampan.engine.store import Op, Ref
from sampan.errors import NO_ROOM, Conflict, Internal, words
from sampan.spec import codec, oci_image, times
from sampan.spec.engine_api.wire import Wire

log = logging.getLogger("sampan.images")

Records = list[dict[str, str]]


class Images:
    """The image service of one engine. Use on the event loop's thread."""

    def __init__(
        self, config: EngineConfig, storage: Storage, events: Events, verifier: Verifier | None = None
    ) -> None:
        """verifier: asked before a name is given to what a registry or an archive offers; without one all may be."""
        self._storage = storage
        self._events = events
        self.store = store = storage.store
        self.pool, self.streaming = storage.pool, storage.streaming
        self.driver, self.layers, self.roots = storage.driver, storage.layers, storage.roots
        self.content = ContentStore(f"{storage.home}/content")
        self.catalog = Catalog(store, self.content, self.layers)
        self.views = Views(self.catalog, self.layers, store)
        self.publisher = ImagePublisher(store, events, self.catalog, self.content, self.layers, self.pool)
        self.registries = Registries(config, store, self.layers)
        self.transfer = Transfer(
            storage, events, self.catalog, self.content, self.publisher, self.registries, verifier or AnyManifest()
        )
        self._remover = Remover(store, self.catalog, self.layers, self.content, self.publisher.publish_event)
        self._pruning = False

    async def start(self) -> None:
        """Bring records and directories together again after whatever ended the last run; name what cannot be.

        Raises: Internal when the data root cannot hold snapshots. One that is full is no reason.
        """
        try:
            self.driver.probe()
        except (Internal, OSError) as e:
            cause = e if isinstance(e, OSError) else e.__cause__
            if not isinstance(cause, OSError) or cause.errno not in NO_ROOM:
                raise
            log.warning("%s is full: nothing new can be made there: %s", self.driver.root, words(cause))
        for problem in gc.recover(self._storage, self.catalog, self.content):
            log.error("%s", problem)

    async def close(self) -> None:
        """End transfers."""
        await self.registries.close()

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new values (SIGHUP); they count for what begins from now on."""
        self.registries.reconfigure(config)

    # -- images -----------------------------------------------------------------------------------------------

    def resolve(self, ref: str, platform: Platform | None = None) -> Image:
        """The image of a name, digest, id or beginning of an id; of a name that holds several, the one for `platform`.

        Raises: NotFound `No such image: …`, or when none is for the platform; InvalidArgument.
        """
        return self.catalog.resolve(ref, platform)

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        """Give an image one more name. Raises: NotFound, InvalidArgument."""
        target = parse_target(repo, tag)
        image_id, *others = self.catalog.members(ref)
        try:
            await self.publisher.tag_image(image_id, target, beside=others)
        except NoSuchImage as e:
            raise NoSuchImage(ref) from e

    # -- containers -------------------------------------------------------------------------------------------

    def claim(self, container_id: str, image: Image) -> list[Op]:
        """The operations by which a container begins to hold an image; apply at once.

        Raises: NoSuchImage when it was removed since the caller looked.
        """
        known = self.catalog.images.get(image.id)
        if known is None:
            raise NoSuchImage(image.id)
        holds = self.store.reference(Ref("container", container_id), Ref("image", image.id))
        return [holds, self.catalog.images.put(replace(known, used_at=times.now()))]

    def unclaim(self, container_id: str) -> list[Op]:
        """The operations by which a container lets its image go."""
        holder = Ref("container", container_id)
        held = [target for target in self.store.targets(holder) if target.noun == "image"]
        return [self.store.release(holder, target) for target in held]

    # -- making images --------------------------------------------------------------------------------------------

    async def commit(
        self,
        container_id: str,
        *,
        config: Wire | Mapping[str, Any] | None,
        container_config: Wire | Mapping[str, Any],
        comment: str = "",
        author: str = "",
        parent: Image | None = None,
        repo: str = "",
        tag: str = "",
        changes: Iterable[str] = (),
    ) -> str:
        """Make an image of what the container changed on top of its own. Returns the image's id.

        config: what the request said. The caller keeps the container still. Raises: InvalidArgument, NotFound, OSError.
        """
        name = parse_target(repo, tag) if repo else None
        own = _as_dict(container_config)
        merged = commit.image_config(_as_dict(config), changes, own)
        async with self.roots.changed(container_id) as (changed_fd, below):
            archive_ = partial(tar_writer.tree, changed_fd, overlay=True)
            async with self.layers.unpacking(archive_, parent=below) as staged:
                document = commit.image_document(
                    parent.config if parent is not None else None,
                    config=merged,
                    container_id=container_id,
                    container_config=own,
                    author=author,
                    comment=comment,
                    created=times.now(),
                    docker_version=ENGINE_VERSION,
                    diff_id=staged.unpacked.diff_id,
                )
                image_id = await self.publisher.publish_image(
                    oci_image.encode(document),
                    staged=[staged],
                    parent=parent.id if parent is not None else "",
                    names=[name] if name else [],
                )
        self.publisher.publish_event("create", image_id, image_id)
        if name:
            self.publisher.publish_event("tag", image_id, name.familiar())
        return image_id

    # -- looking ----------------------------------------------------------------------------------------------------

    async def list(
        self,
        filters: Filters | None = None,
        *,
        all: bool = False,
        shared_size: bool = False,
        manifests: bool = False,
    ) -> Objects:
        """ImageSummary objects of API 1.51, newest first.

        Raises: InvalidArgument, NotFound, Internal for bad filters.
        """
        found = self.views.list(filters or {}, all=all, shared_size=shared_size, now_ns=time.time_ns())
        for summary in found if manifests else ():
            summary.update(self.views.platforms(summary["Id"]))
        return found

    async def inspect(self, ref: str, platform: Platform | None = None, *, manifests: bool = False) -> dict[str, Any]:
        """ImageInspect of API 1.51, with all of the config. Raises: NotFound, InvalidArgument."""
        image = self.resolve(ref, platform)
        data: Mapping[str, str] | None = None
        if image.chain_id:
            number, *lowers = self.layers.numbers(image.chain_id)
            data = self.driver.data(number, lowers, container=False)
        shown = self.views.inspect(image, {"Data": data, "Name": self.driver.name})
        return shown | (self.views.platforms(image.id) if manifests else {})

    async def history(self, ref: str, platform: Platform | None = None) -> Objects:
        """HistoryResponseItem objects, newest first. Raises: NotFound, InvalidArgument."""
        return self.views.history(self.resolve(ref, platform))

    # -- removing ---------------------------------------------------------------------------------------------------

    async def remove(
        self,
        ref: str,
        *,
        force: bool = False,
        noprune: bool = False,
        running: Collection[str] = (),
        wanted: Sequence[Platform] = (),
    ) -> Records:
        """Remove a name, or an image with its nameless parents. wanted: only these platforms of a name.

        running: containers that run, by id. Raises: NotFound, Conflict, InvalidArgument.
        """
        gone = [self.resolve(ref, platform).id for platform in wanted]
        if gone and set(self.catalog.members(ref)) - set(gone):
            return await self._remover.remove_platforms(ref, gone, force=force, prune=not noprune, running=running)
        return await self._remover.remove(ref, force=force, prune=not noprune, running=running)

    async def prune(self, filters: Filters | None = None, *, running: Collection[str] = ()) -> dict[str, Any]:
        """Remove what nothing uses. Raises: InvalidArgument, Conflict when a prune runs already."""
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            report = await self._remover.prune(
                filters or {}, now_ns=time.time_ns(), remove=lambda name: self.remove(name, running=running)
            )
        finally:
            self._pruning = False
        self._events.publish("image", "prune", "", {"reclaimed": str(report["SpaceReclaimed"])})
        return report


def _as_dict(config: Wire | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {}
    return codec.to_json(config) if isinstance(config, Wire) else dict(config)
