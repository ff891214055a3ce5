"""A shim's life played through in the zygote, so that its forks have less to write.

What CPython writes when code runs for the first times (specialised bytecode, the cache of methods, the references that
it holds, version tags of classes) is in the zygote's memory then, shared by all shims. Without it an idle shim has some
four hundred kilobytes more of its own. See also `runtime.warm`, which does the same for the runtime.

The container here is none: its init is a child that has ended, and its cgroup does not exist, so nothing that goes
wrong could hit a process.
"""

from __future__ import annotations

import _socket
import os
import signal
from typing import Any, cast

from sampan.linux import process
from sampan.linux.loop import Loop
from sampan.runtime import container as runtime
from sampan.runtime import sync
from sampan.supervisor import wire
from sampan.supervisor.shim import memory
from sampan.supervisor.shim.server import Server

_ROUNDS = 10
_TURNS = 12  # of the loop, until the task has ended
_ID = "rehearsal"
_ALIGNMENT_BYTES = 16
_LARGEST_BYTES = 512
_POOL_BYTES = 16 * 1024
_POOL_HEADER_BYTES = 48
_FILLERS_LIMIT = 20_000
_fillers: list[object] = []


class _NoCgroup:
    """One that exists nowhere."""

    path = f"/{_ID}"

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC)

    def oom_fd(self) -> int:
        return self.fd

    def oom_count(self) -> int:
        return 0

    def pids(self) -> list[int]:
        return []


class _Handover(runtime.Handover):
    """One whose container is in no cgroup."""

    def hear(self, *, wait: bool) -> runtime.Container | None:
        container = super().hear(wait=wait)
        if container is not None:
            container.cgroup = cast(Any, _NoCgroup())
            _made.append(container)
        return container


_made: list[runtime.Container] = []


class _Stage:
    """Stands in for the creator, and for the init that it becomes, which takes its time."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._readable = os.eventfd(1, os.EFD_CLOEXEC)

    def ask(self, request: wire.TaskCreateRequest, stdio: tuple[int, int, int] | None, sources: dict[str, int]) -> None:
        pass

    def fileno(self) -> int:
        return self._readable

    def take(self) -> runtime.Handover:
        self.init, ours = sync.pair()
        pid = process.fork()
        if pid == 0:
            os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self._loop.after(0, lambda: self.init.send(sync.PID + b"%d" % pid))
        self._loop.after(0.0001, self._execute)
        values = {"id": _ID, "bundle": "", "spec": {}, "cgroup": f"/{_ID}/{os.getpid()}"}
        return _Handover(values, [ours.socket.detach()])

    def _execute(self) -> None:
        self.init.send(sync.GATE)
        self._loop.after(0.0001, lambda: self.init.socket.shutdown(_socket.SHUT_WR))  # as after its execve

    def dismiss(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._readable)
        self.init.close()
        for container in _made:
            os.close(cast(Any, container.cgroup).fd)
            container.close()
        _made.clear()


def rehearse(exec_root: str) -> None:
    """Play; leaves no file, no descriptor, no handler. Failures do not matter: a real task would report them."""
    root = f"{exec_root}/{_ID}"
    try:
        _remove(root)  # of a zygote that was killed
        for _ in range(_ROUNDS):
            os.makedirs(f"{root}/tasks/{_ID}")
            try:
                _play(root)
            finally:
                _remove(root)
    except OSError:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.set_handler(number, process.SIG_DFL)


def _play(root: str) -> None:
    supervisor, control = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
    loop = Loop()
    stage: Any = _Stage(loop)
    server = Server(loop, root, control.detach(), stage)
    supervisor.send(wire.frame({"seq": 1, "op": "create", "id": _ID, **_request(root)}))
    for _ in range(_TURNS):
        loop.after(0.0001, loop.stop)
        loop.run()
    stage.close()
    server.close()
    loop.close()
    supervisor.close()
    memory.give_back()


def _remove(root: str) -> None:
    for directory, _, files in os.walk(root, topdown=False):
        for name in files:
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)


def _request(root: str) -> dict[str, Any]:
    logging = {"driver": "json-file", "path": f"{root}/log", "options": {}, "attrs": {}}
    return {
        "rootfs": [],
        "sources": [],
        "seccomp": "",
        "runtime": "",
        "terminal": False,
        "stdin": False,
        "stdin_once": False,
        "start": True,
        "logging": logging,
    }


def fill_gaps() -> None:
    """Occupy what is free in the allocator's half-full pools, for good.

    Python puts a new small object into a gap of an old pool, which is on a page with other things, and every fork would
    copy dozens of such pages. With no gaps left, the objects of a fork lie together in pools of its own.

    Source: CPython 3.11 Objects/obmalloc.c: classes of 16 bytes up to 512, pools of 16 KiB with a header.
    """
    for size in range(_ALIGNMENT_BYTES, _LARGEST_BYTES + 1, _ALIGNMENT_BYTES):
        for _ in range(_FILLERS_LIMIT):
            filler: object = object() if size == 16 else complex(1, 1) if size == 32 else bytes(size - 33)
            _fillers.append(filler)
            if id(filler) % _POOL_BYTES < _POOL_HEADER_BYTES + 4 * size:  # the first ones of a new pool
                break
