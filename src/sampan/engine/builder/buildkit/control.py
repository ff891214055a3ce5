"""The Control service: builds from the outside. What it does is in door.py; here are the calls and their messages.

Source: moby.buildkit.v1.Control as buildx 0.29 calls it and Docker Engine 28.5.2 answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from grpclib.server import Stream

from sampan.engine.background import first_failure
from sampan.engine.builder.buildkit import worker
from sampan.engine.builder.buildkit.door import Door
from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.buildkit.protos.control_grpc import ControlBase
from sampan.engine.builder.buildkit.protos.worker_pb2 import BuildkitVersion
from sampan.engine.builder.buildkit.server import received
from sampan.engine.builder.clients.sessions import SessionInfo
from sampan.errors import InvalidArgument
from sampan.spec import times

TUNNEL_BYTES = 1024 * 1024
"""With more than this on its way to a client inside its own connection, nothing more is written."""


class ControlService(ControlBase):  # type: ignore[misc]
    """Read a message, ask the door, write the answer."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def ListWorkers(self, stream: Stream[pb.ListWorkersRequest, pb.ListWorkersResponse]) -> None:
        await received(stream)
        await stream.send_message(pb.ListWorkersResponse(record=[self._door.worker()]))

    async def Info(self, stream: Stream[pb.InfoRequest, pb.InfoResponse]) -> None:
        await received(stream)
        version = BuildkitVersion(package=worker.PACKAGE, version=worker.VERSION)
        await stream.send_message(pb.InfoResponse(buildkitVersion=version))

    async def DiskUsage(self, stream: Stream[pb.DiskUsageRequest, pb.DiskUsageResponse]) -> None:
        request = await received(stream)
        records = await self._door.disk_usage(filters(request.filter))
        await stream.send_message(pb.DiskUsageResponse(record=records))

    async def Prune(self, stream: Stream[pb.PruneRequest, pb.UsageRecord]) -> None:
        request = await received(stream)
        records = await self._door.prune(request, filters(request.filter))
        await stream.send_initial_metadata()
        for record in records:
            await stream.send_message(record)

    async def Solve(self, stream: Stream[pb.SolveRequest, pb.SolveResponse]) -> None:
        request = await received(stream)
        await stream.send_message(pb.SolveResponse(ExporterResponse=await self._door.solve(request)))

    async def Status(self, stream: Stream[pb.StatusRequest, pb.StatusResponse]) -> None:
        request = await received(stream)
        await stream.send_initial_metadata(metadata=now())
        async for response in self._door.status(request.Ref):
            await stream.send_message(pb.StatusResponse.FromString(response))

    async def ListenBuildHistory(self, stream: Stream[pb.BuildHistoryRequest, pb.BuildHistoryEvent]) -> None:
        request = await received(stream)
        await stream.send_initial_metadata(metadata=now())
        async for event in self._door.history_events(request):
            await stream.send_message(event)

    async def UpdateBuildHistory(
        self, stream: Stream[pb.UpdateBuildHistoryRequest, pb.UpdateBuildHistoryResponse]
    ) -> None:
        request = await received(stream)
        if request.Delete:
            self._door.history.delete(request.Ref)
        elif not request.Finalize:
            self._door.history.pin(request.Ref, request.Pinned)
        await stream.send_message(pb.UpdateBuildHistoryResponse())

    async def Session(self, stream: Stream[pb.BytesMessage, pb.BytesMessage]) -> None:
        """Serve a session inside this connection, for clients that do not upgrade a second one."""
        fields: Any = stream.metadata or {}
        offer = SessionInfo(
            id=fields.get("x-docker-expose-session-uuid", ""),
            name=fields.get("x-docker-expose-session-name", ""),
            shared_key=fields.get("x-docker-expose-session-sharedkey", ""),
            methods=frozenset(fields.getall("x-docker-expose-session-grpc-method", [])),
        )
        if not offer.id:
            raise InvalidArgument("a session without an id")
        await stream.send_initial_metadata()
        session = self._door.sessions.add(offer)
        tunnel = _Tunnel(stream, session.connection)
        session.connection.connection_made(tunnel)
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(tunnel.run())
                async for part in stream:
                    session.connection.data_received(part.data)
                writing.cancel()
        except BaseExceptionGroup as e:
            if not isinstance(failure := first_failure(e), OSError):
                raise failure from e
        finally:
            session.connection.connection_lost(None)


class _Tunnel(asyncio.WriteTransport):
    """A transport whose bytes are messages of another stream. With TUNNEL_BYTES in it its protocol pauses."""

    def __init__(self, stream: Stream[pb.BytesMessage, pb.BytesMessage], protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._stream = stream
        self._protocol = protocol
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._bytes <= TUNNEL_BYTES < self._bytes + len(data):
            self._protocol.pause_writing()
        self._bytes += len(data)
        self._queue.put_nowait(bytes(data))

    def close(self) -> None:
        self._queue.put_nowait(b"")

    def abort(self) -> None:
        self.close()

    async def run(self) -> None:
        while data := await self._queue.get():
            await self._stream.send_message(pb.BytesMessage(data=data))
            if self._bytes > TUNNEL_BYTES >= self._bytes - len(data):
                self._protocol.resume_writing()
            self._bytes -= len(data)


def filters(texts: Iterable[str]) -> list[str]:
    """Return containerd's filters without the empty ones that clients send."""
    return [text for text in texts if text]


def now() -> dict[str, str]:
    """Return what clients measure their clock's difference with."""
    return {"buildkit-current-timestamp": times.now()}
