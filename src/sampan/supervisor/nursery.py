"""The supervisor's handle on its zygote: started from a sealed interpreter, started again when it has died."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec

from sampan.supervisor import interpreter

_MODULE = "sampan.supervisor.zygote"


class Nursery:
    def __init__(self, exec_root: str, nofile: int) -> None:
        self._exec_root = exec_root
        self._nofile = nofile
        self._binary = interpreter.sealed()
        self._socket: socket.socket | None = None
        self.pid = 0

    def start(self) -> None:
        """Start a zygote now, so that the first container does not wait for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = interpreter.spawn(self._binary, _MODULE, [self._exec_root, str(self._nofile)], theirs)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours

    async def fork(self, id: str, control: socket.socket) -> None:
        """Have a shim forked that owns `control`. Returns when the request is with the zygote; the shim says hello on `control` itself.

        Raises OSError when no zygote can be started.
        """
        message = msgspec.json.encode({"id": id})
        for attempt in range(2):
            if self._socket is None:
                self.start()
            try:
                await self._send(message, control)
                return
            except (BrokenPipeError, ConnectionError):
                self._bury()
                if attempt:
                    raise

    async def _send(self, message: bytes, control: socket.socket) -> None:
        assert self._socket is not None
        while True:
            peer = self._socket
            try:
                socket.send_fds(peer, [message], [control.fileno()])
                return
            except BlockingIOError:
                await _writable(peer)

    def _bury(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None
        if self.pid:
            try:
                os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pass
            self.pid = 0

    def close(self) -> None:
        """The zygote ends at the end of its socket."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self.pid:
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass
        os.close(self._binary)


async def _writable(peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(peer.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_writer(peer.fileno())
