"""The daemon's way to the supervisor: starts it when absent, calls it, hears its events, and comes back after either
side's death.

One gRPC channel, one event stream kept open all the time. Attach and exec with stdio go straight to the task's shim.
When the supervisor dies, the client starts another at once; calls wait for it, and calls that may be repeated are
repeated. `create` and `start` are brought to their end by asking what became of them.

Invariant: between two `connected` events no event is lost; after one, `list()` says what changed meanwhile.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from sampan import errors
from sampan.supervisor import deposits, layout, starter, wire
from sampan.supervisor import supervisor_pb2 as pb
from sampan.supervisor.kept.processes import NAMES, PORTS
from sampan.supervisor.states import TaskStatus
from sampan.supervisor.supervisor_grpc import SupervisorStub
from sampan.supervisor.values import (
    Attachment,
    ExecInfo,
    Exit,
    MountSource,
    NamespaceSource,
    TaskEvent,
    TaskInfo,
    TaskKind,
    TaskRequest,
)
from sampan.supervisor.wire import TaskFailed

__all__ = [
    "Attachment",
    "ExecInfo",
    "Exit",
    "MountSource",
    "NamespaceSource",
    "Supervisor",
    "TaskEvent",
    "TaskFailed",
    "TaskInfo",
    "TaskKind",
    "TaskRequest",
]

_CONNECT_TIMEOUT_S = 10.0
_RETRY_S = 0.02
ANSWER_LIMIT_S = 180.0  # more than the supervisor's own limits: it answers before, or not at all
_STREAM_LIMIT_BYTES = 64 * 1024  # twice this is held of what a client has not read
_EVENTS = 10_000  # that a subscriber may be behind
_LOST = (ConnectionError, StreamTerminatedError, FileNotFoundError)
_ERRORS: dict[Status, type[errors.SampanError]] = {
    Status.NOT_FOUND: errors.NotFound,
    Status.FAILED_PRECONDITION: errors.Conflict,
    Status.INVALID_ARGUMENT: errors.InvalidArgument,
    Status.UNIMPLEMENTED: errors.NotImplemented_,
    Status.UNAVAILABLE: errors.Unavailable,
    Status.PERMISSION_DENIED: errors.Forbidden,
}
_KINDS = {
    pb.Event.START: "start",
    pb.Event.EXIT: "exit",
    pb.Event.EXEC_START: "exec-start",
    pb.Event.EXEC_EXIT: "exec-exit",
    pb.Event.OOM: "oom",
    pb.Event.PAUSED: "paused",
    pb.Event.RESUMED: "resumed",
}
_STATUSES = {
    pb.CREATED: TaskStatus.CREATED,
    pb.RUNNING: TaskStatus.RUNNING,
    pb.PAUSED: TaskStatus.PAUSED,
    pb.STOPPED: TaskStatus.STOPPED,
}


T = TypeVar("T")


class Supervisor:
    """Use `connect`. All methods raise errors.SampanError kinds; `create`, `start` and exec also TaskFailed."""

    def __init__(self, exec_root: str, *, debug: bool, boot: starter.Boot | None = None) -> None:
        self._exec_root = exec_root
        self._debug = debug
        self._boot = boot
        self._channel: Channel | None = None
        self._stub: SupervisorStub | None = None
        self._ready = asyncio.Event()
        self._closing = False
        self._subscribers: set[asyncio.Queue[TaskEvent]] = set()
        self._waiters: dict[tuple[str, str], set[asyncio.Future[Exit | None]]] = {}
        self._pump: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, exec_root: str, *, debug: bool = False, boot: starter.Boot | None = None) -> Supervisor:
        """Reach the supervisor of `exec_root`, starting it when there is none. boot: the one that is starting already.

        Raises Unavailable.
        """
        self = cls(os.path.abspath(exec_root), debug=debug, boot=boot)
        self._pump = asyncio.create_task(self._keep_connected(), name="supervisor events")
        try:
            await self._until_ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Leave; the supervisor and its tasks stay."""
        self._closing = True
        if self._pump:
            self._pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pump
        if self._channel:
            self._channel.close()

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def create(self, req: TaskRequest, *, start: bool) -> TaskInfo:
        """Make a task; with `start` also run it, in one round trip.

        Raises TaskFailed, Conflict; then nothing is left behind.
        """
        message = pb.CreateRequest(
            id=req.id,
            spec=req.spec,
            rootfs=msgspec.json.encode([mount.oci() for mount in req.rootfs]),
            seccomp=req.seccomp,
            terminal=req.terminal,
            stdin=req.stdin,
            stdin_once=req.stdin_once,
            logging=pb.Logging(driver=req.log_driver, path=req.log_path, options=req.log_options, attrs=req.log_attrs),
            runtime=req.runtime,
            runtime_args=req.runtime_args,
            start=start,
            sources=[source.place for source in req.sources],
            kind=pb.TaskKind.Value(req.kind.name),
        )
        fds = [source.fd for source in req.sources]
        try:
            return _task_reply(await self._create(message, fds))
        except _LOST:
            pass
        info = await self.status(req.id)
        if info is None:
            return _task_reply(await self._repeated(lambda: self._create(message, fds)))
        return await self.start(req.id) if start and info.status is TaskStatus.CREATED else info

    async def _create(self, message: pb.CreateRequest, fds: Sequence[int]) -> Any:
        """Ask once, with the descriptors left at the supervisor for as long as it takes."""
        if not fds:
            return await self._once(lambda s: s.Create(message))
        if not self._ready.is_set():
            await self._until_ready()
        try:
            with deposits.left(self._exec_root, fds) as message.deposit:
                return await self._once(lambda s: s.Create(message))
        except BlockingIOError as e:
            raise errors.Unavailable("the supervisor is too busy to take descriptors") from e

    async def start(self, id: str) -> TaskInfo:
        try:
            return _task_reply(await self._once(lambda s: s.Start(pb.TaskId(id=id))))
        except _LOST:
            pass
        info = await self.status(id)
        if info is not None and info.status is not TaskStatus.CREATED:
            return info
        return _task_reply(await self._call(lambda s: s.Start(pb.TaskId(id=id))))

    async def delete(self, id: str) -> Exit | None:
        """Kill what is left of the task, wait, remove it. A missing task is None, as is one that never ran."""
        reply = await self._call(lambda s: s.Delete(pb.TaskId(id=id)))
        return _exit(reply)

    async def wait(self, id: str, exec_id: str = "", *, begun: bool = True) -> Exit:
        """Return when the process has ended, at once when it already has.

        begun: False when it is still to be started, so that its end cannot be over yet and nobody has to be asked.
        Raises NotFound, also when the task is deleted meanwhile by others.
        """
        while True:
            future: asyncio.Future[Exit | None] = asyncio.get_running_loop().create_future()
            waiters = self._waiters.setdefault((id, exec_id), set())
            waiters.add(future)
            try:
                if begun and (exit_ := await self._known_exit(id, exec_id)):
                    return exit_
                if exit_ := await future:
                    return exit_
                begun = True  # the connection was lost meanwhile
            finally:
                waiters.discard(future)
                if not waiters:
                    self._waiters.pop((id, exec_id), None)

    async def _known_exit(self, id: str, exec_id: str) -> Exit | None:
        info = _task(await self._call(lambda s: s.Status(pb.TaskId(id=id))))
        if not exec_id:
            return info.exit
        exec_ = next((e for e in info.execs if e.exec_id == exec_id), None)
        if exec_ is None:
            raise errors.NotFound(f"No such exec instance: {exec_id}")
        return exec_.exit

    # ── while it runs ───────────────────────────────────────────────────────────────────────────────────────────────

    async def kill(self, id: str, signal: int, *, exec_id: str = "", all: bool = False) -> None:
        """Send a signal to init or an exec'd process; all: to the whole container, or to the exec'd one's children,
        too.
        """
        await self._call(lambda s: s.Kill(pb.KillRequest(id=id, signal=signal, exec_id=exec_id, all=all)))

    async def pause(self, id: str) -> None:
        await self._call(lambda s: s.Pause(pb.TaskId(id=id)))

    async def resume(self, id: str) -> None:
        await self._call(lambda s: s.Resume(pb.TaskId(id=id)))

    async def update(self, id: str, resources: dict[str, Any]) -> None:
        """Apply OCI linux.resources. Raises TaskFailed when the kernel refuses a value."""
        message = pb.UpdateRequest(id=id, resources=msgspec.json.encode(resources))
        await self._call(lambda s: s.Update(message))

    async def resize(self, id: str, width: int, height: int, exec_id: str = "") -> None:
        message = pb.ResizeRequest(id=id, exec_id=exec_id, width=width, height=height)
        await self._call(lambda s: s.Resize(message))

    async def stats(self, id: str) -> dict[str, Any]:
        reply = await self._call(lambda s: s.Stats(pb.TaskId(id=id)))
        return msgspec.json.decode(reply.json)  # type: ignore[no-any-return]

    async def pids(self, id: str) -> builtins.list[int]:
        return [*(await self._call(lambda s: s.Pids(pb.TaskId(id=id)))).pids]

    # ── exec and attach ─────────────────────────────────────────────────────────────────────────────────────────────

    async def exec(
        self,
        id: str,
        exec_id: str,
        process: dict[str, Any],
        *,
        terminal: bool,
        stdin: bool,
        start: bool,
        seccomp: str = "",
    ) -> int:
        """Run another process (`start`), output discarded; or prepare it for `attach` and `exec_start`.

        Returns its pid or 0.
        """
        message = pb.ExecRequest(
            id=id,
            exec_id=exec_id,
            process=msgspec.json.encode(process),
            terminal=terminal,
            stdin=stdin,
            start=start,
            seccomp=seccomp,
        )
        return _pid_reply(await self._call(lambda s: s.Exec(message)))

    async def exec_start(self, id: str, exec_id: str) -> int:
        return _pid_reply(await self._call(lambda s: s.ExecStart(pb.ProcessId(id=id, exec_id=exec_id))))

    async def exec_attached(
        self,
        id: str,
        exec_id: str,
        process: dict[str, Any],
        *,
        terminal: bool,
        stdin: bool,
        stdout: bool = True,
        stderr: bool = True,
        raw: bool | None = None,
        seccomp: str = "",
    ) -> tuple[int, Attachment]:
        """Prepare, attach and start in one exchange with the shim: the fast way of `docker exec`.

        raw: whether output comes without frames; None: as the terminal says. Returns (pid, stdio). Raises TaskFailed.
        """
        return await self._visit(
            id,
            {
                "op": "exec",
                "exec_id": exec_id,
                "process": process,
                "terminal": terminal,
                "stdin": stdin,
                "stdout": stdout,
                "stderr": stderr,
                "raw": terminal if raw is None else raw,
                "seccomp": seccomp,
            },
        )

    async def attach(
        self, id: str, *, exec_id: str = "", stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> Attachment:
        """Attach to init or to an exec'd process. Every byte written from now on arrives."""
        request = {"op": "attach", "exec_id": exec_id, "stdin": stdin, "stdout": stdout, "stderr": stderr}
        return (await self._visit(id, request))[1]

    async def _visit(self, id: str, request: dict[str, Any]) -> tuple[int, Attachment]:
        while True:
            try:
                peer = layout.connect(layout.task_dir(self._exec_root, id), "shim.sock")
                break
            except BlockingIOError:  # so many wait for it already
                await asyncio.sleep(_RETRY_S)
            except (FileNotFoundError, ConnectionError) as e:
                raise errors.NotFound(f"No such task: {id}") from e
        reader, writer = await asyncio.open_unix_connection(sock=peer, limit=_STREAM_LIMIT_BYTES)
        try:
            writer.write(wire.line(request))
            async with asyncio.timeout(ANSWER_LIMIT_S):
                line = await _line(reader)
            if not line:
                raise errors.NotFound(f"task {id}: its shim has ended")
            answer = wire.decode(line)
            if "error" in answer:
                raise wire.error_from_wire(answer["error"])
        except ConnectionError as e:
            writer.close()
            raise errors.NotFound(f"task {id}: its shim has ended") from e
        except TimeoutError as e:
            writer.close()
            raise errors.Unavailable(f"task {id}: its shim does not answer") from e
        except BaseException:
            writer.close()
            raise
        return answer["ok"]["pid"], Attachment(reader=reader, writer=writer, at_ns=answer["ok"].get("at_ns", 0))

    # ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────

    def events(self) -> AsyncIterator[TaskEvent]:
        """Everything from the moment of the call on; `connected` first when there is a connection, and after every
        reconnection. A subscriber that is too far behind loses what it has not taken, and gets `connected` for it.
        """
        queue: asyncio.Queue[TaskEvent] = asyncio.Queue(_EVENTS)
        if self._ready.is_set():
            queue.put_nowait(TaskEvent(kind="connected"))
        self._subscribers.add(queue)

        async def stream() -> AsyncIterator[TaskEvent]:
            try:
                while True:
                    yield await queue.get()
            finally:
                self._subscribers.discard(queue)

        return stream()

    async def compile_seccomp(self, profile: dict[str, Any]) -> str:
        """Path of the BPF program for OCI linux.seccomp; compiled once per content."""
        reply = await self._call(lambda s: s.CompileSeccomp(pb.Json(json=msgspec.json.encode(profile))))
        return reply.path  # type: ignore[no-any-return]

    async def ensure_names(self) -> None:
        """Return when the name service answers; the supervisor starts it, and keeps it alive. Raises: Unavailable."""
        await self._call(lambda s: s.Ensure(pb.ProcessName(name=NAMES.directory)))

    async def ensure_ports(self) -> None:
        """Return when published ports are carried; as with `ensure_names`. Raises: Unavailable."""
        await self._call(lambda s: s.Ensure(pb.ProcessName(name=PORTS.directory)))

    async def shutdown_if_idle(self) -> bool:
        """Let the supervisor end when it has no task; True when it does.

        The client is of no use afterwards: `close` it.
        """
        self._closing = True
        try:
            return bool((await self._once(lambda s: s.ShutdownIfIdle(pb.Empty()))).exiting)
        except _LOST:
            return True

    async def list(self) -> builtins.list[TaskInfo]:
        return [_task(t) for t in (await self._call(lambda s: s.List(pb.Empty()))).tasks]

    # ── connection ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _call(self, method: Callable[[SupervisorStub], Any]) -> Any:
        """Call, and repeat when the supervisor went away meanwhile."""
        return await self._repeated(lambda: self._once(method))

    async def _repeated(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again when the supervisor went away meanwhile. Raises Unavailable when it does so every time."""
        for _ in range(3):
            try:
                return await attempt()
            except _LOST as e:
                lost = e
        raise errors.Unavailable(f"the supervisor does not answer: {lost}")

    async def _once(self, method: Callable[[SupervisorStub], Any]) -> Any:
        if not self._ready.is_set():
            await self._until_ready()
        assert self._stub is not None
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                return await method(self._stub)
        except TimeoutError as e:
            raise errors.Unavailable(
                f"the supervisor of {self._exec_root} does not answer; see {self._exec_root}/supervisor.log"
            ) from e
        except GRPCError as e:
            gone = e.status is Status.UNAVAILABLE and not self._ready.is_set()
            if gone or e.status is Status.ABORTED:  # of another supervisor than the one before
                raise ConnectionResetError("the supervisor went away") from e
            raise _ERRORS.get(e.status, errors.Internal)(e.message or str(e.status)) from e
        except _LOST:
            self._ready.clear()
            raise
        except AttributeError as e:  # grpclib 0.4.9 opening a stream on a connection that was lost in the same turn
            self._ready.clear()
            raise ConnectionResetError("the supervisor went away") from e

    async def status(self, id: str) -> TaskInfo | None:
        """Return the task as it is now; None when there is none."""
        try:
            return _task(await self._call(lambda s: s.Status(pb.TaskId(id=id))))
        except errors.NotFound:
            return None

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError as e:
            raise errors.Unavailable(
                f"the supervisor of {self._exec_root} cannot be reached; see {self._exec_root}/supervisor.log"
            ) from e

    async def _keep_connected(self) -> None:
        """Connect, deliver events until the connection breaks, and again."""
        delay_s = 0.01
        while not self._closing:
            try:
                await self._ensure_running()
                async with contextlib.aclosing(self._event_stream()) as stream:
                    async for message in stream:
                        delay_s = 0.01
                        self._deliver(message)
            except Exception as e:  # whatever broke it, the way on is to connect again
                if self._debug:
                    print(f"supervisor: {e!r}", file=sys.stderr)
            self._ready.clear()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 0.5)

    async def _event_stream(self) -> AsyncGenerator[pb.Event, None]:
        channel = open_channel(self._exec_root)
        self._channel, self._stub = channel, SupervisorStub(channel)
        try:
            async with self._stub.Events.open() as stream:
                await stream.send_message(pb.Empty(), end=True)
                while (message := await stream.recv_message()) is not None:
                    yield message
        finally:
            channel.close()

    def _deliver(self, message: pb.Event) -> None:
        if message.kind == pb.Event.READY:
            self._ready.set()
            event = TaskEvent(kind="connected")
            for futures in self._waiters.values():  # what happened meanwhile is asked for again
                for future in futures:
                    _settle(future, None)
        else:
            event = TaskEvent(
                kind=_KINDS[message.kind],
                id=message.id,
                exec_id=message.exec_id,
                pid=message.pid,
                exit=_exit(message),
                task_kind=TaskKind[pb.TaskKind.Name(message.task_kind)],
            )
            if event.exit:
                for future in self._waiters.get((event.id, event.exec_id), ()):
                    _settle(future, event.exit)
        for queue in self._subscribers:
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                event = TaskEvent(kind="connected")
            queue.put_nowait(event)

    async def _ensure_running(self) -> None:
        """Start a supervisor unless one answers; return when one listens."""
        boot, self._boot = self._boot, None
        if boot is None:
            os.makedirs(self._exec_root, 0o700, exist_ok=True)
            if starter.runs(self._exec_root):
                return
            boot = starter.spawn(self._exec_root, debug=self._debug)
        await boot.ready()


def open_channel(exec_root: str) -> Channel:
    """Return a channel to the supervisor of an exec root, whose socket's path may be longer than an address.

    A channel connects whenever it is used, also when its owner has closed it. So the directory it names by descriptor
    stays open as long as there is the channel: else the number would become another's, and be connected to.
    """
    fd = os.open(exec_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    channel = Channel(path=f"/proc/self/fd/{fd}/supervisor.sock")
    weakref.finalize(channel, os.close, fd)
    return channel


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Return the next line, however far it is beyond the reader's limit; b"" at the end."""
    parts: list[bytes] = []
    while True:
        try:
            parts.append(await reader.readuntil(b"\n"))
            return b"".join(parts)
        except asyncio.LimitOverrunError as e:
            parts.append(await reader.readexactly(e.consumed))
            if sum(map(len, parts)) > wire.MAX_LINE_BYTES:
                raise ConnectionResetError("the answer of a shim has no end") from None
        except asyncio.IncompleteReadError:
            return b""


def _settle(future: asyncio.Future[Exit | None], exit_: Exit | None) -> None:
    if not future.done():
        future.set_result(exit_)


def _exit(message: Any) -> Exit | None:
    if not message.HasField("exit"):
        return None
    e = message.exit
    return Exit(status=e.status, exited_at_ns=e.exited_at_ns, oom_killed=e.oom_killed)


def _task(message: pb.Task) -> TaskInfo:
    return TaskInfo(
        id=message.id,
        pid=message.pid,
        status=_STATUSES[message.status],
        started_at_ns=message.started_at_ns,
        exit=_exit(message),
        execs=tuple(ExecInfo(exec_id=e.exec_id, pid=e.pid, exit=_exit(e)) for e in message.execs),
        shim_pid=message.shim_pid,
        kind=TaskKind[pb.TaskKind.Name(message.kind)],
    )


def _task_reply(reply: pb.TaskReply) -> TaskInfo:
    if reply.HasField("failure"):
        raise TaskFailed(reply.failure.step, reply.failure.errno, reply.failure.message)
    return _task(reply.task)


def _pid_reply(reply: pb.ProcessReply) -> int:
    if reply.HasField("failure"):
        raise TaskFailed(reply.failure.step, reply.failure.errno, reply.failure.message)
    return reply.pid
