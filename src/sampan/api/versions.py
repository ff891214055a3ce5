"""Versions of the API that is served, and what a client that asks for another is told. Pure.

Source: moby 28.5 version middleware, as the reference engine answers.
"""

from __future__ import annotations

import re

from sampan.errors import InvalidArgument

Version = tuple[int, int]

MAXIMUM = "1.51"
MINIMUM = "1.24"
CURRENT: Version = (1, 51)
OLDEST: Version = (1, 24)
_PREFIX = re.compile(r"/v([0-9.]+)(/.*)")


class TooOld(InvalidArgument):
    """A client below the minimum: answered in plain text, as such clients expect."""


def parse(text: str) -> Version:
    """Turn "1.51" into (1, 51). More parts than two are never equal to a version of ours, and count as the next one."""
    parts = [int(part or "0") for part in text.split(".")] + [0]
    return parts[0], parts[1] + any(parts[2:])


def split(path: str) -> tuple[str, str]:
    """Split "/v1.51/info" into ("1.51", "/info"); a path without version has ""."""
    if path.startswith("/v"):
        match = _PREFIX.fullmatch(path)
        if match:
            return match[1], match[2]
    return "", path


def check(text: str) -> Version:
    """Return the version a request speaks. Raises: TooOld or InvalidArgument in Docker's words."""
    if text == MAXIMUM or not text:
        return CURRENT
    version = parse(text)
    if version < parse(MINIMUM):
        raise TooOld(
            f"client version {text} is too old. Minimum supported API version is {MINIMUM}, "
            "please upgrade your client to a newer version"
        )
    if version > CURRENT:
        raise InvalidArgument(f"client version {text} is too new. Maximum supported API version is {MAXIMUM}")
    return version
