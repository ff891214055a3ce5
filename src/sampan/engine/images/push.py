"""`push`: an image's layers, configuration and manifest to a registry that lacks some of them.

Per layer, the cheapest way first: the repository has it (HEAD) · another repository of the registry has it (mount) ·
compress and send, at the same time, resumed where a connection broke. Not here: HTTP (sampan.registry).
Invariant: the manifest is put last, when everything it names is there.

Source: moby 28.5 as observed on the reference; OCI distribution-spec 1.1 "Push".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from sampan.engine import platforms
from sampan.engine.background import first_failure
from sampan.engine.events import Events
from sampan.engine.images import indexes, known
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.content import ContentStore
from sampan.engine.images.records import Image
from sampan.engine.images.registries import Registries
from sampan.engine.images.reports import Message, Report
from sampan.engine.images.uploads import Upload
from sampan.engine.layers.layers import Layers, holding
from sampan.engine.layers.records import LayerRecord
from sampan.engine.platforms import Platform
from sampan.engine.store import Store
from sampan.errors import NotFound, SampanError
from sampan.registry import endpoints, manifests
from sampan.registry.auth import Credentials
from sampan.registry.manifests import Descriptor
from sampan.registry.refusals import NoCredentials, Refused
from sampan.registry.repository import Repository
from sampan.spec import oci_image, reference
from sampan.spec.reference import Reference

MOUNTS = 3  # attempts at other repositories


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """What to push: one tag, or without a tag all of the repository; of names that hold several platforms, which."""

    name: Reference
    platform: Platform | None


def request(catalog: Catalog, name: str, tag: str, platform: Platform | None) -> PushRequest:
    """The request that the API's parameters make. Raises: InvalidArgument, NotFound."""
    wanted = reference.parse(name)
    if tag:
        wanted = reference.with_tag(wanted, tag)
    if platform is not None:
        catalog.resolve(wanted.familiar(), platform)
    return PushRequest(name=wanted, platform=platform)


class Pusher:
    """Sends images to registries."""

    def __init__(
        self,
        *,
        registries: Registries,
        catalog: Catalog,
        content: ContentStore,
        layers: Layers,
        store: Store,
        events: Events,
        streaming: Executor,
    ) -> None:
        self.registries, self.catalog, self.content, self.layers = registries, catalog, content, layers
        self.store, self.streaming = store, streaming
        self._events = events

    async def push(self, wanted: PushRequest, credentials: Credentials) -> AsyncIterator[Message]:
        """Yields Docker's messages; every failure comes after the first of them."""
        report = Report()
        report.say({"status": f"The push refers to repository [{wanted.name.name}]"})
        async for message in report.during(self._push(wanted, credentials, report)):
            yield message

    async def _push(self, request: PushRequest, credentials: Credentials, report: Report) -> None:
        wanted = request.name
        names = self._names(wanted)
        if not names:
            raise NotFound(f"An image does not exist locally with the tag: {wanted.familiar_name()}")
        schemes = endpoints.own(wanted.domain, wanted.path, self.registries.settings)
        place = await self.registries.connect(schemes, credentials, push=True)
        for name in names:
            await _Push(self, place, name, report).run(request.platform)
        self._events.publish("image", "push", wanted.familiar(), {"name": wanted.familiar_name()})

    def _names(self, wanted: Reference) -> list[Reference]:
        if wanted.tag:
            return [wanted] if self.catalog.find_tag(wanted) is not None else []
        found = [reference.parse(tag.id) for tag in self.catalog.tags.all() if tag.id.startswith(f"{wanted.name}:")]
        return sorted((name for name in found if not name.digest), key=str)


