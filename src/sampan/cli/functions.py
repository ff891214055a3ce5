"""The functions of Go templates and of docker, and how they take values that do not fit.

Source: Go text/template; docker's basic template functions.
"""

from __future__ import annotations

from sampan.cli.printf import Nil, sprint, sprintf
from sampan.client import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NO_VALUE = object()  # the result of a missing key when that is not an error


class Unfit(Exception):
    """Why a value does not fit; whoever runs the template adds where."""


def truth(value: Any) -> bool:
    """Return whether Go's templates take a value as true: it is not zero and not empty."""
    return value is not NO_VALUE and bool(value)


def go_type(value: Any) -> str:
    return {bool: "bool", int: "int", float: "float64", str: "string", list: "[]interface {}"}.get(
        type(value), "interface {}"
    )


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, "" if value and all(isinstance(v, str) for v in value.values()) else None)
        elif isinstance(value, (list, tuple, str)):
            if not isinstance(key, int):
                raise Unfit(f"cannot index slice/array with type {go_type(key)}")
            if not 0 <= key < len(value):
                raise Unfit(f"index out of range: {key}")
            value = value[key]
        elif isinstance(value, Nil):
            if isinstance(key, int):
                raise Unfit(f"index out of range: {key}")
            value = None
        elif value is None or value is NO_VALUE:
            raise Unfit("index of nil pointer" if value is None else "index of untyped nil")
        else:
            raise Unfit(f"can't index item of type {go_type(value)}")
    return value


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise Unfit("missing argument for comparison")
    for other in others:
        kinds = {type(v) for v in (first, other) if isinstance(v, (bool, int, float, str))}
        if len(kinds) == 2 and kinds != {int, float}:  # JSON does not tell these two apart
            raise Unfit(f"incompatible types for comparison: {go_type(first)} and {go_type(other)}")
    return any(first == other for other in others)


def fits(value: Any, kind: type) -> bool:
    return value is None or value is NO_VALUE or isinstance(value, (kind, Nil)) or hasattr(value, "lookup")


_WANTED = {str: ("string", "string"), int: ("integer", "int"), list: ("[]string", "[]string")}


def unlike(node: tuple[Any, ...], value: Any, kind: type) -> str:
    """Say that an argument has the wrong type: of a constant when the template is read, of a value when it is run."""
    constant, running = _WANTED[kind]
    if node[0] == "const":
        return f"expected {constant}; found {node[-2]}"
    return f"wrong type for value; expected {running}; got {go_type(value)}"


def _slice(value: Any, *bounds: int) -> Any:
    for bound in bounds:
        if not 0 <= bound <= len(value):
            raise Unfit(f"index out of range: {bound}")
    return value[slice(bounds[0] if bounds else 0, bounds[1] if len(bounds) > 1 else None)]


def _length(value: Any) -> int:
    if value is None or isinstance(value, Nil):
        return 0
    if not isinstance(value, (str, list, tuple, dict)):
        raise Unfit(f"len of type {go_type(value)}")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _json(value: Any) -> str:
    as_json = getattr(value, "as_json", None)
    return jsontext.dumps(as_json() if as_json else value)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *_: None,  # both are run by Template itself: they stop early
    "or": lambda *_: None,
    "not": lambda value: not truth(value),
    "eq": _equal,
    "ne": lambda a, b: not _equal(a, b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "len": _length,
    "index": _index,
    "slice": _slice,
    "print": lambda *items: "".join(sprint(i) for i in items),
    "println": lambda *items: " ".join(sprint(i) for i in items) + "\n",
    "printf": sprintf,
    "json": _json,
    "join": lambda items, separator: separator.join(sprint(i) for i in items or ()),
    "split": lambda text, separator: text.split(separator) if separator else list(text),
    "title": lambda text: text.title(),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "pad": lambda text, before, after: " " * before + text + " " * after if text else text,
    "truncate": lambda text, length: text[:length],
}

TYPES: dict[str, tuple[type | None, ...]] = {  # of the arguments of docker's own functions
    "join": (list, str),
    "split": (str, str),
    "title": (str,),
    "lower": (str,),
    "upper": (str,),
    "pad": (str, int, int),
    "truncate": (str, int),
}
