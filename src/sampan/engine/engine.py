"""The composition root: constructs the services of one engine, hands each only what it needs, and takes them down in
reverse. It has no behaviour of its own.

    Engine.open    store → events → storage → images → networks → volumes → supervisor → containers → disk
    Engine.close   the other way round; containers go on unless asked otherwise

An engine that never builds has no builder: the first use makes it, the next start finds its directory.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from sampan.engine.config import EngineConfig, engine_id
from sampan.engine.containers.service import Containers
from sampan.engine.disk.service import Disk
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.images.service import Images
from sampan.engine.layers.storage import Storage
from sampan.engine.metrics import Metrics
from sampan.engine.networks.service import Networks
from sampan.engine.plugins.plugins import Plugins
from sampan.engine.store import Store
from sampan.engine.system import System
from sampan.engine.volumes.service import Volumes
from sampan.supervisor.client import Supervisor

if TYPE_CHECKING:
    from sampan.engine.builder.buildkit.services import BuildKit
    from sampan.engine.builder.service import Builder
    from sampan.supervisor.starter import Boot


class Engine:
    """One engine over one data root. Use `open`."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        id: str,
        store: Store,
        events: Events,
        storage: Storage,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        containers: Containers,
        supervisor: Supervisor,
        host_paths: HostPaths,
        metrics: Metrics,
    ) -> None:
        self.metrics = metrics
        self.config = config
        self.id = id
        self.store = store
        self.events = events
        self.storage = storage
        self.images = images
        self.networks = networks
        self.volumes = volumes
        self.containers = containers
        self.supervisor = supervisor
        self._host_paths = host_paths
        self.disk = Disk(config, store, events, images, containers, volumes, lambda: self.builder)
        self.system = System(config, id, events, images, containers, networks, volumes, self.disk, lambda: self.builder)
        self._builder: Builder | None = None
        self._buildkit: BuildKit | None = None

    @classmethod
    async def open(cls, config: EngineConfig, boot: Boot | None = None) -> Engine:
        """Open the data root, find what runs, and be ready to serve. On failure everything opened is closed again.

        boot: the supervisor of this exec root, when it has been started already.
        """
        os.umask(0o077)
        for path in (config.data_root, config.exec_root, f"{config.data_root}/containers"):
            os.makedirs(path, mode=0o700, exist_ok=True)
        async with AsyncExitStack() as undo:
            store = await Store.open(f"{config.data_root}/sampan.db")
            undo.push_async_callback(store.close)
            events = Events()
            storage = Storage(config, store)
            undo.push_async_callback(storage.close)
            images = Images(config, storage, events)
            await images.start()
            undo.push_async_callback(images.close)
            metrics = Metrics()
            host_paths = HostPaths()
            undo.callback(host_paths.close)
            networks = Networks(config, store, events, plugins=Plugins(config, host_paths))
            networks.measure(metrics)
            await networks.start()
            undo.push_async_callback(networks.close)
            volumes = Volumes(config, store, events, host_paths)
            await volumes.start()
            undo.push_async_callback(volumes.close)
            supervisor = await Supervisor.connect(config.exec_root, debug=config.debug, boot=boot)
            undo.push_async_callback(supervisor.close)
            networks.names.supply(supervisor.ensure_names)
            networks.carrier.supply(supervisor.ensure_ports)
            containers = Containers(
                config, store, events, images, storage.roots, networks, volumes, supervisor, host_paths
            )
            containers.measure(metrics)
            await containers.run()
            if not store.aside():
                storage.roots.retain(containers.ids(), images.unclaim)
            engine = cls(
                config,
                id=engine_id(config.data_root),
                store=store,
                events=events,
                storage=storage,
                images=images,
                networks=networks,
                volumes=volumes,
                containers=containers,
                supervisor=supervisor,
                host_paths=host_paths,
                metrics=metrics,
            )
            undo.push_async_callback(engine._close_builder)
            if os.path.isdir(f"{config.data_root}/builder"):
                engine.builder  # noqa: B018 - recovers what the last run left
            await engine.disk.start()
            undo.pop_all()
        return engine

    @property
    def builder(self) -> Builder:
        """What builds. Its modules cost 60 ms and 4 MiB: an engine that has never built does without them."""
        if self._builder is None:
            from sampan.engine.builder.service import Builder

            self._builder = Builder(
                self.config,
                self.store,
                self.events,
                self.images,
                self.networks,
                self.supervisor,
                self._host_paths,
                self.metrics,
            )
            self._builder.start()
        return self._builder

    @property
    def buildkit(self) -> BuildKit:
        """The builder's door for BuildKit's clients; what it adds is loaded when the first of them comes."""
        if self._buildkit is None:
            from sampan.engine.builder.buildkit.services import BuildKit

            self._buildkit = BuildKit(self.config, self.store, self.networks, self.builder)
            self._buildkit.start()
        return self._buildkit

    async def _close_builder(self) -> None:
        if self._buildkit is not None:
            self._buildkit.close()
        if self._builder is not None:
            await self._builder.close()

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new values (SIGHUP); they count for what is made from now on."""
        self.config = config
        self.images.reconfigure(config)
        self.containers.reconfigure(config)
        self.disk.reconfigure(config)
        self.system.reconfigure(config)

    async def close(self, *, stop_containers: bool) -> None:
        """Take the services down in reverse. stop_containers: end every container first."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.store.close)
            stack.push_async_callback(self.storage.close)
            stack.push_async_callback(self.images.close)
            stack.push_async_callback(self.networks.close)
            stack.push_async_callback(self.volumes.close)
            stack.push_async_callback(self.supervisor.close)
            stack.push_async_callback(self.supervisor.shutdown_if_idle)
            stack.callback(self._host_paths.close)
            await self.disk.close()
            await self._close_builder()
            await self.containers.close(stop_containers=stop_containers, timeout_s=self.config.shutdown_timeout_s)
