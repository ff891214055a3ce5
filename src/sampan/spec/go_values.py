"""Values as Go's standard library reads and writes them. Pure; no regular expression, for the command line loads it
too.

What Docker reads with Go is read here, and refused in Go's words, wherever the text came from: a flag, a Dockerfile,
daemon.json or a request.

Source: Go's strconv (ParseBool, ParseInt, ParseUint, Quote, Unquote), time.ParseDuration, encoding/csv;
docker/go-units.
"""

from __future__ import annotations

_TRUE = frozenset(("1", "t", "T", "true", "TRUE", "True"))
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))
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
_UNESCAPES = {value[1]: key for key, value in _ESCAPES.items()}
_CODE_DIGITS = {"x": 2, "u": 4, "U": 8}
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


def boolean(text: str) -> bool:
    """Read a truth value (strconv.ParseBool). Raises: ValueError in Go's words."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")


def integer(text: str, *, bits: int = 64, base: int = 10, call: str = "ParseInt") -> int:
    """Read a whole number (strconv.ParseInt; `call` is "Atoi" where Docker uses that).

    base: 10, or 0 for Go's prefixes: 0x, 0o, 0b, and a leading 0 for octal.

    Raises: ValueError in Go's words.
    """
    value = _number(text[1:] if text[:1] in ("+", "-") else text, base)
    if value is None:
        raise ValueError(f"strconv.{call}: parsing {quote(text)}: invalid syntax")
    value = -value if text[0] == "-" else value
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f"strconv.{call}: parsing {quote(text)}: value out of range")
    return value


def unsigned(text: str, *, bits: int = 64, base: int = 10) -> int:
    """Read a whole number without a sign (strconv.ParseUint). Raises: ValueError in Go's words."""
    value = _number(text, base)
    if value is None:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: invalid syntax")
    if value >= 1 << bits:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return value


def _number(digits: str, base: int) -> int | None:
    """The value of digits without a sign, None when they are none. What is absurdly long is some large number."""
    if not digits.isascii() or not (digits[:1] if base == 0 else digits).isdecimal() or digits != digits.strip():
        return None
    if base == 0 and digits.isdecimal() and digits[0] == "0":
        base = 8
    if digits.isdecimal() and len(digits) > 100:
        digits = "1" + "0" * 100
    try:
        return int(digits, base)
    except ValueError:
        return None


def is_digits(text: str) -> bool:
    """Tell whether a text is decimal digits and nothing else, as Go's strconv wants them."""
    return text.isascii() and text.isdecimal()


def size_bytes(text: str, *, unit: int = 1024) -> int:
    """Read a size as go-units does: `64m`, `1.5GiB`, `512`. unit: 1024 (RAMInBytes) or 1000 (FromHumanSize).

    Raises: ValueError in the words of go-units and Go.
    """
    cut = max((i for i, c in enumerate(text) if c in "0123456789. "), default=-1)
    if cut < 0:
        raise ValueError(f"invalid size: '{text}'")
    number, suffix = (text[:cut] if text[cut] == " " else text[: cut + 1]), text[cut + 1 :].lower()
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"strconv.ParseFloat: parsing {quote(number)}: invalid syntax") from None
    if value < 0:
        raise ValueError(f"invalid size: '{text}'")
    if suffix in ("", "b"):
        return int(value)
    power = "kmgtp".find(suffix[0]) + 1
    if not power or suffix[1:] not in ("", "b", "ib"):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(value * unit**power)


def quote(text: str) -> str:
    """Write in double quotes, what cannot be printed escaped (strconv.Quote, `%q`).

    A byte that is no UTF-8 stands in `text` as a lone surrogate ("surrogateescape") and is written as `\\xff`.
    """
    return '"' + "".join([_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text]) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unquote(text: str) -> str:
    """Read a Go literal: a string in double quotes or back quotes, or one character in single quotes (strconv.Unquote).

    A byte that is no UTF-8 becomes a lone surrogate, as `quote` takes it.

    Raises: ValueError in Go's words.
    """
    mark, body = text[:1], text[1:-1]
    if len(text) < 2 or mark not in ('"', "`", "'") or text[-1] != mark:
        raise ValueError("invalid syntax")
    if mark == "`":
        if mark in body:
            raise ValueError("invalid syntax")
        return body.replace("\r", "")
    out = bytearray()
    at = count = 0
    while at < len(body):
        if body[at] in (mark, "\n"):
            raise ValueError("invalid syntax")
        if body[at] == "\\":
            value, at = _unescape(body, at + 1, mark)
            out += value
        else:
            out += body[at].encode("utf-8", "surrogateescape")
            at += 1
        count += 1
    if mark == "'" and count != 1:
        raise ValueError("invalid syntax")
    return out.decode("utf-8", "surrogateescape")


