"""The containers of an engine: one object with every verb of the API, put together from parts.

This file only wires the parts; each verb's work is in the module named after it. Parts know those above them in this
list, never those below:

    table, live       records, locks, notes in memory
    publishing        events
    waiting           who waits for an end
    attach            sessions of clients, and those that wait for a start
    launch            from a record to a task, and back
    exec, health      further processes; health is a reader of the table
    backoff, stopping restarts that are pending; signals
    create, remove    the record's beginning and end
    lifecycle         start, restart, pause; the end of a task
    recovery          the one consumer of the supervisor's events
    views, logs, …    what is shown

Invariant: a method raises `sampan.errors` only.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from sampan.engine.background import Background
from sampan.engine.config import EngineConfig
from sampan.engine.containers import listing
from sampan.engine.containers.archive import Archive
from sampan.engine.containers.attach import PendingSessions
from sampan.engine.containers.attaching import Attaching
from sampan.engine.containers.backoff import BackOff
from sampan.engine.containers.connections import Connections
from sampan.engine.containers.create import Maker
from sampan.engine.containers.exec import Execs
from sampan.engine.containers.export import Exports
from sampan.engine.containers.health import Healthchecks
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.logs import Logs
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.recovery import Recovery
from sampan.engine.containers.remove import ContainerRemover
from sampan.engine.containers.states import ACTIVE, WITH_TASK, State
from sampan.engine.containers.stats import Stats
from sampan.engine.containers.stopping import Stopper
from sampan.engine.containers.table import ContainerTable
from sampan.engine.containers.top import Top
from sampan.engine.containers.views import ContainerViews
from sampan.engine.containers.waiting import ExitWaiters
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.images.service import Images
from sampan.engine.layers.roots import Roots
from sampan.engine.metrics import Metrics
from sampan.engine.networks.service import Networks
from sampan.engine.store import Store
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, Internal, SampanError
from sampan.supervisor.client import Supervisor

log = logging.getLogger(__name__)


class Containers:
    """See the module. `ref` is always an id, a unique prefix of one, or a name."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        images: Images,
        roots: Roots,
        networks: Networks,
        volumes: Volumes,
        supervisor: Supervisor,
        host_paths: HostPaths,
    ) -> None:
        self._roots = roots
        self._events = events
        self._supervisor = supervisor
        self._background = Background()
        self._inside = HostPaths()  # for looks into containers: what hangs there keeps no other container from starting
        table = self._table = ContainerTable(store, images.driver.name)
        waiting = ExitWaiters(table)
        pending = PendingSessions()
        back_off = BackOff(table.live, self._background)
        self._launcher = launcher = Launcher(
            config, table, supervisor, events, roots, networks, volumes, host_paths, pending
        )
        execs = Execs(table, launcher, supervisor, events, config, self._inside)
        self._health = Healthchecks(table, execs, supervisor, events)
        self._stopper = stopper = Stopper(table, supervisor, events, waiting, back_off)
        self._maker = Maker(config, table, launcher, supervisor, events, images, roots, volumes, host_paths)
        self._remover = remover = ContainerRemover(
            config, table, launcher, events, images, roots, volumes, execs, stopper, waiting, pending
        )
        lifecycle = Lifecycle(
            table, launcher, supervisor, events, stopper, remover, waiting, pending, back_off, self._background
        )
        self._recovery = Recovery(
            table, launcher, supervisor, events, lifecycle, remover, execs, networks, self._background
        )
        logs = Logs(table, waiting, config.data_root)
        views = ContainerViews(table, launcher, images, roots, networks, execs, self._health)
        self._bind_streams(Attaching(table, supervisor, events, pending, logs, waiting), logs, execs)
        self._bind_networks(Connections(config, table, networks, launcher.directory))
        self._bind_views(views, Top(table, supervisor, events), Stats(table, supervisor))
        exports = Exports(table, images, roots, events, lifecycle)
        self._archive = Archive(table, roots, events, self._inside, volumes, launcher.directory)
        self._bind_files(self._archive, exports)
        # The verbs, each where it is done.
        self.get = table.get
        self.create = self._maker.create
        self.rename = self._maker.rename
        self.update = self._maker.update
        self.remove = remover.remove
        self.start = lifecycle.start
        self.restart = lifecycle.restart
        self.pause = lifecycle.pause
        self.unpause = lifecycle.unpause
        self.kill = stopper.kill
        self.stop = stopper.stop
        self.wait = waiting.wait

    def _bind_streams(self, attaching: Attaching, logs: Logs, execs: Execs) -> None:
        """Take over the verbs on what processes read and write, and on further processes."""
        self.attach = attaching.attach
        self.logs = logs.open
        self.exec_create = execs.create
        self.exec_start = execs.start
        self.exec_inspect = execs.inspect
        self.exec_resize = execs.resize

    def _bind_networks(self, connections: Connections) -> None:
        """Take over the verbs on the networks of a container."""
        self.connect = connections.connect
        self.disconnect = connections.disconnect

    def _bind_views(self, views: ContainerViews, top: Top, stats: Stats) -> None:
        """Take over the verbs that only show."""
        self.inspect = views.inspect
        self.list = views.list
        self.top = top.top
        self.stats = stats.stream

    def _bind_files(self, archive: Archive, exports: Exports) -> None:
        """Take over the verbs on the files of containers."""
        self.archive_stat = archive.stat
        self.archive_get = archive.get
        self.archive_put = archive.put
        self.export = exports.export
        self.changes = exports.changes
        self.commit = exports.commit

    def measure(self, metrics: Metrics) -> None:
        """Time and count what is done from now on."""
        actions = metrics.container_actions
        self.create = actions.timed("create", self.create)
        self.start = actions.timed("start", self.start)
        self.remove = actions.timed("delete", self.remove)
        self.commit = actions.timed("commit", self.commit)
        self.changes = actions.timed("changes", self.changes)
        self.connect = metrics.network_actions.timed("connect", self.connect)
        self._health.metrics = metrics

    # --- life of the service -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take over what runs already, then follow the supervisor's events; returns when the state is right."""
        self._health.begin()
        await self._recovery.begin()

    async def close(self, *, stop_containers: bool, timeout_s: float) -> None:
        """Stop following; with stop_containers end all containers first."""
        if stop_containers:
            await self._stopper.stop_all(timeout_s)
        await self._health.close()
        await self._background.close()
        self._inside.close()
        self._archive.close()

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new values for what is made from now on."""
        self._maker.reconfigure(config)
        self._launcher.reconfigure(config)

    # --- verbs that need several parts -------------------------------------------------------------------------------

    async def resize(self, ref: str, height: int, width: int) -> None:
        """Set the window size of the container's terminal."""
        c = self._table.get(ref)
        if c.status.state not in WITH_TASK:
            raise Conflict(f"container {c.id} is not running")
        if c.config.tty:  # without a terminal there is nothing to do, which is no error
            await self._supervisor.resize(c.id, width, height)
        publish(self._events, c, "resize", height=str(height), width=str(width))

    async def prune(self, filters: Mapping[str, Iterable[str]] | None = None) -> dict[str, Any]:
        """Remove stopped containers. Returns the answer of ContainerPrune."""
        tests = listing.prune_tests({k: tuple(v) for k, v in (filters or {}).items()})
        removed: list[str] = []
        freed = 0
        for c in self._table.all():
            if c.status.state not in (State.CREATED, State.EXITED, State.DEAD) or not listing.passes(c, tests):
                continue
            rw = 0
            try:
                with contextlib.suppress(Internal, OSError):  # what is lost takes no room
                    rw, _ = await self._roots.usage(c.id)
                await self._remover.remove(c.id)
            except SampanError as e:
                log.warning("container %s: not pruned: %s", c.id, e.message)
                continue
            removed.append(c.id)
            freed += rw
        self._events.publish("container", "prune", "", {"reclaimed": str(freed)})
        return {"ContainersDeleted": removed or None, "SpaceReclaimed": freed}

    def ids(self) -> frozenset[str]:
        """Return the ids of all containers."""
        return frozenset(c.id for c in self._table.all())

    def running(self) -> frozenset[str]:
        """Return the ids of the containers that run, paused and restarting ones too."""
        return frozenset(c.id for c in self._table.all() if c.status.state in ACTIVE)

    @property
    def hidden(self) -> frozenset[str]:
        """The ids of containers of other storage drivers."""
        return self._table.hidden

    @property
    def making(self) -> frozenset[str]:
        """The ids of containers that are being made: what exists of them has no record yet."""
        return frozenset(self._table.making)

    def leaving(self) -> frozenset[str]:
        """Return the ids of containers that are being removed: what they had may be gone before their record."""
        return frozenset(c.id for c in self._table.all() if c.status.state in (State.REMOVING, State.DEAD))

    def counts(self) -> dict[str, int]:
        """Return how many containers exist, run, are paused and stopped: what `docker info` shows."""
        states = [c.status.state for c in self._table.all()]
        running = sum(s in (State.RUNNING, State.RESTARTING) for s in states)
        paused = sum(s is State.PAUSED for s in states)
        return {
            "Containers": len(states),
            "ContainersRunning": running,
            "ContainersPaused": paused,
            "ContainersStopped": len(states) - running - paused,
        }
