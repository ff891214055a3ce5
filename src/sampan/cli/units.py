"""Numbers for people: sizes, durations, times. Docker's roundings.

Source: docker/go-units HumanSize, BytesSize, HumanDuration; Go time.Time.String.
"""

from __future__ import annotations

import time

DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
ZERO_TIME = "0001-01-01T00:00:00Z"


def human_size(size: float, digits: int = 4) -> str:
    """Powers of 1000 with `digits` significant digits: 1984512 → "1.985MB"."""
    return _scaled(size, 1000.0, DECIMAL, digits)


def bytes_size(size: float, digits: int = 4) -> str:
    """Powers of 1024: 2048 → "2KiB"."""
    return _scaled(size, 1024.0, BINARY, digits)


def _scaled(size: float, base: float, names: tuple[str, ...], digits: int) -> str:
    step = 0
    while size >= base and step < len(names) - 1:
        size /= base
        step += 1
    text = f"{size:.{digits}g}"
    return (f"{size:.0f}" if "e" in text and "e-" not in text else text) + names[step]


def human_duration(seconds: float) -> str:
    """About how long: "5 minutes", "About an hour"."""
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
    return human_duration(time.time() - unix_s) + " ago"


def unix_ns(text: str) -> int:
    """An RFC 3339 time as nanoseconds since 1970. Raises ValueError."""
    date, separator, rest = text.replace("t", "T").partition("T")
    if not separator:
        raise ValueError(f"cannot parse {text!r} as a time")
    offset_s = 0
    if rest[-1:] in "zZ":
        clock = rest[:-1]
    else:
        at = max(rest.rfind("+"), rest.rfind("-"))
        if at < 0:
            raise ValueError(f"cannot parse {text!r} as a time")
        clock = rest[:at]
        hours, _, minutes = rest[at + 1 :].partition(":")
        offset_s = (int(hours) * 60 + int(minutes or 0)) * (-60 if rest[at] == "-" else 60)
    year, month, day = (int(part) for part in date.split("-"))
    whole, _, fraction = clock.partition(".")
    hour, minute, second = (int(part) for part in whole.split(":"))
    days = _days_from_civil(year, month, day)
    return (days * 86400 + hour * 3600 + minute * 60 + second - offset_s) * 10**9 + int(f"{fraction:0<9.9}")


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar; the year is taken to begin in March."""
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def local_time(unix_s: int) -> str:
    """`2026-01-02 03:04:05 +0000 UTC`, in the local zone."""
    moment = time.localtime(unix_s)
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", moment)


def rfc3339_local(unix_s: int) -> str:
    """`2026-01-02T03:04:05Z`, in the local zone."""
    zone = time.strftime("%z", time.localtime(unix_s))
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(unix_s))
    return text + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")


def truncated(text: str, width: int) -> str:
    """Cut to `width` characters, the last of them an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def short_id(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]
