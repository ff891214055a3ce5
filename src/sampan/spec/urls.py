"""URLs as they may be shown: without passwords. Pure, and cheap to import: the configuration needs it.

Source: `docker info` and error messages of Docker Engine 28.5; Go's net/http (stripPassword).
"""

from __future__ import annotations

import re

_MASK = "xxxxx"
_CREDENTIALS = re.compile(r"(\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^\s/?#@:\"']*(:)[^\s/?#@\"']*@|(\bhttps?://)[^\s/?#@:\"']+@")


def masked(url: str) -> str:
    """Return a URL without its user and password, as Docker shows a proxy; any other text as it is."""
    found = _split(url)
    if found is None:
        return url
    scheme, _, rest = found
    return f"{scheme}{_MASK}:{_MASK}@{rest}"


def without_password(url: str) -> str:
    """Return a URL with `***` for its password, as Go shows it in errors; any other text as it is."""
    found = _split(url)
    if found is None or ":" not in found[1]:
        return url
    scheme, user, rest = found
    return f"{scheme}{user.partition(':')[0]}:***@{rest}"


def without_user(url: str) -> str:
    """Return a URL without its user and password, for a request whose own credentials count."""
    found = _split(url)
    return url if found is None else found[0] + found[2]


def masked_text(text: str) -> str:
    """Return a text whose URLs have `xxxxx:xxxxx` for their user and password, as BuildKit names its steps.

    A user alone is taken away of http and https, where it is often a token.
    """
    return _CREDENTIALS.sub(lambda m: f"{m[1]}{_MASK}:{_MASK}@" if m[2] else f"{m[3]}{_MASK}@", text)


def _split(url: str) -> tuple[str, str, str] | None:
    """Return what stands before the user, the user with its password, and what stands after; None without a user."""
    start = url.find("://")
    start = start + 3 if start >= 0 else 0
    ends = [found for sign in "/?#" if (found := url.find(sign, start)) >= 0]
    end = min(ends, default=len(url))
    at = url.rfind("@", start, end)
    if at <= start:
        # a password may have an unescaped slash: better too much is hidden than too little
        at = url.rfind("@", start) if url[start : max(end, start)].count(":") and url[:start].startswith("http") else -1
        if at <= start:
            return None
    return url[:start], url[start:at], url[at + 1 :]
