"""Downloads: ADD of a URL and contexts at one. A downloaded file is a tree of one entry.

What a server marks (ETag, Last-Modified) is kept by URL and asked for again with conditions, so that a second build
costs one short answer; what a checksum names is not asked for at all. The copies are a cache: at most `MAX_KEPT_BYTES`,
the longest unused go first, and anything of it may be deleted at any time.

    <directory>/<sha256 of the URL>.json    what the server said, and the digest
    <directory>/<sha256 of the URL>.data    the content

Authorization: what the client's secrets HTTP_AUTH_HEADER_<host> (whole header) or HTTP_AUTH_TOKEN_<host> (bearer) say,
or the URL's own user and password; sent to that host only. What came with one is not kept.

Source: RFC 9110 (conditional requests), RFC 6266 (Content-Disposition); the reference engine's words.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import posixpath
import secrets
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import msgspec

from sampan.engine.builder.failures import BadAnswer, WrongDigest
from sampan.engine.builder.files.content import write_all
from sampan.engine.builder.files.spool import SpooledTree, SpoolExtent
from sampan.engine.builder.ops import HttpOp
from sampan.engine.builder.session import Session
from sampan.engine.builder.trees import TreeEntry
from sampan.errors import Internal, NotFound
from sampan.registry import outgoing, transport
from sampan.registry.outgoing import DIRECT, Proxies

CONNECT_S = 30.0
STALL_S = 60.0  # without a single byte
MAX_REDIRECTS = 10
READ_BYTES = 256 * 1024
SAID_BYTES = 1024  # of a refusal
MAX_KEPT_BYTES = 2 * 1024**3
MODE = 0o600


class KeptDownload(msgspec.Struct, frozen=True, kw_only=True):
    """A download that may be used again."""

    url: str
    etag: str = ""
    last_modified: str = ""
    disposition: str = ""
    digest: str
    size_bytes: int


class HttpDownloads:
    """The downloads of one engine. On the loop's thread; `close` at the end."""

    def __init__(self, directory: str, scratch: str, proxies: Proxies = DIRECT) -> None:
        """directory: of the cache; scratch: where trees are unfolded."""
        self._proxies = proxies
        self._directory = directory
        self._scratch = scratch
        self._session: aiohttp.ClientSession | None = None
        os.makedirs(directory, mode=0o700, exist_ok=True)
        for name in os.listdir(directory):
            if name.endswith(".part"):  # of a daemon that was killed
                os.unlink(f"{directory}/{name}")

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def size_bytes(self) -> int:
        """Return what the cache takes."""
        return sum(size for _, size, _ in self._held())

    def forget(self, keep_bytes: int = 0) -> int:
        """Delete the longest unused until at most this is left; returns the bytes given back."""
        held = sorted(self._held())
        total = given = sum(size for _, size, _ in held)
        for _, size, path in held:
            if total <= keep_bytes:
                break
            for name in (path, path.removesuffix(".data") + ".json"):
                try:
                    os.unlink(name)
                except FileNotFoundError:
                    pass
            total -= size
        return given - total

    async def fetch(self, op: HttpOp, session: Session | None = None) -> SpooledTree:
        """Return the file at a URL.

        Raises: InvalidArgument (status, checksum), Internal (no answer), OSError (ENOSPC, …).
        """
        url, authorization = await _authorization(op.url, session)
        kept, held = (None, -1) if authorization else self._kept(url)
        if kept is not None and op.checksum and kept.digest == op.checksum:
            return self._tree(op, kept, held)
        headers = {"User-Agent": transport.USER_AGENT, "Accept-Encoding": "identity"}
        if authorization:
            headers["Authorization"] = authorization
        if kept is not None and kept.etag:
            headers["If-None-Match"] = kept.etag
        elif kept is not None and kept.last_modified:
            headers["If-Modified-Since"] = kept.last_modified
        try:
            async with self._opened().get(
                url, headers=headers, max_redirects=MAX_REDIRECTS, proxy=self._proxies.choose(url)
            ) as answer:
                if answer.status == 304 and kept is not None:
                    found, fd, held = kept, held, -1
                elif answer.status != 200:
                    said = (await answer.content.read(SAID_BYTES)).decode(errors="replace").strip()
                    raise BadAnswer(url, answer.status, answer.reason or "", said)
                else:
                    found, fd = await self._receive(url, answer, keep=not authorization)
        except transport.FAILURES as e:
            if isinstance(e, OSError) and e.errno and not isinstance(e, aiohttp.ClientError):
                raise
            if isinstance(e, aiohttp.TooManyRedirects):
                raise Internal(f'Get "{url}": stopped after {MAX_REDIRECTS} redirects') from e
            raise await transport.failed("Get", url, e) from e
        finally:
            if held >= 0:
                os.close(held)
        if op.checksum and found.digest != op.checksum:
            os.close(fd)
            raise WrongDigest(found.digest, op.checksum)
        return self._tree(op, found, fd)

    # -- one download -------------------------------------------------------------------------------------------------

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=STALL_S)
            self._session = outgoing.session(timeout=timeout)
        return self._session

    async def _receive(self, url: str, answer: aiohttp.ClientResponse, *, keep: bool) -> tuple[KeptDownload, int]:
        """Write the body to the cache; a descriptor of it. The name goes at once when it is not to be kept."""
        path = f"{self._directory}/{secrets.token_hex(8)}.part"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            digest, size = hashlib.sha256(), 0
            async for chunk in answer.content.iter_chunked(READ_BYTES):
                await asyncio.to_thread(_store, fd, chunk, digest)
                size += len(chunk)
            found = KeptDownload(
                url=url,
                etag=answer.headers.get("ETag", ""),
                last_modified=answer.headers.get("Last-Modified", ""),
                disposition=answer.headers.get("Content-Disposition", ""),
                digest="sha256:" + digest.hexdigest(),
                size_bytes=size,
            )
            if keep and (found.etag or found.last_modified) and size <= MAX_KEPT_BYTES // 2:
                self._keep(found, path)
            else:
                os.unlink(path)
            return found, fd
        except BaseException:
            os.close(fd)
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
            raise

    def _tree(self, op: HttpOp, found: KeptDownload, fd: int) -> SpooledTree:
        name = op.filename or file_name(op.url, found.disposition)
        entry = TreeEntry(
            path=name,
            kind="f",
            mode=MODE if op.mode is None else op.mode,
            size=found.size_bytes,
            mtime_ns=_time_ns(found.last_modified),
        )
        place = SpoolExtent(0, found.size_bytes, found.digest)
        return SpooledTree(self._scratch, fd, {name: entry}, {name: place})

    # -- what is kept -------------------------------------------------------------------------------------------------

    def _base(self, url: str) -> str:
        return f"{self._directory}/{hashlib.sha256(url.encode()).hexdigest()}"

    def _kept(self, url: str) -> tuple[KeptDownload | None, int]:
        """What is kept of a URL, and a descriptor of its content: it may be forgotten meanwhile."""
        base = self._base(url)
        try:
            with open(f"{base}.json", "rb") as file:
                kept = msgspec.json.decode(file.read(), type=KeptDownload)
            fd = os.open(f"{base}.data", os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None, -1
        if os.fstat(fd).st_size != kept.size_bytes or kept.url != url:
            os.close(fd)
            return None, -1
        os.utime(fd)
        return kept, fd

    def _keep(self, found: KeptDownload, path: str) -> None:
        base = self._base(found.url)
        try:
            os.unlink(f"{base}.json")  # never beside data of another answer
        except FileNotFoundError:
            pass
        os.rename(path, f"{base}.data")
        with open(f"{base}.json.part", "wb") as file:
            file.write(msgspec.json.encode(found))
        os.rename(f"{base}.json.part", f"{base}.json")
        self.forget(MAX_KEPT_BYTES)

    def _held(self) -> list[tuple[float, int, str]]:
        """(last used, bytes, path) of every content."""
        found = []
        for entry in os.scandir(self._directory):
            if entry.name.endswith(".data"):
                status = entry.stat()
                found.append((status.st_mtime, status.st_size, entry.path))
        return found


def _store(fd: int, chunk: bytes, digest: Any) -> None:
    digest.update(chunk)
    write_all(fd, chunk)


def file_name(url: str, disposition: str) -> str:
    """Return what a download is called: by the server's Content-Disposition, else by the URL's path. Pure."""
    if disposition:
        message = Message()
        message["Content-Disposition"] = disposition
        given = message.get_filename()
        if given and not given.endswith("/"):
            name = posixpath.basename(given)
            if name not in ("", ".", ".."):
                return name
    name = posixpath.basename(unquote(urlsplit(url).path))
    return name if name not in ("", ".", "..") else "download"


def _time_ns(last_modified: str) -> int:
    try:
        return int(parsedate_to_datetime(last_modified).timestamp()) * 10**9
    except (ValueError, TypeError, OverflowError):
        return 0


async def _authorization(url: str, session: Session | None) -> tuple[str, str]:
    """The URL without its credentials, and the header that goes with it."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        host = parts.hostname or ""
        if parts.port is not None:
            host += f":{parts.port}"
        basic = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
        return parts._replace(netloc=host).geturl(), "Basic " + base64.b64encode(basic).decode()
    if session is not None and parts.hostname:
        for id, form in ((f"HTTP_AUTH_HEADER_{parts.netloc}", "{}"), (f"HTTP_AUTH_TOKEN_{parts.netloc}", "Bearer {}")):
            try:
                return url, form.format((await session.secret(id)).decode().strip())
            except NotFound:
                continue
    return url, ""
