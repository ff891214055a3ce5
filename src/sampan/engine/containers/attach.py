"""A client's terminal or pipes, joined to a process: attach, and the streams of exec.

The bytes never pass through the daemon's own buffers twice: what the shim sends is framed already and is forwarded
unparsed; what the client sends is forwarded raw, with an eye on the detach keys when there is a terminal.

A session is made before the client is told that it is attached, so that a start right after that misses nothing:
on a container that does not run yet it waits in `PendingSessions`, and the start connects it before it lets the
process run.

Source: Engine API 1.51, ContainerAttach ("Stream format"); docs.docker.com, "docker attach --detach-keys".
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

from sampan.engine.background import beside
from sampan.errors import InvalidArgument, SampanError, words
from sampan.supervisor.client import Attachment, Supervisor

CHUNK = 64 * 1024
GONE = (OSError, RuntimeError)  # uvloop raises RuntimeError for what is written to a transport that is closed already
_FRAME = struct.Struct(">B3xI")
DEFAULT_DETACH_KEYS = b"\x10\x11"  # ctrl-p, ctrl-q


def parse_detach_keys(text: str) -> bytes:
    """Parse `ctrl-p,ctrl-q` or `a,b`; "" is the default. Raises: InvalidArgument naming the key."""
    if not text:
        return DEFAULT_DETACH_KEYS
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            keys += key.encode()
        elif key.startswith("ctrl-") and len(key) == 6:
            code = key[5]
            if "a" <= code <= "z":
                keys.append(ord(code) - ord("a") + 1)
            elif code in "@[\\]^_":
                keys.append("@abcdefghijklmnopqrstuvwxyz[\\]^_".index(code))
            else:
                raise InvalidArgument(f"Unknown character: '{key}'")
        else:
            raise InvalidArgument(f"Unknown character: '{key}'")
    return bytes(keys)


class DetachScanner:
    """Finds the detach keys in what a client types, across reads; what turns out not to be them is passed on."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return (bytes to forward, whether the keys are complete)."""
        if not self._keys:
            return data, False
        data = self._held + data
        at = data.find(self._keys)
        if at >= 0:
            return data[:at], True
        held = 0
        for n in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:n]):
                held = n
                break
        self._held = data[len(data) - held :]
        return data[: len(data) - held], False


