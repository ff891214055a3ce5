"""HTTP to registries: one session for all, verified as configured, redirected without giving anything away.

Not here: what is asked, tokens, retries. Invariants:
- `Authorization` goes to the origin (scheme, host, port) it was given for and to no other: a redirect elsewhere drops
  it (CVE-2020-15157), for good.
- https is never redirected to http, unless the endpoint is insecure anyway.
- Nothing is kept between requests that one user could see of another: no cookies.

Source: RFC 9110 (redirects), certs.d as dockerd 28.5 reads it; the words for failures are Go's net/http's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from sampan.errors import Internal
from sampan.registry import outgoing
from sampan.registry.endpoints import CERTIFICATES, Endpoint
from sampan.registry.outgoing import DIRECT, Proxies
from sampan.spec.urls import without_password

CONNECT_S = 30.0
STALL_S = 60.0  # without a single byte
MAX_REDIRECTS = 10
READ_BYTES = 256 * 1024
USER_AGENT = "sampan/0.1 (docker-compatible)"
FAILURES = (aiohttp.ClientError, TimeoutError, OSError)


class Transport:
    """The connections of one engine. Use on one event loop; `close` at the end."""

    def __init__(self, certificates: tuple[str, ...] = CERTIFICATES, proxies: Proxies = DIRECT) -> None:
        self._certificates = certificates
        self._proxies = proxies
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[tuple[str, bool], tuple[object, ssl.SSLContext]] = {}

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        endpoint: Endpoint,
        *,
        headers: Mapping[str, str] | None = None,
        authorization: str = "",
        data: Any = None,
        stall_s: float = STALL_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make one request; GET and HEAD follow redirects. `authorization` is sent to `url`'s own origin only.

        Raises: Internal in Go's words when there is no answer; aiohttp's errors while the body is read.
        """
        first = url
        for _ in range(MAX_REDIRECTS):
            sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **(headers or {})}
            if authorization and origin(url) == origin(first):
                sent["Authorization"] = authorization
            else:
                authorization = ""  # an origin once left is not trusted again
            answer = await self._send(method, url, endpoint, sent, data, stall_s)
            try:
                location = answer.headers.get("Location", "")
                if method not in ("GET", "HEAD") or answer.status not in (301, 302, 303, 307, 308) or not location:
                    yield answer
                    return
            finally:
                answer.release()  # closes the connection unless the body was read to its end
            url = _target(url, location, endpoint)
        raise Internal(f'Get "{first}": stopped after {MAX_REDIRECTS} redirects')

    async def _send(
        self, method: str, url: str, endpoint: Endpoint, headers: Mapping[str, str], data: Any, stall_s: float
    ) -> aiohttp.ClientResponse:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=stall_s)
        try:
            return await self._opened().request(
                method,
                url,
                headers=headers,
                data=data,
                ssl=self._context(urlsplit(url).netloc, endpoint.insecure) if url.startswith("https:") else True,
                proxy=self._proxies.choose(url),
                allow_redirects=False,
                timeout=timeout,
            )
        except FAILURES as e:
            raise await failed(method, url, e) from e

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = outgoing.session(
                connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=15),
                auto_decompress=False,  # digests are of the bytes as they are stored
                read_bufsize=READ_BYTES,
                requote_redirect_url=False,
            )
        return self._session

    def _context(self, host: str, insecure: bool) -> ssl.SSLContext:
        """Return the TLS settings of a host, read again when its certs.d directory has changed."""
        state = [_listing(os.path.join(base, host)) for base in self._certificates]
        found = self._contexts.get((host, insecure))
        if found is None or found[0] != state:
            found = self._contexts[host, insecure] = (state, _tls(host, insecure, self._certificates))
        return found[1]


def origin(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port) of a URL. Raises: Internal for what is none."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as e:
        raise Internal(f"invalid URL {url[:200]!r}: {e}") from e


