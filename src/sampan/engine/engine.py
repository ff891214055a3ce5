"""The composition root: constructs the services of one engine, hands each only what it needs, and takes them down in
reverse. It has no behaviour of its own.

    Engine.open    store → events → images → networks → volumes → supervisor → containers → builder → disk
    Engine.close   the other way round; containers go on unless asked otherwise
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack

from sampan.engine.builder.buildkit.door import Door
from sampan.engine.builder.service import Builder
from sampan.engine.config import EngineConfig, engine_id
from sampan.engine.containers.service import Containers
from sampan.engine.disk.service import Disk
from sampan.engine.events import Events
from sampan.engine.images.service import Images
from sampan.engine.networks.service import Networks
from sampan.engine.store import Store
from sampan.engine.volumes.service import Volumes
from sampan.supervisor.client import Supervisor


class Engine:
    """One engine over one data root. Use `open`."""

    def __init__(
        self,
        config: EngineConfig,
        *,
        id: str,
        store: Store,
        events: Events,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        containers: Containers,
        builder: Builder,
        buildkit: Door,
        disk: Disk,
        supervisor: Supervisor,
    ) -> None:
        self.config = config
        self.id = id
        self.store = store
        self.events = events
        self.images = images
        self.networks = networks
        self.volumes = volumes
        self.containers = containers
        self.builder = builder
        self.buildkit = buildkit
        self.disk = disk
        self.supervisor = supervisor

    @classmethod
    async def open(cls, config: EngineConfig) -> Engine:
        """Open the data root, find what runs, and be ready to serve. On failure everything opened is closed again."""
        os.umask(0o077)
        for path in (config.data_root, config.exec_root, f"{config.data_root}/containers"):
            os.makedirs(path, mode=0o700, exist_ok=True)
        async with AsyncExitStack() as undo:
            store = await Store.open(f"{config.data_root}/sampan.db")
            undo.push_async_callback(store.close)
            events = Events()
            images = Images(config, store, events)
            await images.start()
            undo.push_async_callback(images.close)
            networks = Networks(config, store, events)
            await networks.start()
            undo.push_async_callback(networks.close)
            volumes = Volumes(config, store, events)
            await volumes.start()
            undo.push_async_callback(volumes.close)
            supervisor = await Supervisor.connect(config.exec_root, debug=config.debug)
            undo.push_async_callback(supervisor.close)
            containers = Containers(config, store, events, images, networks, volumes)
            await containers.run(supervisor)
            await images.retain(containers.ids())
            builder = Builder(config, store, events, images, networks, supervisor)
            await builder.start()
            undo.push_async_callback(builder.close)
            buildkit = Door(config, store, networks, builder)
            buildkit.start()
            disk = Disk(config, store, events, images, containers, volumes, builder)
            await disk.start()
            undo.pop_all()
        return cls(
            config,
            id=engine_id(config.data_root),
            store=store,
            events=events,
            images=images,
            networks=networks,
            volumes=volumes,
            containers=containers,
            builder=builder,
            buildkit=buildkit,
            disk=disk,
            supervisor=supervisor,
        )

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new values (SIGHUP); they count for what is made from now on."""
        self.config = config
        self.images.reconfigure(config)
        self.containers.reconfigure(config)
        self.disk.reconfigure(config)

    async def close(self, *, stop_containers: bool) -> None:
        """Take the services down in reverse. stop_containers: end every container first."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.store.close)
            stack.push_async_callback(self.images.close)
            stack.push_async_callback(self.networks.close)
            stack.push_async_callback(self.volumes.close)
            stack.push_async_callback(self.supervisor.close)
            stack.push_async_callback(self.supervisor.shutdown_if_idle)
            await self.disk.close()
            self.buildkit.close()
            await self.builder.close()
            await self.containers.close(stop_containers=stop_containers, timeout_s=self.config.shutdown_timeout_s)
