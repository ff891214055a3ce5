"""The shim's doors: the control connection with the supervisor, and shim.sock for everybody else (root only, by mode
and by SO_PEERCRED).
"""

from __future__ import annotations

import _socket
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from sampan.errors import Conflict, InvalidArgument
from sampan.linux.loop import READ, WRITE, Loop
from sampan.supervisor import layout, title, wire
from sampan.supervisor.shim.attacher import Attacher
from sampan.supervisor.shim.creator import Creator
from sampan.supervisor.shim.process import Process
from sampan.supervisor.shim.task import Reply, Task
from sampan.supervisor.states import UNBORN, TaskStatus

_UNTOLD_LIMIT = 256
_LINGER_LIMIT_S = 600.0
_LINGER_STEP_S = 0.02


class Server:
    def __init__(self, loop: Loop, exec_root: str, control: int, creator: Creator) -> None:
        self._loop = loop
        self._creator = creator
        self._exec_root = exec_root
        self._control: Control | None = None
        self._listener: socket.socket | None = None
        self._task: Task | None = None
        self._leaving_since: float | None = None
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        loop.on_child(self._reap)
        self.adopt(_socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, control), b"")

    @property
    def task(self) -> Task:
        if self._task is None:
            raise Conflict("the shim has no task yet")
        return self._task

    @property
    def idle(self) -> bool:
        """No container exists: nothing is lost when this shim leaves."""
        return self._task is None or self._task.status in UNBORN

    @property
    def useless(self) -> bool:
        """There is no container, and none will come."""
        return self._task is None or self._task.status is TaskStatus.FAILED

    def create(self, request: wire.TaskCreateRequest, sources: dict[str, int], reply: Reply) -> None:
        """Become the shim of a task, and make it.

        sources: place in the spec (wire.py) → descriptor, the caller's.
        """
        if self._task is not None:
            raise Conflict(f"the shim has task {self._task.id} already")
        directory = layout.task_dir(self._exec_root, request["id"])
        self._task = Task(self._loop, request["id"], directory, self._notify, self._creator)
        self._task.create(request, sources, self._open_door, reply)

    def _open_door(self) -> None:
        title.set_title(f"sampan-shim {self.task.id[:12]} {self._exec_root}")
        self._listener = layout.listen(layout.task_dir(self._exec_root, self.task.id), "shim.sock")
        self._loop.watch(self._listener.fileno(), READ, self._on_accept)

    def adopt(self, peer: _socket.socket, received: bytes) -> None:
        """Make `peer` the control connection; an earlier one is dropped."""
        if self._control:
            self._control.close()
        self._control = Control(self._loop, peer, self)
        self._control.tell({"hello": True, **({"report": self._task.report()} if self._task else {})})
        self._control.feed(received)

    def control_lost(self, control: Control) -> None:
        """The supervisor is gone. The task goes on; what failed before it began has nobody left."""
        if self._control is control:
            self._control = None
        if self.idle:
            self._loop.stop()

    def leave(self) -> None:
        """End this process as soon as every attacher has got what is queued for it (`docker run --rm` into a slow
        pipe).
        """
        if self._leaving_since is None:
            self._leaving_since = time.monotonic()
        if self._task and self._task.attached and time.monotonic() - self._leaving_since < _LINGER_LIMIT_S:
            self._loop.after(_LINGER_STEP_S, self.leave)
        else:
            self._loop.stop()

    def close(self) -> None:
        if self._listener:
            self._listener.close()
        if self._control:
            self._control.close()
        os.close(self._spare)

    def _notify(self, event: wire.Event) -> None:
        if self._control:
            self._control.tell({"event": event})
        if len(self.task.execs) > _UNTOLD_LIMIT:
            for exec_id in [e for e, p in self.task.execs.items() if p.exit is not None][:1]:
                self.task.forget_exec(exec_id)

    def _reap(self) -> None:
        if self._task:
            self._task.reap()
            return
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _on_accept(self, _: int) -> None:
        assert self._listener is not None
        try:
            peer, _address = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # EMFILE: accept with the spare descriptor and hang up, or the loop would spin
            os.close(self._spare)
            try:
                self._listener.accept()[0].close()
            except OSError:
                pass
            self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            return
        peer.setblocking(False)
        if layout.peer_uid(peer) != os.geteuid():
            peer.close()
            return
        _Visitor(self._loop, peer, self)


