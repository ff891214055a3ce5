"""BuildKit's door without buildx: a build whose session lies inside the same connection (Control.Session).

The client here is grpclib for the calls and h2 for the session, so it shares no code with ours but the messages.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from grpclib.client import Channel, Stream

from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.buildkit.protos.control_grpc import ControlStub
from sampan.spec.buildkit import session_pb2
from sampan.spec.buildkit.filesync_pb2 import Packet, Stat
from tests.support.engine import Engine

pytestmark = [pytest.mark.root]

SYNC, SECRET = "/moby.filesync.v1.FileSync/DiffCopy", "/moby.buildkit.secrets.v1.Secrets/GetSecret"
HEAD = b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"


async def connect(path: str) -> Channel:
    """A channel over an upgraded connection."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    sock.sendall(HEAD)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ") and b"Upgrade: h2c" in answer
    sock.setblocking(False)
    channel = Channel("x")
    _, protocol = await asyncio.get_running_loop().create_connection(channel._protocol_factory, sock=sock)
    channel._protocol = protocol
    return channel


class Client:
    """Serves a Dockerfile and a secret through a stream of bytes."""

    def __init__(self, tunnel: Stream[Any, Any], dockerfile: bytes, secret: bytes) -> None:
        self.tunnel, self.dockerfile, self.secret = tunnel, dockerfile, secret
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.paths: dict[int, str] = {}

    async def serve(self) -> None:
        await self.flush()
        async for part in self.tunnel:
            for event in self.h2.receive_data(part.data):
                if isinstance(event, h2.events.RequestReceived):
                    self.begin(event.stream_id, {str(key): str(value) for key, value in event.headers})
                elif isinstance(event, h2.events.DataReceived) and event.data:
                    self.take(event.stream_id, event.data[5:])
            await self.flush()

    def begin(self, id: int, fields: dict[str, str]) -> None:
        self.paths[id] = fields[":path"]
        self.h2.send_headers(id, [(":status", "200"), ("content-type", "application/grpc")])
        if self.paths[id] == SYNC:
            if fields["dir-name"] == "dockerfile":
                self.say(id, Packet(stat=Stat(path="Dockerfile", mode=0o644, size=len(self.dockerfile), modTime=1)))
            self.say(id, Packet())

    def take(self, id: int, data: bytes) -> None:
        if self.paths[id] == SECRET:
            self.say(id, session_pb2.GetSecretResponse(data=self.secret))
            self.end(id)
            return
        kind = Packet.FromString(data).type
        if kind == Packet.PACKET_REQ:
            self.say(id, Packet(type=Packet.PACKET_DATA, data=self.dockerfile))
            self.say(id, Packet(type=Packet.PACKET_DATA))
        elif kind == Packet.PACKET_FIN:
            self.say(id, Packet(type=Packet.PACKET_FIN))
            self.end(id)

    def say(self, id: int, message: Any) -> None:
        raw = message.SerializeToString()
        self.h2.send_data(id, b"\0" + len(raw).to_bytes(4, "big") + raw)

    def end(self, id: int) -> None:
        self.h2.send_headers(id, [("grpc-status", "0")], end_stream=True)

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.tunnel.send_message(pb.BytesMessage(data=data))


def test_a_build_with_its_session_inside_the_connection(shared_engine: Engine) -> None:
    ref = os.urandom(12).hex()
    dockerfile = b"FROM busybox\nRUN --mount=type=secret,id=t rev /run/secrets/t\n"
    fields = [("x-docker-expose-session-uuid", f"session-{ref}")]
    fields += [("x-docker-expose-session-grpc-method", method) for method in (SYNC, SECRET)]

    async def build() -> tuple[dict[str, str], bytes]:
        channel = await connect(str(shared_engine.socket))
        control = ControlStub(channel)
        async with control.Session.open(metadata=fields) as tunnel:
            await tunnel.send_request()
            serving = asyncio.create_task(Client(tunnel, dockerfile, b"drawer").serve())
            request = pb.SolveRequest(
                Ref=ref,
                Session=f"session-{ref}",
                Frontend="dockerfile.v0",
                FrontendAttrs={"filename": "Dockerfile", "no-cache": ""},
                Exporters=[pb.Exporter(Type="moby", Attrs={"name": "door/tunnelled"})],
            )
            answer = await control.Solve(request)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await tunnel.cancel()
        said = b""
        async with control.Status.open() as stream:  # after the end: the whole of it is still there
            await stream.send_message(pb.StatusRequest(Ref=ref), end=True)
            async for response in stream:
                said += b"".join(log.msg for log in response.logs)
        channel.close()
        return dict(answer.ExporterResponse), said

    answer, said = asyncio.run(build())
    assert said == b"reward"
    assert answer["image.name"] == "docker.io/door/tunnelled"
    found = shared_engine.call("GET", "/images/door/tunnelled/json")
    assert found["Id"] == answer["containerimage.digest"]
    shared_engine.call("DELETE", "/images/door/tunnelled")


def test_an_upgrade_that_is_none_is_refused(shared_engine: Engine) -> None:
    for path, status in (("/grpc", 500), ("/session", 400)):
        plain = shared_engine.request("POST", path)
        assert (plain.status, plain.message) == (status, "no upgrade proto in request")
        other = shared_engine.request("POST", path, headers={"Connection": "Upgrade", "Upgrade": "tcp"})
        assert (other.status, other.message) == (status, "protocol tcp not supported")
