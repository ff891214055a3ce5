"""What images come from over the network, beside pull and push: the search, a look at a registry, URLs to import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from sampan.engine import platforms
from sampan.engine.images.registries import Registries
from sampan.engine.images.views import Filters, boolean_filter
from sampan.errors import Internal, InvalidArgument, SampanError
from sampan.registry import endpoints, index, manifests, outgoing, transport
from sampan.registry.auth import Credentials
from sampan.registry.manifests import Index
from sampan.registry.outgoing import Proxies
from sampan.registry.repository import Repository
from sampan.spec import oci_image, reference
from sampan.spec.urls import without_password

SEARCH_FILTERS = frozenset({"is-automated", "is-official", "stars"})
IMPORT_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30)


async def search(
    registries: Registries, term: str, limit: int, credentials: Credentials, filters: Filters
) -> list[dict[str, Any]]:
    """Ask an index, and leave out what the filters do. limit: 0 for the default. Raises: InvalidArgument, Internal."""
    if boolean_filter(filters, "is-automated", False):
        return []  # nothing is any more
    official = boolean_filter(filters, "is-official", False) if "is-official" in filters else None
    stars = max((_stars(text) for text in filters.get("stars", ())), default=0)
    found = await index.search(registries.transport, registries.settings, term, limit, credentials)
    return [
        item
        for item in found
        if (official is None or official == item["is_official"])
        and ("stars" not in filters or item["star_count"] >= stars)
    ]


def _stars(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(
            f"invalid filter 'stars={text}': strconv.Atoi: parsing \"{text}\": invalid syntax"
        ) from None


async def inspect(registries: Registries, name: str, credentials: Credentials) -> dict[str, Any]:
    """DistributionInspect of API 1.51: the descriptor behind a name and its platforms.

    Raises: InvalidArgument, Refused.
    """
    wanted = reference.parse(name).tagged()
    failure: SampanError | None = None
    for schemes in endpoints.candidates(wanted, registries.settings):
        try:
            place = await registries.connect(schemes, credentials)
            return await _inspect(place, wanted.digest or wanted.tag, wanted.digest, wanted.familiar())
        except SampanError as e:
            failure = e
    assert failure is not None
    raise failure


async def _inspect(place: Repository, target: str, digest: str, shown: str) -> dict[str, Any]:
    found = await place.manifest(target, digest=digest)
    manifest = manifests.parse(found.raw, found.media_type, shown)
    listed: list[dict[str, str]] = []
    if isinstance(manifest, Index):
        for entry in manifest.entries:
            listed.append(_platform(entry.os, entry.architecture, entry.variant))
    else:
        config = oci_image.decode(await place.small_blob(manifest.config))
        own = platforms.of(config)
        listed.append(_platform(own.os, own.architecture, own.variant))
    descriptor = {"mediaType": manifest.media_type, "digest": found.digest, "size": len(found.raw)}
    return {"Descriptor": descriptor, "Platforms": listed}


def _platform(os: str, architecture: str, variant: str) -> dict[str, str]:
    return {"architecture": architecture, "os": os, **({"variant": variant} if variant else {})}


async def begun(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream, of which the first chunk has come: raises what it raises before that."""
    first = await anext(chunks, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return whole()


async def download(url: str, proxies: Proxies) -> AsyncIterator[bytes]:
    """The bytes behind a URL, for `import`. Raises: Internal."""
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise Internal(f'Get "{without_password(url)}": unsupported protocol scheme "{scheme}"')
    try:
        async with outgoing.session(timeout=IMPORT_TIMEOUT) as session:
            async with session.get(url, proxy=proxies.choose(url)) as answer:
                if answer.status >= 400:
                    text = (await answer.content.read(4096)).decode(errors="replace")
                    raise Internal(
                        f"failed to GET {without_password(url)} with status {answer.status} {answer.reason}: {text}"
                    )
                async for chunk in answer.content.iter_any():
                    yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        raise await transport.failed("GET", url, e) from e
