"""Neighbours of the container service for tests without root: the same methods and effects, no kernel.

`FakeSupervisor` is a table of tasks that the test ends itself; `FakeImages` and `FakeNetworks` count what they gave
out, so that a test can prove that everything came back.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.containers.service import Containers
from sampan.engine.events import Events
from sampan.engine.images.platforms import Platform
from sampan.engine.images.records import Image
from sampan.engine.networks.service import Sandbox
from sampan.engine.store import Store
from sampan.engine.volumes.service import Volumes
from sampan.errors import NotFound
from sampan.supervisor.client import Exit, TaskEvent, TaskFailed, TaskInfo, TaskRequest
from sampan.supervisor.states import TaskStatus

BUSYBOX = Image(
    id="sha256:" + "b" * 64,
    config={"config": {"Cmd": ["/bin/sh"]}},
    repo_tags=("busybox:latest",),
    repo_digests=(),
    parent="",
    created="2026-01-01T00:00:00Z",
    size=1,
    architecture="amd64",
    os="linux",
    layers=("sha256:" + "d" * 64,),
    chain_id="sha256:" + "d" * 64,
)


class FakeImages:
    driver = SimpleNamespace(name="overlay2")

    def __init__(self) -> None:
        self.snapshots: set[str] = set()

    def is_lost(self, container_id: str) -> bool:
        return container_id not in self.snapshots

    def resolve(self, ref: str, platform: Platform | None = None) -> Image:
        if ref in ("busybox", "busybox:latest", BUSYBOX.id):
            return BUSYBOX
        raise NotFound(f"No such image: {ref}:latest")

    async def prepare(self, id: str, image: Image | None) -> None:
        self.snapshots.add(id)

    def mounts(self, id: str) -> list[dict[str, Any]]:
        return [{"type": "overlay", "source": "overlay", "destination": "/", "options": []}]

    async def remove_snapshot(self, id: str) -> None:
        self.snapshots.discard(id)

    async def usage(self, id: str) -> tuple[int, int]:
        return 0, 1

    def open_root(self, id: str, *, writable: bool) -> int:
        with tempfile.TemporaryDirectory() as empty:
            return os.open(empty, os.O_PATH | os.O_DIRECTORY)

    def graph_driver(self, id: str) -> dict[str, str]:
        return {}


class FakeNetworks:
    def __init__(self) -> None:
        self.attached: dict[str, Sandbox] = {}

    async def attach(self, id: str, *, mode: str, **asked: Any) -> Sandbox:
        if mode == "nope":
            raise NotFound("failed to set up container networking: network nope not found")
        self.attached[id] = Sandbox(id="s" * 64, key="/run/netns/x", netns="/proc/1/fd/9")
        return self.attached[id]

    async def started(self, id: str, pid: int) -> None:
        pass

    async def detach(self, id: str) -> None:
        self.attached.pop(id, None)

    async def restore(self, running: dict[str, int]) -> None:
        self.attached = {id: s for id, s in self.attached.items() if id in running}

    def sandbox(self, id: str) -> Sandbox | None:
        return self.attached.get(id)


class FakeSupervisor:
    """Tasks that end when the test says so. `refuse`: the next create fails like this."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskInfo] = {}
        self.requests: dict[str, TaskRequest] = {}
        self.signals: list[tuple[str, int]] = []
        self.refuse: TaskFailed | None = None
        self.obeys: frozenset[int] = frozenset({9, 15})
        self._pids = itertools.count(1000)
        self._queues: set[asyncio.Queue[TaskEvent]] = set()

    def events(self) -> AsyncIterator[TaskEvent]:
        queue: asyncio.Queue[TaskEvent] = asyncio.Queue()
        queue.put_nowait(TaskEvent(kind="connected"))
        self._queues.add(queue)

        async def stream() -> AsyncIterator[TaskEvent]:
            while True:
                yield await queue.get()

        return stream()

    async def create(self, request: TaskRequest, *, start: bool) -> TaskInfo:
        if self.refuse is not None:
            refused, self.refuse = self.refuse, None
            raise refused
        task = TaskInfo(
            id=request.id,
            pid=next(self._pids),
            status=TaskStatus.RUNNING if start else TaskStatus.CREATED,
            started_at_ns=1_000_000_000,
            exit=None,
        )
        self.requests[request.id] = request
        self.tasks[request.id] = task
        return task

    async def start(self, id: str) -> TaskInfo:
        self.tasks[id] = replace(self.tasks[id], status=TaskStatus.RUNNING)
        return self.tasks[id]

    def end(self, id: str, status: int, *, oom_killed: bool = False, at_ns: int = 2_000_000_000) -> None:
        """The task's process ends."""
        exit = Exit(status=status, exited_at_ns=at_ns, oom_killed=oom_killed)
        self.tasks[id] = replace(self.tasks[id], status=TaskStatus.STOPPED, exit=exit)
        for queue in self._queues:
            queue.put_nowait(TaskEvent(kind="exit", id=id, exit=exit))

    async def kill(self, id: str, signal: int, *, exec_id: str = "", all: bool = False) -> None:
        if id not in self.tasks:
            raise NotFound(f"No such task: {id}")
        self.signals.append((id, signal))
        if signal in self.obeys:
            self.end(id, 128 + signal)

    async def pause(self, id: str) -> None:
        self.tasks[id] = replace(self.tasks[id], status=TaskStatus.PAUSED)

    async def resume(self, id: str) -> None:
        self.tasks[id] = replace(self.tasks[id], status=TaskStatus.RUNNING)

    async def update(self, id: str, resources: dict[str, Any]) -> None:
        pass

    async def delete(self, id: str) -> Exit | None:
        task = self.tasks.pop(id, None)
        return task.exit if task is not None else None

    async def list(self) -> list[TaskInfo]:
        return list(self.tasks.values())

    async def compile_seccomp(self, profile: dict[str, Any]) -> str:
        return "/run/x.bpf"


@dataclass
class Room:
    """A container service with its neighbours."""

    containers: Containers
    store: Store
    events: Events
    images: FakeImages
    networks: FakeNetworks
    volumes: Volumes
    supervisor: FakeSupervisor

    async def close(self) -> None:
        """As if the daemon had been killed: nothing is written that was not written before."""
        await self.containers.close(stop_containers=False, timeout_s=1)
        await self.store.close()


async def open_room(
    directory: Path,
    *,
    supervisor: FakeSupervisor | None = None,
    images: FakeImages | None = None,
    networks: FakeNetworks | None = None,
) -> Room:
    """Open the service over a data root; neighbours that outlive a daemon are passed in."""
    config = EngineConfig(data_root=str(directory), exec_root=str(directory / "run"))
    (directory / "containers").mkdir(exist_ok=True)
    store = await Store.open(str(directory / "sampan.db"))
    events = Events()
    images, networks, supervisor = images or FakeImages(), networks or FakeNetworks(), supervisor or FakeSupervisor()
    volumes = Volumes(config, store, events)
    await volumes.start()
    containers = Containers(config, store, events, images, networks, volumes)  # type: ignore[arg-type]
    await containers.run(supervisor)  # type: ignore[arg-type]
    return Room(containers, store, events, images, networks, volumes, supervisor)
