"""What Go's standard library makes of text, where a Dockerfile's meaning or an error message depends on it. Pure.

Source: Go's unicode.IsSpace, strconv.Quote, strconv.ParseBool, encoding/csv, time.ParseDuration; the suggestions of Docker
Engine 28.5 ("did you mean …?").
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([^0-9.]*)")
_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_LONGEST_NS = 2**63 - 1


def quoted(text: str) -> str:
    """`%q`: in double quotes, what cannot be printed escaped."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def boolean(text: str) -> bool:
    """Raises: ValueError."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def duration_ns(text: str) -> int:
    """`1h2m3.5s` in nanoseconds. Raises: ValueError in Go's words."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    bad = ValueError(f"time: invalid duration {quoted(text)}")
    total, at = 0, 0
    while at < len(body):
        match = _DURATION.match(body, at)
        if not match:
            raise bad
        number, unit = match.groups()
        if not unit:
            raise ValueError(f"time: missing unit in duration {quoted(text)}")
        if unit not in _UNITS_NS:
            raise ValueError(f"time: unknown unit {quoted(unit)} in duration {quoted(text)}")
        whole, _, fraction = number.partition(".")
        digits = fraction[:18]
        scale = _UNITS_NS[unit]
        total += int((whole or "0")[:20]) * scale + (int(digits) * scale // 10 ** len(digits) if digits else 0)
        if total > _LONGEST_NS or len(whole) > 19:
            raise bad
        at = match.end()
    if not body:
        raise bad
    return -total if text.startswith("-") else total


def fields(line: str) -> list[str]:
    """One record of comma-separated values, quotes doubled inside quotes. Raises: ValueError in Go's words."""
    if not line:
        raise ValueError("EOF")
    out: list[str] = []
    at = 0
    while True:
        if line.startswith('"', at):
            value, at = _quoted_field(line, at + 1)
        else:
            end = line.find(",", at)
            end = len(line) if end < 0 else end
            value, at = line[at:end], end
            if '"' in value:
                column = len(line[: at - len(value) + value.index('"')].encode()) + 1
                raise ValueError(f'parse error on line 1, column {column}: bare " in non-quoted-field')
        out.append(value)
        if at >= len(line):
            return out
        at += 1


def _quoted_field(line: str, at: int) -> tuple[str, int]:
    """The field whose opening quote stands before `at`, and where it ends."""
    parts: list[str] = []
    while True:
        end = line.find('"', at)
        if end < 0:
            column = len(line.encode()) + 1
            raise ValueError('record on line 1; parse error on line 2, column 0: extraneous or missing " in quoted-field'
                             if line.endswith("\n") else f'parse error on line 1, column {column}: extraneous or missing " in quoted-field')  # fmt: skip
        parts.append(line[at:end])
        after = line[end + 1 : end + 2]
        if after == '"':
            parts.append('"')
            at = end + 2
        elif after in ("", ","):
            return "".join(parts), end + 1
        else:
            column = len(line[:end].encode()) + 1
            raise ValueError(f'parse error on line 1, column {column}: extraneous or missing " in quoted-field')


def nearest(word: str, options: Iterable[str]) -> str:
    """The option most like `word`, '' when none is near. Case does not count; `word` itself is no suggestion."""
    word = word.lower()
    best, best_distance = "", 3
    for option in options:
        if option.lower() == word:
            return ""
        if abs(len(option) - len(word)) < best_distance:
            distance = _distance(word, option.lower())
            if distance < best_distance:
                best, best_distance = option, distance
    return best


def _distance(a: str, b: str) -> int:
    """Levenshtein's."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
