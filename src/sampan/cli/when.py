"""Times for the API: an RFC 3339 time, a Unix time, or a duration ago, as the Unix time the API takes.

Source: Docker's timestamp parsing for --since and --until (local zone when none is given).
"""

from __future__ import annotations

import time

from sampan.cli import units, values
from sampan.cli.session import CommandError

_LAYOUTS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d")


def api_time(text: str) -> str | None:
    """`42m`, `2026-01-02T03:04:05Z`, `1700000000.5` → "seconds.nanoseconds"; "" → None. Raises CommandError."""
    if not text:
        return None
    try:
        return str((time.time_ns() - values.duration_ns(text)) // 10**9)
    except ValueError:
        pass
    if text.replace(".", "", 1).isdigit():
        return text
    try:
        return _spelled(units.unix_ns(text))
    except ValueError:
        pass
    whole, _, fraction = text.partition(".")
    for layout in _LAYOUTS:
        try:
            seconds = int(time.mktime(time.strptime(whole, layout)))
        except ValueError:
            continue
        return _spelled(seconds * 10**9 + int(f"{fraction:0<9.9}"))
    raise CommandError(f'failed to parse value as time or duration: "{text}"')


def _spelled(ns: int) -> str:
    return f"{ns // 10**9}.{ns % 10**9:09d}"
