"""Images: what containers are made of. The one object that the rest of the engine and the API talk to.

It owns the content store and the catalogue of names. Not here: layers and containers' roots (engine/layers), the wire
format of the API, registries' protocol.

Invariants: an image is visible only when its config and all its layers are on the disk; whatever fails or is
interrupted before that leaves no trace after the next start (gc.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from sampan.engine import platforms
from sampan.engine.archives import streams, tar_writer
from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.images import archive, commit, gc, instructions, loading
from sampan.engine.images.catalog import Catalog, NoSuchImage
from sampan.engine.images.content import ContentStore
from sampan.engine.images.records import Image, ImageRecord
from sampan.engine.images.registries import Registries
from sampan.engine.images.removal import Remover
from sampan.engine.images.views import Filters, Objects, Views
from sampan.engine.layers.layers import Staged
from sampan.engine.layers.storage import Storage
from sampan.engine.platforms import Platform
from sampan.engine.store import Op, Ref
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound
from sampan.spec import codec, oci_image, reference, times
from sampan.spec.engine_api.wire import Wire
from sampan.spec.reference import Reference

log = logging.getLogger("sampan.images")

ENGINE_VERSION = "28.5.2"  # what image configurations name as docker_version

T = TypeVar("T")
Records = list[dict[str, str]]


class Images:
    """The image service of one engine. Use on the event loop's thread."""

    def __init__(self, config: EngineConfig, storage: Storage, events: Events) -> None:
        self.config = config
        self.events = events
        self.store = store = storage.store
        self.pool, self.streaming = storage.pool, storage.streaming
        self.driver, self.layers, self.roots = storage.driver, storage.layers, storage.roots
        self.content = ContentStore(f"{storage.home}/content")
        self.catalog = Catalog(store, self.content, self.layers)
        self.views = Views(self.catalog, self.layers, store)
        self.registries = Registries(config, store, self.layers)
        self._remover = Remover(store, self.catalog, self.layers, self.content, self.publish_event)
        self._pruning = False

    async def start(self) -> None:
        """Bring records and directories together again after whatever ended the last run; name what cannot be.

        Raises: Internal when the data root cannot hold snapshots.
        """
        self.driver.probe()
        for problem in gc.check(self):
            log.error("%s", problem)

    async def close(self) -> None:
        """End transfers."""
        await self.registries.close()

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new values (SIGHUP); they count for what begins from now on."""
        self.config = config
        self.registries.reconfigure(config)

    # -- images -----------------------------------------------------------------------------------------------

    def resolve(self, ref: str, platform: Platform | None = None) -> Image:
        """The image of a name, digest, id or beginning of an id; of a name that holds several, the one for `platform`.

        Raises: NotFound `No such image: …`, or when none is for the platform; InvalidArgument.
        """
        return self.catalog.resolve(ref, platform)

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

        A name that pointed elsewhere moves. beside: images for other platforms that the names hold too. durable: False for the nameless images between a build's steps, which
        power loss may take. Returns the image's id.
        """
        staged = list(staged)
        chain = oci_image.chain_ids(oci_image.diff_ids(oci_image.decode(config)))
        made = {layer.chain_id for layer in staged}
        below = [chain_id for chain_id in chain if chain_id not in made and chain_id in self.layers]
        if durable and below:
            await self.layers.sync(below[-1])
        chain = oci_image.chain_ids(oci_image.diff_ids(oci_image.decode(config)))
        made = {layer.chain_id for layer in staged}
        below = [chain_id for chain_id in chain if chain_id not in made and chain_id in self.layers]
        if durable and below:
            await self.layers.sync(below[-1])
        put = partial(self.content.put, config, durable=durable)
        image_id = await self._in_thread(put)
        while not self.content.has(image_id):  # a removal of the same image has just taken it; no await after this
            await self._in_thread(put)
        ops: list[Op] = []
        for layer in staged:
            if layer.chain_id in chain:  # an empty layer is no part of the image that a commit makes
                ops += self.layers.adopt(layer)
        if chain:
            ops.append(self.store.reference(Ref("image", image_id), Ref("layer", chain[-1])))
        names = list(names)
        known = self.catalog.images.get(image_id)
        record = known or ImageRecord(id=image_id, parent=parent)
        if names:
            record = replace(record, tagged_at=times.now())
        ops.append(self.catalog.images.put(record))
        moved = [tag.image for name in names if (tag := self.catalog.find_tag(name)) is not None]
        ops += [self.catalog.put_tag(name, *beside, image_id) for name in names]
        self.store.apply_now(*ops)
        self.catalog.changed(image_id, *moved)
        if durable:
            await self.store.flushed()
        return image_id

    async def make_durable(self, image_id: str) -> None:
        """Bring an image and those that it was made from to the disk, when they were published otherwise."""
        chain_id, line = self.catalog.get(image_id).chain_id, []
        while (record := self.catalog.images.get(image_id)) is not None:
            line.append(image_id)
            image_id = record.parent
        if waiting := self.content.unsynced(line):
            await self._in_thread(self.content.sync, *waiting)
        await self.layers.sync(chain_id)
        await self.store.flushed()

    def publish_event(self, action: str, image_id: str, name: str) -> None:
        """One event of type image, with the image's labels as attributes where it still exists."""
        attributes: dict[str, str] = {}
        if image_id in self.catalog.images:
            attributes.update((self.catalog.get(image_id).config.get("config") or {}).get("Labels") or {})
        attributes["name"] = name
        self.events.publish("image", action, image_id, dict(sorted(attributes.items())))

    async def tag(self, ref: str, repo: str, tag: str) -> None:
        """Give an image one more name. Without `repo` nothing happens. Raises: NotFound, InvalidArgument."""
        image_id, *others = self.catalog.members(ref)
        if not repo:
            return
        await self.tag_image(image_id, parse_target(repo, tag), beside=others)

    async def tag_image(self, image_id: str, name: Reference, *, beside: Sequence[str] = ()) -> None:
        """Give an image a name, taking it from another one if need be. beside: what it holds for other platforms."""
        if image_id in self.catalog.images:
            await self.make_durable(image_id)
        old = self.catalog.find_tag(name)
        record = self.catalog.images.get(image_id)
        if record is None:
            raise Internal(f"image {image_id} has no record")
        self.store.apply_now(
            self.catalog.put_tag(name, *beside, image_id),
            self.catalog.images.put(replace(record, tagged_at=times.now())),
        )
        self.catalog.changed(image_id, *([old.image] if old else []))
        self.publish_event("tag", image_id, name.familiar())
        await self.store.flushed()

    def wanted_blobs(self) -> set[str]:
        """The digests of all blobs that a record names: configurations, and the targets `blob:<digest>` of references."""
        named = {record.id for record in self.catalog.images.all()}
        return named | {target.id for _, target in self.store.references() if target.noun == "blob"}

    def set_parent(self, image_id: str, parent_id: str) -> None:
        """Record what an image was made from; durable with the next durable write."""
        record = self.catalog.images.get(image_id)
        if record is not None:
            changed = replace(record, parent=parent_id)
            self.store.apply_now(self.catalog.images.put(changed))
            self.catalog.changed(image_id)

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
                image_id = await self.publish_image(
                    oci_image.encode(document),
                    staged=[staged],
                    parent=parent.id if parent is not None else "",
                    names=[name] if name else [],
                )
        self.publish_event("create", image_id, image_id)
        if name:
            self.publish_event("tag", image_id, name.familiar())
        return image_id

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

        Raises: InvalidArgument (reference, platform, change, archive), OSError.
        """
        name = parse_target(repo, tag) if repo else None
        target = platforms.parse(platform) if platform else platforms.HOST
        config = instructions.apply({}, changes)
        comment = message or f"Imported from {source}"
        async with self.layers.unpacking(stream) as staged:
            created = times.now()
            document: dict[str, Any] = {
                "architecture": target.architecture,
                "comment": comment,
                "config": config,
                "container_config": oci_image.run_config({}),
                "created": created,
                "docker_version": ENGINE_VERSION,
                "history": [{"created": created, "comment": comment}],
                "os": target.os,
                "rootfs": {"type": "layers", "diff_ids": [staged.unpacked.diff_id]},
            }
            if target.variant:
                document["variant"] = target.variant
            image_id = await self.publish_image(
                oci_image.encode(document), staged=[staged], names=[name] if name else []
            )
        if name:
            self.publish_event("tag", image_id, name.familiar())
        self.publish_event("import", image_id, image_id)
        yield {"status": image_id}

    # -- archives -------------------------------------------------------------------------------------------------

    async def save(self, refs: Iterable[str], *, platform: Platform | None = None) -> AsyncIterator[bytes]:
        """Images as one archive, docker-archive and OCI layout. Raises: NotFound, Internal for a damaged layer."""
        wanted: dict[str, list[Reference]] = {}
        others: dict[str, list[str]] = {}  # for other platforms, by the image that their name means by itself
        for ref in refs:
            for members, names in self._named(ref):
                image_id, *rest = self._of_platform(members, platform)
                known = wanted.setdefault(image_id, [])
                known += [name for name in names if name not in known]
                others.setdefault(image_id, []).extend(rest)
        plan = archive.plan([self._wanted(id, names, wanted, others[id]) for id, names in wanted.items()])
        held = {*wanted, *(member for members in others.values() for member in members)}
        holders = [self.layers.hold(self.catalog.get(image_id).chain_id) for image_id in held]
        try:
            for image_id in wanted:
                self.publish_event("save", image_id, image_id)
            async for chunk in streams.drain(archive.write(plan, self.layers, time.time_ns()), self.streaming):
                yield chunk
        finally:
            for holder in holders:
                self.layers.let_go(holder)

    def _of_platform(self, members: tuple[str, ...], platform: Platform | None) -> tuple[str, ...]:
        """Those of a name's images that a platform asks for: all without one. Raises: Internal in Docker's words."""
        if platform is None:
            return members
        for member in members:
            if platform.accepts(platforms.of(self.catalog.get(member).config)):
                return (member,)
        raise Internal(f"no suitable export target found for platform {platform}")

    def _named(self, ref: str) -> list[tuple[tuple[str, ...], list[Reference]]]:
        """What `save` writes for one argument, (images, names): a repository alone means all its tags.

        Raises: NotFound in the reference's words, which differ from those of other commands.
        """
        parsed = reference.parse_any(ref)
        if isinstance(parsed, str):
            return [((self.resolve(ref).id,), [])]
        if parsed.tag or parsed.digest:
            tag = self.catalog.find_tag(parsed)
            if tag is None and self.catalog.by_prefix(ref) is None:
                raise NotFound("reference does not exist")
            return [(self.catalog.members(ref), [parsed] if parsed.tag else [])]
        tags = [tag for tag in self.catalog.tags.all() if tag.id.startswith(f"{parsed.name}:")]
        if tags:
            return [(tag.members, [reference.parse(tag.id)]) for tag in tags]
        image_id = self.catalog.by_prefix(ref)
        if image_id is None:
            raise NotFound(f"No such image: {ref}")
        return [((image_id,), [])]

    def _wanted(
        self, image_id: str, names: list[Reference], among: Collection[str], others: Sequence[str] = ()
    ) -> archive.Wanted:
        image = self.catalog.get(image_id)
        parent = image.parent
        while parent and parent not in among:
            record = self.catalog.images.get(parent)
            parent = record.parent if record is not None else ""
        return archive.Wanted(
            image=image,
            config=self.content.get(image_id),
            names=tuple(names),
            layers=tuple(reversed(self.layers.records(image.chain_id))),
            parent=parent,
            others=tuple(self._wanted(other, [], among) for other in dict.fromkeys(others)),
        )

    async def load(
        self, stream: AsyncIterator[bytes], *, quiet: bool = True, platform: Platform | None = None
    ) -> AsyncIterator[Mapping[str, Any]]:
        """Take in the images of an archive, of one platform only if given. Yields Docker's messages.

        Raises: InvalidArgument, OSError.
        """
        async for message in loading.load(self, stream, quiet=quiet, platform=platform):
            yield message

    # -- looking ----------------------------------------------------------------------------------------------------

    async def list(
        self,
        filters: Filters | None = None,
        *,
        all: bool = False,
        shared_size: bool = False,
        manifests: bool = False,
    ) -> Objects:
        """ImageSummary objects of API 1.51, newest first. Raises: InvalidArgument, NotFound, Internal for bad filters."""
        found = self.views.list(filters or {}, all=all, shared_size=shared_size, now_ns=time.time_ns())
        for summary in found if manifests else ():
            summary.update(self.views.platforms(summary["Id"]))
        return found

    async def layers_size(self) -> int:
        """Bytes of all layers, each once."""
        return sum(layer.size_bytes for layer in self.layers.all())

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
        self.events.publish("image", "prune", "", {"reclaimed": str(report["SpaceReclaimed"])})
        return report

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *arguments)


def _as_dict(config: Wire | Mapping[str, Any] | None) -> dict[str, Any]:
    if config is None:
        return {}
    return codec.to_json(config) if isinstance(config, Wire) else dict(config)


def parse_target(repo: str, tag: str) -> Reference:
    """The reference that `repo` and `tag` parameters name; a digest is refused. Raises: InvalidArgument."""
    name = reference.parse(repo)
    if name.digest:
        raise InvalidArgument("cannot import digest reference")
    if tag:
        name = reference.with_tag(name, tag)
    return name.tagged()
