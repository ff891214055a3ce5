"""Values as users type them on the command line: numbers, sizes, key=value.

Every function takes the text and returns the value, or raises ValueError with the words docker's flags use (they come
from Go's strconv and go-units). Nothing here knows which flag it serves. Truth values and durations are read by
`spec/go_values.py`.

Source: Go strconv.ParseInt base 0; docker/go-units RAMInBytes.
"""

from __future__ import annotations

_SIZE_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def integer(text: str, *, bits: int = 64) -> int:
    """Read a signed integer; 0x, 0o, 0b and a leading 0 (octal) are understood."""
    value = _number(text, "ParseInt")
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def unsigned(text: str, *, bits: int = 64) -> int:
    value = _number(text, "ParseUint")
    if text.startswith(("-", "+")):
        raise ValueError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    if value >= 1 << bits:
        raise ValueError(f'strconv.ParseUint: parsing "{text}": value out of range')
    return value


def _number(text: str, function: str) -> int:
    digits = text.lstrip("+-")
    try:
        if len(text) - len(digits) > 1 or text != text.strip() or not text.isascii():
            raise ValueError
        if len(digits) > 1 and digits.isdigit() and digits[0] == "0":
            return int(text, 8)
        return int(text, 0)
    except ValueError:
        raise ValueError(f'strconv.{function}: parsing "{text}": invalid syntax') from None


def size_bytes(text: str) -> int:
    """Read `64m`, `1.5GiB`, `512` → bytes; powers of 1024 whatever the spelling of the suffix."""
    cut = max((i for i, c in enumerate(text) if c in "0123456789. "), default=-1)
    if cut < 0:
        raise ValueError(f"invalid size: '{text}'")
    number, suffix = (text[:cut] if text[cut] == " " else text[: cut + 1]), text[cut + 1 :].lower()
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f'strconv.ParseFloat: parsing "{number}": invalid syntax') from None
    if value < 0:
        raise ValueError(f"invalid size: '{text}'")
    if suffix in ("", "b"):
        return int(value)
    unit = _SIZE_UNITS.get(suffix[0])
    if unit is None or suffix[1:] not in ("", "b", "ib"):
        raise ValueError(f"invalid suffix: '{suffix}'")
    return int(value * unit)


def size_or_unlimited(text: str) -> int:
    """Read a size in bytes, or -1 for unlimited."""
    return -1 if text == "-1" else size_bytes(text)


def nano_cpus(text: str) -> int:
    """Read `1.5` → 1500000000. More than nine decimals are refused, as docker does."""
    number = text
    try:
        if "/" in number:
            above, _, below = number.partition("/")
            value = int(above) / int(below)
        else:
            value = float(number)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"failed to parse {text} as a rational number") from None
    nano = round(value * 1e9)
    if "/" not in number and len(number.partition(".")[2].rstrip("0")) > 9:
        raise ValueError("value is too precise")
    return nano


def pair(text: str) -> str:
    """Check `key=value`, returned unchanged."""
    key, separator, _ = text.partition("=")
    if not separator or not key.strip():
        raise (
            ValueError(f"invalid key/value pair format: {text}")
            if separator
            else ValueError(f"{text} must be formatted as key=value")
        )
    return text


def env(text: str) -> str:
    """Check `NAME=value` or `NAME`, returned unchanged."""
    if not text or text.startswith("="):
        raise ValueError(f"invalid environment variable: {text}")
    return text


def filter_pair(text: str) -> str:
    if "=" not in text and text:
        raise ValueError("bad format of filter (expected name=value)")
    return text
