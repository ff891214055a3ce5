"""The supervisor's gRPC service: requests to tasks, errors to statuses, events to streams. What a task is lives in
tasks.py.

Only the supervisor's own uid may call: the socket is 0600 in a 0700 directory, and SO_PEERCRED is checked on every
connection.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from sampan import errors
from sampan.linux import seccomp
from sampan.supervisor import deposits, layout, wire
from sampan.supervisor import supervisor_pb2 as pb
from sampan.supervisor.deposits import Deposits, Descriptors, UnknownDeposit
from sampan.supervisor.kept.keeper import Keeper
from sampan.supervisor.kept.processes import NAMES, PORTS
from sampan.supervisor.link import ShimLink
from sampan.supervisor.names.hostservers import HostFile
from sampan.supervisor.notes import note
from sampan.supervisor.nursery import Nursery
from sampan.supervisor.states import UNBORN, TaskStatus
from sampan.supervisor.supervisor_grpc import SupervisorBase
from sampan.supervisor.tasks import Task, Tasks
from sampan.supervisor.values import TaskKind

_STATUS: dict[type[errors.SampanError], Status] = {
    errors.NotFound: Status.NOT_FOUND,
    errors.Conflict: Status.FAILED_PRECONDITION,
    errors.InvalidArgument: Status.INVALID_ARGUMENT,
    errors.NotImplemented_: Status.UNIMPLEMENTED,
    errors.Unavailable: Status.UNAVAILABLE,
}
_KIND = {
    "start": pb.Event.START,
    "exit": pb.Event.EXIT,
    "exec-start": pb.Event.EXEC_START,
    "exec-exit": pb.Event.EXEC_EXIT,
    "oom": pb.Event.OOM,
    "paused": pb.Event.PAUSED,
    "resumed": pb.Event.RESUMED,
}
_TASK_STATUS = {
    TaskStatus.CREATED: pb.CREATED,
    TaskStatus.RUNNING: pb.RUNNING,
    TaskStatus.PAUSED: pb.PAUSED,
    TaskStatus.STOPPED: pb.STOPPED,
}
_EVENTS = 10_000  # that a subscriber may be behind

Method = Callable[[Any, "Stream[Any, Any]"], Awaitable[None]]
F = TypeVar("F", bound=Method)


def _answered(method: F) -> F:
    """Turn our errors into gRPC's, and admit only our own uid."""

    @functools.wraps(method)
    async def wrapper(self: Any, stream: Stream[Any, Any]) -> None:
        try:
            _admit(stream)
            await method(self, stream)
        except errors.SampanError as e:
            status = next((s for class_, s in _STATUS.items() if isinstance(e, class_)), Status.INTERNAL)
            raise GRPCError(status, e.message) from e
        except OSError as e:
            status = Status.RESOURCE_EXHAUSTED if e.errno in (12, 23, 24, 28) else Status.INTERNAL
            raise GRPCError(status, str(e)) from e

    return wrapper  # type: ignore[return-value]


def _admit(stream: Stream[Any, Any]) -> None:
    assert stream.peer is not None
    peer = stream.peer._transport.get_extra_info("socket")
    if layout.peer_uid(peer) != os.geteuid():
        raise GRPCError(Status.PERMISSION_DENIED, "only the supervisor's own user may call")


