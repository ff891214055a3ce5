"""What a registry asks for in `WWW-Authenticate`, parsed. Pure.

Source: RFC 9110 section 11.6.1; distribution token authentication ("How to authenticate").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]*)(?:\s+|$)(?!\s*=)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
HEADER_MAX = 8192


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` in lower case (`basic`, `bearer`), parameters with lower-case names."""

    scheme: str
    parameters: Mapping[str, str]


def parse(headers: Iterable[str]) -> list[Challenge]:
    """Return all challenges of all such headers, in order. What cannot be understood ends its header."""
    found: list[Challenge] = []
    for text in headers:
        text = text[:HEADER_MAX]
        position = 0
        while (match := _SCHEME.match(text, position)) is not None:
            position = match.end()
            parameters: dict[str, str] = {}
            while (item := _PARAMETER.match(text, position)) is not None:
                quoted = item[2]
                value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else item[3]
                parameters[item[1].lower()] = value
                position = item.end()
            found.append(Challenge(match[1].lower(), parameters))
    return found
