"""Base images: from this engine, or pulled when they are missing, are for another platform, or shall be fresh.

Not here: what a Dockerfile makes of them (graph/), pulling itself (images/pull.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

from sampan.engine import platforms
from sampan.engine.builder.graph import names
from sampan.engine.builder.graph.values import ResolvedImage
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.session import Session
from sampan.engine.builder.steps import Shown, shown
from sampan.engine.images import pull
from sampan.engine.images.records import Image
from sampan.engine.images.service import Images
from sampan.engine.platforms import Platform
from sampan.errors import NotFound, SampanError
from sampan.registry.auth import ANONYMOUS, Credentials
from sampan.spec import reference
from sampan.spec.reference import DEFAULT_DOMAIN

INDEX_SERVER = "https://index.docker.io/v1/"
_SCHEMES = ("docker-image://", "oci-layout://")
Message = Mapping[str, Any]


class Bases:
    """The `Resolver` of one build. told: gets a pull's messages where the client is shown them (the classic dialect).

    lenient: a name that cannot be pulled for a platform may be here for another one, as at Docker's classic door.
    """

    def __init__(
        self,
        images: Images,
        session: Session,
        progress: Progress,
        *,
        build: str,
        auth: Mapping[str, Credentials],
        several: bool = False,
        lenient: bool = False,
        told: Callable[[Message], None] | None = None,
    ) -> None:
        self._images = images
        self._session = session
        self._progress = progress
        self._build = build
        self._auth = auth
        self._several = several
        self._lenient = lenient
        self._told = told
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def image(self, ref: str, platform: Platform, *, pull: bool) -> ResolvedImage:
        """Return the image of a full name, `docker-image://name` or id. Raises: NotFound, what a pull raises."""
        for scheme in _SCHEMES:
            ref = ref.removeprefix(scheme)
        if reference.is_digest(ref):
            return self._resolved(self._images.resolve(ref), ref)
        ref = str(reference.parse(ref).tagged())
        lock = self._locks.setdefault(ref, asyncio.Lock())  # one pull of a name, however many platforms ask
        with shown(self._progress, self._build, names.metadata(ref, platform if self._several else None)) as step:
            async with lock:
                found = None if pull else self._local(ref, platform)
                if found is None:
                    found = await self._fetched(ref, platform, step)
        return self._resolved(found, ref)

    def _local(self, ref: str, platform: Platform) -> Image | None:
        try:
            found = self._images.resolve(ref, platform)
        except NotFound:
            return None
        return found if platform.runs(platforms.of(found.config)) else None

    async def _fetched(self, ref: str, platform: Platform, step: Shown) -> Image:
        """Pull; the classic builder makes do with what is here for another platform when that fails."""
        try:
            await self._pull(ref, platform, step)
        except SampanError:
            if self._lenient:
                with suppress(NotFound):
                    return self._images.resolve(ref)
            raise
        return self._pulled(ref, platform)

    def _pulled(self, ref: str, platform: Platform) -> Image:
        """What a pull brought; a registry may have had it for another platform only, which the graph warns of."""
        try:
            return self._images.resolve(ref, platform)
        except NotFound:
            return self._images.resolve(ref)

    def _resolved(self, image: Image, ref: str) -> ResolvedImage:
        digest = next((name.partition("@")[2] for name in image.repo_digests), "")
        return ResolvedImage(id=image.id, config=image.config, ref=ref, digest=digest)

    async def _pull(self, ref: str, platform: Platform, step: Shown) -> None:
        domain = reference.parse(ref).domain
        own = "" if platform == platforms.HOST else str(platform)
        wanted = pull.request(ref, "", platform=own, credentials=await self.credentials(domain))
        begun = time.time_ns()
        async for message in self._images.transfer.pull(wanted):
            if self._told is not None:
                self._told(message)
            detail = message.get("progressDetail") or {}
            if detail and message.get("status") == "Downloading":
                current, total = detail.get("current", 0), detail.get("total", 0)
                step.part(str(message.get("id")), current, total, started_ns=begun, done=current == total > 0)
            elif message.get("status") == "Pull complete":
                step.part(str(message.get("id")), started_ns=begun, done=True)

    async def credentials(self, domain: str) -> Credentials:
        """Return what the request or the session knows for a registry; anonymous else."""
        host = INDEX_SERVER if domain == DEFAULT_DOMAIN else domain
        for name in (host, domain, f"https://{domain}", f"http://{domain}"):
            if name in self._auth:
                return self._auth[name]
        user, secret = await self._session.credentials(host)
        if not user and not secret:
            return ANONYMOUS
        return Credentials(username=user, password=secret) if user else Credentials(identity_token=secret)
