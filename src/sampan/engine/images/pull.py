"""`pull`: from a reference to an image here. Resolve, choose the platform, fetch what is missing, publish, name.

Not here: how layers come (downloads.py), HTTP (sampan.registry). Invariant: the image appears, with its names, in one
transaction after every layer is here; until then only this pull holds the layers.

Source: moby 28.5 as observed on the reference: order and words of messages, what counts as newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sampan.engine import platforms
from sampan.engine.background import first_failure
from sampan.engine.events import Events
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.content import ContentStore
from sampan.engine.images.downloads import WantedLayer, Watcher
from sampan.engine.images.publishing import ImagePublisher
from sampan.engine.images.registries import Registries
from sampan.engine.images.reports import Message, Report
from sampan.engine.images.verifying import Verifier
from sampan.engine.layers.layers import Layers
from sampan.engine.platforms import Platform
from sampan.errors import Internal, InvalidArgument, NotFound, SampanError
from sampan.registry import endpoints, manifests, refusals
from sampan.registry.auth import Credentials
from sampan.registry.manifests import Descriptor, Index, IndexEntry, Manifest
from sampan.registry.refusals import Refused
from sampan.registry.repository import Found, Repository
from sampan.spec import oci_image, reference
from sampan.spec.reference import Reference

MAX_DEPTH = 3  # of indexes inside indexes


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """What to pull. `every`: all tags of the repository."""

    name: Reference
    platform: Platform | None
    credentials: Credentials
    every: bool = False


def request(name: str, tag: str, *, platform: str, credentials: Credentials) -> PullRequest:
    """The request that the API's parameters make. Raises: InvalidArgument, Internal for no name at all."""
    target = platforms.parse(platform) if platform else None
    if not name:
        raise Internal('Get "http:": http: no Host in request URL')
    wanted = reference.parse(name)
    if tag:
        if reference.is_digest(tag):
            wanted = replace(wanted, tag="", digest=tag)
        elif not wanted.digest:
            wanted = reference.with_tag(wanted, tag)
        else:
            reference.with_tag(wanted, tag)
    if wanted.digest and not manifests.is_digest(wanted.digest):
        raise InvalidArgument("unsupported digest algorithm")
    every = not (wanted.tag or wanted.digest)
    return PullRequest(name=wanted, platform=target, credentials=credentials, every=every)


class Puller:
    """Fetches images from registries."""

    def __init__(
        self,
        *,
        registries: Registries,
        catalog: Catalog,
        content: ContentStore,
        layers: Layers,
        publisher: ImagePublisher,
        events: Events,
        verifier: Verifier,
    ) -> None:
        self.registries, self.catalog, self.content, self.layers = registries, catalog, content, layers
        self.publisher, self.events, self.verifier = publisher, events, verifier

    async def pull(self, wanted: PullRequest) -> AsyncIterator[Message]:
        """Yields Docker's messages. Raises: NotFound, Unauthorized kinds, Internal, what the verifier raises; the
        first failure before any message is an HTTP error.
        """
        report = Report()
        async for message in report.during(self._pull(wanted, report)):
            yield message

    async def _pull(self, wanted: PullRequest, report: Report) -> None:
        """Ask one place after the other; the registry itself has the last word."""
        failure: SampanError | None = None
        for schemes in endpoints.candidates(wanted.name, self.registries.settings):
            try:
                place = await self.registries.connect(schemes, wanted.credentials)
                await _Pull(self, wanted, place, report).run()
            except SampanError as e:
                failure = e
                continue
            return
        assert failure is not None
        if isinstance(failure, Refused):
            raise refusals.not_found(failure, wanted.name.familiar(), wanted.name.familiar_name()) from failure
        raise failure


