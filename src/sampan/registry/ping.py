"""Is there a registry? One GET /v2/, as every registry conversation begins, with Docker's words when it fails.

This is the seam for the registry client: `ping` says which base URL speaks the protocol; authentication, fetching and
pushing build on it.

Source: OCI distribution-spec 1.1 "Determining Support"; error texts as Docker Engine 28.5 answers them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

import aiohttp

from sampan.errors import Internal
from sampan.spec.reference import DEFAULT_DOMAIN

DEFAULT_HOST = "registry-1.docker.io"
SEARCH_HOST = "index.docker.io"
TIMEOUT = aiohttp.ClientTimeout(total=30, connect=15)


def host_of(domain: str) -> str:
    """The host that serves a reference's domain."""
    return DEFAULT_HOST if domain == DEFAULT_DOMAIN else domain


def may_be_plain(host: str, insecure: Collection[str]) -> bool:
    """Whether plain HTTP may be tried: loopback, and what the configuration calls insecure."""
    name = urlsplit(f"//{host}").hostname or ""
    if host in insecure or name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    networks = [entry for entry in insecure if "/" in entry]
    return address.is_loopback or any(address in ipaddress.ip_network(entry, strict=False) for entry in networks)


async def ping(domain: str, insecure: Collection[str]) -> str:
    """The base URL of the registry of `domain`, after it answered GET /v2/. Raises: Internal."""
    host = host_of(domain)
    schemes = ("https", "http") if may_be_plain(host, insecure) else ("https",)
    failure: Internal | None = None
    for scheme in schemes:
        try:
            await get(f"{scheme}://{host}/v2/", verify=len(schemes) == 1)
            return f"{scheme}://{host}"
        except Internal as e:
            failure = e
    assert failure is not None
    raise failure


async def get(url: str, *, verify: bool = True) -> tuple[int, bytes]:
    """(status, at most 64 KiB of the body) of a GET without redirects. Raises: Internal `Get "URL": reason`."""
    try:
        async with aiohttp.ClientSession(timeout=TIMEOUT, trust_env=True) as session:
            async with session.get(url, ssl=verify, allow_redirects=False) as answer:
                return answer.status, await answer.content.read(65536)
    except (aiohttp.ClientError, TimeoutError, OSError) as e:
        raise await failed(url, e) from e


async def failed(url: str, error: Exception) -> Internal:
    """Docker's sentence for a request that got no answer."""
    return Internal(f'Get "{url}": {await _reason(url, error)}')


async def _reason(url: str, error: Exception) -> str:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {host}{_nameserver()}: no such host"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "http: server gave HTTP response to HTTPS client"
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = "connection refused" if error.os_error.errno == 111 else ""
        if not reason:
            inner = getattr(error.os_error, "strerror", None) or str(error.os_error)
            reason = "connection refused" if "Connect call failed" in inner else inner.lower()
        return f"dial tcp {await _address(host, port)}: connect: {reason}"
    if isinstance(error, TimeoutError):
        return (
            "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)"
        )
    return str(error) or type(error).__name__


async def _address(host: str, port: int) -> str:
    """The address that a dial error shows."""
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        host = str(infos[0][4][0])
    except OSError:
        pass
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _nameserver() -> str:
    """` on 10.0.0.1:53`, of the first name server."""
    try:
        with open("/etc/resolv.conf") as file:
            for line in file:
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    return f" on {words[1]}:53"
    except OSError:
        pass
    return ""
