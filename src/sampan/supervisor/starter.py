"""Starting a supervisor from the daemon: one posix_spawn, detached, with a log of its own. The daemon itself never
forks.

It says that it is ready by one byte on a pipe: nobody polls for its socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import sampan
from sampan.supervisor import layout
from sampan.supervisor.ready import readable

_READY_TIMEOUT_S = 10.0


class Boot:
    """A supervisor that has been started and may not be ready yet. Wait by `ready`, or `abandon` it."""

    def __init__(self, pid: int, readable: int) -> None:
        self._pid = pid
        self._reaped = False
        self._reaper: asyncio.Task[None] | None = None
        self._readable = readable

    async def ready(self) -> None:
        """Return when it is ready or has ended (another one may have been faster)."""
        loop = asyncio.get_running_loop()
        self._reaper = loop.create_task(self._reap())
        os.set_blocking(self._readable, False)
        reader = asyncio.StreamReader()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self._readable, "rb", buffering=0)
        )
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                await reader.read(1)
        finally:
            transport.close()

    def abandon(self) -> None:
        """Ask it to end, which it does unless it has tasks to watch."""
        if not self._reaped:  # until then the number is nobody else's
            os.kill(self._pid, signal.SIGTERM)

    async def _reap(self) -> None:
        """Leave no zombie when the supervisor ends before us."""
        pidfd = os.pidfd_open(self._pid)
        try:
            await readable(pidfd)
            os.waitpid(self._pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
            self._reaped = True
        finally:
            os.close(pidfd)


@contextlib.contextmanager
def booting(exec_root: str, *, debug: bool) -> Iterator[Boot | None]:
    """Start a supervisor unless one answers (None); when the block fails, ask it to end again."""
    boot = None if runs(exec_root) else spawn(exec_root, debug=debug)
    try:
        yield boot
    except BaseException:
        if boot is not None:
            boot.abandon()
        raise


def runs(exec_root: str) -> bool:
    """Whether a supervisor listens."""
    try:
        layout.connect(exec_root, "supervisor.sock").close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def spawn(exec_root: str, *, debug: bool) -> Boot:
    """posix_spawn a supervisor, detached. Returns at once. Raises: OSError."""
    readable, writable = os.pipe2(os.O_CLOEXEC)
    log = os.open(f"{exec_root}/supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    source_root = os.path.dirname(os.path.dirname(os.path.abspath(sampan.__file__)))
    arguments = ["-s", "-P", "-m", "sampan.supervisor.main", "--exec-root", exec_root, "--ready-fd", "3"]
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *arguments, *(["--debug"] if debug else [])],
            {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONPATH": source_root},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, writable, 3),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except BaseException:
        os.close(readable)
        raise
    finally:
        os.close(writable)
        os.close(log)
    return Boot(pid, readable)