class Service(SupervisorBase):  # type: ignore[misc]  # generated code has no types
    def __init__(self, exec_root: str, nursery: Nursery, *, debug: bool) -> None:
        self._exec_root = exec_root
        self._debug = debug
        self.tasks = Tasks(exec_root, nursery, self._publish)
        self.deposits = Deposits(exec_root)
        self.kept = {
            NAMES.directory: Keeper(exec_root, nursery.binary, NAMES, {"servers": HostFile().servers}),
            PORTS.directory: Keeper(exec_root, nursery.binary, PORTS),
        }
        self._subscribers: set[asyncio.Queue[pb.Event | None]] = set()
        self.stopping = asyncio.Event()

    def _publish(self, task: Task, event: wire.Event) -> None:
        if self._debug:
            note(f"task {task.id}: {event}")
        message = pb.Event(
            kind=_KIND[event["kind"]],
            id=task.id,
            exec_id=event.get("exec_id", ""),
            pid=event.get("pid", 0),
            exit=_exit(event.get("exit")),
            task_kind=pb.TaskKind.Value(task.kind.name),
        )
        for queue in list(self._subscribers):
            if queue.full():
                self._subscribers.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(message)

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @_answered
    async def Create(self, stream: Stream[pb.CreateRequest, pb.TaskReply]) -> None:
        request = await _request(stream)
        if self.stopping.is_set():
            raise errors.Unavailable("the supervisor is about to end")
        shims, kind = _shims_request(request), _task_kind(request)
        try:
            task = await self.tasks.create(request.id, request.spec, shims, self._deposited(request.deposit), kind)
        except wire.TaskFailed as e:
            await stream.send_message(pb.TaskReply(failure=_failure(e)))
            return
        await stream.send_message(pb.TaskReply(task=_task(task)))

    def _deposited(self, token: str) -> Descriptors:
        """Take the descriptors that were left for a request. The caller leaves them again when they are not here."""
        if not token:
            return Descriptors()
        try:
            return self.deposits.take(token)
        except UnknownDeposit as e:
            raise GRPCError(Status.ABORTED, "no such deposit") from e

    @_answered
    async def Start(self, stream: Stream[pb.TaskId, pb.TaskReply]) -> None:
        request = await _request(stream)
        try:
            await self.tasks.ask(request.id, ShimLink.start)
        except wire.TaskFailed as e:
            await stream.send_message(pb.TaskReply(failure=_failure(e)))
            return
        await stream.send_message(pb.TaskReply(task=_task(self.tasks.get(request.id))))

    @_answered
    async def Delete(self, stream: Stream[pb.TaskId, pb.DeleteReply]) -> None:
        answer = await self.tasks.delete((await _request(stream)).id)
        await stream.send_message(
            pb.DeleteReply(found=answer is not None, exit=_exit(answer["exit"] if answer else None))
        )

    @_answered
    async def Wait(self, stream: Stream[pb.ProcessId, pb.Exit]) -> None:
        request = await _request(stream)
        await stream.send_message(_some_exit(await self.tasks.get(request.id).wait(request.exec_id)))

    # ── while it runs ───────────────────────────────────────────────────────────────────────────────────────────────

    @_answered
    async def Kill(self, stream: Stream[pb.KillRequest, pb.Empty]) -> None:
        r = await _request(stream)
        await self.tasks.kill(r.id, {"signal": r.signal, "exec_id": r.exec_id, "all": r.all})
        await stream.send_message(pb.Empty())

    @_answered
    async def Pause(self, stream: Stream[pb.TaskId, pb.Empty]) -> None:
        await self.tasks.ask((await _request(stream)).id, ShimLink.pause)
        await stream.send_message(pb.Empty())

    @_answered
    async def Resume(self, stream: Stream[pb.TaskId, pb.Empty]) -> None:
        await self.tasks.ask((await _request(stream)).id, ShimLink.resume)
        await stream.send_message(pb.Empty())

    @_answered
    async def Update(self, stream: Stream[pb.UpdateRequest, pb.Empty]) -> None:
        r = await _request(stream)
        update: wire.UpdateRequest = {"resources": _json(r.resources)}
        await self.tasks.ask(r.id, lambda shim: shim.update(update))
        await stream.send_message(pb.Empty())

    @_answered
    async def Resize(self, stream: Stream[pb.ResizeRequest, pb.Empty]) -> None:
        r = await _request(stream)
        if max(r.width, r.height) > 0xFFFF:
            raise errors.InvalidArgument("invalid window size")
        size: wire.ResizeRequest = {"exec_id": r.exec_id, "width": r.width, "height": r.height}
        await self.tasks.ask(r.id, lambda shim: shim.resize(size))
        await stream.send_message(pb.Empty())

    @_answered
    async def Exec(self, stream: Stream[pb.ExecRequest, pb.ProcessReply]) -> None:
        r = await _request(stream)
        request: wire.ExecRequest = {
            "exec_id": r.exec_id,
            "process": _json(r.process),
            "terminal": r.terminal,
            "stdin": r.stdin,
            "start": r.start,
            "seccomp": r.seccomp,
        }
        await self._process(stream, self.tasks.ask(r.id, lambda shim: shim.exec(request)))

    @_answered
    async def ExecStart(self, stream: Stream[pb.ProcessId, pb.ProcessReply]) -> None:
        r = await _request(stream)
        request: wire.ExecStartRequest = {"exec_id": r.exec_id}
        await self._process(stream, self.tasks.ask(r.id, lambda shim: shim.exec_start(request)))

    async def _process(self, stream: Stream[Any, pb.ProcessReply], call: Awaitable[wire.PidAnswer]) -> None:
        try:
            answer = await call
        except wire.TaskFailed as e:
            await stream.send_message(pb.ProcessReply(failure=_failure(e)))
            return
        await stream.send_message(pb.ProcessReply(pid=answer["pid"]))

    @_answered
    async def Stats(self, stream: Stream[pb.TaskId, pb.Json]) -> None:
        stats = await self.tasks.ask((await _request(stream)).id, ShimLink.stats)
        await stream.send_message(pb.Json(json=msgspec.json.encode(stats)))

    @_answered
    async def Pids(self, stream: Stream[pb.TaskId, pb.PidsReply]) -> None:
        await stream.send_message(pb.PidsReply(pids=await self.tasks.ask((await _request(stream)).id, ShimLink.pids)))

    # ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────

    @_answered
    async def Status(self, stream: Stream[pb.TaskId, pb.Task]) -> None:
        task = self.tasks.get((await _request(stream)).id)
        if task.status in UNBORN:
            raise errors.NotFound(f"No such task: {task.id}")
        await stream.send_message(_task(task))

    @_answered
    async def List(self, stream: Stream[pb.Empty, pb.ListReply]) -> None:
        await _request(stream)
        await stream.send_message(pb.ListReply(tasks=[_task(t) for t in self.tasks.all()]))

    @_answered
    async def Events(self, stream: Stream[pb.Empty, pb.Event]) -> None:
        await _request(stream)
        queue: asyncio.Queue[pb.Event | None] = asyncio.Queue(_EVENTS)
        self._subscribers.add(queue)
        try:
            await stream.send_message(pb.Event(kind=pb.Event.READY))
            while (event := await queue.get()) is not None:
                await stream.send_message(event)
            raise errors.Unavailable("too slow a subscriber: subscribe again and list the tasks")
        finally:
            self._subscribers.discard(queue)

    @_answered
    async def CompileSeccomp(self, stream: Stream[pb.Json, pb.Path]) -> None:
        profile = _json((await _request(stream)).json)
        path = await asyncio.to_thread(seccomp.cached, profile, f"{self._exec_root}/seccomp")
        await stream.send_message(pb.Path(path=path))

    @_answered
    async def Ensure(self, stream: Stream[pb.ProcessName, pb.Empty]) -> None:
        name = (await _request(stream)).name
        keeper = self.kept.get(name)
        if keeper is None:
            raise errors.InvalidArgument(f"unknown kind of process: {name}")
        await keeper.ensure()
        await stream.send_message(pb.Empty())

    @_answered
    async def ShutdownIfIdle(self, stream: Stream[pb.Empty, pb.ShutdownReply]) -> None:
        await _request(stream)
        await stream.send_message(pb.ShutdownReply(exiting=self.stop_if_idle(), tasks=len(self.tasks)))

    def stop_if_idle(self) -> bool:
        if len(self.tasks) == 0:
            self.stopping.set()
        return self.stopping.is_set()


