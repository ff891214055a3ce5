"""Numbers for people: sizes, durations, times. Docker's roundings.

Source: docker/go-units HumanSize, BytesSize, HumanDuration; Go time.Time.String.
"""

from __future__ import annotations

import time

DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")


def human_size(size: float, digits: int = 4) -> str:
    """Write a size in powers of 1000, with `digits` significant digits: 1984512 → "1.985MB"."""
    return _scaled(size, 1000.0, DECIMAL, digits)


def bytes_size(size: float, digits: int = 4) -> str:
    """Write a size in powers of 1024: 2048 → "2KiB"."""
    return _scaled(size, 1024.0, BINARY, digits)


def _scaled(size: float, base: float, names: tuple[str, ...], digits: int) -> str:
    step = 0
    while size >= base and step < len(names) - 1:
        size /= base
        step += 1
    text = f"{size:.{digits}g}"
    return (f"{size:.0f}" if "e" in text and "e-" not in text else text) + names[step]


def human_duration(seconds: float) -> str:
    """Say about how long it is: "5 minutes", "About an hour"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    minutes = whole // 60
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for limit, size, name in ((24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks"), (24 * 730, 24 * 30, "months")):
        if hours < limit:
            return f"{hours // size} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(unix_s: float) -> str:
    """Say how long ago that was: "5 minutes ago"."""
    return human_duration(time.time() - unix_s) + " ago"


def ago_text(text: str) -> str:
    """Say how long ago an RFC 3339 time was. Raises: ValueError."""
    from sampan.spec import times

    return ago(times.parse(text) / 1e9)


def local_time(unix_s: int) -> str:
    """Write `2026-01-02 03:04:05 +0000 UTC`, in the local zone."""
    from sampan.spec import times

    return times.go_string(unix_s * 10**9)


def rfc3339_local(unix_s: int) -> str:
    """Write `2026-01-02T03:04:05Z`, in the local zone."""
    from sampan.spec import times

    return times.rfc3339(unix_s * 10**9, local=True)


def truncated(text: str, width: int) -> str:
    """Cut to `width` characters, the last of them an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def short_id(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]
