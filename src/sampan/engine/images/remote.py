"""What images come from over the network: registries (pull, push, search) and URLs (import).

The registry conversation stops after its first step for now: `pull` and `push` find out whether a registry is there,
and say so. The transfer itself is `sampan.registry`'s next part.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec

from sampan.engine.images import platforms
from sampan.engine.images.catalog import Catalog
from sampan.errors import Internal, InvalidArgument, NotFound, NotImplemented_
from sampan.registry import ping
from sampan.spec import reference

SEARCH_FILTERS = frozenset({"is-automated", "is-official", "stars"})
IMPORT_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=30)


async def pull(name: str, tag: str, *, platform: str, insecure: Collection[str]) -> AsyncIterator[Mapping[str, Any]]:
    """Fetch an image. Raises: InvalidArgument, Internal when no registry answers, NotImplemented_."""
    if platform:
        platforms.parse(platform)
    if not name:
        raise Internal('Get "http:": http: no Host in request URL')
    wanted = reference.parse(name)
    if tag:
        wanted = (
            reference.parse(f"{wanted.name}@{tag}") if reference.is_digest(tag) else reference.with_tag(wanted, tag)
        )
    base = await ping.ping(wanted.domain, insecure)
    raise NotImplemented_(f"cannot pull {wanted.tagged().familiar()}: {base} answers, but pulling is not built yet")
    yield {}  # makes this a generator, like the one that will stand here


async def push(catalog: Catalog, name: str, tag: str, *, insecure: Collection[str]) -> AsyncIterator[Mapping[str, Any]]:
    """Send an image. Yields Docker's messages; raises as `pull`, and NotFound, after the first of them."""
    wanted = reference.parse(name)
    if tag:
        wanted = reference.with_tag(wanted, tag)
    yield {"status": f"The push refers to repository [{wanted.name}]"}
    if catalog.find_tag(wanted) is None:
        raise NotFound(f"An image does not exist locally with the tag: {wanted.familiar_name()}")
    base = await ping.ping(wanted.domain, insecure)
    raise NotImplemented_(f"cannot push {wanted.familiar()}: {base} answers, but pushing is not built yet")


async def search(term: str, limit: int) -> list[dict[str, Any]]:
    """Ask the public index. limit: 0 for the default. Raises: InvalidArgument, Internal."""
    if limit and not 1 <= limit <= 100:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, 100]")
    query = urlencode({"q": term, "n": limit or 25})
    url = f"https://{ping.SEARCH_HOST}/v1/search?{query}"
    status, body = await ping.get(url)
    try:
        answer = msgspec.json.decode(body)
        results = answer["results"]
    except (msgspec.DecodeError, KeyError, TypeError) as e:
        raise Internal(f"Unexpected status code {status}") from e
    return results if isinstance(results, list) else []


async def download(url: str) -> AsyncIterator[bytes]:
    """The bytes behind a URL, for `import`. Raises: Internal."""
    try:
        async with aiohttp.ClientSession(timeout=IMPORT_TIMEOUT, trust_env=True) as session:
            async with session.get(url) as answer:
                if answer.status >= 400:
                    text = (await answer.content.read(4096)).decode(errors="replace")
                    raise Internal(f"failed to GET {url} with status {answer.status} {answer.reason}: {text}")
                async for chunk in answer.content.iter_any():
                    yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        raise await ping.failed(url, e) from e
