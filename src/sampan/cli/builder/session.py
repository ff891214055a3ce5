"""What `sampan build` offers while its build runs: secrets, keys, directories, credentials, and a place for results.

    we      POST /session, Upgrade: h2c, and the paths of the methods that we serve
    engine  101, and from then on it is the gRPC client of that connection

The server runs in a thread of its own, on grpclib; both are imported only when there is something to offer.
What a file transfer says is in transfer.py.

Source: the session services of BuildKit as buildx 0.29 offers them: secrets, sshforward, auth, filesync, filesend.
"""

from __future__ import annotations

import _socket
import asyncio
import os
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, Self

from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Server

from sampan.cli.builder import transfer
from sampan.cli.session import CommandError
from sampan.client.joining import SocketEnd, join
from sampan.errors import words
from sampan.spec.buildkit import session_pb2 as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sampan.cli.builder.wants import OutputFlag
    from sampan.client.engine import EngineClient
    from sampan.client.http import Socket

SECRET, CREDENTIALS = "/moby.buildkit.secrets.v1.Secrets/GetSecret", "/moby.filesync.v1.Auth/Credentials"
CHECK_AGENT, FORWARD_AGENT = "/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"
FILE_SYNC, FILE_SEND = "/moby.filesync.v1.FileSync/DiffCopy", "/moby.filesync.v1.FileSend/DiffCopy"
WINDOW_BYTES = 4 * 1024 * 1024
READ_BYTES = 32 * 1024


class ClientSession:
    """A context manager; the build that is to use it names it by `id`.

    secrets: value by id, read when asked for. ssh: an agent's socket by id. contexts: directory by name. outputs: by
    number. auth: (user, secret) of a registry host, ("", "") for none; called in the session's thread.
    """

    def __init__(
        self,
        engine: EngineClient,
        *,
        name: str,
        secrets: Mapping[str, Callable[[], bytes]],
        ssh: Mapping[str, str],
        contexts: Mapping[str, str],
        outputs: Mapping[int, OutputFlag],
        auth: Callable[[str], tuple[str, str]],
    ) -> None:
        self.id = os.urandom(16).hex()
        self._engine, self._name = engine, name
        self._offer = Offer(secrets, ssh, contexts, outputs, auth)
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._socket: socket.socket | None = None
        self._rest = b""

    def __enter__(self) -> Self:
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "h2c"),
            ("X-Docker-Expose-Session-Uuid", self.id),
            ("X-Docker-Expose-Session-Name", self._name),
            ("X-Docker-Expose-Session-Sharedkey", ""),
            *(("X-Docker-Expose-Session-Grpc-Method", path) for path in self._offer.__mapping__()),
        ]
        response = self._engine.open("POST", "/session", headers=headers)
        if response.status != 101:
            response.connection.close()
            raise CommandError(f"ERROR: the engine did not take the session: it answered {response.status}")
        sock, self._rest = response.hijack()
        self._socket = _plain(sock)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # the engine has gone, and the loop with it
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._engine.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = Configuration(http2_connection_window_size=WINDOW_BYTES, http2_stream_window_size=WINDOW_BYTES)
        server = Server([self._offer], codec=_Raw(), config=config)
        protocol: Any = server._protocol_factory()
        assert self._socket is not None
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, self._socket)
        if self._rest:
            protocol.data_received(self._rest)
        self._ready.set()
        await self._stop.wait()
        protocol.handler.close()
        transport.close()
        await protocol.handler.wait_closed()


def _plain(sock: Socket) -> socket.socket:
    """A socket that asyncio can have; for TLS, the near end of a pair that a thread joins to it."""
    if isinstance(sock, _socket.socket) and not hasattr(sock, "unwrap"):
        plain = socket.socket(fileno=sock.detach())
        plain.setblocking(False)
        return plain
    near, far = socket.socketpair()
    threading.Thread(target=_relay, args=(sock, far), name="session-tls", daemon=True).start()
    near.setblocking(False)
    return near


def _relay(tls: Any, far: socket.socket) -> None:
    """Carry bytes both ways between a TLS socket and a plain one until either ends; owns both."""
    with tls, far:
        join(SocketEnd(far), SocketEnd(tls), either=True)


