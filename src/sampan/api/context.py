"""What a handler needs of its request: the engine, the API version, typed query values, the decoded body.

Query rules are those of moby's httputils, down to which bad value is a 400 and which a 500.

Source: moby 28.5 api/server/httputils (form.go, httputils.go), api/types/filters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from sampan.api.connection import Connection
from sampan.api.versions import CURRENT, Version
from sampan.errors import Internal, InvalidArgument, SampanError
from sampan.spec import codec, go_values

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

T = TypeVar("T")
Filters = dict[str, set[str]]

ENGINE: web.AppKey[Engine] = web.AppKey("engine")
HEADERS: web.AppKey[dict[str, str]] = web.AppKey("headers")
"""The headers that every routed answer carries."""
VERSION: web.RequestKey[Version] = web.RequestKey("version", tuple)
"""The API version of a request; present as soon as the request has found its route."""
BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)
"""A request's body, once it has been read whole."""
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MEDIA_TYPE = re.compile(rf"{_TOKEN.pattern}(/{_TOKEN.pattern})?")
_FALSE = frozenset({"", "0", "no", "false", "none"})


def engine(request: web.Request) -> Engine:
    """Return the engine that this server fronts."""
    return request.app[ENGINE]


def version(request: web.Request) -> Version:
    """Return the API version the client speaks, e.g. (1, 51)."""
    found: Version = request.get(VERSION, CURRENT)
    return found


def query(request: web.Request, name: str, default: str = "") -> str:
    """Return the first value of a query parameter."""
    return request.query.get(name, default)


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """Read a boolean: absent is `default`; "", 0, no, false and none are false, anything else is true."""
    text = request.query.get(name)
    return default if text is None else text.strip().lower() not in _FALSE


def integer(request: web.Request, name: str, default: int = 0, *, call: str = "ParseInt") -> int:
    """Read an integer; absent or empty is `default`. Raises: Internal in strconv's words (Docker answers 500 here)."""
    text = request.query.get(name, "")
    return parse_integer(text, call=call) if text else default


def parse_integer(text: str, *, call: str = "ParseInt", error: type[SampanError] = Internal) -> int:
    """Parse as Go's strconv does, 64 bits. Raises: `error` in Go's words."""
    try:
        return go_values.integer(text, call=call)
    except ValueError as e:
        raise error(str(e)) from e


def filters(request: web.Request) -> Filters:
    """Read `filters`: {"name": ["a"]} or {"name": {"a": true}}. Raises: InvalidArgument `invalid filter`."""
    text = request.query.get("filters", "")
    return parse_filters(text) if text else {}


def parse_filters(text: str) -> Filters:
    """Parse the JSON of a filters parameter; {"a": {"x": false}} counts as given, as in Docker."""
    try:
        raw = codec.parse(text.encode())
    except ValueError:
        raise InvalidArgument("invalid filter") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise InvalidArgument("invalid filter")
    new = all(values is None or _is_set(values) for values in raw.values())
    if not new and not all(values is None or _is_list(values) for values in raw.values()):
        raise InvalidArgument("invalid filter")  # also the two forms beside each other
    return {name: {value or "" for value in values or ()} for name, values in raw.items()}


def _is_set(values: Any) -> bool:
    return isinstance(values, dict) and all(v is None or isinstance(v, bool) for v in values.values())


def _is_list(values: Any) -> bool:
    return isinstance(values, list) and all(v is None or isinstance(v, str) for v in values)


def accept_filters(given: Filters, accepted: frozenset[str]) -> Filters:
    """Refuse a filter that the endpoint does not know. Raises: InvalidArgument `invalid filter 'nope'`."""
    for name in given:
        if not name:
            raise InvalidArgument("invalid filter")
        if name not in accepted:
            raise InvalidArgument(f"invalid filter '{name}'")
    return given


async def whole(request: web.Request) -> bytes:
    """Read the body into memory, once. Raises: InvalidArgument for one that is too long, Unavailable."""
    found: bytes | None = request.get(BODY)
    if found is None:
        connection = request.protocol
        assert isinstance(connection, Connection)
        found = request[BODY] = await connection.admission.whole(connection, request.content.iter_any())
    return found


async def body(request: web.Request, type_: type[T], *, optional: bool = False) -> T:
    """Decode the JSON body. `optional`: no body at all is the zero value. Raises: InvalidArgument."""
    raw = await whole(request)
    content_type = request.headers.get("Content-Type", "")
    if raw or content_type:
        mime = content_type.partition(";")[0].strip().lower()
        if mime != "application/json":
            if not _MEDIA_TYPE.fullmatch(mime):
                raise InvalidArgument(f"malformed Content-Type header ({content_type}): mime: {_not_mime(mime)}")
            raise InvalidArgument(f"unsupported Content-Type header ({mime}): must be 'application/json'")
    if not raw and optional:
        return type_()
    return codec.decode(type_, raw)


def _not_mime(text: str) -> str:
    """Say in Go's words why a text is no media type."""
    first = _TOKEN.match(text)
    if first is None:
        return "no media type"
    if text[first.end()] != "/":
        return "expected slash after first token"
    second = _TOKEN.match(text, first.end() + 1)
    return "expected token after slash" if second is None else "unexpected content after media subtype"


def json_response(obj: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON as Docker writes a whole answer: `<>&` as they are; streams have them escaped."""
    return web.Response(
        status=status,
        body=codec.encode(obj, html=False),
        headers={"Content-Type": "application/json", **(headers or {})},
    )


def empty(status: int = 204) -> web.Response:
    """Answer without a body, and without a content type."""
    return web.Response(status=status)
