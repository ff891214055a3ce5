"""Keeps the name service alive: starts it when it is wanted, and again when it has ended. Meanwhile it holds its
sockets (held.py).

A supervisor that starts beside a name service of an earlier one takes it up, by the pid in its lock file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket

from sampan.errors import Unavailable
from sampan.supervisor import interpreter
from sampan.supervisor.names import table
from sampan.supervisor.names.held import Holder
from sampan.supervisor.notes import note
from sampan.supervisor.ready import readable

_MODULE = "sampan.supervisor.names.main"
_READY_S = 10.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0


class Keeper:
    """The name service of one exec root. binary: descriptor of the sealed interpreter."""

    def __init__(self, exec_root: str, binary: int) -> None:
        self._exec_root, self._binary = exec_root, binary
        self._directory = f"{exec_root}/{table.DIRECTORY}"
        self._keeping: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._pid = 0
        self._holder = Holder()
        self._channel: socket.socket | None = None

    def recover(self) -> None:
        """Keep a name service that there was: its sandboxes' files say so."""
        with contextlib.suppress(OSError):
            if any(table.ids(self._directory)):
                self._keep()

    async def ensure(self) -> None:
        """Return when the name service answers. Raises: Unavailable."""
        self._keep()
        assert self._ready is not None
        try:
            async with asyncio.timeout(_READY_S):
                await asyncio.shield(self._ready)
        except TimeoutError as error:
            raise Unavailable("the name service does not start") from error

    async def close(self) -> None:
        """End the name service: there are no tasks any more."""
        self._holder.close()
        if self._keeping is None:
            return
        if self._pid:  # not reaped yet: the number is nobody else's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
        self._keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._keeping

    def _keep(self) -> None:
        if self._keeping is None:
            loop = asyncio.get_running_loop()
            self._ready = loop.create_future()
            self._keeping = loop.create_task(self._run())
            self._keeping.add_done_callback(_told)

    async def _run(self) -> None:
        pause = _PAUSE_S
        while True:
            began = asyncio.get_running_loop().time()
            pidfd = -1
            try:
                pidfd = self._running()
                if pidfd < 0:
                    pidfd = await self._start()
                self._say_ready()
                await readable(pidfd)
                note("names: the name service has ended; it is started again")
            except OSError as error:
                note(f"names: the name service cannot be started: {error}")
            finally:
                if pidfd >= 0:
                    os.close(pidfd)
                self._hang_up()
                self._reap()
            if self._ready is None or self._ready.done():
                self._ready = asyncio.get_running_loop().create_future()
            lived = asyncio.get_running_loop().time() - began
            pause = _PAUSE_S if lived > _LONGEST_PAUSE_S else min(pause * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    def _running(self) -> int:
        """Return the pidfd of a name service that runs already; -1 when there is none."""
        try:
            lock = os.open(f"{self._directory}/{table.LOCK}", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = int(os.pread(lock, 32, 0) or b"0")
            if not pid:
                return -1  # it is just starting: ours finds the lock taken, and we come here again
            self._pid = pid
            return os.pidfd_open(pid)
        finally:
            os.close(lock)
        return -1

    async def _start(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._channel = ours
        with theirs:
            self._pid = interpreter.spawn(self._binary, _MODULE, [self._exec_root, "3"], theirs)
        pidfd = os.pidfd_open(self._pid)
        self._holder.begin()
        loop = asyncio.get_running_loop()
        begun: asyncio.Future[None] = loop.create_future()

        def begin() -> None:
            if not begun.done():
                begun.set_result(None)

        def hear() -> None:
            if not self._holder.handle(ours, begin):
                self._hang_up()
                begin()  # ended: whoever waits for it sees that next

        loop.add_reader(ours, hear)
        await begun
        return pidfd

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            asyncio.get_running_loop().remove_reader(channel)
            channel.close()

    def _say_ready(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _reap(self) -> None:
        if self._pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, os.WNOHANG)
            self._pid = 0


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        note(f"names: {task.exception()}")
