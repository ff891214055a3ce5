"""Serving gRPC on a connection that a client has upgraded: grpclib's server on a transport it did not accept.

Errors of the engine become gRPC statuses here, with BuildKit's typed details in `grpc-status-details-bin`.
Source: BuildKit's util/grpcerrors as seen on the wire: details are JSON values named by a type URL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from grpclib.config import Configuration
from grpclib.const import Handler, Status
from grpclib.encoding.base import StatusDetailsCodecBase
from grpclib.encoding.proto import ProtoCodec
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Server

from sampan.engine.builder.buildkit.details import Detail, UnknownQuestion, details_of
from sampan.engine.builder.buildkit.protos.rpc_pb2 import Status as StatusMessage
from sampan.engine.builder.clients.headers import plain_encoder
from sampan.engine.builder.failures import BuildFailure, cause_of
from sampan.errors import InvalidArgument, NotFound, NotImplemented_, SampanError

log = logging.getLogger("sampan.builder")

WINDOW_BYTES = 4 * 1024 * 1024
MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message of a client, as in BuildKit."""


class _DetailsCodec(StatusDetailsCodecBase):  # type: ignore[misc]
    def encode(self, status: Status, message: str | None, details: Sequence[Detail] | None) -> bytes:
        return status_message(status.value, message or "", details or ()).SerializeToString()

    def decode(self, status: Status, message: str | None, data: bytes) -> Any:
        return StatusMessage.FromString(data)


def status_message(code: int, message: str, details: Iterable[Detail]) -> StatusMessage:
    """Return a status as a message, for trailers and records."""
    made = StatusMessage(code=code, message=message)
    for detail in details:
        made.details.add(type_url=detail.type_url, value=detail.value)
    return made


def code_of(error: BaseException) -> int:
    """Return the gRPC status code of an error. A step's has none of its own, nor has
    a question's: clients would show it before the words.
    """
    if isinstance(error, BuildFailure) and error.vertex is not None:
        return int(Status.UNKNOWN.value)
    error = cause_of(error)
    if isinstance(error, NotFound):
        return int(Status.NOT_FOUND.value)
    if isinstance(error, NotImplemented_) and not isinstance(error, UnknownQuestion):
        return int(Status.UNIMPLEMENTED.value)
    if isinstance(error, asyncio.CancelledError):
        return int(Status.CANCELLED.value)
    return int(Status.UNKNOWN.value)


class _Guarded:
    """A service whose handlers answer the engine's errors as statuses."""

    def __init__(self, service: Any) -> None:
        self._service = service

    def __mapping__(self) -> dict[str, Handler]:
        return {
            path: handler._replace(func=_translated(handler.func))
            for path, handler in self._service.__mapping__().items()
        }


def _translated(func: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    async def call(stream: Any) -> None:
        stream._stream = _LimitedStream(stream._stream)
        try:
            await func(stream)
        except SampanError as e:
            raise GRPCError(Status(code_of(e)), e.message, details_of(e) or None) from e
        except (GRPCError, StreamTerminatedError, ProtocolError):
            raise
        except Exception as e:
            log.exception("a call of the builder failed")
            raise GRPCError(Status.UNKNOWN, f"internal error: {e!r}") from e

    return call


class _LimitedStream:
    """A stream of grpclib whose messages have a longest length; grpclib itself gathers whatever is announced."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def recv_data(self, size: int) -> bytes:
        if size > MESSAGE_BYTES:
            words = f"grpc: received message larger than max ({size} vs. {MESSAGE_BYTES})"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, words)
        data: bytes = await self._inner.recv_data(size)
        return data


async def received(stream: Any) -> Any:
    """Return the one message of a unary call. Raises: InvalidArgument for a call that ends without one."""
    found = await stream.recv_message()
    if found is None:
        raise InvalidArgument("a call without a message")
    return found


class GrpcServer:
    """gRPC services, for any number of connections."""

    def __init__(self, services: Iterable[Any]) -> None:
        config = Configuration(http2_connection_window_size=WINDOW_BYTES, http2_stream_window_size=WINDOW_BYTES)
        self._server = Server(
            [_Guarded(service) for service in services],
            codec=ProtoCodec(),
            status_details_codec=_DetailsCodec(),
            config=config,
        )

    def protocol(self) -> asyncio.Protocol:
        """Return a protocol for one established transport, as grpclib makes them for its own listeners."""
        made = self._server._protocol_factory()
        connect = made.connection_made

        def connected(transport: asyncio.BaseTransport) -> None:
            connect(transport)
            made.connection._connection.encoder = plain_encoder()  # nothing has been encoded yet

        made.connection_made = connected
        protocol: asyncio.Protocol = made
        return protocol