def _unescape(body: str, at: int, mark: str) -> tuple[bytes, int]:
    """Return the bytes that the escape with its letter at `at` stands for, and where it ends. Raises: ValueError."""
    letter = body[at : at + 1]
    if letter == mark or (letter in _UNESCAPES and letter != '"'):
        return _UNESCAPES.get(letter, letter).encode(), at + 1
    octal = letter in ("0", "1", "2", "3")
    begin = at if octal else at + 1
    digits = body[begin : begin + (3 if octal else _CODE_DIGITS.get(letter, 0))]
    wanted = 3 if octal else _CODE_DIGITS.get(letter, -1)
    if len(digits) != wanted or digits.strip("01234567" if octal else "0123456789abcdefABCDEF"):
        raise ValueError("invalid syntax")
    code = int(digits, 8 if octal else 16)
    if letter not in ("u", "U"):
        return bytes((code,)), begin + wanted
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise ValueError("invalid syntax")
    return chr(code).encode(), begin + wanted


def duration_ns(text: str) -> int:
    """Read a duration (time.ParseDuration) as nanoseconds: `1h30m`, `250ms`, `-1.5s`. Raises: ValueError in
    Go's words.
    """
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    invalid = ValueError(f"time: invalid duration {quote(text)}")
    if not body:
        raise invalid
    total = 0
    while body:
        rest = body.lstrip("0123456789")
        whole, fraction = body[: len(body) - len(rest)], ""
        if rest.startswith("."):
            body, rest = rest[1:], rest[1:].lstrip("0123456789")
            fraction = body[: len(body) - len(rest)]
        if not whole and not fraction:
            raise invalid
        unit, body = _unit(rest)
        if not unit:
            raise ValueError(f"time: missing unit in duration {quote(text)}")
        scale = _UNITS_NS.get(unit)
        if scale is None:
            raise ValueError(f"time: unknown unit {quote(unit)} in duration {quote(text)}")
        decimals = fraction[:18]
        total += int((whole or "0")[:20]) * scale + int(decimals or "0") * scale // 10 ** len(decimals)
        if total > _LONGEST_NS or len(whole) > 19:
            raise invalid
    return -total if text[0] == "-" else total


def _unit(text: str) -> tuple[str, str]:
    """Return what stands before the next number, and what follows."""
    at = 0
    while at < len(text) and text[at] not in ".0123456789":
        at += 1
    return text[:at], text[at:]


def fields(line: str) -> list[str]:
    """Split one record of comma-separated values, with quotes doubled inside quotes (encoding/csv).

    Raises: ValueError in Go's words; "EOF" for an empty line.
    """
    if not line:
        raise ValueError("EOF")
    if '"' not in line:
        return line.split(",")
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
    """Return the field whose opening quote stands before `at`, and where it ends."""
    parts: list[str] = []
    while True:
        end = line.find('"', at)
        if end < 0:
            where = f"parse error on line 1, column {len(line.encode()) + 1}"
            if line.endswith("\n"):
                where = "record on line 1; parse error on line 2, column 0"
            raise ValueError(f'{where}: extraneous or missing " in quoted-field')
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


def duration(ns: int) -> str:
    """Return Go's time.Duration as text: `1m0s`, `1.5s`, `20ms`."""
    if ns == 0:
        return "0s"
    if ns < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if ns >= size:
                return f"{_decimal(ns, size)}{unit}"
    hours, rest = divmod(ns, 3600 * 10**9)
    minutes, rest = divmod(rest, 60 * 10**9)
    seconds = f"{_decimal(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    fraction = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if unit > 1 else ""
    return f"{whole}.{fraction}" if fraction else str(whole)