class _Pull:
    """One pull from one place."""

    def __init__(self, here: Puller, wanted: PullRequest, place: Repository, report: Report) -> None:
        self._here = here
        self._wanted = wanted
        self._place = place
        self._report = report
        self._newer = False
        self._config: dict[str, Any] = {}  # of the image that came last; it may be removed before we speak of it

    async def run(self) -> None:
        name = self._wanted.name
        if self._wanted.every:
            tags = await self._place.tags()
            if not tags:
                raise NotFound(f"no tags found for {name.familiar_name()}")
            for tag in tags:
                await self._one(reference.with_tag(name, tag))
        else:
            await self._one(name)
        self._finish(name)

    def _finish(self, name: Reference) -> None:
        here = self._here
        words = "Downloaded newer image" if self._newer else "Image is up to date"
        self._report.say({"status": f"Status: {words} for {name.familiar()}"})
        attributes: dict[str, str] = {}
        if not self._wanted.every:
            attributes.update((self._config.get("config") or {}).get("Labels") or {})
            own = platforms.of(self._config)
            if self._wanted.platform is not None and not self._wanted.platform.accepts(own):
                self._report.say(
                    {
                        "status": f"WARNING: image with reference {name.familiar()} was found but its platform ({own}) "
                        f"does not match the specified platform ({self._wanted.platform})"
                    }
                )
        attributes["name"] = name.familiar_name()
        here.events.publish("image", "pull", name.familiar(), dict(sorted(attributes.items())))

    async def _one(self, name: Reference) -> None:
        """One tag or digest."""
        digest = await self._unchanged(name)
        if digest:
            self._pulling(name)
            self._config = self._here.catalog.resolve(str(name)).config
            self._report.say({"status": f"Digest: {digest}"})
            return
        found = await self._place.manifest(name.digest or name.tag, digest=name.digest)
        manifest = manifests.parse(found.raw, found.media_type, str(name))
        descriptor = Descriptor(manifest.media_type, found.digest, len(found.raw))
        await self._here.verifier.verify(name, descriptor, found.raw)
        self._pulling(name)
        if isinstance(manifest, Index):
            manifest = await self._choose(manifest, name)
        watcher = Watcher(self._here.layers, self._report)
        try:  # the layers are held until the names hold the image
            config = await self._layers_of(manifest, name, watcher)
            await self._publish(name, found, config)
        finally:
            self._here.layers.let_go(watcher.holder)

    def _pulling(self, name: Reference) -> None:
        shown = name.familiar() if name.digest else name.tag
        self._report.say({"status": f"Pulling from {name.path}", "id": shown})

    async def _unchanged(self, name: Reference) -> str:
        """The digest of a tag that we have as the registry has it; "" when it must be fetched. HEAD costs no quota."""
        catalog = self._here.catalog
        here = catalog.find_tag(name) if name.tag and not name.digest and self._wanted.platform is None else None
        if here is None or not any(n.digest and n.name == name.name for n in catalog.references(here.image)):
            return ""
        digest = await self._place.manifest_digest(name.tag)
        here = catalog.find_tag(name)
        if here is None:
            return ""  # removed while the registry was asked
        same = catalog.find_tag(Reference(name.domain, name.path, "", digest)) if digest else None
        matches = same is not None and same.image == here.image
        return digest if matches and platforms.of(catalog.get(here.image).config) == platforms.HOST else ""

    async def _choose(self, index: Index, name: Reference) -> Manifest:
        """The manifest of an index for the platform. Raises: NotFound in Docker's words."""
        target = self._wanted.platform or platforms.HOST
        for _ in range(MAX_DEPTH):
            entry = choose(index.entries, target)
            if entry is None:
                break
            found = await self._place.manifest(entry.descriptor.digest)
            if len(found.raw) != entry.descriptor.size:
                raise Internal(f"manifest verification failed for digest {entry.descriptor.digest}")
            manifest = manifests.parse(found.raw, entry.descriptor.media_type, str(name))
            if isinstance(manifest, Manifest):
                return manifest
            index = manifest
        raise NotFound(f"no matching manifest for {target} in the manifest list entries")

    async def _layers_of(self, manifest: Manifest, name: Reference, watcher: Watcher) -> bytes:
        """Have the layers of a manifest's image here, held by the watcher. Returns the image's configuration."""
        here = self._here
        image_id = manifest.config.digest
        if image_id in here.catalog.images:
            if chain_id := here.catalog.get(image_id).chain_id:
                here.layers.hold_more(watcher.holder, chain_id)
            return here.content.get(image_id)
        config = await self._place.small_blob(manifest.config)
        diff_ids = oci_image.diff_ids(oci_image.decode(config))
        if len(diff_ids) != len(manifest.layers):
            raise Internal("layers from manifest don't match image configuration")
        for diff_id in diff_ids:
            if not isinstance(diff_id, str) or not manifests.is_digest(diff_id):
                raise InvalidArgument(f"invalid image configuration: diff_id {diff_id!r}")
        wanted = [
            WantedLayer(chain_id=chain_id, diff_id=diff_id, blob=blob, source=name.name)
            for chain_id, diff_id, blob in zip(oci_image.chain_ids(diff_ids), diff_ids, manifest.layers)
        ]
        await self._layers(wanted, watcher)
        self._newer = True
        return config

    async def _layers(self, wanted: Sequence[WantedLayer], watcher: Watcher) -> None:
        """All layers at once; the first failure ends the others and is the one that is raised."""
        downloads = self._here.registries.downloads
        for layer in wanted:
            here = layer.chain_id in self._here.layers
            self._report.line(layer.id, "Already exists" if here else "Pulling fs layer")
        try:
            async with asyncio.TaskGroup() as group:
                for position, layer in enumerate(wanted):
                    below = wanted[position - 1] if position else None
                    group.create_task(downloads.obtain(layer, self._place, watcher, below))
        except BaseExceptionGroup as e:
            raise first_failure(e) from None

    async def _publish(self, name: Reference, found: Found, config: bytes) -> None:
        """Make the image visible, the tag and the digest pointing at it; what the same index gave for other platforms
        stays beside it.
        """
        catalog, image_id = self._here.catalog, oci_image.digest(config)
        by_digest = Reference(name.domain, name.path, "", found.digest)
        known = catalog.find_tag(by_digest)
        beside = known.members if known is not None else ()
        new = [
            n
            for n in ([by_digest] if name.digest else [replace(name, digest=""), by_digest])
            if (tag := catalog.find_tag(n)) is None or not {*beside, image_id} <= set(tag.members)
        ]
        self._config = oci_image.decode(config)
        self._newer = self._newer or bool(new)
        self._report.say({"status": f"Digest: {found.digest}"})
        if new or image_id not in catalog.images:
            await self._here.publisher.publish_image(config, names=new, beside=beside)


def choose(entries: Sequence[IndexEntry], target: Platform) -> IndexEntry | None:
    """The entry that suits a platform best; of equals the first. Pure."""
    ranked = []
    for position, entry in enumerate(entries):
        rank = platforms.rank(target, Platform(entry.os, entry.architecture, entry.variant))
        if rank is not None:
            ranked.append((rank, position))
    return entries[min(ranked)[1]] if ranked else None
