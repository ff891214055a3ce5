"""Images on their way in and out: to and from registries, archives of images, archives of files.

Not here: how each of them goes (pull.py, push.py, loading.py, saving.py). Invariant: what fails or is interrupted
leaves no image, no name, and no layer that nothing needs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from sampan.engine import platforms
from sampan.engine.events import Events
from sampan.engine.images import instructions, remote
from sampan.engine.images.catalog import Catalog, parse_target
from sampan.engine.images.content import ContentStore
from sampan.engine.images.loading import Loader
from sampan.engine.images.publishing import ImagePublisher
from sampan.engine.images.pull import Puller, PullRequest
from sampan.engine.images.push import Pusher, PushRequest
from sampan.engine.images.records import ENGINE_VERSION
from sampan.engine.images.registries import Registries
from sampan.engine.images.reports import Message
from sampan.engine.images.saving import Saver
from sampan.engine.images.verifying import Verifier
from sampan.engine.images.views import Filters
from sampan.engine.layers.storage import Storage
from sampan.engine.platforms import Platform
from sampan.registry.auth import Credentials
from sampan.spec import oci_image, times


class Transfer:
    """What comes and goes. Use on the event loop's thread; `close` ends what is under way."""

    def __init__(
        self,
        storage: Storage,
        events: Events,
        catalog: Catalog,
        content: ContentStore,
        publisher: ImagePublisher,
        registries: Registries,
        verifier: Verifier,
    ) -> None:
        self._layers, self._uploads = storage.layers, storage.uploads
        self._publisher = publisher
        self._registries = registries
        self._puller = Puller(
            registries=registries, catalog=catalog, content=content, layers=storage.layers, publisher=publisher,
            events=events, verifier=verifier,
        )  # fmt: skip
        self._pusher = Pusher(
            registries=registries, catalog=catalog, content=content, layers=storage.layers, store=storage.store,
            events=events, streaming=storage.streaming,
        )  # fmt: skip
        self._loader = Loader(
            catalog=catalog, layers=storage.layers, publisher=publisher, ingest=content.ingest, pool=storage.pool,
            uploads=storage.uploads, verifier=verifier,
        )  # fmt: skip
        self._saver = Saver(catalog, content, storage.layers, publisher, storage.streaming)

    def pull(self, wanted: PullRequest) -> AsyncIterator[Message]:
        """Fetch an image, or all tags of a repository. Yields Docker's messages.

        Raises: NotFound, Unauthorized kinds, Internal, what the verifier raises; the first failure before any message
        is an HTTP error.
        """
        return self._puller.pull(wanted)

    def push(self, wanted: PushRequest, credentials: Credentials) -> AsyncIterator[Message]:
        """Send images to their registry. Yields Docker's messages; every failure comes after the first of them."""
        return self._pusher.push(wanted, credentials)

    def save(self, refs: Iterable[str], *, platform: Platform | None = None) -> AsyncIterator[bytes]:
        """Images as one archive, docker-archive and OCI layout. Raises: NotFound, Internal for a damaged layer."""
        return self._saver.save(refs, platform)

    def load(
        self, stream: AsyncIterator[bytes], *, quiet: bool = True, platform: Platform | None = None
    ) -> AsyncIterator[Message]:
        """Take in the images of an archive, of one platform only if given. Yields Docker's messages.

        Raises: InvalidArgument, OSError, what the verifier raises.
        """
        return self._loader.load(stream, quiet=quiet, platform=platform)

    async def import_(
        self,
        stream: AsyncIterator[bytes] | None,
        *,
        repo: str = "",
        tag: str = "",
        message: str = "",
        changes: Iterable[str] = (),
        platform: str = "",
        source: str = "-",
    ) -> AsyncIterator[Message]:
        """Make an image of one layer out of an archive of files. Yields Docker's messages; the last is the id.

        stream: None for what `source`, a URL, gives. Raises: InvalidArgument (reference, platform, change, archive),
        Internal before any message when the URL gives nothing, OSError.
        """
        if stream is None:
            source = source if "://" in source else f"http://{source}"
            stream = await remote.begun(remote.download(source, self._registries.proxies))
            yield {"status": f"Downloading from {source}"}
        name = parse_target(repo, tag) if repo else None
        target = platforms.parse(platform) if platform else platforms.HOST
        config = instructions.apply({}, changes)
        comment = message or f"Imported from {source}"
        async with self._layers.unpacking(stream, threads=self._uploads) as staged:
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
            image_id = await self._publisher.publish_image(
                oci_image.encode(document), staged=[staged], names=[name] if name else []
            )
        if name:
            self._publisher.publish_event("tag", image_id, name.familiar())
        self._publisher.publish_event("import", image_id, image_id)
        yield {"status": image_id}

    async def search(self, term: str, limit: int, credentials: Credentials, filters: Filters) -> list[dict[str, Any]]:
        """Ask a registry's index; limit: 0 for the default. Raises: InvalidArgument, Internal."""
        return await remote.search(self._registries, term, limit, credentials, filters)

    async def distribution(self, name: str, credentials: Credentials) -> Mapping[str, Any]:
        """DistributionInspect of API 1.51. Raises: InvalidArgument, Refused."""
        return await remote.inspect(self._registries, name, credentials)
