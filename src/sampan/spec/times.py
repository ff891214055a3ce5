"""Points in time as text, in the layouts of Go's `time` package. Inside Sampan a time is nanoseconds since 1970.

Everything that Sampan writes or reads as RFC 3339 goes through here. Only `time` is imported, and no regular
expression: the command line, the OCI runtime and the shim load this module too.

Source: RFC 3339; the layouts of Go's `time`; Docker's api/types/time (the times of `since`, `until` and of filters).
"""

from __future__ import annotations

import time

ZERO = "0001-01-01T00:00:00Z"
"""Go's zero time: what Docker writes for "never"."""
_BILLION = 10**9
_MISSING = ("", ":00", ":00:00", "T00:00:00")
"""What may be left out at the end of a date and clock: nothing, seconds, minutes, the clock."""


def now() -> str:
    """Return the time now, as `rfc3339_nano` writes it."""
    return rfc3339_nano(time.time_ns())


def rfc3339(ns: int, *, local: bool = False) -> str:
    """Write whole seconds (Go's time.RFC3339), in UTC or in the local zone: `2026-01-02T03:04:05Z`."""
    seconds = ns // _BILLION
    if not local:
        return _civil(time.gmtime(seconds)) + "Z"
    moment = time.localtime(seconds)
    return _civil(moment) + _zone(moment)


def rfc3339_nano(ns: int) -> str:
    """Write UTC with as many decimals as there are (Go's time.RFC3339Nano, and its JSON): `2026-01-02T03:04:05.06Z`."""
    seconds, fraction = divmod(ns, _BILLION)
    text = _civil(time.gmtime(seconds))
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else text + "Z"


def rfc3339_nano_fixed(ns: int, *, local: bool = False) -> str:
    """Write nine decimals always, in UTC or in the local zone: `2026-01-02T03:04:05.060000000Z`. Texts of UTC
    sort by time.
    """
    seconds, fraction = divmod(ns, _BILLION)
    if not local:
        return f"{_civil(time.gmtime(seconds))}.{fraction:09d}Z"
    moment = time.localtime(seconds)
    return f"{_civil(moment)}.{fraction:09d}{_zone(moment)}"


