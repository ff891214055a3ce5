"""Times for the API: an RFC 3339 time, a Unix time, or a duration ago, as the Unix time the API takes.

Source: Docker's timestamp parsing for --since and --until (local zone when none is given).
"""

from __future__ import annotations

import time

from sampan.cli.session import CommandError


def api_time(text: str) -> str | None:
    """Read `42m`, `2026-01-02T03:04:05Z`, `1700000000.5` → "seconds.nanoseconds"; "" → None. Raises: CommandError."""
    if not text:
        return None
    from sampan.spec import go_values, times  # most command lines hold no time

    try:
        return str((time.time_ns() - go_values.duration_ns(text)) // 10**9)
    except ValueError:
        pass
    if text.replace(".", "", 1).isdecimal():
        return text
    try:
        ns = times.parse_partial(text, local=True)
    except ValueError:
        raise CommandError(f'failed to parse value as time or duration: "{text}"') from None
    return f"{ns // 10**9}.{ns % 10**9:09d}"
