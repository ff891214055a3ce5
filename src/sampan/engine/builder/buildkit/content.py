"""Blobs of finished builds, for clients that ask by digest: status streams and provenance.

Besides the sink for traces that clients send; nothing is kept of them.
Source: containerd.services.content.v1; OpenTelemetry's collector service, as buildx 0.29 calls both.
"""

from __future__ import annotations

from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.server import Stream

from sampan.engine.builder.buildkit.history import History
from sampan.engine.builder.buildkit.protos import content_pb2 as pb
from sampan.engine.builder.buildkit.protos.content_grpc import ContentBase
from sampan.engine.builder.buildkit.server import received
from sampan.spec.buildkit.session_pb2 import BytesMessage

CHUNK = 1024 * 1024


class ContentService(ContentBase):  # type: ignore[misc]
    """Reads blobs of the history by digest."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def Info(self, stream: Stream[pb.InfoRequest, pb.InfoResponse]) -> None:
        request = await received(stream)
        size = len(self._history.blob(request.digest))
        await stream.send_message(pb.InfoResponse(info=pb.Info(digest=request.digest, size=size)))

    async def Read(self, stream: Stream[pb.ReadContentRequest, pb.ReadContentResponse]) -> None:
        request = await received(stream)
        data = self._history.blob(request.digest)
        end = request.offset + request.size if request.size else len(data)
        await stream.send_initial_metadata()
        for at in range(request.offset, end, CHUNK):
            part = data[at : min(at + CHUNK, end)]
            await stream.send_message(pb.ReadContentResponse(offset=at, data=part))


class TraceService:
    """Takes spans and forgets them."""

    async def export(self, stream: Stream[Any, Any]) -> None:
        await received(stream)
        await stream.send_message(BytesMessage())

    def __mapping__(self) -> dict[str, Handler]:
        path = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
        return {path: Handler(self.export, Cardinality.UNARY_UNARY, BytesMessage, BytesMessage)}
