"""Outgoing HTTP as the configuration wants it: one way to make sessions, one rule for proxies. Nothing else is asked.

The environment of the daemon has no say: not HTTP_PROXY and its kin, and above all not `.netrc`, whose password would
be root's and would go to whatever host a Dockerfile or a client names. What is to count stands in daemon.json.

Source: daemon.json `proxies` of Docker Engine 28.5; NO_PROXY as golang.org/x/net/http/httpproxy reads it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

PORTS = {"http": 80, "https": 443}


def session(**options: Any) -> aiohttp.ClientSession:
    """Return a session that keeps no cookies and takes nothing from the environment. options: aiohttp's own."""
    return aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """The proxies for http and https URLs, and the hosts that are reached without, separated by commas."""

    http: str = ""
    https: str = ""
    no: str = ""

    def choose(self, url: str) -> str | None:
        """Return the proxy for a URL; None: there is none. The loopback is never asked for by a proxy."""
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
        proxy = {"http": self.http, "https": self.https}.get(parts.scheme, "")
        if not proxy or not host or self._direct(host, parts.port or PORTS[parts.scheme]):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def _direct(self, host: str, port: int) -> bool:
        address = _address(host)
        if host == "localhost" or (address is not None and address.is_loopback):
            return True
        return any(_covers(entry.strip().lower(), host, address, port) for entry in self.no.split(","))


DIRECT = Proxies()

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _covers(entry: str, host: str, address: Address | None, port: int) -> bool:
    """Return whether an entry of NO_PROXY means this host.

    It is `*`, a CIDR, or an address or a domain with a port or without.
    """
    if not entry:
        return False
    if entry == "*":
        return True
    if "/" in entry:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
        return address is not None and address.version == network.version and address in network
    name, colon, number = entry.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]")
    own = _address(entry)
    if own is not None:
        return own == address
    if entry.startswith("*."):
        entry = entry[1:]
    return host.endswith(entry) if entry.startswith(".") else host == entry or host.endswith(f".{entry}")
