"""Keeps a process beside the supervisor alive: starts it when it is wanted, and again when it has ended. Meanwhile it
holds its sockets (held.py).

A supervisor that starts beside such a process of an earlier one takes it up, by the pid in its lock file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping

from sampan.errors import Unavailable
from sampan.supervisor import interpreter, layout
from sampan.supervisor.kept import files
from sampan.supervisor.kept.held import Answer, Holder
from sampan.supervisor.kept.processes import KeptProcess
from sampan.supervisor.notes import note

_READY_S = 10.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 5.0
_SOUND_S = 1.0  # who has lived so long is started again at once


class Keeper:
    """A process of one exec root.

    binary: descriptor of the sealed interpreter. answers: what it may ask the supervisor for, by the word (held.py).
    """

    def __init__(
        self, exec_root: str, binary: int, process: KeptProcess, answers: Mapping[str, Answer] | None = None
    ) -> None:
        self._exec_root, self._binary, self._process = exec_root, binary, process
        self._directory = f"{exec_root}/{process.directory}"
        self._keeping: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._pid = 0
        self._holder = Holder(self._directory, process.sockets, answers or {})
        self._channel: socket.socket | None = None

    def recover(self) -> None:
        """Keep a process that there was: its table files say so, or it runs."""
        running = -1
        with contextlib.suppress(OSError):  # it has just ended
            running = self._running()
            os.close(running)
        if running >= 0 or self._has_work():
            self._keep()

    async def ensure(self) -> None:
        """Return when the process serves. Raises: Unavailable."""
        self._keep()
        assert self._ready is not None
        try:
            async with asyncio.timeout(_READY_S):
                await asyncio.shield(self._ready)
        except TimeoutError as error:
            raise Unavailable(f"{self._process.what} does not start") from error

    async def close(self) -> None:
        """End the process: there are no tasks any more."""
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
        pause, goes_on = _PAUSE_S, True
        while goes_on:
            began = asyncio.get_running_loop().time()
            pidfd = -1
            try:
                pidfd = self._running()
                if pidfd >= 0:
                    self._take_over()
                else:
                    pidfd = await self._start()
                self._say_ready()
                await _readable(pidfd)
                goes_on = self._process.always or self._has_work()
                if goes_on:
                    note(f"{self._process.what} has ended; it is started again")
            except OSError as error:
                note(f"{self._process.what} cannot be started: {error}")
            finally:
                if pidfd >= 0:
                    os.close(pidfd)
                self._hang_up()
                self._reap()
            if self._ready is None or self._ready.done():
                self._ready = asyncio.get_running_loop().create_future()
            if not goes_on:
                break
            lived = asyncio.get_running_loop().time() - began
            pause = _PAUSE_S if lived > _SOUND_S else min(pause * 2, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause)
        self._holder.close()
        self._keeping = None

    def _has_work(self) -> bool:
        try:
            return any(files.ids(self._directory))
        except OSError:
            return False

    def _running(self) -> int:
        """Return the pidfd of a process that runs already; -1 when there is none."""
        try:
            lock = os.open(f"{self._directory}/{self._process.lock}", os.O_RDWR | os.O_CLOEXEC)
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
        with self._make_channel() as theirs:
            self._pid = interpreter.spawn(self._binary, self._process.module, [self._exec_root, "3"], theirs)
        pidfd = os.pidfd_open(self._pid)
        begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def begin() -> None:
            if not begun.done():
                begun.set_result(None)

        self._listen(begin)
        await begun
        return pidfd

    def _take_over(self) -> None:
        """Give a process of an earlier supervisor a channel to this one. Raises: OSError when it has none."""
        with (
            self._make_channel() as theirs,
            layout.connect(self._directory, self._process.socket, socket.SOCK_SEQPACKET) as peer,
        ):
            request = json.dumps({"n": 0, "channel": True}).encode()
            socket.send_fds(peer, [request], [theirs.fileno()])
        self._listen(lambda: None)

    def _make_channel(self) -> socket.socket:
        """Open a channel for a process that begins; return its end."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        self._holder.begin()
        return theirs

    def _listen(self, ready: Callable[[], None]) -> None:
        ours = self._channel
        assert ours is not None

        def readable() -> None:
            if not self._holder.handle(ours, ready):
                self._hang_up()
                ready()  # ended: whoever waits for it sees that next

        asyncio.get_running_loop().add_reader(ours, readable)

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


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: None if ended.done() else ended.set_result(None))
    try:
        await ended
    finally:
        loop.remove_reader(fd)


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        note(f"keeping a process: {task.exception()}")
