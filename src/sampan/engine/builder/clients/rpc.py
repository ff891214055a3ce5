"""Calls to the client over its session: unary and streaming gRPC on `http2.Connection`.

Source: gRPC's PROTOCOL-HTTP2 (status in trailers, percent-encoded message).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, Self, TypeVar
from urllib.parse import quote_plus, unquote

from sampan.engine.builder.clients.http2 import Http2Connection, Stream, message
from sampan.errors import Internal, NotFound, SampanError, Unauthorized, Unavailable

UNKNOWN, NOT_FOUND, PERMISSION_DENIED, UNIMPLEMENTED, UNAVAILABLE, UNAUTHENTICATED = 2, 5, 7, 12, 14, 16
CALL_TIMEOUT_S = 60.0


class ProtobufMessage(Protocol):
    """What protobuf's generated classes have in common."""

    def SerializeToString(self) -> bytes: ...

    @classmethod
    def FromString(cls, data: bytes) -> Self: ...


T = TypeVar("T", bound=ProtobufMessage)


def check(stream: Stream) -> None:
    """Raise what an ended stream's status says; nothing for OK."""
    status = int(stream.trailers.get("grpc-status", UNKNOWN))
    if status:
        raise error(status, unquote(stream.trailers.get("grpc-message", "")))


def error(status: int, text: str) -> SampanError:
    """Return the engine's error for a gRPC status."""
    kinds = {
        NOT_FOUND: NotFound,
        UNIMPLEMENTED: NotFound,
        UNAVAILABLE: Unavailable,
        PERMISSION_DENIED: Unauthorized,
        UNAUTHENTICATED: Unauthorized,
    }
    return kinds.get(status, Internal)(text)


async def unary(
    connection: Http2Connection,
    path: str,
    request: ProtobufMessage,
    answer: type[T],
    *,
    timeout_s: float = CALL_TIMEOUT_S,
) -> T:
    """Call a method with one message each way.

    Raises: NotFound, Unavailable, Internal, … as the client's status says.
    """
    try:
        stream = connection.request(path)
    except ConnectionError as e:
        raise Unavailable(f"the client has gone: {e}") from e
    try:
        async with asyncio.timeout(timeout_s):
            stream.write(message(request.SerializeToString()))
            stream.end()
            found: list[bytes] = []
            while batch := await stream.batch():
                found += batch
                if len(found) > 1:
                    raise Internal(f"the client answered {path} more than once")
        check(stream)
        return answer.FromString(found[0] if found else b"")
    except ConnectionError as e:
        raise Unavailable(f"the client has gone: {e}") from e
    except TimeoutError as e:
        raise Unavailable(f"the client did not answer {path} in {timeout_s:.0f} s") from e
    finally:
        stream.cancel()


def metadata(**lists: Sequence[str]) -> list[tuple[str, str]]:
    """Return header fields of the session's services; values that are not ASCII are escaped and marked so.

    Keyword `a_b` becomes `a-b`. Source: BuildKit session/filesync, the key with `-encoded`.
    """
    fields: list[tuple[str, str]] = []
    for keyword, values in lists.items():
        key = keyword.replace("_", "-")
        plain = all(value.isascii() and value.isprintable() for value in values)
        fields += [(key, value if plain else quote_plus(value)) for value in values]
        if not plain:
            fields.append((f"{key}-encoded", "1"))
    return fields