class _Push:
    """One name: its image, or its images for several platforms and the index over them."""

    def __init__(self, here: Pusher, place: Repository, name: Reference, report: Report) -> None:
        self._here = here
        self._place = place
        self._name = name
        self._report = report

    async def run(self, platform: Platform | None = None) -> None:
        catalog = self._here.catalog
        tag = catalog.find_tag(self._name)
        if tag is None:
            raise NotFound(f"An image does not exist locally with the tag: {self._name.familiar_name()}")
        members = tag.members if platform is None else (catalog.resolve(str(self._name), platform).id,)
        images = [catalog.get(member) for member in members]
        configs = [self._here.content.get(image.id) for image in images]
        with holding(
            self._here.layers, *(image.chain_id for image in images)
        ):  # a removal beside this takes the records
            pushed = [(image, await self._image(image, config)) for image, config in zip(images, configs)]
        if len(pushed) == 1:
            raw, media_type = pushed[0][1], oci_image.DOCKER_MANIFEST
        else:
            entries = []
            for image, manifest in pushed:
                await self._place.put_manifest(oci_image.digest(manifest), manifest, oci_image.DOCKER_MANIFEST)
                own = platforms.of(image.config)
                entries.append(indexes.descriptor(manifest, oci_image.DOCKER_MANIFEST, own))
            raw, media_type = manifests.write_list(entries), oci_image.DOCKER_LIST
        await self._place.put_manifest(self._name.tag, raw, media_type)
        self._finish(raw, members)

    async def _image(self, image: Image, config: bytes) -> bytes:
        """Have the registry hold an image's layers and configuration. Returns its manifest, which is not there yet."""
        records = self._here.layers.records(image.chain_id)  # top first, as the messages are
        blobs = tuple(reversed(await self._layers(records)))
        if await self._place.has_blob(image.id) is None:
            await self._place.put_blob(config, image.id)
        return manifests.write(Descriptor(manifests.DOCKER_CONFIG, image.id, len(config)), blobs)

    async def _layers(self, records: list[LayerRecord]) -> list[Descriptor]:
        """All layers at once, as many as there are slots."""
        for record in records:
            self._report.line(_id(record), "Preparing")
        tasks: dict[str, asyncio.Task[Descriptor]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for record in records:
                    if record.diff_id not in tasks:  # the same content twice is sent once
                        tasks[record.diff_id] = group.create_task(self._layer(record))
        except BaseExceptionGroup as e:
            raise first_failure(e) from None
        return [tasks[record.diff_id].result() for record in records]

    async def _layer(self, record: LayerRecord) -> Descriptor:
        uploads = self._here.registries.uploads
        if not uploads.free:
            self._report.line(_id(record), "Waiting")
        lock = self._here.registries.upload_lock(self._name.name, record.diff_id)
        async with uploads.slot(), lock:
            blob = await self._there(record) or await self._mounted(record)
            if blob is None:
                blob = await Upload(self._here.layers, self._here.streaming, self._place, record, self._report).run()
            self._here.registries.known.note(record.diff_id, blob, self._name.name)
            return blob

    async def _there(self, record: LayerRecord) -> Descriptor | None:
        """The layer as a blob that the repository has already."""
        domain = self._name.domain
        notes = [
            note for note in self._here.registries.known.notes(record.diff_id) if note.source.startswith(f"{domain}/")
        ]
        for note in sorted(notes, key=lambda note: note.source != self._name.name)[:MOUNTS]:
            if await self._place.has_blob(note.digest) in (note.size, -1):
                self._report.line(_id(record), "Layer already exists")
                return known.descriptor(note)
        return None

    async def _mounted(self, record: LayerRecord) -> Descriptor | None:
        """The layer as a blob taken over from another repository of the same registry."""
        prefix = f"{self._name.domain}/"
        notes = self._here.registries.known.notes(record.diff_id)
        others = [note for note in notes if note.source.startswith(prefix) and note.source != self._name.name]
        for note in others[:MOUNTS]:
            source = note.source.removeprefix(prefix)
            try:
                upload = await self._place.mount(note.digest, source)
            except (Refused, NoCredentials):
                continue  # no right to read there: send it instead
            if not upload:
                self._report.line(_id(record), f"Mounted from {source}")
                return known.descriptor(note)
            with suppress(SampanError):
                await self._place.cancel_upload(upload)
        return None

    def _finish(self, raw: bytes, members: tuple[str, ...]) -> None:
        """Note the digest under which the images are there now, and say so."""
        here = self._here
        digest = oci_image.digest(raw)
        by_digest = Reference(self._name.domain, self._name.path, "", digest)
        known_digest = here.catalog.find_tag(by_digest)
        members = tuple(member for member in members if member in here.catalog.images)
        if members and (known_digest is None or set(known_digest.members) != set(members)):
            here.store.apply_now(here.catalog.put_tag(by_digest, *reversed(members)))
            here.catalog.changed(*members)
        self._report.say({"status": f"{self._name.tag}: digest: {digest} size: {len(raw)}"})
        self._report.say({"progressDetail": {}, "aux": {"Tag": self._name.tag, "Digest": digest, "Size": len(raw)}})


def _id(record: LayerRecord) -> str:
    return record.diff_id.removeprefix("sha256:")[:12]