def joined(url: str, location: str) -> str:
    """Return where a relative or absolute URL leads that an answer from `url` names. Raises: Internal."""
    try:
        found = urljoin(url, location)
    except ValueError as e:
        raise Internal(f"invalid URL {location[:200]!r}: {e}") from e
    origin(found)
    return found


def _target(url: str, location: str, endpoint: Endpoint) -> str:
    """Return where a redirect leads. Raises: Internal."""
    target = joined(url, location)
    scheme, host, _ = origin(target)
    if scheme not in ("http", "https") or not host:
        raise Internal(f'Get "{url}": unsupported redirect to {target[:200]!r}')
    if scheme == "http" and urlsplit(url).scheme == "https" and not endpoint.insecure:
        raise Internal(f'Get "{url}": refusing the redirect from https to {target[:200]!r}')
    return target


# -- certs.d --------------------------------------------------------------------------------------------------


def _listing(directory: str) -> list[tuple[str, int]]:
    try:
        with os.scandir(directory) as entries:
            return sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries)
    except OSError:
        return []


def _tls(host: str, insecure: bool, bases: tuple[str, ...]) -> ssl.SSLContext:
    """Load `<base>/<host:port>/`: *.crt are authorities, *.cert with *.key are ours to show. Raises: Internal."""
    if not insecure:
        context = ssl.create_default_context()
    else:  # without the system's authorities, whose loading takes 20 ms
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for directory in (os.path.join(base, host) for base in bases):
        names = [name for name, _ in _listing(directory)]
        for name in names:
            path = os.path.join(directory, name)
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    key = f"{name[:-5]}.key"
                    if key not in names:
                        raise Internal(
                            f"missing key {key} for client certificate {name}. "
                            "CA certificates must use the extension .crt"
                        )
                    context.load_cert_chain(path, os.path.join(directory, key))
                elif name.endswith(".key") and f"{name[:-4]}.cert" not in names:
                    raise Internal(f"missing client certificate {name[:-4]}.cert for key {name}")
            except (OSError, ssl.SSLError) as e:
                raise Internal(f"cannot use {path}: {e}") from e
    return context


# -- words for failures ---------------------------------------------------------------------------------------


async def failed(method: str, url: str, error: BaseException) -> Internal:
    """Go's sentence for a request that got no answer."""
    return Internal(f'{method.capitalize()} "{without_password(url)}": {await _reason(url, error)}')


async def _reason(url: str, error: BaseException) -> str:
    _, host, port = origin(url)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {host}{_nameserver()}: no such host"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate_words(error.certificate_error, host)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        reason = getattr(error.os_error, "reason", "") or ""
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
            return "http: server gave HTTP response to HTTPS client"
        return f"tls: {reason.lower().replace('_', ' ') or error.os_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        known = error.os_error.errno  # its text is of the library that dialled
        words = os.strerror(known).lower() if known else str(error.os_error)
        return f"dial tcp {await _address(host, port)}: connect: {words}"
    if isinstance(error, TimeoutError):
        return (
            "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)"
        )
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError):
        return "EOF"
    return str(error) or type(error).__name__


def _certificate_words(error: Exception, host: str) -> str:
    code = getattr(error, "verify_code", 0)
    if code in (18, 19, 20, 21):
        return "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    if code in (62, 63, 64):
        return f"tls: failed to verify certificate: x509: certificate is not valid for {host}"
    if code == 10:
        return "tls: failed to verify certificate: x509: certificate has expired or is not yet valid"
    return f"tls: failed to verify certificate: {getattr(error, 'verify_message', '') or error}"


async def _address(host: str, port: int) -> str:
    """Return the address that a dial error shows."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        host = str(infos[0][4][0])
    except OSError:
        pass
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nameserver() -> str:
    """Return ` on 10.0.0.1:53`, of the first name server."""
    try:
        with open("/etc/resolv.conf") as file:
            for line in file:
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    return f" on {words[1]}:53"
    except OSError:
        pass
    return ""
