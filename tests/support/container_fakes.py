"""Neighbours of the container service for tests without root: the same methods and effects, no kernel.

`FakeSupervisor` is a table of tasks that the test ends itself; `FakeRoots` and `FakeNetworks` count what they gave
out, so that a test can prove that everything came back.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.containers.service import Containers
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.images.records import Image
from sampan.engine.networks.firewall import Way
from sampan.engine.networks.request import SandboxRequest
from sampan.engine.networks.service import Sandbox
from sampan.engine.platforms import Platform
from sampan.engine.store import Op, Store
from sampan.engine.volumes.service import Volumes
from sampan.errors import NotFound
from sampan.spec.engine_api.network import EndpointSettings
from sampan.spec.oci_runtime import Mount
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
    catalog = SimpleNamespace(members=lambda ref: {BUSYBOX.id})

    def resolve(self, ref: str, platform: Platform | None = None) -> Image:
        if ref in ("busybox", "busybox:latest", BUSYBOX.id):
            return BUSYBOX
        raise NotFound(f"No such image: {ref}:latest")

    def claim(self, id: str, image: Image) -> list[Op]:
        return []

    def unclaim(self, id: str) -> list[Op]:
        return []


class FakeRoots:
    def __init__(self) -> None:
        self.ids: set[str] = set()

    def is_lost(self, id: str) -> bool:
        return id not in self.ids

    async def prepare(self, id: str, chain_id: str, beside: Callable[[], list[Op]] = list) -> None:
        self.ids.add(id)

    def mounts(self, id: str) -> tuple[Mount, ...]:
        return (Mount("overlay", "overlay", "/"),)

    def remove(self, id: str, beside: Iterable[Op] = ()) -> None:
        self.ids.discard(id)

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

    async def attach(self, request: SandboxRequest) -> Sandbox:
        if request.mode == "nope":
            raise NotFound("failed to set up container networking: network nope not found")
        self.attached[request.id] = Sandbox(id="s" * 64, key="/run/netns/x", netns=f"/proc/{os.getpid()}/ns/net")
        return self.attached[request.id]

    def let_through(self, ways: Callable[[], Iterable[Way]]) -> None:
        pass

    async def ways_changed(self) -> None:
        pass

    def publishing(self, *_: object, **__: object) -> None:
        raise NotImplementedError

    def known(self, ref: str) -> None:
        return None

    async def renamed(self, id: str) -> None:
        pass

    def relinking(self, id: str, asked: Mapping[str, EndpointSettings]) -> list[Op]:
        return []

    def renaming(self, id: str, name: str) -> list[Op]:
        return []

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

    def reconnect(self) -> None:
        """The supervisor was away and is back."""
        for queue in self._queues:
            queue.put_nowait(TaskEvent(kind="connected"))

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

    async def status(self, id: str) -> TaskInfo | None:
        return self.tasks.get(id)

    async def compile_seccomp(self, profile: dict[str, Any]) -> str:
        return "/run/x.bpf"


@dataclass
class Room:
    """A container service with its neighbours."""

    containers: Containers
    store: Store
    events: Events
    images: FakeImages
    roots: FakeRoots
    networks: FakeNetworks
    volumes: Volumes
    supervisor: FakeSupervisor
    host_paths: HostPaths

    async def close(self) -> None:
        """As if the daemon had been killed: nothing is written that was not written before."""
        await self.containers.close(stop_containers=False, timeout_s=1)
        self.host_paths.close()
        await self.store.close()


async def open_room(
    directory: Path,
    *,
    supervisor: FakeSupervisor | None = None,
    roots: FakeRoots | None = None,
    networks: FakeNetworks | None = None,
) -> Room:
    """Open the service over a data root; neighbours that outlive a daemon are passed in."""
    config = EngineConfig(data_root=str(directory), exec_root=str(directory / "run"))
    (directory / "containers").mkdir(exist_ok=True)
    store = await Store.open(str(directory / "sampan.db"))
    events = Events()
    roots, networks, supervisor = roots or FakeRoots(), networks or FakeNetworks(), supervisor or FakeSupervisor()
    images = FakeImages()
    looks = HostPaths()
    volumes = Volumes(config, store, events, looks)
    await volumes.start()
    room = (images, roots, networks, volumes, supervisor, looks)
    containers = Containers(config, store, events, *room)  # type: ignore[arg-type]
    await containers.run()
    return Room(containers, store, events, images, roots, networks, volumes, supervisor, looks)
