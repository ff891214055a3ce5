"""The clients that are connected: each a `Session` on an HTTP/2 connection of which we are the client side.

A session appears when a client upgrades `POST /session` (or opens Control.Session) and is gone with its connection.
Builds name it by id and may come a moment earlier than it.

Source: the services that buildx 0.29 offers on its session: filesync, auth, secrets, sshforward, upload.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from sampan.engine.background import Background
from sampan.engine.builder.clients import filesync, rpc, sending
from sampan.engine.builder.clients.arrivals import Arrivals
from sampan.engine.builder.clients.http2 import Http2Connection, Stream, message
from sampan.engine.builder.clients.packs import Packs
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.trees import Tree
from sampan.errors import Internal, InvalidArgument, NotFound, Unavailable, words
from sampan.spec.buildkit import session_pb2 as pb

APPEAR_S = 5.0
"""How long a build waits for its session."""
SECRET_BYTES = 500 * 1024
SESSIONS = 1000
"""So many clients are connected at once."""
SECRET, CREDENTIALS = "/moby.buildkit.secrets.v1.Secrets/GetSecret", "/moby.filesync.v1.Auth/Credentials"
CHECK_AGENT, FORWARD_AGENT = "/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"
UPLOAD = "/moby.upload.v1.Upload/Pull"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What a client says of itself.

    shared_key: names its directories over several builds, "" for none. methods: paths of the gRPC calls that it serves.
    """

    id: str
    name: str = ""
    shared_key: str = ""
    methods: frozenset[str] = frozenset()


