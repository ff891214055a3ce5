"""A whole engine in this process, beside a kernel of its own: everything is real but the supervisor with its tasks.

    with_one_process(seed, lambda engine: …)

A task is a thread, or a process that outlives this one (`survive`), that stands in the container's network namespace:
its id is the task's pid, and /proc has its namespaces. `Tasks` waits around each of its answers, so that a call may be
cancelled before its effect and behind it.

    killed_at(step, directory, work)

Here the process ends without a word at the step-th of its steps: an await, a write of the store, a change of a
directory. `settled` waits until nothing moves; `wrong` looks for what must not be then, in words.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import dataclasses
import itertools
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from sampan.engine.config import EngineConfig
from sampan.engine.containers.states import ACTIVE, WITH_TASK
from sampan.engine.engine import Engine
from sampan.engine.store import Op, Ref, Store, Table
from sampan.errors import Conflict, NotFound, Unavailable
from sampan.linux import mounts
from sampan.linux.namespaces import setns
from sampan.linux.netlink import Netlink
from sampan.linux.process import PR_SET_CHILD_SUBREAPER, prctl
from sampan.supervisor.client import (
    Attachment,
    Exit,
    NamespaceSource,
    Supervisor,
    TaskEvent,
    TaskInfo,
    TaskKind,
    TaskRequest,
)
from sampan.supervisor.states import TaskStatus
from tests.support.container_fakes import FakeSupervisor
from tests.support.interleaving import AloneLoop, alone

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


class _Process:
    """A thread that stands in a network namespace until it is ended."""

    def __init__(self, netns: int) -> None:
        self._end = threading.Event()
        there = threading.Event()

        def stand() -> None:
            if netns >= 0:
                setns(netns, CLONE_NEWNET)
            there.set()
            self._end.wait()

        self._thread = threading.Thread(target=stand, daemon=True)
        self._thread.start()
        there.wait()
        assert self._thread.native_id is not None
        self.pid = self._thread.native_id

    def end(self) -> None:
        self._end.set()
        self._thread.join()
        while os.path.exists(f"/proc/self/task/{self.pid}"):
            time.sleep(0.0005)  # the kernel has it a moment longer than the join


class _Survivor:
    """A process that stands in a network namespace, and goes on when the one that began it is no more."""

    def __init__(self, netns: int) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if netns >= 0:
                    setns(netns, CLONE_NEWNET)
                os.closerange(0, writer)  # the store's lock among them: it is not this process's
                os.closerange(writer + 1, 4096)
                os.write(writer, b".")
                os.close(writer)
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        os.close(writer)
        assert os.read(reader, 1) == b"."
        os.close(reader)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class _Writer:
    """Standard input that nobody reads."""

    def write(self, data: bytes) -> None:
        pass

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False


class Tasks(FakeSupervisor):
    """The supervisor's answers, its tasks being threads. It outlives the engines that use it."""

    def __init__(self, *, survive: bool = False) -> None:
        super().__init__()
        self._make = _Survivor if survive else _Process
        self._processes: dict[str, _Process | _Survivor] = {}
        self._execs: dict[str, dict[str, int | None]] = {}  # of a task: exec → its exit status
        self._outputs: dict[str, list[asyncio.StreamReader]] = {}

    def write(self, path: Path) -> None:
        """Keep the tasks for an engine in another process."""
        path.write_bytes(pickle.dumps((self.tasks, self._processes)))

    @classmethod
    def read(cls, path: Path) -> Tasks:
        """Take over the tasks that another process has kept; the caller is their parent by now."""
        self = cls(survive=True)
        self.tasks, self._processes = pickle.loads(path.read_bytes())
        return self

    async def close(self) -> None:
        self._queues.clear()

    async def ensure_names(self) -> None:
        raise Unavailable("there is no name service in this process")

    async def ensure_ports(self) -> None:
        raise Unavailable("there is no carrier of ports in this process")

    async def shutdown_if_idle(self) -> bool:
        return False

    def _task(self, id: str) -> TaskInfo:
        if id not in self.tasks:
            raise NotFound(f"No such task: {id}")
        return self.tasks[id]

    async def create(self, request: TaskRequest, *, start: bool) -> TaskInfo:
        held = [os.dup(s.fd) for s in request.sources if isinstance(s, NamespaceSource) and s.type == "network"]
        try:
            await asyncio.sleep(0)
            if request.id in self.tasks:
                raise Conflict(f"task {request.id} exists")
            self._processes[request.id] = self._make(held[0] if held else -1)
            task = TaskInfo(
                id=request.id,
                pid=self._processes[request.id].pid,
                status=TaskStatus.RUNNING if start else TaskStatus.CREATED,
                started_at_ns=time.time_ns(),
                exit=None,
                kind=request.kind,
            )
            self.tasks[request.id] = task
            self.requests[request.id] = request
        finally:
            for fd in held:
                os.close(fd)
        await asyncio.sleep(0)
        return task

    async def start(self, id: str) -> TaskInfo:
        await asyncio.sleep(0)
        self._task(id)
        await super().start(id)
        if self.tasks[id].kind is TaskKind.BUILD_STEP:
            self.end(id, 0)
        await asyncio.sleep(0)
        return self._task(id)

    def end(self, id: str, status: int, *, oom_killed: bool = False, at_ns: int = 0) -> None:
        if self.tasks[id].status is TaskStatus.STOPPED:
            return
        self._processes.pop(id).end()
        for reader in self._outputs.pop(id, ()):
            reader.feed_eof()
        kind = self.tasks[id].kind
        exit = Exit(status=status, exited_at_ns=time.time_ns(), oom_killed=oom_killed)
        self.tasks[id] = replace(self.tasks[id], status=TaskStatus.STOPPED, exit=exit)
        for queue in self._queues:
            queue.put_nowait(TaskEvent(kind="exit", id=id, exit=exit, task_kind=kind))

    async def kill(self, id: str, signal: int, *, exec_id: str = "", all: bool = False) -> None:
        await asyncio.sleep(0)
        self._task(id)
        if self.tasks[id].status is TaskStatus.STOPPED:
            raise NotFound(f"task {id} has ended")
        self.signals.append((id, signal))
        if signal in self.obeys and (signal == 9 or self.tasks[id].status is not TaskStatus.PAUSED):
            self.end(id, 128 + signal)
        await asyncio.sleep(0)

    async def pause(self, id: str) -> None:
        await self._freeze(id, TaskStatus.RUNNING, TaskStatus.PAUSED)

    async def resume(self, id: str) -> None:
        await self._freeze(id, TaskStatus.PAUSED, TaskStatus.RUNNING)

    async def _freeze(self, id: str, before: TaskStatus, after: TaskStatus) -> None:
        await asyncio.sleep(0)
        if self._task(id).status not in (before, after):
            raise Conflict(f"task {id} is {self.tasks[id].status}")
        self.tasks[id] = replace(self.tasks[id], status=after)
        await asyncio.sleep(0)

    async def update(self, id: str, resources: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        self._task(id)

    async def delete(self, id: str) -> Exit | None:
        await asyncio.sleep(0)
        if id in self.tasks:
            self.end(id, 137)
        task = self.tasks.pop(id, None)
        self._execs.pop(id, None)
        await asyncio.sleep(0)
        return task.exit if task is not None else None

    async def list(self) -> list[TaskInfo]:
        await asyncio.sleep(0)
        return list(self.tasks.values())

    async def status(self, id: str) -> TaskInfo | None:
        await asyncio.sleep(0)
        return self.tasks.get(id)

    async def wait(self, id: str, exec_id: str = "", *, begun: bool = True) -> Exit:
        while True:
            task = self._task(id)
            if exec_id:
                status = self._execs.get(id, {}).get(exec_id)
                if status is not None:
                    return Exit(status=status, exited_at_ns=time.time_ns(), oom_killed=False)
            elif task.exit is not None:
                return task.exit
            await asyncio.sleep(0.01)

    async def resize(self, id: str, width: int, height: int, exec_id: str = "") -> None:
        await asyncio.sleep(0)
        self._task(id)

    async def stats(self, id: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        self._task(id)
        return {}

    async def pids(self, id: str) -> builtins.list[int]:
        await asyncio.sleep(0)
        self._task(id)
        return []

    def _attachment(self, id: str) -> Attachment:
        reader = asyncio.StreamReader()
        self._outputs.setdefault(id, []).append(reader)
        return Attachment(reader=reader, writer=_Writer())  # type: ignore[arg-type]

    async def attach(
        self, id: str, *, exec_id: str = "", stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> Attachment:
        await asyncio.sleep(0)
        if self._task(id).exit is not None:
            raise NotFound(f"No such task: {id}")
        attachment = self._attachment(id)
        await asyncio.sleep(0)
        return attachment

    async def exec(self, id: str, exec_id: str, process: dict[str, Any], **_: Any) -> int:
        """The process ends by itself, soon."""
        await asyncio.sleep(0)
        if self._task(id).status is not TaskStatus.RUNNING:
            raise Conflict(f"task {id} is {self.tasks[id].status}")
        self._execs.setdefault(id, {})[exec_id] = None
        asyncio.get_running_loop().call_later(0.01, self._exec_ends, id, exec_id)
        await asyncio.sleep(0)
        return 1

    def _exec_ends(self, id: str, exec_id: str) -> None:
        if exec_id in self._execs.get(id, {}):
            self._execs[id][exec_id] = 0
            exit = Exit(status=0, exited_at_ns=time.time_ns(), oom_killed=False)
            for queue in self._queues:
                queue.put_nowait(TaskEvent(kind="exec-exit", id=id, exec_id=exec_id, exit=exit))

    async def exec_attached(
        self, id: str, exec_id: str, process: dict[str, Any], **options: Any
    ) -> tuple[int, Attachment]:
        pid = await self.exec(id, exec_id, process)
        reader = asyncio.StreamReader()
        reader.feed_eof()
        return pid, Attachment(reader=reader, writer=_Writer())  # type: ignore[arg-type]


# ── one engine ──────────────────────────────────────────────────────────────────────────────────────────────────────


class Complaints(logging.Handler):
    """What was logged as an error, and what the loop had to complain of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))

    def take(self) -> list[str]:
        found, self.found = self.found, []
        return found


@contextlib.contextmanager
def complaints() -> Iterator[Complaints]:
    handler = Complaints()
    logging.getLogger().addHandler(handler)
    try:
        yield handler
    finally:
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def memory() -> Iterator[Path]:
    """A directory on a file system of its own, which needs no disk and is gone with this process's mounts."""
    with tempfile.TemporaryDirectory(prefix="sampan-one-") as directory:
        mounts.mount("tmpfs", directory, "tmpfs", 0, None)
        try:
            yield Path(directory)
        finally:
            mounts.umount2(directory, mounts.MNT_DETACH)


@contextlib.asynccontextmanager
async def engine_at(directory: Path, *, firewall: bool) -> AsyncIterator[Engine]:
    """Open an engine on data root and exec root in a directory; close it when the block has ended well."""
    config = EngineConfig(data_root=str(directory / "data"), exec_root=str(directory / "run"))
    engine = await Engine.open(dataclasses.replace(config, iptables=firewall, ip6tables=firewall))
    yield engine
    await engine.close(stop_containers=True)


def with_one_process(
    seed: int,
    work: Callable[[Engine], Awaitable[T]],
    *,
    directory: Path | None = None,
    tasks: Tasks | None = None,
    firewall: bool = False,
) -> T:
    """Open an engine, do the work with it in an order of this seed, and close it. The kernel is the caller's."""
    supervisor = tasks or Tasks()

    async def connect(*_: object, **__: object) -> Tasks:
        return supervisor

    with contextlib.ExitStack() as stack:
        place = directory or stack.enter_context(memory())

        async def main() -> T:
            async with engine_at(place, firewall=firewall) as engine:
                return await work(engine)

        return alone(seed, main, patches={(Supervisor, "connect"): connect})


# ── dying ───────────────────────────────────────────────────────────────────────────────────────────────────────────

CHANGES = frozenset({"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.symlink", "os.link", "os.truncate"})
SURVIVED = "tasks"


class Death:
    """Ends this process at a step of what is done after `begin`, from 0; `left` is what is left until then."""

    def __init__(self, step: int, directory: Path, tasks: Tasks) -> None:
        self.left = step
        self._directory, self._tasks, self._begun = directory, tasks, False
        write = Store._write

        def writing(store: Store, ops: Iterable[Op]) -> None:
            self.step()
            write(store, ops)
            self.step()

        Store._write = writing  # type: ignore[method-assign, assignment]  # of this process, which is not long for this world
        sys.addaudithook(lambda event, _: self.step() if event in CHANGES else None)

    def begin(self) -> None:
        """From now on it may come."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, AloneLoop)
        loop.at_step = self.step
        self._begun = True

    def escape(self) -> None:
        """What comes now is not the work any more."""
        self._begun = False

    def step(self) -> None:
        if self._begun and threading.current_thread() is threading.main_thread():
            if self.left == 0:
                self._begun = False
                self._tasks.write(self._directory / SURVIVED)
                os._exit(0)
            self.left -= 1


def end_survivors() -> None:
    """End what goes on although nobody has taken it over; this process is its parent by now."""
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)


def killed_at(step: int, directory: Path, work: Callable[[Engine, Death], Awaitable[object]], *, seed: int = 0) -> bool:
    """Do the work in a forked process that ends at a step of it; return whether it came to that.

    What runs goes on, and is this process's: take it over with `Tasks.read(directory / SURVIVED)`.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    pid = os.fork()
    if pid == 0:
        try:
            tasks = Tasks(survive=True)
            death = Death(step, directory, tasks)

            async def doing(engine: Engine) -> None:
                await work(engine, death)
                tasks.write(directory / SURVIVED)
                os._exit(3)

            with_one_process(seed, doing, directory=directory, tasks=tasks)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 3), "the work itself has failed"
    return os.waitstatus_to_exitcode(status) == 0


def tasks_of(engine: Engine) -> Tasks:
    tasks = engine.supervisor
    assert isinstance(tasks, Tasks)
    return tasks


async def settled(engine: Engine) -> None:
    """Let what was set off run to its end: exits, removals, links that go."""
    leases = engine.networks._fabric.leases
    for _ in range(1000):
        await asyncio.sleep(0.3)
        working = [*engine.containers._background._tasks, *engine.networks._fabric.background._tasks]
        idle = {"supervisor events"}
        if not [task for task in working if task.get_name() not in idle] and not len(leases):
            return
    raise AssertionError("it does not settle")


# ── what must not be ────────────────────────────────────────────────────────────────────────────────────────────────


async def wrong(engine: Engine) -> list[str]:
    """What must not be while nobody does anything, in words."""
    found = [f"fsck: {f}" for f in await engine.disk.fsck(repair=False) if not of_a_forced_removal(f)]
    found += _wrong_containers(engine)
    found += _wrong_networks(engine)
    found += _wrong_volumes(engine)
    found += _wrong_store(engine)
    return found


def of_a_forced_removal(finding: Mapping[str, Any]) -> bool:
    """A container's image may be taken away by force; the check tells of it (docs/concepts/references.md)."""
    holder, _, target = finding["ID"].partition(" → ")
    by_force = holder.startswith("container:") and target.startswith("image:")
    return bool(finding["Kind"] == "reference" and by_force)


def _wrong_containers(engine: Engine) -> Iterator[str]:
    parts, tasks = engine.containers, tasks_of(engine).tasks
    table = parts._table
    for c in table.all():
        task = tasks.get(c.id)
        runs = task is not None and task.status in (TaskStatus.RUNNING, TaskStatus.PAUSED)
        if (c.status.state in WITH_TASK) != runs:
            yield f"container {c.name} is {c.status.state}, its task {task.status if task else 'gone'}"
        elif task is not None and runs and (c.status.pid, c.status.state.value) != (task.pid, task.status.value):
            yield f"container {c.name} is {c.status.state} {c.status.pid}, its task {task.status} {task.pid}"
        if table._names.get(c.name) != c.id:
            yield f"container {c.name}: its name is {table._names.get(c.name)}'s"
        if c.host_config.auto_remove and c.has_been_started and c.status.state not in ACTIVE:
            yield f"container {c.name} was to be removed, and is {c.status.state}"
        if c.status.state.value in ("removing", "dead"):
            yield f"container {c.name} is {c.status.state}"
        for m in c.mounts:
            if m.type == "volume" and engine.volumes.get(m.name) is None:
                yield f"container {c.name} has volume {m.name}, which is not there"
    ids = parts.ids()
    if names := [name for name, id in table._names.items() if id not in ids]:
        yield f"names of nobody: {names}"
    for what, left in {
        "reserved names": table._reserved,
        "being made": table.making,
        "locks of nobody": set(table.live._locks) - ids,
        "sessions of nobody": set(parts._launcher._pending._waiting) - ids,
        "tasks of nobody": tasks.keys() - ids,
        "waiters of nobody": set(parts._stopper._waiting._for_exit) - ids,
    }.items():
        if left:
            yield f"{what}: {sorted(left)}"
    execs = parts._remover._execs
    if strays := [e.id for e in execs._by_id.values() if e.container_id not in ids]:
        yield f"execs of nobody: {strays}"


def _wrong_networks(engine: Engine) -> Iterator[str]:
    networks, running = engine.networks, engine.containers.running()
    boxes = networks._sandboxes
    with_task = {c.id for c in engine.containers._table.all() if c.status.state in WITH_TASK}
    sandboxes = {r.id: r for r in boxes.all() if not boxes._live[r.id].silent}
    if set(sandboxes) != with_task:
        yield f"networks of {set(sandboxes) - with_task} are left, of {with_task - set(sandboxes)} missing ({running})"
    veths = {e.veth for r in boxes.all() for e in r.endpoints if e.veth}
    with contextlib.closing(Netlink()) as host:
        links = {link.name for link in host.links() if link.kind == "veth"}
        bridges = {link.alias.split(":")[1] for link in host.links() if link.kind == "bridge"}
    if links != veths:
        yield f"links {links - veths} are nobody's, {veths - links} are missing"
    wanted = {n.id for n in networks._catalogue.all() if n.driver == "bridge"}
    if bridges != wanted:
        yield f"bridges {bridges - wanted} are nobody's, {wanted - bridges} are missing"
    for record in sandboxes.values():
        if record.changing is not None:
            yield f"sandbox {record.name} is changing"
        c = engine.containers.get(record.id)
        if record.name != c.name:
            yield f"sandbox of {c.name} is called {record.name}"
        if {e.network for e in record.endpoints} != set(c.endpoints):
            yield f"container {c.name} is on {[e.network for e in record.endpoints]}, and says {list(c.endpoints)}"
        for e in record.endpoints:
            if networks._catalogue.table.get(e.network_id) is None:
                yield f"container {c.name} is on network {e.network}, which is not there"
    for network_id, pools in networks._catalogue._addresses.items():
        network = networks._catalogue.table.get(network_id)
        if network is None:
            yield f"addresses of network {network_id}, which is not there"
            continue
        used = {a for r in boxes.all() for e in r.endpoints if e.network_id == network_id for a, _ in e.prefixes}
        four = [pool for pool in pools if pool.subnet.version == 4]
        for pool, number in itertools.product(four, range(2, 12)):
            address = pool.subnet[number]
            if pool.taken(address) != (address in used):
                yield f"address {address} of {network.name} is {'taken' if pool.taken(address) else 'free'}"
    for what, left in {
        "joining": boxes._claims._names,
        "hidden": networks._catalogue._hidden,
        "being chosen": [1] if networks._fabric._choosing.locked() else [],
    }.items():
        if left:
            yield f"networks {what}: {left}"


def _wrong_volumes(engine: Engine) -> Iterator[str]:
    volumes = engine.volumes
    with_task = {c.id for c in engine.containers._table.all() if c.status.state in WITH_TASK}
    for name, users in volumes._users.items():
        if users - with_task:
            yield f"volume {name} is used by {users - with_task}, which do not run"
    for volume in volumes._table.all():
        if volume.removing or volume.filling:
            yield f"volume {volume.name} is half made: {volume}"
        holders = {c.id for c in engine.containers._table.all() if volume.name in [m.name for m in c.mounts]}
        if set(volumes.holders(volume.name)) != holders:
            yield f"volume {volume.name} is held by {volumes.holders(volume.name)}, used by {holders}"
    if volumes._claims or volumes.making:
        yield f"volumes are claimed: {volumes._claims}, {volumes.making}"


def _wrong_store(engine: Engine) -> Iterator[str]:
    """Memory and disk agree; nothing holds what is not there."""
    store = engine.store
    for name, table in store._tables.items():
        assert isinstance(table, Table)
        on_disk = {id: bytes(json) for id, json in store._connection.execute(f'SELECT id, json FROM "{name}"')}
        in_memory = {r.id: table._encoder.encode(r) for r in table.all()}
        if on_disk != in_memory:
            yield f"table {name}: the disk has {on_disk}, the memory {in_memory}"
    on_disk_refs = {
        (Ref.parse(h), Ref.parse(t)) for h, t in store._connection.execute("SELECT holder, target FROM refs")
    }
    if on_disk_refs != set(store.references()):
        yield f"references: {on_disk_refs ^ set(store.references())}"
    for holder, target in store.references():
        if holder.noun == "work":
            yield f"{holder} still holds {target}"
