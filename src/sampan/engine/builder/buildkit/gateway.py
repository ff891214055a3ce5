"""The gateway: how a client steers the build that it has begun. Which one stands in the call's metadata.

Source: moby.buildkit.v1.frontend.LLBBridge as buildx 0.29 calls it.
"""

from __future__ import annotations

from typing import Any

from grpclib.server import Stream

from sampan.engine.builder.buildkit import worker
from sampan.engine.builder.buildkit.builds import Build
from sampan.engine.builder.buildkit.details import ClientFailure
from sampan.engine.builder.buildkit.door import Door
from sampan.engine.builder.buildkit.protos import gateway_pb2 as pb
from sampan.engine.builder.buildkit.protos.gateway_grpc import LLBBridgeBase
from sampan.engine.builder.buildkit.server import received
from sampan.errors import InvalidArgument, NotImplemented_

BUILD_ID = "buildkit-controlapi-buildid"


class GatewayService(LLBBridgeBase):  # type: ignore[misc]
    """Read a message, ask the door about the build that it names, write the answer."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def Ping(self, stream: Stream[pb.PingRequest, pb.PongResponse]) -> None:
        await received(stream)
        await self._build(stream)
        pong = worker.abilities()
        pong.Workers.append(self._door.worker())
        await stream.send_message(pong)

    async def Solve(self, stream: Stream[pb.SolveRequest, pb.SolveResponse]) -> None:
        request = await received(stream)
        result = await self._door.gateway_solve(await self._build(stream), request)
        await stream.send_message(pb.SolveResponse(result=result))

    async def Return(self, stream: Stream[pb.ReturnRequest, pb.ReturnResponse]) -> None:
        request = await received(stream)
        build = await self._build(stream)
        if request.HasField("error") and request.error.code:
            build.fail(ClientFailure(request.error))
        else:
            build.give(self._door.returned(request.result))
        await stream.send_message(pb.ReturnResponse())

    async def ResolveImageConfig(
        self, stream: Stream[pb.ResolveImageConfigRequest, pb.ResolveImageConfigResponse]
    ) -> None:
        request = await received(stream)
        build = await self._build(stream)
        ref, digest, config = await self._door.resolve(
            build, request.Ref, request.Platform, pull=request.ResolveMode == "pull"
        )
        await stream.send_message(pb.ResolveImageConfigResponse(Ref=ref, Digest=digest, Config=config))

    async def ResolveSourceMeta(
        self, stream: Stream[pb.ResolveSourceMetaRequest, pb.ResolveSourceMetaResponse]
    ) -> None:
        request = await received(stream)
        build = await self._build(stream)
        scheme, _, name = request.Source.identifier.partition("://")
        response = pb.ResolveSourceMetaResponse(Source=request.Source)
        if scheme == "docker-image":
            _, digest, config = await self._door.resolve(
                build, name, request.Platform, pull=request.ResolveMode == "pull"
            )
            response.Image.Digest, response.Image.Config = digest, config
        await stream.send_message(response)

    async def ReadFile(self, stream: Stream[pb.ReadFileRequest, pb.ReadFileResponse]) -> None:
        request = await received(stream)
        data = await self._door.read_file(await self._build(stream), request.Ref, request.FilePath)
        if request.HasField("Range"):
            data = data[request.Range.Offset :][: request.Range.Length or None]
        await stream.send_message(pb.ReadFileResponse(Data=data))

    async def ReadDir(self, stream: Stream[pb.ReadDirRequest, pb.ReadDirResponse]) -> None:
        request = await received(stream)
        entries = await self._door.read_directory(
            await self._build(stream), request.Ref, request.DirPath, request.IncludePattern
        )
        await stream.send_message(pb.ReadDirResponse(entries=entries))

    async def StatFile(self, stream: Stream[pb.StatFileRequest, pb.StatFileResponse]) -> None:
        request = await received(stream)
        stat = await self._door.stat_file(await self._build(stream), request.Ref, request.Path)
        await stream.send_message(pb.StatFileResponse(stat=stat))

    async def Evaluate(self, stream: Stream[pb.EvaluateRequest, pb.EvaluateResponse]) -> None:
        request = await received(stream)
        await self._door.evaluate(await self._build(stream), request.Ref)
        await stream.send_message(pb.EvaluateResponse())

    async def Inputs(self, stream: Stream[pb.InputsRequest, pb.InputsResponse]) -> None:
        await received(stream)
        await self._build(stream)
        await stream.send_message(pb.InputsResponse())

    async def Warn(self, stream: Stream[pb.WarnRequest, pb.WarnResponse]) -> None:
        await received(stream)
        raise NotImplemented_("warnings from a client")

    async def _build(self, stream: Stream[Any, Any]) -> Build:
        """The build that a call is about. Raises: InvalidArgument, NotFound."""
        fields: Any = stream.metadata or {}
        ref = fields.get(BUILD_ID, "")
        if not ref:
            raise InvalidArgument("no buildid found in context")
        return await self._door.builds.get(ref)
