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

import sampan

_READY_TIMEOUT_S = 10.0


async def start(exec_root: str, *, debug: bool) -> None:
    """posix_spawn a supervisor, detached, and wait until it is ready or has ended (another one may have been faster)."""
    readable, writable = os.pipe2(os.O_CLOEXEC)
    log = os.open(f"{exec_root}/supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    source_root = os.path.dirname(os.path.dirname(os.path.abspath(sampan.__file__)))
    arguments = ["-s", "-P", "-m", "sampan.supervisor.main", "--exec-root", exec_root, "--ready-fd", "3"]
    try:
        pid = os.posix_spawn(  # noqa: ASYNC221 - returns at once
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
    asyncio.get_running_loop().create_task(_reaped(pid))
    os.set_blocking(readable, False)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(readable, "rb", buffering=0)
    )
    try:
        await asyncio.wait_for(reader.read(1), _READY_TIMEOUT_S)
    finally:
        transport.close()


async def _reaped(pid: int) -> None:
    """Leave no zombie when the supervisor ends before us."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    pidfd = os.pidfd_open(pid)
    loop.add_reader(pidfd, lambda: None if ended.done() else ended.set_result(None))
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
