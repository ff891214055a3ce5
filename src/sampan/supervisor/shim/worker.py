"""A worker: a fork of the shim that does what may take its time, and answers once.

Hooks, another runtime's binary, limits that the kernel has to make room for: what the shim itself would have to wait
for. One that is not done within its limit is killed with its children, and what it was to do has failed.

What it starts and leaves behind becomes the shim's child, its subreaper.
"""

from __future__ import annotations

import _socket
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypedDict, cast

from sampan.errors import SampanError
from sampan.linux import process
from sampan.linux.loop import READ, Loop
from sampan.runtime.failure import RuntimeFailure
from sampan.supervisor import notes, wire

Done = Callable[[Any, list[int], SampanError | None], None]
LIMIT_S = 120.0
_PIECE_BYTES = 64 * 1024


def alone(call: Callable[[], object]) -> Callable[[], tuple[object, list[int]]]:
    """Return `call` as a worker's work that passes no descriptors on."""
    return lambda: (call(), [])


class _Answer(TypedDict, total=False):
    ok: Any
    error: wire.ErrorRecord


class Worker:
    def __init__(
        self, loop: Loop, work: Callable[[], tuple[Any, list[int]]], done: Done, *, limit_s: float = LIMIT_S
    ) -> None:
        """Fork. `work` returns a value for JSON and descriptors; `done` gets both or the error, once, from the loop.

        Raises: OSError.
        """
        self._loop = loop
        self._done = done
        self._unframer = wire.Unframer()
        self._fds: list[int] = []
        self._peer, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        try:
            shim = os.getpid()
            self.pid = process.fork()
            if self.pid == 0:
                _run(shim, theirs, work)
        except OSError:
            self._peer.close()
            raise
        finally:
            theirs.close()
        self._peer.setblocking(False)
        self._timer = loop.after(limit_s, self._too_late)
        loop.watch(self._peer.fileno(), READ, self._on_readable)

    def _on_readable(self, _: int) -> None:
        try:
            data, fds = wire.receive(self._peer, _PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        self._fds += fds
        if not data:
            self._end(None, wire.TaskFailed("worker", 0, "the process that was to do it was killed"))
            return
        for message in self._unframer.feed(data):
            answer = cast(_Answer, message)
            if "error" in answer:
                self._end(None, wire.error_from_wire(answer["error"]))
            else:
                self._end(answer["ok"], None)
            return

    def _too_late(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._end(None, wire.TaskFailed("worker", 0, "it took too long"))

    def _end(self, value: Any, error: SampanError | None) -> None:
        self._timer.cancel()
        self._loop.forget(self._peer.fileno())
        self._peer.close()
        self._done(value, self._fds, error)


def _run(shim: int, peer: _socket.socket, work: Callable[[], tuple[Any, list[int]]]) -> NoReturn:
    try:
        os.setsid()
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)  # the shim's pipe
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            process.set_handler(number, process.SIG_DFL)
        if os.getppid() == shim:
            try:
                value, fds = work()
                data = wire.frame({"ok": value})
            except RuntimeFailure as e:
                failure = wire.TaskFailed(e.step, e.errno, e.message)
                data, fds = wire.frame({"error": wire.error_to_wire(failure)}), []
            except Exception as e:
                data, fds = wire.frame({"error": wire.error_to_wire(e)}), []
            sent = wire.send(peer, data, fds)
            if sent < len(data):
                peer.sendall(data[sent:])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        notes.flush()
        os._exit(0)
