"""Where the supervisor gets its shims from: the zygote, started from a sealed interpreter and again when it has died,
and the shims that wait in reserve.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket

from sampan.supervisor import interpreter
from sampan.supervisor.link import ShimLink, ShimLost
from sampan.supervisor.notes import note
from sampan.supervisor.ready import writable

_MODULE = "sampan.supervisor.zygote"
FORK_LIMIT_S = 30.0  # a fork takes milliseconds: a zygote that has not done it by then does not live
_WAITING = 2  # one for now, one for as long as the next is in the making


class Nursery:
    def __init__(self, exec_root: str, nofile: int) -> None:
        self._exec_root = exec_root
        self._nofile = nofile
        self.binary = interpreter.sealed()
        self._socket: socket.socket | None = None
        self._waiting: list[ShimLink] = []
        self._refilling: asyncio.Task[None] | None = None
        self.pid = 0

    def start(self) -> None:
        """Start a zygote now, so that the first container does not wait for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.pid = interpreter.spawn(self.binary, _MODULE, [self._exec_root, str(self._nofile)], theirs)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket = ours

    async def take(self) -> ShimLink:
        """A shim without a task, ready to be asked: one that waits already, or a new one. The caller binds the link.

        Raises OSError, ShimLost; within twice FORK_LIMIT_S.
        """
        while self._waiting:
            link = self._waiting.pop()
            if link.alive:
                return link
        try:
            return await self._new()
        except ShimLost:  # the zygote died between our message and its fork
            return await self._new()

    def refill(self) -> None:
        """Have shims wait for the next containers, so that those do not wait for a fork. Returns at once."""
        if len(self._waiting) < _WAITING and self._refilling is None:
            self._refilling = asyncio.get_running_loop().create_task(self._refill())

    async def _refill(self) -> None:
        try:
            while len(self._waiting) < _WAITING:
                self._waiting.append(await self._new())
        except (OSError, ShimLost) as e:
            note(f"no shim in reserve: {e}")
        finally:
            self._refilling = None

    async def _new(self) -> ShimLink:
        ours, theirs = socket.socketpair()
        with theirs:
            link = await ShimLink.open(ours, on_report=_ignore, on_event=_ignore, on_lost=lambda: None)
            try:
                async with asyncio.timeout(FORK_LIMIT_S):
                    await self._fork(theirs)
                    theirs.close()  # the shim alone has it now: its end is seen here
                    await link.hello
            except TimeoutError:
                link.close()
                self._end()
                raise ShimLost(f"the zygote has made no shim within {FORK_LIMIT_S:g} s") from None
            except BaseException:
                link.close()
                raise
        return link

    async def _fork(self, control: socket.socket) -> None:
        """Have a shim forked that owns `control`, by a new zygote if need be."""
        for attempt in range(2):
            if self._socket is None:
                self.start()
            try:
                await self._send(control)
                return
            except ConnectionError:
                self._bury()
                if attempt:
                    raise

    async def _send(self, control: socket.socket) -> None:
        assert self._socket is not None
        while True:
            peer = self._socket
            try:
                socket.send_fds(peer, [b"f"], [control.fileno()])
                return
            except BlockingIOError:
                await writable(peer.fileno())

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

    def _end(self) -> None:
        """End a zygote that does not answer; the next shim is another one's."""
        note(f"the zygote {self.pid} does not answer, and is killed")
        if self.pid:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            self.pid = 0
        self._bury()

    def close(self) -> None:
        """The zygote ends at the end of its socket; a shim that waits, when this process has ended."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self.pid:
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:
                pass
        os.close(self.binary)


def _ignore(_: object) -> None:
    pass
