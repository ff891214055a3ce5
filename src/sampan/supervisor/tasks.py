"""The supervisor's table of tasks: made, found again, watched, removed. No gRPC here.

Each task is known by what its shim last reported; the truth is with the shim and in tasks/<id>/. A task whose shim dies
is ended here: its cgroup is killed, exit.json says 137, and the event is told like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from sampan.errors import Conflict, InvalidArgument, NotFound, SampanError, Unavailable, words
from sampan.linux.cgroups import groups
from sampan.runtime.failure import InvalidSpec
from sampan.runtime.validate import validate
from sampan.supervisor import layout, wire
from sampan.supervisor.deposits import Descriptors
from sampan.supervisor.link import OnEvent, OnReport, ShimLink, ShimLost
from sampan.supervisor.notes import note
from sampan.supervisor.nursery import Nursery
from sampan.supervisor.states import CHANGES, UNBORN, TaskChange, TaskStatus, after
from sampan.supervisor.values import TaskKind

_KILLED = 137
_EXECS_REMEMBERED = 256
_RETRY_S = 1.0

# A shim answers at once what does not wait for the container; its own limits for the rest are shorter than this.
_ANSWER_LIMIT_S = 10.0
_OPERATION_LIMIT_S = 150.0
_DELETE_LIMIT_S = 60.0
_RECOVERY_LIMIT_S = 2.0

Publish = Callable[["Task", wire.Event], None]
T = TypeVar("T")


class Task:
    """One task as the supervisor knows it."""

    def __init__(self, id: str, kind: TaskKind) -> None:
        self.id = id
        self.kind = kind
        self.link: ShimLink | None = None
        self.report: wire.TaskReport = {
            "id": id,
            "pid": 0,
            "shim_pid": 0,
            "status": TaskStatus.CREATING,
            "started_at_ns": 0,
            "exit": None,
            "execs": [],
        }
        self.execs: dict[str, wire.ExecRecord] = {}
        self.changed = asyncio.Event()
        self.deleting = False

    @property
    def status(self) -> TaskStatus:
        return self.report["status"]

    @property
    def exit(self) -> wire.ExitRecord | None:
        return self.report["exit"]

    def learn(self, report: wire.TaskReport) -> None:
        self.report = {**report, "status": TaskStatus(report["status"])}
        for exec_ in report["execs"]:
            self.remember(exec_)
        self._wake()

    def remember(self, exec_: wire.ExecRecord) -> None:
        self.execs.pop(exec_["exec_id"], None)
        self.execs[exec_["exec_id"]] = exec_
        if len(self.execs) > _EXECS_REMEMBERED:
            ended = next((e for e, value in self.execs.items() if value["exit"]), None)
            if ended:
                del self.execs[ended]
        self._wake()

    def apply(self, event: wire.Event) -> None:
        """Take an event into what is known."""
        kind = event["kind"]
        if kind in CHANGES:
            self.report["status"] = after(self.status, TaskChange(kind))
        if kind == "start":
            self.report["pid"] = event["pid"]
        elif kind == "exit":
            self.report["exit"] = event["exit"]
        elif kind in ("exec-start", "exec-exit"):
            self.remember({"exec_id": event["exec_id"], "pid": event["pid"], "exit": event.get("exit")})
        self._wake()

    async def wait(self, exec_id: str) -> wire.ExitRecord:
        """The exit of init or of an exec'd process, when it has come."""
        while True:
            if exec_id:
                exec_ = self.execs.get(exec_id)
                if exec_ is None:
                    raise NotFound(f"No such exec instance: {exec_id}")
                exit_ = exec_["exit"]
            else:
                exit_ = self.exit
            if exit_:
                return exit_
            await self.changed.wait()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Tasks:
    def __init__(self, exec_root: str, nursery: Nursery, publish: Publish) -> None:
        self._exec_root = exec_root
        self._nursery = nursery
        self._publish = publish
        self._tasks: dict[str, Task] = {}
        self._jobs: set[asyncio.Task[None]] = set()

    def get(self, id: str) -> Task:
        task = self._tasks.get(id)
        if task is None:
            raise NotFound(f"No such task: {id}")
        return task

    def all(self) -> list[Task]:
        return [t for t in self._tasks.values() if t.status not in UNBORN]

    def __len__(self) -> int:
        return len(self._tasks)

    async def ask(self, id: str, question: Callable[[ShimLink], Coroutine[Any, Any, T]]) -> T:
        """Ask a task's shim. Raises NotFound when task or shim are gone, Unavailable when it does not answer."""
        link = self.get(id).link
        if link is None:
            raise NotFound(f"task {id}: its shim is gone")
        try:
            async with asyncio.timeout(_OPERATION_LIMIT_S):
                return await question(link)
        except ShimLost as e:
            raise NotFound(f"task {id}: its shim has ended") from e
        except TimeoutError as e:
            raise Unavailable(f"task {id}: its shim does not answer") from e

    async def kill(self, id: str, request: wire.KillRequest) -> None:
        """Send a signal. What cannot be refused (SIGKILL to a container) does not depend on the shim's answer.

        Raises: as `ask`.
        """
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                await self.ask(id, lambda link: link.kill(request))
        except TimeoutError as e:
            if request["signal"] != signal.SIGKILL or request["exec_id"]:
                raise Unavailable(f"task {id}: its shim does not answer") from e
            self._end_shim(self.get(id))

    def _end_shim(self, task: Task) -> None:
        """End a shim that does not answer, and with it its container: `_on_lost` tells and clears away."""
        if task.link is None:
            return
        note(f"task {task.id}: its shim does not answer, and is killed")
        try:
            os.kill(task.report["shim_pid"] or task.link.shim_pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    # ── create ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def create(
        self,
        id: str,
        spec: bytes,
        request: wire.CreateArguments,
        sources: Descriptors,
        kind: TaskKind = TaskKind.CONTAINER,
    ) -> Task:
        """Make a task from its OCI config.json and the shim's create request.

        sources: a descriptor for each of the request's `sources`; owned, and closed, from the call on. On any
        failure nothing is left: no process, no cgroup, no directory, no descriptor.
        """
        with contextlib.ExitStack() as owned:
            owned.callback(sources.close)
            decoded = self._checked(id, spec, request, sources)
            task = self._tasks[id] = Task(id, kind)
            directory = layout.task_dir(self._exec_root, id)
            try:
                os.mkdir(directory, 0o700)
                os.mkdir(f"{directory}/rootfs", 0o700)
                layout.write(f"{directory}/config.json", spec)
                layout.write_shim(directory, decoded, kind)
                making = asyncio.get_running_loop().create_task(self._ask_new_shim(task, request, sources))
                owned.pop_all()
                try:
                    await asyncio.shield(making)
                except asyncio.CancelledError:
                    # The caller has died, the shim is at work: let it come to its end, then take away what it made.
                    self._job(self._abandon(task, making))
                    raise
            except asyncio.CancelledError:
                raise
            except BaseException as e:
                await self._undo(task, orphaned=not isinstance(e, SampanError) or isinstance(e, ShimLost))
                if isinstance(e, OSError):
                    raise wire.TaskFailed("task", e.errno or 0, f"create task {id}: {words(e)}") from e
                raise
            return task

    def _checked(self, id: str, spec: bytes, request: wire.CreateArguments, sources: Descriptors) -> Any:
        """Return the spec, decoded. Raises: InvalidArgument, Conflict, TaskFailed, for what cannot become a task."""
        if not id or not all(c in "0123456789abcdefghijklmnopqrstuvwxyz_.-" for c in id.lower()) or id[0] in ".-":
            raise InvalidArgument(f"invalid task id: {id!r}")
        if id in self._tasks:
            raise Conflict(f"task {id} exists already")
        decoded = _decode(spec)
        if not request["runtime"]:
            _check(decoded)
        _check_sources(decoded, request["sources"], len(sources.fds))
        return decoded

    async def _abandon(self, task: Task, making: asyncio.Task[None]) -> None:
        """Undo a creation whose caller has gone: whatever the shim answers, nothing is left."""
        try:
            await making
        except Exception as e:
            await self._undo(task, orphaned=not isinstance(e, SampanError) or isinstance(e, ShimLost))
            return
        await self.delete(task.id)

    def _job(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something that nobody waits for."""
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _ask_new_shim(self, task: Task, request: wire.CreateArguments, sources: Descriptors) -> None:
        try:
            task.link = await self._nursery.take()
            task.link.bind(*self._listeners(task))
            try:
                async with asyncio.timeout(_OPERATION_LIMIT_S):
                    await task.link.create({**request, "id": task.id}, sources.fds)
            except TimeoutError as e:
                self._end_shim(task)
                raise ShimLost(f"create task {task.id}: its shim does not answer") from e
            finally:
                self._nursery.refill()
        finally:
            sources.close()

    def _listeners(self, task: Task) -> tuple[OnReport, OnEvent, Callable[[], None]]:
        return task.learn, lambda event: self._on_event(task, event), lambda: self._on_lost(task)

    async def _link(self, task: Task, peer: socket.socket) -> ShimLink:
        on_report, on_event, on_lost = self._listeners(task)
        return await ShimLink.open(peer, on_report=on_report, on_event=on_event, on_lost=on_lost)

    async def _undo(self, task: Task, *, orphaned: bool = True) -> None:
        """Forget a task that did not come about. `orphaned`: its shim did not clean up by itself."""
        link, task.link = task.link, None
        if link:
            link.close()
        self._tasks.pop(task.id, None)
        directory = layout.task_dir(self._exec_root, task.id)
        try:
            shim = layout.read_shim(directory) if orphaned else None
            if shim and shim["cgroup"]:
                await self._clear_cgroup(shim["cgroup"])
            shutil.rmtree(directory)
        except FileNotFoundError:
            pass
        except OSError as e:  # no descriptors left, say: again when things may be better
            note(f"task {task.id}: clean up: {e}; trying again")
            asyncio.get_running_loop().call_later(_RETRY_S, self._undo_later, task, orphaned)

    def _undo_later(self, task: Task, orphaned: bool) -> None:
        if task.id not in self._tasks:
            self._job(self._undo(task, orphaned=orphaned))

    # ── delete ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def delete(self, id: str) -> wire.DeleteAnswer | None:
        """End what is left of a task and forget it. Returns {"exit"}; None when there is no such task.

        Raises: Unavailable when a process of the container does not die (the kernel waits for a disk, say).
        """
        task = self._tasks.get(id)
        if task is None:
            return None
        task.deleting = True
        link = task.link
        try:
            if link:
                try:
                    task.report["exit"] = (await self._delete(task, link))["exit"]
                except ShimLost:
                    await self._bury(task)
        except BaseException:
            task.deleting = False
            raise
        shutil.rmtree(layout.task_dir(self._exec_root, id), ignore_errors=True)
        self._tasks.pop(id, None)
        return {"exit": task.exit}

    async def _delete(self, task: Task, link: ShimLink) -> wire.DeleteAnswer:
        """Have the shim delete its task; one that does not answer at all is ended. Raises ShimLost, Unavailable."""
        deleting = asyncio.ensure_future(link.delete())
        try:
            done, _ = await asyncio.wait({deleting}, timeout=_ANSWER_LIMIT_S)
            if not done:
                try:
                    async with asyncio.timeout(_ANSWER_LIMIT_S):
                        await link.report()
                except TimeoutError:
                    self._end_shim(task)
            async with asyncio.timeout(_DELETE_LIMIT_S):
                return await deleting
        except TimeoutError as e:
            raise Unavailable(f"task {task.id}: tried to kill the container, but it did not end") from e
        finally:
            deleting.cancel()

    # ── a shim's news ───────────────────────────────────────────────────────────────────────────────────────────────

    def _on_event(self, task: Task, event: wire.Event) -> None:
        task.apply(event)
        if event["kind"] == "exec-exit" and task.link:
            task.link.told(event["exec_id"])
        self._publish(task, event)

    def _on_lost(self, task: Task) -> None:
        if task.link is None or task.status in UNBORN or task.deleting:
            return
        task.link = None
        self._job(self._bury(task))

    async def _bury(self, task: Task) -> None:
        """A shim has died: end its container, and tell."""
        task.link = None
        directory = layout.task_dir(self._exec_root, task.id)
        shim = layout.read_shim(directory)
        if shim and shim["cgroup"]:
            await self._clear_cgroup(shim["cgroup"])
        known = task.exit
        exit_ = known or _read_exit(directory)
        if exit_ is None:
            exit_ = {"status": _KILLED, "exited_at_ns": time.time_ns(), "oom_killed": False}
            layout.write_down(f"{directory}/exit.json", exit_, asyncio.get_running_loop().call_later, durable=True)
        task.report["shim_pid"] = 0
        for exec_ in [e for e in task.execs.values() if not e["exit"]]:
            gone: wire.Event = {"kind": "exec-exit", "exec_id": exec_["exec_id"], "pid": exec_["pid"], "exit": exit_}
            self._on_event(task, gone)
        if known is None:
            self._on_event(task, {"kind": "exit", "pid": task.report["pid"], "exit": exit_})

    async def _clear_cgroup(self, path: str) -> None:
        """Kill everything inside and remove it; a cgroup that is not there is fine."""

        def clear() -> None:
            cgroup = groups.load(path)
            cgroup.kill()
            cgroup.delete()

        try:
            await asyncio.to_thread(clear)
        except OSError as e:
            note(f"cgroup {path}: {e}")

    # ── found again ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def recover(self) -> None:
        """Find the tasks of an earlier supervisor: reconnect to living shims, end what lost its shim, clear what never
        began.

        A shim that does not answer keeps nobody waiting: after a moment its task is known by what its directory says,
        and the search for it goes on.
        """
        directory = layout.tasks_dir(self._exec_root)
        os.makedirs(directory, 0o700, exist_ok=True)
        boot_id = layout.boot_id()
        for id in os.listdir(directory):
            self._job(self._recover_one(id, boot_id))
        if self._jobs:
            await asyncio.wait(self._jobs, timeout=_RECOVERY_LIMIT_S)

    async def _recover_one(self, id: str, boot_id: str) -> None:
        directory = layout.task_dir(self._exec_root, id)
        shim = layout.read_shim(directory)
        kind = TaskKind.CONTAINER if shim is None else shim.get("kind", TaskKind.CONTAINER)
        if shim is None or shim.get("boot_id") != boot_id or kind not in list(TaskKind):
            shutil.rmtree(directory, ignore_errors=True)
            return
        task = self._tasks[id] = Task(id, TaskKind(kind))
        self._learn_from_directory(task)
        try:
            task.link = await self._reach(task)
            report = await task.link.hello
        except (OSError, ShimLost):
            await self._recover_dead(task)
            return
        if report is None or report["status"] in UNBORN:
            await self._undo(task)

    async def _reach(self, task: Task) -> ShimLink:
        """Connect to a task's shim. Raises OSError, when there is none."""
        while True:
            try:
                peer = layout.connect(layout.task_dir(self._exec_root, task.id), "shim.sock")
                break
            except BlockingIOError:  # so many wait for it already
                await asyncio.sleep(_RETRY_S)
        peer.send(wire.line({"op": "control"}))
        return await self._link(task, peer)

    def _learn_from_directory(self, task: Task) -> None:
        """Take what the files say for what is so, until the shim says more."""
        directory = layout.task_dir(self._exec_root, task.id)
        state = layout.read_json(f"{directory}/state.json", pid=int)
        if state is not None:
            task.report["pid"] = state["pid"]
            task.report["exit"] = _read_exit(directory)
            task.report["status"] = TaskStatus.STOPPED if task.exit else _running_or_paused(directory)

    async def _recover_dead(self, task: Task) -> None:
        """The shim is gone. A task that had come into being stays, as stopped, until it is deleted."""
        directory = layout.task_dir(self._exec_root, task.id)
        if layout.read_json(f"{directory}/state.json", pid=int) is None:
            await self._undo(task)
            return
        await self._bury(task)


def _running_or_paused(directory: str) -> TaskStatus:
    """Ask the kernel about a task whose shim has not answered yet."""
    shim = layout.read_shim(directory)
    try:
        frozen = shim is not None and bool(shim["cgroup"]) and groups.load(shim["cgroup"]).frozen()
    except OSError:
        frozen = False
    return TaskStatus.PAUSED if frozen else TaskStatus.RUNNING


def _read_exit(directory: str) -> wire.ExitRecord | None:
    value = layout.read_json(f"{directory}/exit.json", status=int, exited_at_ns=int, oom_killed=bool)
    if value is None:
        return None
    return {"status": value["status"], "exited_at_ns": value["exited_at_ns"], "oom_killed": value["oom_killed"]}


def _decode(spec: bytes) -> Any:
    """Read a config.json. Raises InvalidArgument."""
    try:
        return msgspec.json.decode(spec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise InvalidArgument(f"invalid config.json: {e}") from e


def _check(spec: Any) -> None:
    """Validate a spec for our own runtime. Raises: TaskFailed naming field and reason."""
    try:
        validate(spec)
    except InvalidSpec as e:
        raise wire.TaskFailed(e.step, e.errno, e.message) from e


def _check_sources(spec: Any, places: list[str], count: int) -> None:
    """Make sure that each descriptor has a place of its own in the spec. Raises: InvalidArgument."""
    if len(places) != count or len(set(places)) != count:
        raise InvalidArgument(f"{len(set(places))} places in the spec for {count} descriptors")
    for place in places:
        kind, _, name = place.partition("/")
        if not ((kind == "mounts" and _is_bind(spec, name)) or (kind == "namespaces" and _is_joined(spec, name))):
            raise InvalidArgument(f"{place} of the spec takes no descriptor: it is no bind mount or namespace by path")


def _is_bind(spec: Any, index: str) -> bool:
    mounts = spec.get("mounts") if isinstance(spec, dict) else None
    if not index.isdecimal() or not isinstance(mounts, list) or int(index) >= len(mounts):
        return False
    mount = mounts[int(index)]
    return isinstance(mount, dict) and bool({"bind", "rbind"} & {*(mount.get("options") or ())})


def _is_joined(spec: Any, type_: str) -> bool:
    linux = spec.get("linux") if isinstance(spec, dict) else None
    found = linux.get("namespaces") if isinstance(linux, dict) else None
    return any(isinstance(n, dict) and n.get("type") == type_ and n.get("path") for n in found or ())
