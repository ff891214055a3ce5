"""Searching: the v1 search of Docker Hub and of registries that have one.

Source: Docker Registry v1 `GET /v1/search`; Engine API 1.51 ImageSearch.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus

import msgspec

from sampan.errors import Internal, InvalidArgument
from sampan.registry import endpoints, transport
from sampan.registry.auth import Credentials
from sampan.registry.endpoints import Endpoint, Settings
from sampan.registry.transport import Transport
from sampan.spec.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

SEARCH_HOST = "index.docker.io"
MAX_BYTES = 4 * 1024 * 1024
DEFAULT_LIMIT = 25


async def search(
    transport_: Transport, settings: Settings, term: str, limit: int, credentials: Credentials
) -> list[dict[str, Any]]:
    """The index's results for a term `[host/]words`. limit: 0 for the default. Raises: InvalidArgument, Internal."""
    if limit and not 1 <= limit <= 100:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, 100]")
    if "://" in term:
        raise InvalidArgument(f"invalid repository name: repository name ({term}) should not have a scheme")
    first, slash, rest = term.partition("/")
    domain = first if slash and (any(c in first for c in ".:") or first == "localhost") else DEFAULT_DOMAIN
    if domain == LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    words = rest if slash and domain == first else term
    words = words.removeprefix("library/") if domain == DEFAULT_DOMAIN else words
    places = (
        [Endpoint(base=f"https://{SEARCH_HOST}", path="")]
        if domain == DEFAULT_DOMAIN
        else endpoints.own(domain, "", settings)
    )
    failure: Internal | None = None
    for place in places:
        url = f"{place.base}/v1/search?q={quote_plus(words)}&n={limit or DEFAULT_LIMIT}"
        try:
            return await _ask(transport_, place, url, credentials.basic() if credentials.username else "")
        except Internal as e:
            failure = e
    assert failure is not None
    raise failure


async def _ask(transport_: Transport, place: Endpoint, url: str, authorization: str) -> list[dict[str, Any]]:
    headers = {"X-Docker-Token": "true"}
    try:
        async with transport_.request("GET", url, place, headers=headers, authorization=authorization) as answer:
            raw = b""
            while len(raw) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES)):
                raw += more
            status = answer.status
    except transport.FAILURES as e:
        raise await transport.failed("GET", url, e) from e
    if status != 200:
        raise Internal(f"Unexpected status code {status}")
    try:
        results = msgspec.json.decode(raw)["results"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
        raise Internal(f"invalid answer of {url}: {e}") from e
    return [item for item in results if isinstance(item, dict)] if isinstance(results, list) else []