class AttachSession:
    """One client joined to one process. Made by the services, run by the API handler after the hijack."""

    def __init__(
        self,
        id: str,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        detach_keys: bytes,
        exec_id: str = "",
        stream: bool = True,
    ) -> None:
        self.id = id
        self.exec_id = exec_id
        self.tty = tty
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._detach_keys = detach_keys
        self.history: AsyncIterator[bytes] | None = None
        self._stream = stream
        self._attachment: asyncio.Future[Attachment | None] = asyncio.get_running_loop().create_future()
        self.begin: Callable[[AttachSession], Awaitable[bytes]] | None = None  # exec: start the process; b"" or why not
        self.settle: Callable[[], Awaitable[None]] | None = None  # exec: returns when the exit status is known
        self.on_detach: Callable[[], object] = lambda: None
        self.on_close: Callable[[], None] = lambda: None
        self.detached = False

    async def connect(self, supervisor: Supervisor) -> None:
        """Open the stream to the shim. From here on nothing the process writes is missed."""
        self.joined(
            await supervisor.attach(
                self.id, exec_id=self.exec_id, stdin=self.stdin, stdout=self.stdout, stderr=self.stderr
            )
        )

    def joined(self, attachment: Attachment) -> None:
        """Take over an open stream."""
        if self._attachment.done():
            attachment.writer.close()
        else:
            self._attachment.set_result(attachment)

    @property
    def joined_at_ns(self) -> int:
        """When the shim let us in; 0 for a container that is still to be started."""
        attachment = self._attachment.result() if self._attachment.done() else None
        return attachment.at_ns if attachment is not None else 0

    async def close(self) -> None:
        """Give up; for callers outside."""
        self.abandon()

    def abandon(self) -> None:
        """Give up: the client or the container went away before the streams were joined."""
        self.on_close()
        if not self._attachment.done():
            self._attachment.set_result(None)
        elif (attachment := self._attachment.result()) is not None:
            attachment.writer.close()

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward until the process has ended, the client has gone, or the detach keys were typed."""
        try:
            if self.history is not None:
                async for chunk in self.history:
                    writer.write(chunk)
                    await writer.drain()
            if self._stream:
                await self._join(reader, writer)
        except (ConnectionError, RuntimeError):
            pass
        except (SampanError, OSError) as e:  # the connection is a stream by now: the reason comes as its last piece
            with contextlib.suppress(*GONE):
                writer.write(refusal(e.message if isinstance(e, SampanError) else words(e), raw=self.tty))
        finally:
            self.abandon()
            with contextlib.suppress(*GONE):
                await writer.drain()

    async def collect(self, output: bytearray, limit_bytes: int) -> None:
        """Run without a client: start the process, and return once it has ended.

        The first bytes of its output are in `output` as they come, so that a caller that gives up has them.
        """
        if self.begin is not None and (refused := await self.begin(self)):
            output += refused[8:] if not self.tty else refused
            return
        attachment = await asyncio.shield(self._attachment)
        if attachment is None:
            return
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = await attachment.reader.readexactly(8)
                body = await attachment.reader.readexactly(int.from_bytes(head[4:], "big"))
                output += body[: limit_bytes - len(output)]

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.begin is not None and (refused := await self.begin(self)):
            writer.write(refused)
            return
        attachment = await asyncio.shield(self._attachment)  # for a container that is not started yet: until it is
        if attachment is not None:
            await self._pump(reader, writer, attachment)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, attachment: Attachment) -> None:
        async with (
            beside(self._inward(reader, attachment), "input of a client") as inward,
            beside(self._outward(attachment, writer), "output to a client") as outward,
        ):
            if not (self.stdout or self.stderr):
                await asyncio.wait([inward, outward], return_when=asyncio.FIRST_COMPLETED)
                return
            while not outward.done():
                await asyncio.wait([t for t in (inward, outward) if not t.done()], return_when=asyncio.FIRST_COMPLETED)
                if inward.done() and inward.result():
                    self.detached = True
                    self.on_detach()
                    return
            if self.settle is not None:
                # The shim tells the end before the stream's, but by another way: clients ask for the status next.
                await self.settle()

    async def _inward(self, reader: asyncio.StreamReader, attachment: Attachment) -> bool:
        """Forward the client's input; True when the detach keys were typed."""
        scanner = DetachScanner(self._detach_keys if self.tty else b"")
        try:
            while data := await reader.read(CHUNK):
                if not self.stdin:
                    continue
                data, detach = scanner.feed(data)
                if data:
                    attachment.writer.write(data)
                    await attachment.writer.drain()
                if detach:
                    return True
            if self.stdin and attachment.writer.can_write_eof():
                attachment.writer.write_eof()
        except GONE:
            pass
        return False

    @staticmethod
    async def _outward(attachment: Attachment, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await attachment.reader.read(CHUNK):
                writer.write(data)
                await writer.drain()
        except GONE:
            pass


def refusal(message: str, *, raw: bool) -> bytes:
    """Return an error as a piece of a stream, on its standard output as Docker sends it."""
    body = f"{message}\r\n".encode()
    return body if raw else _FRAME.pack(1, len(body)) + body


class PendingSessions:
    """The sessions that wait for the start of their container."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[AttachSession]] = {}

    def add(self, session: AttachSession) -> None:
        """Let a session wait; it leaves when it is given up."""
        waiting = self._waiting.setdefault(session.id, [])
        waiting.append(session)
        session.on_close = lambda: waiting.remove(session) if session in waiting else None

    def any(self, id: str) -> bool:
        """Tell whether somebody waits for the start of this container."""
        return bool(self._waiting.get(id))

    def take(self, id: str) -> list[AttachSession]:
        """Return the waiting sessions, which are the caller's from now on."""
        return list(self._waiting.pop(id, ()))

    def abandon(self, id: str) -> None:
        """Give all of them up: the container will not start."""
        for session in self.take(id):
            session.abandon()
