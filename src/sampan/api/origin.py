"""Keeping browsers away from plain TCP: a page on any site can make requests to 127.0.0.1, and DNS can lie.

A request on an unauthenticated TCP listener is refused when it carries an Origin of another host or another port (a
script in a browser: what serves pages on another port of this machine is another program), or when its Host is a name
of the public DNS (DNS rebinding). Addresses, names without a dot (nobody can register one) and our own full name pass.
Connections with TLS need no such check: no certificate fits a stolen name.

Source: CVE-2025-9074 and the class of attacks it belongs to; fetch standard, Origin header.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from sampan.errors import Forbidden

HTTP_PORT = 80


def check(host: str, origin: str) -> None:
    """Raise Forbidden for a request that a browser was tricked into."""
    name, port = _place(host, HTTP_PORT)
    if name and not _is_ours(name):
        raise Forbidden(f"host {name} is not allowed on this listener")
    if not origin:
        return
    scheme, _, place = origin.partition("://")
    if not name or scheme.lower() != "http" or _place(place, HTTP_PORT) != (name, port):
        raise Forbidden(f"origin {origin} is not allowed")


def _place(host: str, default: int) -> tuple[str, int]:
    """Return (name, port) of `name[:port]`; a name that none has when it cannot be read."""
    try:
        parts = urlsplit(f"//{host}")
        return (parts.hostname or "").lower(), parts.port or default
    except ValueError:
        return "invalid", -1


def _is_ours(name: str) -> bool:
    if (
        "." not in name
        or name.endswith(".localhost")
        or name in (socket.gethostname().lower(), socket.getfqdn().lower())
    ):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