class Control:
    """The supervisor's connection.

    Requests begin in order; answers go when their operation has ended, in order with the events, queued when it is
    slow.
    """

    def __init__(self, loop: Loop, peer: _socket.socket, server: Server) -> None:
        peer.setblocking(False)
        self._loop = loop
        self._peer = peer
        self._server = server
        self._unframer = wire.Unframer()
        self._queue: deque[bytes] = deque()
        self._fds: list[int] = []  # received, for the create request that they come with
        loop.watch(peer.fileno(), READ, self._on_event)

    def tell(self, message: dict[str, Any]) -> None:
        if self._peer.fileno() >= 0:
            self._queue.append(wire.frame(message))
            if len(self._queue) == 1:
                self._flush()

    def close(self) -> None:
        if self._peer.fileno() >= 0:
            self._flush()
        if self._peer.fileno() >= 0:
            self._loop.forget(self._peer.fileno())
            self._peer.close()

    def feed(self, data: bytes) -> None:
        try:
            messages = self._unframer.feed(data)
        except ValueError:
            self._lost()
            return
        for message in messages:
            self._serve(message)

    def _on_event(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if mask & ~WRITE and self._peer.fileno() >= 0:
            try:
                data, fds = wire.receive(self._peer, 256 * 1024)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            self._fds += fds
            if data:
                self.feed(data)
            else:
                self._lost()

    def _lost(self) -> None:
        if self._peer.fileno() >= 0:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
        self._server.control_lost(self)

    def _flush(self) -> None:
        while self._queue:
            try:
                sent = self._peer.send(self._queue[0])
            except BlockingIOError:
                self._loop.change(self._peer.fileno(), READ | WRITE)
                return
            except OSError:
                self._queue.clear()
                self._lost()
                return
            if sent < len(self._queue[0]):
                self._queue[0] = self._queue[0][sent:]
            else:
                self._queue.popleft()
        self._loop.change(self._peer.fileno(), READ)

    def _serve(self, request: dict[str, Any]) -> None:
        """Serve one request; its answer goes when the operation has ended."""
        op, seq = request["op"], request["seq"]
        if op == "told":
            self._server.task.forget_exec(request["exec_id"])
            return

        def reply(value: Any, error: BaseException | None) -> None:
            if error is not None:
                self.tell({"seq": seq, "error": wire.error_to_wire(error)})
                if self._server.useless:
                    self._server.leave()
                return
            report = {"report": self._server.task.report()} if op in ("create", "start") else {}
            self.tell({"seq": seq, "ok": value, **report})
            if op == "delete":
                self._server.leave()

        try:
            if op == "create":
                self._create(cast(wire.TaskCreateRequest, request), reply)
            else:
                _dispatch(self._server.task, op, request, reply)
        except Exception as e:
            reply(None, e)

    def _create(self, request: wire.TaskCreateRequest, reply: Reply) -> None:
        fds, self._fds = self._fds, []
        try:
            if len(fds) != len(request["sources"]):
                raise InvalidArgument(f"{len(fds)} descriptors for {len(request['sources'])} places")
            self._server.create(request, dict(zip(request["sources"], fds, strict=True)), reply)
        finally:
            for fd in fds:
                os.close(fd)


def _dispatch(task: Task, op: str, request: Any, reply: Reply) -> None:
    """Operations by name. The request is the argument, where there is one."""
    with_request: dict[str, Callable[[Any, Reply], None]] = {
        "kill": task.kill,
        "update": task.update,
        "exec": task.exec,
        "exec_start": task.exec_start,
    }
    plain: dict[str, Callable[[Reply], None]] = {
        "start": task.start,
        "pause": task.pause,
        "resume": task.resume,
        "delete": task.delete,
    }
    at_once: dict[str, Callable[[], Any]] = {
        "stats": task.stats,
        "pids": task.pids,
        "report": task.report,
        "resize": lambda: task.resize(request),
    }
    if op in with_request:
        with_request[op](request, reply)
    elif op in plain:
        plain[op](reply)
    elif op in at_once:
        reply(at_once[op](), None)
    else:
        raise InvalidArgument(f"unknown operation {op}")


class _Visitor:
    """A connection to shim.sock whose first line has not been read yet."""

    def __init__(self, loop: Loop, peer: socket.socket, server: Server) -> None:
        self._loop = loop
        self._peer = peer
        self._server = server
        self._buffer = bytearray()
        loop.watch(peer.fileno(), READ, self._on_event)

    def _on_event(self, _: int) -> None:
        try:
            data = self._peer.recv(256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        line, newline, rest = bytes(self._buffer).partition(b"\n")
        if newline:
            self._loop.forget(self._peer.fileno())
            self._admit(line, rest)
        elif not data or len(self._buffer) > wire.MAX_LINE_BYTES:
            self._loop.forget(self._peer.fileno())
            self._peer.close()

    def _admit(self, line: bytes, rest: bytes) -> None:
        task = self._server.task
        try:
            request = wire.decode(line)
            op = request["op"]
            if op == "control":
                self._server.adopt(self._peer, rest)
            elif op == "attach":
                process = task.process(request["exec_id"])
                _Attachment(self._loop, self._peer, task, request, rest).begin(process)
            elif op == "exec":
                task.prepare_exec(request)
                process = task.process(request["exec_id"])
                process.waiting.append(_Attachment(self._loop, self._peer, task, request, rest))
                task.exec_start({"exec_id": request["exec_id"]}, self._executed)
            else:
                raise InvalidArgument(f"unknown operation {op}")
        except Exception as e:
            self._executed(None, e)

    def _executed(self, _: Any, error: BaseException | None) -> None:
        """Tell why not; what has worked tells the attachment."""
        if error is not None and self._peer.fileno() >= 0:
            _refuse(self._peer, error)


def _refuse(peer: socket.socket, error: BaseException) -> None:
    try:
        peer.send(wire.line({"error": wire.error_to_wire(error)}))
    except OSError:
        pass
    peer.close()


class _Attachment:
    """An admitted attach request; it becomes an Attacher as soon as the process has stdio."""

    def __init__(self, loop: Loop, peer: socket.socket, task: Task, request: wire.AttachRequest, rest: bytes) -> None:
        self._loop = loop
        self._peer = peer
        self._task = task
        self._request = request
        self._rest = rest

    def begin(self, process: Process) -> None:
        if process.stdio is not None:
            self.opened(process)
        else:
            self._peer.send(wire.line({"ok": {"pid": 0}}))
            process.waiting.append(self)

    def opened(self, process: Process) -> None:
        assert process.stdio is not None
        is_init = not process.exec_id
        attacher = Attacher(
            self._loop,
            self._peer,
            process.stdio,
            stdin=self._request["stdin"],
            streams=frozenset(
                s for s, wanted in (("stdout", self._request["stdout"]), ("stderr", self._request["stderr"])) if wanted
            ),
            end_stdin=self._task.stdin_once or not is_init,
            logged=is_init,
            raw=self._request.get("raw", process.terminal),
        )
        if is_init or self._request["op"] == "exec":
            attacher.say(wire.line({"ok": {"pid": process.pid, "at_ns": time.time_ns()}}))
        attacher.feed(self._rest)
        if process.exit is not None:
            attacher.finish()

    def refused(self) -> None:
        """The exec failed. Its own client is told why by `_admit`; others only see the end."""
        if self._request["op"] != "exec":
            self._peer.close()
