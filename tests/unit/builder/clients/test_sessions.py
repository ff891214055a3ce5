"""A client's session as the engine uses it: secrets, credentials, agents, files on their way back, arrival and end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import h2.events
import pytest

from sampan.engine.builder.clients import rpc, sessions
from sampan.engine.builder.clients.http2 import message
from sampan.engine.builder.clients.sessions import GrpcSession, SessionInfo, Sessions
from sampan.engine.builder.session import LocalRequest
from sampan.errors import Internal, InvalidArgument, NotFound, Unavailable
from sampan.spec.buildkit import session_pb2 as pb
from tests.unit.builder.clients.test_http2 import Peer

METHODS = frozenset(
    {
        sessions.SECRET,
        sessions.CREDENTIALS,
        sessions.CHECK_AGENT,
        sessions.FORWARD_AGENT,
        "/moby.filesync.v1.FileSend/DiffCopy",
    }
)


class ClientSide(Peer):
    """A client that answers by path: a function of the request's bytes to answer bytes, or (status, message)."""

    def __init__(self, session: GrpcSession, answers: dict[str, Callable[[bytes], bytes | tuple[int, str]]]) -> None:
        self.answers = answers
        self.headers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.spoken = asyncio.Event()
        self._fresh = session.connection
        super().__init__()
        self.ours = session.connection
        self.ours.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not hasattr(self, "ours") or self.ours is not self._fresh:
            return  # the connection that Peer makes for itself
        for event in self.h2.receive_data(bytes(data)):
            if isinstance(event, h2.events.RequestReceived):
                self.headers[event.stream_id] = {str(name): str(value) for name, value in event.headers}
                self.bodies[event.stream_id] = b""
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += event.data
                self.spoken.set()
            elif isinstance(event, h2.events.StreamEnded):
                self.reply(event.stream_id)
        asyncio.get_running_loop().call_soon(self.answer)

    def reply(self, id: int) -> None:
        found = self.answers[self.headers[id][":path"]](self.bodies[id][5:])
        self.accept(id)
        status, text = (0, "") if isinstance(found, bytes) else found
        if isinstance(found, bytes):
            self.h2.send_data(id, message(found))
        self.h2.send_headers(id, [("grpc-status", str(status)), ("grpc-message", text)], end_stream=True)


def run(test: Callable[[GrpcSession, Sessions], Awaitable[None]], directory: Path) -> None:
    async def body() -> None:
        all_ = Sessions(str(directory))
        await test(all_.add(SessionInfo(id="s", shared_key="k", methods=METHODS)), all_)
        all_.close()

    asyncio.run(body())


def test_a_secret_and_its_absence(tmp_path: Path) -> None:
    async def test(session: GrpcSession, _: Sessions) -> None:
        def answer(raw: bytes) -> bytes | tuple[int, str]:
            known = pb.GetSecretRequest.FromString(raw).ID == "tok"
            return pb.GetSecretResponse(data=b"hush").SerializeToString() if known else (5, "secret%20not%20found")

        ClientSide(session, {sessions.SECRET: answer})
        assert await session.secret("tok") == b"hush"
        with pytest.raises(NotFound, match="secret other: not found"):
            await session.secret("other")

    run(test, tmp_path)


def test_a_secret_has_buildkits_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sessions.SECRET_BYTES == 500 * 1024
    monkeypatch.setattr(sessions, "SECRET_BYTES", 1000)

    async def test(session: GrpcSession, _: Sessions) -> None:
        sizes = iter((sessions.SECRET_BYTES, sessions.SECRET_BYTES + 1))
        value = lambda raw: pb.GetSecretResponse(data=b"x" * next(sizes)).SerializeToString()  # noqa: E731
        ClientSide(session, {sessions.SECRET: value})
        assert len(await session.secret("tok")) == sessions.SECRET_BYTES
        with pytest.raises(InvalidArgument, match=r"secret tok too big\. max size 500KiB"):
            await session.secret("tok")

    run(test, tmp_path)


def test_only_so_many_clients_are_connected(tmp_path: Path) -> None:
    async def test(_: GrpcSession, all_: Sessions) -> None:
        for number in range(sessions.SESSIONS - 1):
            all_.add(SessionInfo(id=f"s{number}"))
        with pytest.raises(Unavailable):
            all_.add(SessionInfo(id="one more"))
        all_.add(SessionInfo(id="s1"))

    run(test, tmp_path)