async def _request(stream: Stream[Any, Any]) -> Any:
    request = await stream.recv_message()
    if request is None:
        raise errors.InvalidArgument("no request")
    return request


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise errors.InvalidArgument(f"invalid JSON: {e}") from e


def _task_kind(request: pb.CreateRequest) -> TaskKind:
    try:
        return TaskKind[pb.TaskKind.Name(request.kind)]
    except (KeyError, ValueError) as e:
        raise errors.InvalidArgument(f"unknown kind of task: {request.kind}") from e


def _shims_request(request: pb.CreateRequest) -> wire.CreateArguments:
    """The create request in the shim's words; the spec goes as a file, config.json."""
    return {
        "rootfs": _json(request.rootfs or b"[]"),
        "sources": list(request.sources),
        "seccomp": request.seccomp,
        "terminal": request.terminal,
        "stdin": request.stdin,
        "stdin_once": request.stdin_once,
        "logging": {
            "driver": request.logging.driver,
            "path": request.logging.path,
            "options": dict(request.logging.options),
            "attrs": dict(request.logging.attrs),
        },
        "runtime": request.runtime,
        "runtime_args": list(request.runtime_args),
        "start": request.start,
    }


def _failure(error: wire.TaskFailed) -> pb.Failure:
    return pb.Failure(step=error.step, errno=error.errno, message=error.message)


def _some_exit(value: wire.ExitRecord) -> pb.Exit:
    return pb.Exit(status=value["status"], exited_at_ns=value["exited_at_ns"], oom_killed=value["oom_killed"])


def _exit(value: wire.ExitRecord | None) -> pb.Exit | None:
    return _some_exit(value) if value else None


def _task(task: Task) -> pb.Task:
    report = task.report
    return pb.Task(
        id=task.id,
        pid=report["pid"],
        status=_TASK_STATUS[task.status],
        started_at_ns=report["started_at_ns"],
        exit=_exit(report["exit"]),
        execs=[pb.Exec(exec_id=e["exec_id"], pid=e["pid"], exit=_exit(e["exit"])) for e in task.execs.values()],
        shim_pid=report["shim_pid"],
        kind=pb.TaskKind.Value(task.kind.name),
    )


async def serve(exec_root: str, nursery: Nursery, ready: Callable[[], None], *, debug: bool) -> None:
    """Recover what is there, listen on <exec_root>/supervisor.sock, call `ready`, serve until told to end."""
    service = Service(exec_root, nursery, debug=debug)
    await service.tasks.recover()
    for keeper in service.kept.values():
        keeper.recover()
    nursery.refill()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stop_if_idle)
    server = Server([service])
    await server.start(sock=layout.listen(exec_root, "supervisor.sock", backlog=512))
    ready()
    await service.stopping.wait()
    await asyncio.sleep(0.05)  # let the answer to ShutdownIfIdle leave
    server.close()
    for keeper in service.kept.values():
        await keeper.close()
    service.deposits.close()
    for name in ("supervisor.sock", deposits.NAME):
        os.unlink(f"{exec_root}/{name}")
