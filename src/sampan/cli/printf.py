"""Go's fmt, as far as templates print with it: `sprint` (%v) and `sprintf`.

Source: Go fmt package documentation.
"""

from __future__ import annotations

from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Nil:
    """Go's nil slice or map: empty, false, printed as `[]` or `map[]`, null in JSON."""

    __slots__ = ("_shown",)

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __str__(self) -> str:
        return self._shown

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def as_json(self) -> None:
        return None


def sprint(value: Any) -> str:
    """Write one value as Go's %v does."""
    if isinstance(value, str):
        return value
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return "<nil>"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return jsontext.number(value) if abs(value) < 1e21 else f"{value:e}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{sprint(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(sprint(item) for item in value) + "]"
    return str(value)


def sprintf(template: str, *arguments: Any) -> str:
    """Write as Go's Sprintf does, with flags, width, precision and the verbs v s q d x X o b c t f g e %."""
    out: list[str] = []
    queue = list(arguments)
    position = 0
    while (percent := template.find("%", position)) >= 0:
        out.append(template[position:percent])
        end = percent + 1
        while end < len(template) and template[end] in "+-# 0123456789.":
            end += 1
        if end >= len(template):
            out.append("%!(NOVERB)")
            return "".join(out)
        verb, spec = template[end], template[percent + 1 : end]
        position = end + 1
        if verb == "%":
            out.append("%")
        elif not queue:
            out.append(f"%!{verb}(MISSING)")
        else:
            out.append(_formatted(verb, spec, queue.pop(0)))
    out.append(template[position:])
    if queue:
        out.append("%!(EXTRA " + ", ".join(f"{_type(a)}={sprint(a)}" for a in queue) + ")")
    return "".join(out)


def _formatted(verb: str, spec: str, value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if (verb in "vs" and not whole) or (verb == "v" and whole):
        precision = spec.partition(".")[2] if "." in spec else ""
        text = sprint(value)
        return _padded(text[: int(precision)] if precision and verb == "s" else text, spec)
    if verb == "q" and isinstance(value, str):
        return _padded(jsontext.dumps(value), spec)
    if verb == "t" and isinstance(value, bool):
        return _padded(sprint(value), spec)
    if verb == "c" and whole:
        return _padded(chr(value), spec)
    if verb in "dxXo" and whole:
        return str(("%" + spec + verb) % value)
    if verb == "b" and whole:
        return _padded(f"{value:b}", spec)
    if verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
        return _padded(text.upper() if verb == "X" else text, spec)
    if verb in "feg" and isinstance(value, float):
        return str(("%" + spec + verb) % value)
    return f"%!{verb}({_type(value)}={sprint(value)})"


def _padded(text: str, spec: str) -> str:
    width = spec.partition(".")[0].lstrip("+-# 0")
    if not width:
        return text
    return text.ljust(int(width)) if "-" in spec else text.rjust(int(width))


def _type(value: Any) -> str:
    if value is None:
        return "<nil>"
    return {bool: "bool", int: "int", float: "float64", str: "string"}.get(type(value), "interface {}")
