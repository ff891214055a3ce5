"""One repository at one endpoint, as one user sees it: manifests, blobs, uploads.

What it does with every request: authorise, once more after a 401; wait and repeat what may pass (429, 5xx, a broken
connection); turn refusals into errors. Not here: which endpoint, what a manifest means, where bytes go.
Invariants: what is returned has the digest that was asked for, hashed before anybody parses it; nothing is read
beyond the size that was announced; a 401 that persists is an error, never a loop.

Source: OCI distribution-spec 1.1 "Pull", "Push"; distribution API v2.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import aiohttp

from sampan.errors import Internal
from sampan.registry import auth, challenges, manifests, refusals, transport
from sampan.registry.auth import Authorizer, Credentials
from sampan.registry.endpoints import Endpoint, Settings
from sampan.registry.manifests import Descriptor
from sampan.registry.transport import Transport
from sampan.spec import codec

BACKOFF_S = 0.5  # doubled each time, with jitter
BACKOFF_MAX_S = 30.0
RETRY_AFTER_MAX_S = 120.0
MAX_TAGS = 100_000
MAX_LIST_BYTES = 16 * 1024 * 1024
SMALL_PROGRESS = 256 * 1024  # a connection that gave this much has not been in vain

Retrying = Callable[[int], None]
"""Called every second with the seconds that are left before the next attempt."""


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest as the registry gave it: its bytes have this digest."""

    raw: bytes
    media_type: str
    digest: str


async def connect(
    transport_: Transport,
    schemes: Sequence[Endpoint],
    credentials: Credentials,
    settings: Settings,
    *,
    push: bool = False,
) -> Repository:
    """Return the repository at the first of `schemes` (https before http) that answers. Raises: Internal of the
    last one.
    """
    failure: Internal | None = None
    for endpoint in schemes:
        repository = Repository(transport_, endpoint, credentials, settings, push=push)
        try:
            await repository.ping()
        except Internal as e:
            failure = e
            continue
        return repository
    assert failure is not None
    raise failure


