"""JSON text for the client: decode, encode, and Go's spelling of it. Built on CPython's `_json` accelerator.

Not the daemon's codec (`spec/codec.py`). The standard `json` package costs 7 ms of imports (it pulls `re` and
`enum`), which is a third of what a whole command may take; its C core alone costs nothing. What a malformed text is
reported as is decided here and by `spec/go_syntax.py`, which is loaded only then.

Source: RFC 8259; Go encoding/json (key order, HTML escaping, indentation).
"""

from __future__ import annotations

from _json import encode_basestring, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

_WHITESPACE = " \t\n\r"


class Malformed(ValueError):
    """The text is not JSON."""


class _Rules:
    """What `_json.make_scanner` wants to know about a decoder."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


_rules: Any = _Rules()
_scan: Any = make_scanner(_rules)


def loads(data: bytes | str) -> Any:
    """Decode one JSON value. Raises: Malformed, in Go's words, on anything else than exactly one."""
    text = data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")
    try:
        value, end = _scan_from(text, _skip(text, 0))
    except Malformed:
        return _as_go_reads(text)
    if _skip(text, end) != len(text):
        return _as_go_reads(text)
    return value


def _as_go_reads(text: str) -> Any:
    """Read a text that the fast scanner has refused: its value after all, or Go's reason. Raises: Malformed."""
    from sampan.spec import go_syntax

    try:
        return go_syntax.parse(text.encode("utf-8", "surrogatepass"), float)
    except ValueError as e:
        raise Malformed(str(e)) from e


def stream(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Decode values written one after the other (JSON lines, `/events`, progress), as soon as each is complete.

    Values may straddle chunks. Servers end each value with a newline, so a value is tried when one arrives.
    """
    pending = b""
    for chunk in chunks:
        pending += chunk
        cut = pending.rfind(b"\n")
        if cut < 0:
            continue
        text = pending[: cut + 1].decode("utf-8", "replace")
        pending = pending[cut + 1 :]
        position = _skip(text, 0)
        while position < len(text):
            try:
                value, position = _scan_from(text, position)
            except Malformed:  # a value that spans lines: keep it until more has come
                pending = text[position:].encode() + pending
                break
            yield value
            position = _skip(text, position)
    if pending.strip():
        yield loads(pending)


def dumps(value: Any) -> str:
    """Write compact JSON in insertion order, without HTML escaping."""
    return "".join(_write(value, "", "", ":", ","))


def indented(value: Any, indent: str = "    ") -> str:
    """Write JSON as Go's `json.Indent` lays it out; empty objects and lists stay on one line."""
    return "".join(_write(value, "\n", indent, ": ", ","))


def html_escaped(text: str) -> str:
    """Escape encoded JSON as Go's `json.Marshal` does by default."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _skip(text: str, position: int) -> int:
    end = len(text)
    while position < end and text[position] in _WHITESPACE:
        position += 1
    return position


def _scan_from(text: str, position: int) -> tuple[Any, int]:
    try:
        value, end = _scan(text, position)
    except (StopIteration, ValueError, RecursionError, SystemError) as e:
        # SystemError: CPython 3.11's scanner takes JSONDecodeError from the module json.decoder, and sets no exception
        # at all when nobody has imported that.
        raise Malformed(f"invalid JSON at offset {position}") from e
    return value, end


def _write(value: Any, newline: str, indent: str, colon: str, comma: str) -> Iterator[str]:
    if isinstance(value, str):
        yield encode_basestring(value)
    elif value is None:
        yield "null"
    elif value is True:
        yield "true"
    elif value is False:
        yield "false"
    elif isinstance(value, int):
        yield str(value)
    elif isinstance(value, float):
        yield number(value)
    elif isinstance(value, dict):
        deeper = newline + indent
        lead = "{" + deeper
        for key, item in value.items():
            yield lead + encode_basestring(str(key)) + colon
            yield from _write(item, deeper, indent, colon, comma)
            lead = comma + deeper
        yield newline + "}" if value else "{}"
    else:
        deeper = newline + indent
        lead = "[" + deeper
        for item in value:
            yield lead
            yield from _write(item, deeper, indent, colon, comma)
            lead = comma + deeper
        yield newline + "]" if value else "[]"


def number(value: float) -> str:
    """Write a float as Go does: whole numbers without a point."""
    return str(int(value)) if value == int(value) and abs(value) < 1e21 else repr(value)