def go_string(ns: int) -> str:
    """Write as Go prints a time.Time, in the local zone and without a fraction: `2026-01-02 03:04:05 +0000 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(ns // _BILLION))


def ansic(ns: int) -> str:
    """Write as Go's time.ANSIC, in UTC: `Fri Jan  2 03:04:05 2026`."""
    return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(ns // _BILLION))


def parse(text: str) -> int:
    """Read an RFC 3339 time, whatever its precision and zone. Returns nanoseconds since 1970.

    Raises: ValueError.
    """
    if text[-1:] in ("Z", "z"):
        return _ns(text, text[:-1], 0)
    clock, sign, zone = text[:-6], text[-6:-5], text[-5:]
    hours, colon, minutes = zone[:2], zone[2:3], zone[3:]
    if sign not in ("+", "-") or colon != ":" or not (_digits(hours) and _digits(minutes)):
        raise _refusal(text)
    offset_s = (int(hours) * 60 + int(minutes)) * 60
    return _ns(text, clock, -offset_s if sign == "-" else offset_s)


def parse_partial(text: str, *, local: bool = False) -> int:
    """Read an RFC 3339 time whose zone, seconds, minutes or whole clock may be missing: `2026-01-02T03:04`,
    `2026-01-02`.

    Without a zone it is meant in UTC, or in the local zone. Returns nanoseconds since 1970.

    Raises: ValueError.
    """
    try:
        return parse(text)
    except ValueError:
        pass
    for missing in _MISSING:
        try:
            ns = parse(text + missing + "Z")
        except ValueError:
            continue
        return _from_local(ns) if local else ns
    raise _refusal(text)


def moment(text: str, now_ns: int) -> int:
    """Read a time as the API's filters take it: seconds since 1970, a duration before `now_ns`, or `parse_partial`'s.

    Returns nanoseconds since 1970.

    Raises: ValueError in Docker's words.
    """
    from sampan.spec import go_values  # only this function needs it

    whole, point, fraction = text.partition(".")
    if _digits(whole) and (_digits(fraction) or not point):
        return int(whole) * _BILLION + int(f"{fraction:0<9.9}")
    try:
        return now_ns - go_values.duration_ns(text)
    except ValueError:
        pass
    try:
        return parse_partial(text)
    except ValueError:
        if "-" in text:
            raise ValueError(_in_gos_words(text)) from None
        raise ValueError(f"failed to parse value as time or duration: {go_values.quote(text)}") from None


_LAYOUT = ("2006", "-", "01", "-", "02", "T", "15", ":", "04", ":", "05")
"""Go's names for the parts of a date and clock, with what stands between them."""


def _in_gos_words(text: str) -> str:
    """Say why a text with hyphens is no date: Docker chooses a layout for it, and Go names the first part it misses."""
    from sampan.spec import go_values

    zoned = any(c in text for c in "zZ+") or text.count("-") == 3
    clock = "T" in text
    layout = _LAYOUT[: 7 + 2 * min(text.count(":"), 2)] if clock else _LAYOUT[:5]
    whole = "".join(layout) + ("Z07:00" if zoned else "")
    begin = f"parsing time {go_values.quote(text)}"
    rest = text
    for part in layout:
        width = len(part)
        if not (rest[:width] == part if len(part) == 1 else _digits(rest[:width]) and len(rest) >= width):
            return (
                f"{begin} as {go_values.quote(whole)}: cannot parse {go_values.quote(rest)} as {go_values.quote(part)}"
            )
        if part in _NAMED and not _NAMED[part][1] <= int(rest[:width]) <= _NAMED[part][2]:
            return f"{begin}: {_NAMED[part][0]} out of range"
        rest = rest[width:]
    if zoned:
        return f'{begin} as {go_values.quote(whole)}: cannot parse {go_values.quote(rest)} as "Z07:00"'
    return f"{begin}: extra text: {go_values.quote(rest)}" if rest else f"{begin}: day out of range"


_NAMED = {"01": ("month", 1, 12), "02": ("day", 1, 31), "15": ("hour", 0, 23), "04": ("minute", 0, 59),
          "05": ("second", 0, 59)}  # fmt: skip


def unix(text: str) -> int:
    """Read seconds since 1970 with up to nine decimals, as `since` and `until` of logs and events are sent.

    Returns nanoseconds. Raises: ValueError in the words of Go's strconv.
    """
    from sampan.spec import go_values

    whole, point, fraction = text.partition(".")
    for part in (whole, fraction) if point else (whole,):
        go_values.integer(part)
    return int(whole) * _BILLION + (int(f"{fraction:0<9.9}") if point else 0)


def _civil(moment: time.struct_time) -> str:
    """Write date and clock."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S", moment)
    if moment.tm_year > 999:
        return text
    return f"{moment.tm_year:04d}{text[text.index('-') :]}"  # the C library writes the year 1 as `1`


def _zone(moment: time.struct_time) -> str:
    if not moment.tm_gmtoff:
        return "Z"
    minutes = abs(moment.tm_gmtoff) // 60
    return f"{'-' if moment.tm_gmtoff < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def _ns(text: str, clock: str, offset_s: int) -> int:
    """Return the nanoseconds of `2026-01-02T03:04:05.06`, `offset_s` east of UTC; `text` is the whole, for the
    refusal.
    """
    whole, point, fraction = clock.partition(".")
    parts = (whole[:4], whole[5:7], whole[8:10], whole[11:13], whole[14:16], whole[17:])
    between = whole[4:5] + whole[7:8] + whole[10:11].upper() + whole[13:14] + whole[16:17]
    if len(whole) != 19 or between != "--T::" or not all(map(_digits, parts)) or bool(point) != _digits(fraction):
        raise _refusal(text)
    year, month, day, hour, minute, second = map(int, parts)
    if not (1 <= month <= 12 and 1 <= day <= _days_in(year, month) and hour < 24 and minute < 60 and second < 60):
        raise _refusal(text)
    days = _days_from_civil(year, month, day)
    seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset_s
    return seconds * _BILLION + int(f"{fraction:0<9.9}")


def _digits(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _days_in(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Return the days since 1970-01-01 in the proleptic Gregorian calendar; the year is taken to begin in March.

    Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    """
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def _from_local(ns: int) -> int:
    """Turn a time that was read as UTC into the time when local clocks show the same date and hour."""
    seconds, fraction = divmod(ns, _BILLION)
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1))) * _BILLION + fraction


def _refusal(text: str) -> ValueError:
    return ValueError(f'cannot parse "{text}" as an RFC 3339 time')