class Repository:
    """See the module. Methods raise Refused, NoCredentials, Unverified, Internal."""

    def __init__(
        self,
        transport_: Transport,
        endpoint: Endpoint,
        credentials: Credentials,
        settings: Settings,
        *,
        push: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self._transport = transport_
        self._settings = settings
        self._authorizer = Authorizer(transport_, endpoint, credentials)
        self._scope = auth.scope(endpoint.path, "pull", "push") if push else auth.scope(endpoint.path, "pull")

    async def ping(self) -> None:
        """Ask GET /v2/: is it a registry, and what does it ask for? Raises: Internal when nobody answers."""
        url = self.endpoint.root
        async with self._transport.request("GET", url, self.endpoint) as answer:
            if answer.status == 401:
                self._authorizer.challenged(answer)
            elif answer.status >= 500:
                raise Internal(f'Get "{url}": {refusals.read(answer.status, b"").message}')

    # -- manifests ------------------------------------------------------------------------------------------------

    async def manifest(self, target: str, *, digest: str = "") -> Found:
        """Return the manifest of a tag or digest, at most `manifests.MAX_BYTES`. digest: what it must have, ""
        for any.
        """
        url = self.endpoint.url(f"manifests/{target}")
        async with self._asked("GET", url, headers={"Accept": manifests.ACCEPT}) as answer:
            raw = await _whole(answer, manifests.MAX_BYTES)
            media_type = answer.headers.get("Content-Type", "")
            announced = answer.headers.get("Docker-Content-Digest", "")
        found = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        wanted = digest or (target if manifests.is_digest(target) else "")
        if wanted and found != wanted:
            raise Internal(f"manifest verification failed for digest {wanted}")
        if not wanted and manifests.is_digest(announced) and announced != found:
            raise Internal(f"manifest verification failed for digest {announced}")
        return Found(raw, media_type, found)

    async def manifest_digest(self, target: str) -> str:
        """Return what the registry says a tag is, without fetching it; "" when it does not say."""
        url = self.endpoint.url(f"manifests/{target}")
        async with self._asked("HEAD", url, headers={"Accept": manifests.ACCEPT}) as answer:
            digest = answer.headers.get("Docker-Content-Digest", "")
        return digest if manifests.is_digest(digest) else ""

    async def put_manifest(self, target: str, raw: bytes, media_type: str) -> None:
        url = self.endpoint.url(f"manifests/{target}")
        async with self._asked("PUT", url, headers={"Content-Type": media_type}, data=raw):
            pass

    async def tags(self) -> list[str]:
        """Yield every tag of the repository, as the registry orders them."""
        found: list[str] = []
        url = self.endpoint.url("tags/list")
        while url:
            async with self._asked("GET", url) as answer:
                raw = await _whole(answer, MAX_LIST_BYTES)
                link = answer.headers.get("Link", "")
            listed = read_tags(raw, url)
            found += listed
            url = next_page(link, url) if listed and len(found) < MAX_TAGS else ""
        return found

    # -- blobs ----------------------------------------------------------------------------------------------------

    async def small_blob(self, wanted: Descriptor) -> bytes:
        """Return a blob that fits in memory, verified."""
        parts = [chunk async for chunk in self.blob(wanted)]
        return b"".join(parts)

    async def blob(self, wanted: Descriptor, retrying: Retrying | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a blob as they come, resumed where a connection broke. Verified when the iteration ends.

        Raises: Unverified (wrong digest or size), Refused, Internal when it broke too often.
        """
        url = self.endpoint.url(f"blobs/{wanted.digest}")
        hashed, done, failures, before = hashlib.sha256(), 0, 0, 0
        while True:
            try:
                async with aclosing(self._blob_from(url, done, wanted, retrying)) as chunks:
                    async for chunk in chunks:
                        hashed.update(chunk)
                        done += len(chunk)
                        yield chunk
                break
            except (*transport.FAILURES, _Broken) as e:
                failures = 1 if done - before >= SMALL_PROGRESS else failures + 1
                if failures >= max(1, self._settings.attempts):
                    raise await transport.failed("GET", url, e) from e
                before = done
                await _pause(failures, None, retrying)
        if done != wanted.size or f"sha256:{hashed.hexdigest()}" != wanted.digest:
            raise refusals.Unverified(wanted.digest)

    async def _blob_from(
        self, url: str, offset: int, wanted: Descriptor, retrying: Retrying | None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the blob from `offset` to its end; whether the server knows ranges or not."""
        if wanted.size == offset and offset:
            return
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._asked("GET", url, headers=headers, retrying=retrying) as answer:
            skip = offset if answer.status == 200 else 0
            if offset and answer.status == 206:
                match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
                if match is None or int(match[1]) != offset or match[2] not in ("*", str(wanted.size)):
                    raise refusals.Unverified(wanted.digest)
            length = answer.content_length
            if length is not None and length + offset - skip != wanted.size:
                raise refusals.Unverified(wanted.digest)
            at = offset - skip
            async for chunk in answer.content.iter_any():
                at += len(chunk)
                if at > wanted.size:
                    raise refusals.Unverified(wanted.digest)
                if skip:
                    chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                if chunk:
                    yield chunk
            if at < wanted.size and length is None:
                raise _Broken("unexpected EOF")

    async def has_blob(self, digest: str) -> int | None:
        """Return the size of a blob that the repository has, else None."""
        try:
            async with self._asked("HEAD", self.endpoint.url(f"blobs/{digest}")) as answer:
                return answer.content_length if answer.content_length is not None else -1
        except refusals.Refused as e:
            if e.http == 404:
                return None
            raise

    # -- uploads --------------------------------------------------------------------------------------------------

    async def mount(self, digest: str, source: str) -> str:
        """Take a blob over from the repository `source` of the same registry: "" when done, else an upload's URL."""
        url = self.endpoint.url("blobs/uploads/") + f"?mount={digest}&from={source}"
        async with self._asked("POST", url, scopes=(auth.scope(source, "pull"),)) as answer:
            return "" if answer.status == 201 else _location(answer)

    async def begin_upload(self) -> str:
        """Begin an upload. Returns its URL."""
        async with self._asked("POST", self.endpoint.url("blobs/uploads/")) as answer:
            return _location(answer)

    async def append(self, upload: str, chunks: AsyncIterator[bytes], *, at: int, size: int | None) -> str:
        """Send the bytes from offset `at` on; size: how many, None when the end is not known yet. One attempt.

        Returns where the upload goes on. Raises also what the connection raises, and TokenExpired: then the next
        attempt has another token.
        """
        headers = {"Content-Type": "application/octet-stream"}
        if size is not None:
            headers["Content-Length"] = str(size)
            headers["Content-Range"] = f"{at}-{at + size - 1}"
        authorization = await self._authorization(upload, ())
        async with self._transport.request(
            "PATCH", upload, self.endpoint, headers=headers, authorization=authorization, data=chunks
        ) as answer:
            if answer.status == 401 and authorization and self._own(answer) and self._authorizer.challenged(answer):
                raise refusals.TokenExpired()
            await self._refuse(answer)
            return _location(answer)

    async def uploaded(self, upload: str) -> tuple[int, str]:
        """Return (bytes that the registry has of an upload, where it goes on)."""
        async with self._asked("GET", upload) as answer:
            match = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
            last = int(match[1]) if match else -1
            return (last + 1 if last > 0 else 0), _location(answer, upload)

    async def cancel_upload(self, upload: str) -> None:
        async with self._asked("DELETE", upload):
            pass

    async def finish_upload(self, upload: str, digest: str) -> None:
        url = upload + ("&" if "?" in upload else "?") + f"digest={digest}"
        async with self._asked("PUT", url, headers={"Content-Type": "application/octet-stream"}, data=b""):
            pass

    async def put_blob(self, raw: bytes, digest: str) -> None:
        """Upload a small blob at once."""
        upload = await self.begin_upload()
        url = upload + ("&" if "?" in upload else "?") + f"digest={digest}"
        async with self._asked("PUT", url, headers={"Content-Type": "application/octet-stream"}, data=raw):
            pass

    # -- every request ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        scopes: tuple[str, ...] = (),
        retrying: Retrying | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request that is not refused: authorise it, and repeat it while it may pass."""
        reached = False
        failures, renewed = 0, False
        while True:
            try:
                authorization = await self._authorization(url, scopes)
            except (refusals.NoCredentials, refusals.Refused) as e:
                if "/manifests/" not in url or method == "PUT":
                    raise
                # the reference looks at tags by HEAD first, and its words name that request
                words = f'{"Get" if manifests.is_digest(url.rpartition("/")[2]) else "Head"} "{url}": {e.message}'
                if isinstance(e, refusals.Refused):
                    raise refusals.Refused(words, code=e.code, http=e.http) from e
                raise Internal(words) from e
            try:
                async with self._transport.request(
                    method, url, self.endpoint, headers=headers, authorization=authorization, data=data
                ) as answer:
                    if (
                        answer.status == 401
                        and not renewed
                        and self._own(answer)
                        and self._authorizer.challenged(answer)
                    ):
                        renewed = True  # a token ran out, or the registry asks only now
                        continue
                    await self._refuse(answer)
                    reached = True
                    yield answer
                    return
            except (Internal, refusals.Refused) as e:
                refused = isinstance(e, refusals.Refused) and e.passing
                passing = refused or isinstance(e.__cause__, transport.FAILURES)
                failures += 1
                if reached or not passing or failures >= max(1, self._settings.attempts):
                    raise
                await _pause(failures, getattr(e, "retry_after_s", None), retrying)

    async def _authorization(self, url: str, scopes: tuple[str, ...]) -> str:
        if transport.origin(url) != transport.origin(self.endpoint.base):
            return ""
        return await self._authorizer.header((self._scope, *scopes))

    def _own(self, answer: aiohttp.ClientResponse) -> bool:
        """Return whether an answer is the endpoint's own: after a redirect elsewhere, nobody else's challenge
        counts.
        """
        return transport.origin(str(answer.url)) == transport.origin(self.endpoint.base)

    async def _refuse(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status < 400 and answer.status not in (304,):
            return
        raw = await _some(answer, refusals.MAX_BYTES)
        if answer.status == 401 and any(
            challenge.parameters.get("error") == "insufficient_scope"
            for challenge in challenges.parse(answer.headers.getall("WWW-Authenticate", []))
        ):
            raise refusals.Refused("denied: requested access to the resource is denied", code="DENIED", http=401)
        if answer.status == 404 and answer.method == "HEAD":
            raise refusals.Refused("manifest unknown: manifest unknown", code="MANIFEST_UNKNOWN", http=404)
        raise refusals.read(answer.status, raw, retry_after=answer.headers.get("Retry-After", ""))


class _Broken(Exception):
    """A body that ended early."""


async def _pause(failures: int, retry_after_s: float | None, retrying: Retrying | None) -> None:
    """Wait before the next attempt: what the server asked for, else longer each time."""
    if retry_after_s is not None:
        seconds = min(retry_after_s, RETRY_AFTER_MAX_S)
    else:
        seconds = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
    await count_down(seconds, retrying)


async def count_down(seconds: float, retrying: Retrying | None) -> None:
    """Wait, and tell how long it will still take. Counts in whole numbers: fractions may never come to nothing."""
    for left in range(math.ceil(seconds), 0, -1):
        if retrying is not None:
            retrying(left)
        await asyncio.sleep(min(1.0, seconds - left + 1))  # the fraction first


async def _some(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    raw = b""
    while len(raw) < limit and (more := await answer.content.read(limit - len(raw))):
        raw += more
    return raw


async def _whole(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return a whole body. Raises: Internal when it is larger, or broke."""
    try:
        raw = await _some(answer, limit + 1)
    except transport.FAILURES as e:
        raise await transport.failed(answer.method, str(answer.url), e) from e
    if len(raw) > limit:
        raise Internal(f'{answer.method.capitalize()} "{answer.url}": the answer has more than {limit} bytes')
    return raw


def _location(answer: aiohttp.ClientResponse, default: str = "") -> str:
    location = answer.headers.get("Location", "")
    if not location and default:
        return default
    if not location:
        raise Internal(f'{answer.method.capitalize()} "{answer.url}": the registry named no upload location')
    return transport.joined(str(answer.url), location)


def read_tags(raw: bytes, url: str) -> list[str]:
    """Decode a page of a list of tags; what is no text is left out. Raises: Internal."""
    try:
        listed = codec.plain(raw)
    except ValueError as e:
        raise Internal(f"invalid list of tags from {url}: {e}") from e
    tags = listed.get("tags") if isinstance(listed, dict) else None
    if not isinstance(listed, dict) or not isinstance(tags or [], list):
        raise Internal(f"invalid list of tags from {url}: not a list")
    return [tag for tag in tags or [] if isinstance(tag, str)]


def next_page(link: str, url: str) -> str:
    """Return the next page that a Link header names, at the same place; "" for none. Raises: Internal."""
    match = re.match(r'<([^>]+)>; *rel="?next"?', link)
    following = transport.joined(url, match[1]) if match else ""
    return following if following != url and transport.origin(following) == transport.origin(url) else ""
