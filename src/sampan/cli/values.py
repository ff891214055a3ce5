"""Values as users type them on the command line: numbers, sizes, key=value.

Every function takes the text and returns the value, or raises ValueError with the words docker's flags use (they come
from Go's strconv and go-units). Nothing here knows which flag it serves. Go's rules are in `spec/go_values.py`, which
is loaded by the flag that needs it.
"""

from __future__ import annotations


def integer(text: str, *, bits: int = 64) -> int:
    """Read a signed integer; 0x, 0o, 0b and a leading 0 (octal) are understood. Raises: ValueError."""
    if text.isascii() and text.isdecimal() and text[0] != "0" and len(text) < 10:
        return int(text)  # the common case, without loading Go's rules
    from sampan.spec import go_values

    return go_values.integer(text, bits=bits, base=0)


def unsigned(text: str, *, bits: int = 64) -> int:
    """Read an integer without a sign, with the prefixes that `integer` takes. Raises: ValueError."""
    from sampan.spec import go_values

    return go_values.unsigned(text, bits=bits, base=0)


def size_bytes(text: str) -> int:
    """Read `64m`, `1.5GiB`, `512` in powers of 1024. Raises: ValueError."""
    from sampan.spec import go_values

    return go_values.size_bytes(text)


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


def option(text: str) -> str:
    """Take `key=value` or a bare `key`, whose value is empty, unchanged."""
    return text


def label(text: str) -> str:
    """Check `name=value` or `name`, returned unchanged."""
    if text.startswith("="):
        raise ValueError(f"invalid label '{text}': empty name")
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
