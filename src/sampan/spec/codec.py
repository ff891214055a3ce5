"""JSON as Go's encoding/json reads and writes it: the wire's quirks live here and in `go_syntax`, nowhere else.

Reading: keys match whatever their case, the last one wins; null leaves the zero value; unknown keys are ignored;
numbers must be integers in the range of the Go type; the first mismatch is named in Go's words. Writing: `<`, `>`, `&`
and the two Unicode line separators are escaped, as Go does for HTML's sake, and a newline ends the text.

`decode` compiles one converter per type, once; a request then costs a parse and a walk.

Source: encoding/json of Go 1.27 as observed on the reference engine; httputils.ReadJSON of moby 28.5.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from sampan.errors import InvalidArgument
from sampan.spec import go_syntax
from sampan.spec.engine_api.wire import Embedded, GoType, Wire

T = TypeVar("T")
_Converter = Callable[[Any], Any]


class _Number(str):
    """The text of a number that is not an integer: Go quotes it in its complaint."""

    __slots__ = ()


class _Mismatch(Exception):
    """A value of the wrong kind; `path` grows while the exception climbs: (kind of the parent, key), inner first."""

    def __init__(self, value: str, go: str, *, bare: bool = False) -> None:
        super().__init__(value)
        self.value, self.go, self.bare = value, go, bare
        self.path: list[str] = []
        self.in_array = False

    def under(self, key: str | int) -> _Mismatch:
        if not self.path:
            self.in_array = isinstance(key, int)
        self.path.append(str(key).replace("~", "~0").replace("/", "~1"))
        return self

    def words(self, root: str) -> str:
        if self.bare or not self.path:
            return f"json: cannot unmarshal {self.value} into Go value of type {self.go}"
        where = f"{root}.{'.'.join(reversed(self.path))}"
        return (
            f"json: cannot unmarshal {self.value} into {'' if self.in_array else 'Go struct field '}{where} of type "
            f"{self.go}"
        )


def kind(value: Any) -> str:
    """Say what a JSON value is, in Go's word."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float, _Number)):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


# --- converters: one per Go kind; each gets a value that is not null -------------------------------------------------


def _string(go: str) -> _Converter:
    def convert(value: Any) -> str:
        if type(value) is str:
            return value
        raise _Mismatch(kind(value), go)

    return convert


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise _Mismatch(kind(value), "bool")


def _integer(go: GoType) -> _Converter:
    def convert(value: Any) -> int:
        if type(value) is int and go.low <= value <= go.high:
            return value
        number = kind(value) == "number"
        raise _Mismatch(f"number {value}" if number else kind(value), go.name)

    return convert