class _Raw(CodecBase):  # type: ignore[misc]
    """Messages stay bytes: one method carries packets or plain bytes, as its header says."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


class Offer:
    """The services, each for what there is of it."""

    def __init__(
        self,
        secrets: Mapping[str, Callable[[], bytes]],
        ssh: Mapping[str, str],
        contexts: Mapping[str, str],
        outputs: Mapping[int, OutputFlag],
        auth: Callable[[str], tuple[str, str]],
    ) -> None:
        self._secrets, self._ssh, self._contexts, self._outputs, self._auth = secrets, ssh, contexts, outputs, auth

    def __mapping__(self) -> dict[str, Handler]:
        one, many = Cardinality.UNARY_UNARY, Cardinality.STREAM_STREAM
        served: list[tuple[object, str, Callable[[Any], Awaitable[None]], Cardinality]] = [
            (self._secrets, SECRET, self._secret, one),
            (self._ssh, CHECK_AGENT, self._check_agent, one),
            (self._ssh, FORWARD_AGENT, self._forward_agent, many),
            (self._contexts, FILE_SYNC, self._file_sync, many),
            (self._outputs, FILE_SEND, self._file_send, many),
            (True, CREDENTIALS, self._credentials, one),
        ]
        return {path: Handler(_told(call), kind, bytes, bytes) for there, path, call, kind in served if there}

    async def _secret(self, stream: Any) -> None:
        asked = pb.GetSecretRequest.FromString(await stream.recv_message())
        read = self._secrets.get(asked.ID)
        if read is None:
            raise GRPCError(Status.NOT_FOUND, f"secret {asked.ID}: not found")
        await stream.send_message(pb.GetSecretResponse(data=read()).SerializeToString())

    async def _credentials(self, stream: Any) -> None:
        asked = pb.CredentialsRequest.FromString(await stream.recv_message())
        user, secret = await asyncio.to_thread(self._auth, asked.Host)
        await stream.send_message(pb.CredentialsResponse(Username=user, Secret=secret).SerializeToString())

    async def _check_agent(self, stream: Any) -> None:
        asked = pb.CheckAgentRequest.FromString(await stream.recv_message())
        self._agent(asked.ID)
        await stream.send_message(b"")

    async def _forward_agent(self, stream: Any) -> None:
        """Carry bytes between the stream and the agent until either ends."""
        path = self._agent(stream.metadata.get("buildkit.ssh.id", ""))
        reader, writer = await asyncio.open_unix_connection(path)

        async def back() -> None:
            while data := await reader.read(READ_BYTES):
                await stream.send_message(pb.BytesMessage(data=data).SerializeToString())

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(back())
                while (raw := await stream.recv_message()) is not None:
                    writer.write(pb.BytesMessage.FromString(raw).data)
                    await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
        except BaseExceptionGroup as e:
            raise e.exceptions[0] from e
        finally:
            writer.close()

    def _agent(self, id: str) -> str:
        path = self._ssh.get(id or "default")
        if path is None:
            raise GRPCError(Status.NOT_FOUND, f"unset ssh forward key {id or 'default'}")
        return path

    async def _file_sync(self, stream: Any) -> None:
        fields = stream.metadata
        name = next(iter(transfer.values(fields, "dir-name")), "")
        directory = self._contexts.get(name)
        if directory is None:
            raise GRPCError(Status.NOT_FOUND, f"no access allowed to dir {name!r}")
        await transfer.send(stream, directory, transfer.DirectoryRequest(fields))

    async def _file_send(self, stream: Any) -> None:
        output = self._outputs.get(int(stream.metadata.get("buildkit-attachable-exporter-id", "0")))
        if output is None or not output.path:
            raise GRPCError(Status.NOT_FOUND, "no such output")
        if output.directory:
            await transfer.receive(stream, output.path)
            return
        out = sys.stdout.buffer.fileno() if output.path == "-" else output.path
        with open(out, "wb", buffering=0, closefd=output.path != "-") as file:
            while (raw := await stream.recv_message()) is not None:
                left = memoryview(pb.BytesMessage.FromString(raw).data)
                while left:
                    left = left[file.write(left) :]


def _told(call: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """What goes wrong here is said to the engine, whose build fails with these words."""

    async def guarded(stream: Any) -> None:
        try:
            await call(stream)
        except (GRPCError, StreamTerminatedError, ProtocolError):
            raise
        except CommandError as e:
            raise GRPCError(Status.UNKNOWN, e.message.removeprefix("ERROR: ")) from e
        except OSError as e:
            text = f"{e.filename}: {words(e)}" if e.filename else words(e)
            raise GRPCError(Status.UNKNOWN, text) from e
        except Exception as e:
            raise GRPCError(Status.UNKNOWN, f"{type(e).__name__}: {e}") from e

    return guarded