class GrpcSession:
    """One connected client: implements `engine.builder.session.Session`."""

    def __init__(self, offer: SessionInfo, packs: Packs, lost: Callable[[], None]) -> None:
        self.id = offer.id
        self.offer = offer
        self.connection = Http2Connection(lost)
        self._packs = packs
        self._background = Background()

    async def local(self, wanted: LocalRequest) -> Tree:
        """Transfer a directory. Raises: NotFound, Internal, Unavailable."""
        if filesync.METHOD not in self.offer.methods:
            raise NotFound("no local sources enabled")
        key: object = (self.offer.shared_key, wanted.name, wanted.include, wanted.exclude, wanted.follow)
        if not self.offer.shared_key:
            key = object()
        kept = self._packs.get(key)
        async with kept.lock:
            pack = self._packs.begin(kept)
            try:
                snapshot = await filesync.receive(self.connection, pack, {} if wanted.fresh else kept.known, wanted)
            except OSError as e:
                self._packs.forget()
                kept.forget()
                raise Internal(f"failed to receive {wanted.name}: {words(e)}") from e
            tree = snapshot.tree()
            self._packs.keep(kept, snapshot)
            if not self.offer.shared_key:
                kept.forget()
            return tree

    async def secret(self, id: str) -> bytes:
        try:
            answer = await self._call(SECRET, pb.GetSecretRequest(ID=id), pb.GetSecretResponse)
        except NotFound as e:
            raise NotFound(f"secret {id}: not found") from e
        if len(answer.data) > SECRET_BYTES:
            raise InvalidArgument(f"secret {id} too big. max size 500KiB")
        return answer.data

    async def ssh_agent(self, id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            await self._call(CHECK_AGENT, pb.CheckAgentRequest(ID=id), pb.BytesMessage)
        except (NotFound, Internal) as e:
            raise NotFound(f"unset ssh forward key {id}") from e
        stream = self._open(FORWARD_AGENT, [("buildkit.ssh.id", id)])
        ours, theirs = socket.socketpair()
        try:
            inner = await asyncio.open_connection(sock=ours)
            outer = await asyncio.open_connection(sock=theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        what = "the connection of a build step to its client's agent"
        if self._background.spawn(_pump(stream, *inner), what) is None:
            inner[1].close()
            outer[1].close()
            raise Unavailable("the client has gone")
        return outer

    async def credentials(self, host: str) -> tuple[str, str]:
        try:
            answer = await self._call(CREDENTIALS, pb.CredentialsRequest(Host=host), pb.CredentialsResponse)
        except NotFound:
            return "", ""
        return answer.Username, answer.Secret

    async def put_tree(self, tree: Tree, *, exporter: int = 0) -> None:
        await sending.send_tree(self._open(sending.METHOD, sending.fields({}, exporter)), tree)

    async def put_file(self, chunks: AsyncIterator[bytes], metadata: Mapping[str, str], *, exporter: int = 0) -> None:
        await sending.send_file(self._open(sending.METHOD, sending.fields(metadata, exporter)), chunks)

    async def upload(self, path: str) -> AsyncIterator[bytes]:
        """Yield what the client has at `http://buildkit-session/PATH`: a Dockerfile or an archive on standard input."""
        stream = self._open(UPLOAD, [("urlpath", path), ("urlhost", "buildkit-session")])
        try:
            while batch := await stream.batch():
                for raw in batch:
                    yield pb.BytesMessage.FromString(raw).data
            rpc.check(stream)
        except ConnectionError as e:
            raise Unavailable(f"the client has gone: {e}") from e
        finally:
            stream.cancel()

    def close(self) -> None:
        self._background.cancel()
        self.connection.close()

    async def _call(self, path: str, request: rpc.ProtobufMessage, answer: type[rpc.T]) -> rpc.T:
        if path not in self.offer.methods:
            raise NotFound(f"the client does not offer {path}")
        return await rpc.unary(self.connection, path, request, answer)

    def _open(self, path: str, fields: Sequence[tuple[str, str]]) -> Stream:
        if path not in self.offer.methods:
            raise NotFound(f"method {path} not supported by the client")
        try:
            return self.connection.request(path, fields)
        except ConnectionError as e:
            raise Unavailable(f"the client has gone: {e}") from e


async def _pump(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes between a local socket and a stream of BytesMessages until either side ends."""

    async def up() -> None:
        while data := await reader.read(32768):
            stream.write(message(pb.BytesMessage(data=data).SerializeToString()))
            await stream.drain(65536)
        stream.end()

    async def down() -> None:
        while batch := await stream.batch():
            writer.write(b"".join(pb.BytesMessage.FromString(raw).data for raw in batch))
            await writer.drain()

    try:
        async with asyncio.TaskGroup() as group:
            sending_up = group.create_task(up())
            await down()
            sending_up.cancel()
    except* ConnectionError:
        pass  # either side has gone
    finally:
        stream.cancel()
        writer.close()


class Sessions:
    """The connected clients by id."""

    def __init__(self, scratch: str) -> None:
        self.packs = Packs(os.path.join(scratch, "sync"))
        self._sessions: dict[str, GrpcSession] = {}
        self._arrivals = Arrivals()

    def add(self, offer: SessionInfo, lost: Callable[[], None] | None = None) -> GrpcSession:
        """Register a client; its `connection` is the protocol of its transport.

        Another one of that id ends the first. Raises: Unavailable when there are too many.
        """
        if len(self._sessions) >= SESSIONS and offer.id not in self._sessions:
            raise Unavailable(f"there are {SESSIONS} clients of the builder already")
        before = self._sessions.pop(offer.id, None)
        if before is not None:
            before.close()

        def gone() -> None:
            if self._sessions.get(offer.id) is session:
                del self._sessions[offer.id]
            session.close()
            if lost is not None:
                lost()

        session = GrpcSession(offer, self.packs, gone)
        self._sessions[offer.id] = session
        self._arrivals.announce(offer.id)
        return session

    async def get(self, id: str, timeout_s: float = APPEAR_S) -> GrpcSession:
        """Return a client, waiting for it to appear. Raises: NotFound."""
        if id not in self._sessions:
            await self._arrivals.wait(id, timeout_s)
        found = self._sessions.get(id)
        if found is None:
            raise NotFound(f"no active session for {id}: context deadline exceeded")
        return found

    def close(self) -> None:
        for session in list(self._sessions.values()):
            session.close()
        self._sessions.clear()
        self.packs.close()
