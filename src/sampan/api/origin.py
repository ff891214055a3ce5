"""Keeping browsers away from plain TCP: a page on any site can make requests to 127.0.0.1, and DNS can lie.

A request on an unauthenticated TCP listener is refused when it carries an Origin of another host (a script in a
browser), or when its Host is a name of the public DNS (DNS rebinding). Addresses, names without a dot (nobody can
register one) and our own full name pass. Connections with TLS need no such check: no certificate fits a stolen name.

Source: CVE-2025-9074 and the class of attacks it belongs to; fetch standard, Origin header.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from sampan.errors import Forbidden


def check(host: str, origin: str) -> None:
    """Raise Forbidden for a request that a browser was tricked into."""
    name = _host_name(host)
    if name and not _is_ours(name):
        raise Forbidden(f"host {name} is not allowed on this listener")
    if origin and _host_name(origin.partition("://")[2]) != name:
        raise Forbidden(f"origin {origin} is not allowed")


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return "invalid"


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