def _empty_struct(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {}
    raise _Mismatch(kind(value), "struct {}")


def _str_slice(value: Any) -> list[str]:
    """Read Docker's strslice: a list of strings, or one string for a list of one."""
    if type(value) is str:
        return [value]
    if isinstance(value, list) and all(item is None or type(item) is str for item in value):
        return [item or "" for item in value]
    raise _Mismatch(kind(value), "string", bare=True)


def _list(item: _Converter, zero: Callable[[], Any], go: str) -> _Converter:
    def convert(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _Mismatch(kind(value), go)
        out = []
        for index, element in enumerate(value):
            try:
                out.append(zero() if element is None else item(element))
            except _Mismatch as e:
                raise e.under(index) from None
        return out

    return convert


def _array(item: _Converter, size: int, go: str) -> _Converter:
    """Read a Go array: what is missing is zero, what is too much is dropped."""
    as_list = _list(item, int, go)
    return lambda value: tuple((as_list(value) + [0] * size)[:size])


def _map(item: _Converter, zero: Callable[[], Any], go: str) -> _Converter:
    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _Mismatch(kind(value), go)
        out = {}
        for key, element in value.items():
            try:
                out[key] = zero() if element is None else item(element)
            except _Mismatch as e:
                raise e.under(key) from None
        return out

    return convert


def _struct(type_: type[Wire]) -> _Converter:
    hints = typing.get_type_hints(type_, include_extras=True)
    fields: dict[str, tuple[str, _Converter]] = {}  # JSON key → attribute, converter
    embedded: list[tuple[str, type[Wire], frozenset[str]]] = []
    for f in msgspec.structs.fields(type_):
        inner = _embedded_type(hints[f.name])
        if inner is not None:
            keys = frozenset(g.encode_name.lower() for g in msgspec.structs.fields(inner))
            embedded.append((f.name, inner, keys))
            continue
        go = type_.GO_FIELDS.get(f.encode_name, "")
        fields[f.encode_name] = (f.name, _converter(hints[f.name], go)[0])
    folded = {key.lower(): entry for key, entry in fields.items()}
    parts = [(name, keys, _struct(inner)) for name, inner, keys in embedded]

    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Mismatch(kind(value), type_.GO)
        given: dict[str, Any] = {}
        rest: dict[str, Any] = {}
        for key, element in value.items():
            entry = fields.get(key) or folded.get(key.lower())
            if entry is None:
                rest[key] = element
            elif element is not None:
                try:
                    given[entry[0]] = entry[1](element)
                except _Mismatch as e:
                    raise e.under(key) from None
        for name, keys, part in parts:
            if any(key.lower() in keys for key in rest):
                given[name] = part(rest)
        return type_(**given)

    return convert


def _embedded_type(hint: Any) -> type[Wire] | None:
    if typing.get_origin(hint) is typing.Annotated and any(isinstance(m, Embedded) for m in hint.__metadata__):
        inner: type[Wire] = next(a for a in typing.get_args(hint.__origin__) if a is not type(None))
        return inner
    return None


def _converter(hint: Any, go: str = "") -> tuple[_Converter, Callable[[], Any], str]:
    """Compile a type hint to (converter, maker of the zero value, Go type name)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        named = next((m for m in hint.__metadata__ if isinstance(m, GoType)), None)
        if named is not None and named.name == "strslice.StrSlice":
            return _str_slice, lambda: None, named.name
        if named is not None and args[0] is int:
            return _integer(named), int, named.name
        if named is not None and args[0] is str:
            return _string(named.name), str, named.name
        return _converter(args[0], go)
    if origin in (typing.Union, types.UnionType):
        convert, _, inner = _converter(next(a for a in args if a is not type(None)), go)
        pointer = "" if inner.startswith(("[]", "map[")) else "*"
        return convert, lambda: None, pointer + inner
    if origin is list:
        item, zero, inner = _converter(args[0])
        name = go or f"[]{inner}"
        return _list(item, zero, name), lambda: None, name
    if origin is tuple:
        item, _, inner = _converter(args[0])
        name = f"[{len(args)}]{inner}"
        return _array(item, len(args), name), lambda: (0,) * len(args), name
    if origin is dict:
        if typing.get_origin(args[1]) is dict:
            name = go or "map[string]struct {}"
            return _map(_empty_struct, dict, name), lambda: None, name
        item, zero, inner = _converter(args[1])
        name = go or f"map[string]{inner}"
        return _map(item, zero, name), lambda: None, name
    if hint is bool:
        return _bool, bool, "bool"
    if hint is str:
        return _string("string"), str, "string"
    if isinstance(hint, type) and issubclass(hint, Wire):
        return _struct(hint), hint, hint.GO
    raise TypeError(f"no Go type for {hint!r}")


# --- reading and writing ---------------------------------------------------------------------------------------------

_compiled: dict[Any, _Converter] = {}
_parse = msgspec.json.Decoder(float_hook=_Number).decode


def parse(raw: bytes) -> Any:
    """Parse one JSON value; a number with a fraction or exponent comes as its text. Raises: ValueError in Go's
    words.
    """
    try:
        return _parse(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return go_syntax.parse(raw, _Number)


def plain(raw: bytes) -> Any:
    """Parse one JSON value from outside, whatever it holds. Raises: ValueError."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise ValueError(str(e)) from e


def plain_object(raw: bytes) -> dict[str, Any]:
    """Parse one JSON object from outside, whatever it holds. Raises: ValueError."""
    value = plain(raw)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def convert(type_: type[T], value: Any) -> T:
    """Make `type_` of a parsed value. Raises: ValueError in Go's words."""
    if value is None:
        return type_()
    compiled = _compiled.get(type_)
    if compiled is None:
        compiled = _compiled[type_] = _converter(type_)[0]
    try:
        result: T = compiled(value)
        return result
    except _Mismatch as e:
        raise ValueError(e.words(getattr(type_, "ROOT", ""))) from None


def decode(type_: type[T], raw: bytes) -> T:
    """Decode a request body. Raises: InvalidArgument `invalid JSON: …`, or `unexpected content after JSON`."""
    if not raw or raw.isspace():
        raise InvalidArgument("invalid JSON: got EOF while reading request body")
    try:
        return convert(type_, parse(raw))
    except go_syntax.TrailingContent as e:
        try:
            convert(type_, e.value)
        except ValueError as first:
            raise InvalidArgument(f"invalid JSON: {first}") from None
        raise InvalidArgument("unexpected content after JSON") from None
    except ValueError as e:
        raise InvalidArgument(f"invalid JSON: {e}") from None


_encode = msgspec.json.Encoder().encode


def encode(obj: Any, *, html: bool = True) -> bytes:
    """Encode as Go's json.Encoder does, newline at the end. html: `<>&` are escaped, as Go does unless told."""
    out = _encode(to_json(obj) if isinstance(obj, Wire) else obj)
    if html and (b"<" in out or b">" in out or b"&" in out):
        out = out.replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    if b"\xe2\x80" in out:
        out = out.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return out + b"\n"


def to_json(obj: Wire) -> dict[str, Any]:
    """Turn a wire struct into the JSON object Docker prints: fields of OMIT_EMPTY are left out when empty.

    A pointer (a field whose default is None and that holds a scalar) is left out only when nil.
    """
    out: dict[str, Any] = msgspec.to_builtins(obj)
    for key in type(obj).OMIT_EMPTY:
        value = out[key]
        if value is None or value == [] or value == {} or value == "" or (not value and key not in _POINTERS):
            del out[key]
    return out


_POINTERS = frozenset({"Init", "StopTimeout"})