def test_credentials_are_asked_for(tmp_path: Path) -> None:
    async def test(session: GrpcSession, _: Sessions) -> None:
        known = pb.CredentialsResponse(Username="u", Secret="p").SerializeToString()
        ClientSide(session, {sessions.CREDENTIALS: lambda raw: known})
        assert await session.credentials("registry.example") == ("u", "p")

    run(test, tmp_path)


def test_what_is_not_offered_is_not_found(tmp_path: Path) -> None:
    async def test(_: GrpcSession, all_: Sessions) -> None:
        bare = all_.add(SessionInfo(id="bare"))
        ClientSide(bare, {})
        assert await bare.credentials("registry.example") == ("", "")
        with pytest.raises(NotFound, match="secret x: not found"):
            await bare.secret("x")
        with pytest.raises(NotFound, match="no local sources enabled"):
            await bare.local(LocalRequest(name="context"))

    run(test, tmp_path)


def test_an_agents_bytes_go_both_ways(tmp_path: Path) -> None:
    async def test(session: GrpcSession, _: Sessions) -> None:
        client = ClientSide(session, {sessions.CHECK_AGENT: lambda raw: b""})
        reader, writer = await session.ssh_agent("default")
        [id] = [id for id, fields in client.headers.items() if fields[":path"] == sessions.FORWARD_AGENT]
        client.spoken.clear()
        client.accept(id)
        writer.write(b"question")
        await writer.drain()
        await client.spoken.wait()
        assert pb.BytesMessage.FromString(client.bodies[id][5:]).data == b"question"
        client.h2.send_data(id, message(pb.BytesMessage(data=b"answer").SerializeToString()))
        client.answer()
        assert await reader.readexactly(6) == b"answer"
        client.h2.send_headers(id, [("grpc-status", "0")], end_stream=True)
        client.answer()
        assert await reader.read() == b"", "the agent's end is the connection's"
        writer.close()
        await writer.wait_closed()

    run(test, tmp_path)


def test_a_file_goes_to_the_output_it_is_for(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    async def test(session: GrpcSession, _: Sessions) -> None:
        path = "/moby.filesync.v1.FileSend/DiffCopy"
        client = ClientSide(session, {path: lambda raw: b""})
        await session.put_file(chunks(), {"containerimage.digest": "sha256:1"}, exporter=2)
        [fields] = [fields for fields in client.headers.values() if fields[":path"] == path]
        assert fields["buildkit-attachable-exporter-id"] == "2"
        assert fields["exporter-md-containerimage.digest"] == "sha256:1"

    run(test, tmp_path)


def test_a_client_that_refuses_a_file_is_an_error(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"

    async def test(session: GrpcSession, _: Sessions) -> None:
        ClientSide(session, {"/moby.filesync.v1.FileSend/DiffCopy": lambda raw: (2, "no space left on device")})
        with pytest.raises(Internal, match="no space left on device"):
            await session.put_file(chunks(), {})

    run(test, tmp_path)


def test_a_build_may_come_before_its_session(tmp_path: Path) -> None:
    async def test(_: GrpcSession, all_: Sessions) -> None:
        waiting = [asyncio.ensure_future(all_.get("late", 5)) for _ in range(2)]
        await asyncio.sleep(0)
        late = all_.add(SessionInfo(id="late"))
        assert [await one for one in waiting] == [late, late]
        with pytest.raises(NotFound, match="no active session for never: context deadline exceeded"):
            await all_.get("never", 0.01)

    run(test, tmp_path)


def test_a_session_ends_with_its_connection(tmp_path: Path) -> None:
    async def test(session: GrpcSession, all_: Sessions) -> None:
        ClientSide(session, {})
        session.connection.connection_lost(None)
        with pytest.raises(Unavailable, match="the client has gone"):
            await session.secret("tok")
        with pytest.raises(NotFound):
            await all_.get("s", 0.01)

    run(test, tmp_path)


def test_patterns_that_are_not_ascii_are_escaped_and_marked() -> None:
    assert rpc.metadata(dir_name=("context",), followpaths=("a", "b c")) == [
        ("dir-name", "context"), ("followpaths", "a"), ("followpaths", "b c"),
    ]  # fmt: skip
    fields: Any = rpc.metadata(exclude_patterns=("ü b", "plain"))
    assert [unquote_plus(value) for key, value in fields if key == "exclude-patterns"] == ["ü b", "plain"]
    assert ("exclude-patterns-encoded", "1") in fields
