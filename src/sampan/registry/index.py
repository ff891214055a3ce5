"""Searching: the v1 search of Docker Hub and of registries that have one.

Source: Docker Registry v1 `GET /v1/_ping`, `GET /v1/search`; Engine API 1.51 ImageSearch; words of Docker Engine 28.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote_plus

from sampan.errors import Internal, InvalidArgument
from sampan.registry import endpoints, transport
from sampan.registry.auth import Credentials
from sampan.registry.endpoints import Endpoint, Settings
from sampan.registry.transport import Transport
from sampan.spec import codec
from sampan.spec.reference import DEFAULT_DOMAIN, LEGACY_DOMAIN

SEARCH_HOST = "index.docker.io"
MAX_BYTES = 4 * 1024 * 1024
DEFAULT_LIMIT = 25


async def search(
    transport_: Transport, settings: Settings, term: str, limit: int, credentials: Credentials
) -> list[dict[str, Any]]:
    """Return the index's results for a term `[host/]words`, in its order. limit: 0 for the default.

    Raises: InvalidArgument (term, limit, an index that does not answer), Internal.
    """
    if "://" in term:
        raise InvalidArgument(f"invalid repository name: repository name ({term}) should not have a scheme")
    domain, words = split(term)
    if domain == DEFAULT_DOMAIN:
        place = Endpoint(base=f"https://{SEARCH_HOST}", path="")
    else:
        place = await _answering(transport_, endpoints.own(domain, "", settings))
    if limit and not 1 <= limit <= 100:
        raise InvalidArgument(f"limit {limit} is outside the range of [1, 100]")
    url = f"{place.base}/v1/search?q={quote_plus(words)}&n={limit or DEFAULT_LIMIT}"
    return await _ask(transport_, place, url, credentials.basic() if credentials.username else "")


def split(term: str) -> tuple[str, str]:
    """Return (domain of the index, words to look for). Pure."""
    first, slash, rest = term.partition("/")
    domain = first if slash and (any(c in first for c in ".:") or first == "localhost") else ""
    if domain not in ("", DEFAULT_DOMAIN, LEGACY_DOMAIN):
        return domain, rest
    return DEFAULT_DOMAIN, (rest if domain else term).removeprefix("library/")


async def _answering(transport_: Transport, schemes: Sequence[Endpoint]) -> Endpoint:
    """Return the first of `schemes` where anybody answers at all. Raises: InvalidArgument in Docker's words."""
    failures = []
    for place in schemes:
        try:
            async with transport_.request("GET", f"{place.base}/v1/_ping", place):
                return place
        except Internal as e:
            failures.append(e.message)
    last = schemes[-1]
    if len(failures) > 1:
        raise InvalidArgument(
            f'invalid registry endpoint "{last.base}/v1/". HTTPS attempt: {failures[0]}. HTTP attempt: {failures[1]}'
        )
    raise InvalidArgument(
        f"invalid registry endpoint {last.base}/v1/: {failures[0]}. If this private registry supports only HTTP or "
        f"HTTPS with an unknown CA certificate, please add `--insecure-registry {last.host}` to the daemon's "
        "arguments. In the case of HTTPS, if you have access to the registry's CA certificate, no need for the flag; "
        f"simply place the CA certificate at {endpoints.CERTIFICATES[-1]}/{last.host}/ca.crt"
    )


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
    return read_results(raw)


def read_results(raw: bytes) -> list[dict[str, Any]]:
    """Decode what an index has found; what is no result is left out. Raises: Internal."""
    try:
        results = codec.parse(raw)["results"] if raw else None
    except (ValueError, TypeError, InvalidArgument) as e:
        raise Internal(f"error decoding registry search results: {getattr(e, 'message', e)}") from e
    except KeyError:
        results = None
    return [_result(item) for item in results if isinstance(item, dict)] if isinstance(results, list) else []


def _result(item: dict[str, Any]) -> dict[str, Any]:
    """Return one result in the API's shape. What an index says about automation is not believed, as in Docker."""
    stars = item.get("star_count")
    return {
        "star_count": stars if isinstance(stars, int) else 0,
        "is_official": item.get("is_official") is True,
        "name": str(item.get("name") or ""),
        "is_automated": False,
        "description": str(item.get("description") or ""),
    }
