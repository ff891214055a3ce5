"""The containers of an engine: one object with every verb of the API, put together from parts.

This file wires and answers what needs several parts at once (inspect, list, prune); each verb's work is in the
module named after it. Invariant: a method raises `sampan.errors` only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sampan.engine.background import Background
from sampan.engine.config import EngineConfig
from sampan.engine.containers import inspect, listing
from sampan.engine.containers.archive import Archive
from sampan.engine.containers.attach import Session, parse_detach_keys
from sampan.engine.containers.connections import Connections
from sampan.engine.containers.create import Maker
from sampan.engine.containers.exec import Execs
from sampan.engine.containers.export import Exports
from sampan.engine.containers.health import Healthchecks
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.logs import Logs
from sampan.engine.containers.records import Container
from sampan.engine.containers.recovery import Recovery
from sampan.engine.containers.registry import Registry
from sampan.engine.containers.states import ACTIVE, WITH_TASK, State
from sampan.engine.containers.stats import Stats
from sampan.engine.containers.top import Top
from sampan.engine.events import Events
from sampan.engine.networks import inspect as network_inspect
from sampan.engine.networks.service import Networks
from sampan.engine.store import Store
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, InvalidArgument, SampanError
from sampan.spec import codec
from sampan.supervisor.client import Supervisor

if TYPE_CHECKING:
    from sampan.engine.images.service import Images

log = logging.getLogger(__name__)


class Containers:
    """See the module. `ref` is always an id, a unique prefix of one, or a name."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        images: Images,
        networks: Networks,
        volumes: Volumes,
    ) -> None:
        self._config = config
        self._images = images
        self._networks = networks
        self._background = Background()
        self._registry = Registry(store, images.driver.name)
        self._launcher = Launcher(config, self._registry, events, images, networks, volumes)
        self._lifecycle = Lifecycle(self._registry, self._launcher, events, self._background)
        self._execs = Execs(self._registry, self._launcher, self._lifecycle, config)
        self._maker = Maker(config, self._registry, self._launcher, self._lifecycle, images, volumes, self._execs)
        self._health = Healthchecks(self._registry, self._execs, self._lifecycle, self._launcher, self._background)
        self._recovery = Recovery(
            self._registry, self._launcher, self._lifecycle, self._maker, self._execs, networks, self._background
        )
        self._connections = Connections(self._registry, networks)
        self._stats = Stats(self._registry, self._launcher)
        self._top = Top(self._registry, self._launcher, self._lifecycle)
        self._logs = Logs(self._registry, self._lifecycle, config.data_root)
        self._archive = Archive(self._registry, images, self._lifecycle)
        self._exports = Exports(self._registry, images, self._lifecycle)
        self._lifecycle.auto_remove = self._maker.auto_remove
        self._lifecycle.started = self._health.started
        # The verbs, each where it is done.
        self.get = self._registry.get
        self.create = self._maker.create
        self.rename = self._maker.rename
        self.update = self._maker.update
        self.connect = self._connections.connect
        self.disconnect = self._connections.disconnect
        self.remove = self._maker.remove
        self.start = self._lifecycle.start
        self.kill = self._lifecycle.kill
        self.pause = self._lifecycle.pause
        self.unpause = self._lifecycle.unpause
        self.wait = self._lifecycle.wait
        self.exec_create = self._execs.create
        self.exec_start = self._execs.start
        self.exec_inspect = self._execs.inspect
        self.exec_resize = self._execs.resize
        self.logs = self._logs.open
        self.top = self._top.top
        self.stats = self._stats.stream
        self.archive_stat = self._archive.stat
        self.archive_get = self._archive.get
        self.archive_put = self._archive.put
        self.export = self._exports.export
        self.changes = self._exports.changes
        self.commit = self._exports.commit

    # --- life of the service -----------------------------------------------------------------------------------------

    async def run(self, supervisor: Supervisor) -> None:
        """Take over what runs already, then follow the supervisor's events; returns when the state is right."""
        self._launcher.supervisor = supervisor
        await self._recovery.begin(supervisor)

    async def close(self, *, stop_containers: bool, timeout_s: float) -> None:
        """Stop following; with stop_containers end all containers first."""
        if stop_containers:
            self._lifecycle.shutting_down = True
            running = [c for c in self._registry.all() if c.status.state in ACTIVE]
            await asyncio.gather(*(self._stop_for_shutdown(c, timeout_s) for c in running))
        await self._background.close()

    async def _stop_for_shutdown(self, c: Container, timeout_s: float) -> None:
        try:
            limit = None if c.config.stop_timeout is None else c.config.stop_timeout
            await self.stop(c.id, timeout_s=int(timeout_s) if limit is None else limit)
        except SampanError as e:
            log.error("container %s: cannot stop: %s", c.id, e.message)

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new values for what is made from now on."""
        self._config = config
        self._maker.reconfigure(config)
        self._launcher.reconfigure(config)

    # --- verbs with other argument names than their parts' -----------------------------------------------------------

    async def stop(self, ref: str, *, signal: str = "", timeout_s: int | None = None) -> bool:
        """Stop a container; False when it does not run."""
        return await self._lifecycle.stop(ref, signal_text=signal, timeout_s=timeout_s)

    async def restart(self, ref: str, *, signal: str = "", timeout_s: int | None = None) -> None:
        """Stop and start a container."""
        await self._lifecycle.restart(ref, signal_text=signal, timeout_s=timeout_s)

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Set the window size of the container's terminal."""
        c = self._registry.get(ref)
        if c.status.state not in WITH_TASK:
            raise Conflict(f"container {c.id} is not running")
        if c.config.tty:  # without a terminal there is nothing to do, which is no error
            await self._launcher.supervisor.resize(c.id, width, height)
        self._lifecycle.publish(c, "resize", height=str(height), width=str(width))

    # --- attach ------------------------------------------------------------------------------------------------------

    async def attach(
        self,
        ref: str,
        *,
        stream: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        logs: bool = False,
        detach_keys: str = "",
    ) -> Session:
        """Join a client to the container's process; before a start it waits for it and misses nothing."""
        c = self._registry.get(ref)
        try:
            keys = parse_detach_keys(detach_keys)
        except InvalidArgument:
            raise InvalidArgument(f"Invalid detach keys ({detach_keys}) provided") from None
        if c.status.state is State.PAUSED:
            raise Conflict(f"container {c.id} is paused, unpause the container before attach")
        if c.status.state is State.RESTARTING:
            raise Conflict(f"container {c.id} is restarting, wait until the container is running")
        session = Session(
            c.id,
            tty=c.config.tty,
            stdin=stdin and c.config.open_stdin,
            stdout=stdout,
            stderr=stderr,
            detach_keys=keys,
            stream=stream,
        )
        session.on_detach = lambda: self._lifecycle.publish(c, "detach")
        if stream:
            await self._join(c, session)
        if logs and (stdout or stderr):
            session.history = self._logs.history(c, stdout=stdout, stderr=stderr, before_ns=session.joined_at_ns)
        self._lifecycle.publish(c, "attach")
        return session

    async def _join(self, c: Container, session: Session) -> None:
        live = self._registry.live(c.id)
        async with live.lock:  # a start either has connected its pending sessions, or is still to come
            now = self._registry.get(c.id)
            if now.status.state in WITH_TASK:
                await session.connect(self._launcher.supervisor)
            else:
                live.pending.append(session)
                session.on_close = lambda: live.pending.remove(session) if session in live.pending else None

    # --- inspect, list, prune ----------------------------------------------------------------------------------------

    async def inspect(self, ref: str, *, size: bool = False, version: tuple[int, int] = (1, 51)) -> dict[str, Any]:
        """Describe a container."""
        c = self._registry.get(ref)
        sizes = await self._images.usage(c.id) if size else None
        return inspect.inspect(
            c,
            directory=self._launcher.directory(c.id),
            driver=c.driver,
            graph={"ID": c.id, **self._images.graph_driver(c.id)},
            network_settings=self._network_settings(c),
            exec_ids=self._execs.ids(c.id),
            health=self._health.shown(c),
            sizes=sizes,
        )

    def _network_settings(self, c: Container) -> dict[str, Any]:
        sandbox = self._networks.sandbox(c.id)
        if sandbox is not None and c.status.state in WITH_TASK:
            return inspect.network_settings(
                network_inspect.endpoints(sandbox.endpoints.values()),
                network_inspect.ports(sandbox.exposed, sandbox.bindings),
                sandbox_id=sandbox.id,
                sandbox_key=sandbox.key,
            )
        endpoints = {name: codec.to_json(e) for name, e in c.endpoints.items()}
        return inspect.network_settings(endpoints, {}, sandbox_id="", sandbox_key="", mac=c.config.mac_address)

    async def list(
        self,
        *,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: Mapping[str, Iterable[str]] | None = None,
        version: tuple[int, int] = (1, 51),
    ) -> list[dict[str, Any]]:
        """Return the rows of `docker ps`, newest first."""
        filters = {k: tuple(v) for k, v in (filters or {}).items()}
        tests = listing.tests(
            filters,
            find=self._registry.find,
            image_ids=self._image_ids,
            health=self._health.word,
            networks=self._network_names,
        )
        everything = all or limit > 0 or listing.implies_all(filters)
        chosen = [
            c for c in reversed(self._registry.all()) if (everything or c.status.state in ACTIVE) and _passes(c, tests)
        ]
        if limit > 0:
            chosen = chosen[:limit]
        names: dict[tuple[str, str], str] = {}
        rows = [self._row(c, names) for c in chosen]
        if size:
            for c, row in zip(chosen, rows):
                rw, root_fs = await self._images.usage(c.id)
                row |= {k: v for k, v in (("SizeRw", rw), ("SizeRootFs", root_fs)) if v}
        return rows

    def _row(self, c: Container, names: dict[tuple[str, str], str]) -> dict[str, Any]:
        sandbox = self._networks.sandbox(c.id) if c.status.state in WITH_TASK else None
        key = (c.config.image, c.image_id)
        if key not in names:
            names[key] = self._image_name(c)
        live = self._registry.live(c.id)
        if sandbox is None:
            if live.row is not None and live.row[0] is c:
                return {**live.row[1], "Image": names[key], "Status": inspect.status_text(c, "none")}
            endpoints = {name: codec.to_json(e) for name, e in c.endpoints.items()}
            ports: list[dict[str, Any]] = []
        else:
            endpoints = network_inspect.endpoints(sandbox.endpoints.values())
            published = network_inspect.ports(sandbox.exposed, sandbox.bindings)
            ports = inspect.published(c.config.exposed_ports, published)
        row = inspect.row(c, image=names[key], endpoints=endpoints, ports=ports, health=self._health.word(c))
        if sandbox is None:
            live.row = (c, row)
        return row

    def _image_name(self, c: Container) -> str:
        """Return the image's name as it was given, or its id when that name means another image now."""
        try:
            return c.config.image if c.image_id in self._images.catalog.members(c.config.image) else c.image_id
        except SampanError:
            return c.image_id or c.config.image

    def _image_ids(self, ref: str) -> frozenset[str]:
        try:
            image = self._images.resolve(ref)
        except SampanError:
            return frozenset()
        return frozenset({image.id}) | frozenset(
            c.image_id for c in self._registry.all() if c.image_id and self._descends(c.image_id, image.layers)
        )

    def _descends(self, image_id: str, layers: tuple[str, ...]) -> bool:
        try:
            return self._images.resolve(image_id).layers[: len(layers)] == layers
        except SampanError:
            return False

    def _network_names(self, c: Container) -> set[str]:
        names = set(c.endpoints)
        sandbox = self._networks.sandbox(c.id)
        if sandbox is not None:
            for name, endpoint in sandbox.endpoints.items():
                names |= {name, endpoint.network_id}
        return names

    async def prune(self, filters: Mapping[str, Iterable[str]] | None = None) -> dict[str, Any]:
        """Remove stopped containers. Returns the answer of ContainerPrune."""
        tests = listing.prune_tests({k: tuple(v) for k, v in (filters or {}).items()})
        removed: list[str] = []
        freed = 0
        for c in self._registry.all():
            if c.status.state not in (State.CREATED, State.EXITED, State.DEAD) or not _passes(c, tests):
                continue
            try:
                rw, _ = await self._images.usage(c.id)
                await self._maker.remove(c.id)
            except SampanError as e:
                log.warning("container %s: not pruned: %s", c.id, e.message)
                continue
            removed.append(c.id)
            freed += rw
        return {"ContainersDeleted": removed or None, "SpaceReclaimed": freed}

    def ids(self) -> frozenset[str]:
        """Return the ids of all containers."""
        return frozenset(c.id for c in self._registry.all())

    @property
    def hidden(self) -> frozenset[str]:
        """The ids of containers of other storage drivers."""
        return self._registry.hidden

    @property
    def making(self) -> frozenset[str]:
        """The ids of containers that are being made: what exists of them has no record yet."""
        return frozenset(self._registry.making)

    def leaving(self) -> frozenset[str]:
        """The ids of containers that are being removed: what they had may be gone before their record."""
        return frozenset(c.id for c in self._registry.all() if c.status.state in (State.REMOVING, State.DEAD))

    def counts(self) -> dict[str, int]:
        """Return how many containers exist, run, are paused and stopped: what `docker info` shows."""
        states = [c.status.state for c in self._registry.all()]
        running = sum(s in (State.RUNNING, State.RESTARTING) for s in states)
        paused = sum(s is State.PAUSED for s in states)
        return {
            "Containers": len(states),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(states) - running - paused,
        }


def _passes(c: Container, tests: list[listing.Test]) -> bool:
    return all(test(c) for test in tests)
