"""Making a container, and changing what is remembered of it: create, rename, update. Everything but its process.

`create` validates all there is to validate before it changes anything; then snapshot, directory, volumes and one
store transaction, with an undo log.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from sampan.engine import platforms
from sampan.engine.config import EngineConfig
from sampan.engine.containers import endpoints, merge, mountpoints, specgen, validate
from sampan.engine.containers.endpoints import EndpointPlan
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container, MountPoint
from sampan.engine.containers.states import State
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.images.records import Image
from sampan.engine.images.service import Images
from sampan.engine.layers.roots import Roots
from sampan.engine.store import Ref
from sampan.engine.tasks import devices, host
from sampan.engine.tasks import limits as task_limits
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError, words
from sampan.linux import saferoot
from sampan.spec.engine_api.container import ContainerConfig, HostConfig, UpdateConfig
from sampan.spec.engine_api.network import NetworkingConfig
from sampan.supervisor.client import Supervisor

_UPDATABLE = [
    "cpu_shares",
    "memory",
    "nano_cpus",
    "blkio_weight",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "memory_reservation",
    "memory_swap",
    "kernel_memory",
]


class Maker:
    """Makes containers, and changes their records."""

    def __init__(
        self,
        config: EngineConfig,
        table: ContainerTable,
        launcher: Launcher,
        supervisor: Supervisor,
        events: Events,
        images: Images,
        roots: Roots,
        volumes: Volumes,
        host_paths: HostPaths,
    ) -> None:
        self._config = config
        self._table = table
        self._launcher = launcher
        self._supervisor = supervisor
        self._events = events
        self._images = images
        self._roots = roots
        self._volumes = volumes
        self._host_paths = host_paths
        self._machine = host.probe()

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new defaults."""
        self._config = config

    # --- create ------------------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        config: ContainerConfig | None,
        host_config: HostConfig | None,
        networking: NetworkingConfig | None,
        *,
        platform: str = "",
        version: tuple[int, int] = (1, 51),
    ) -> tuple[str, list[str]]:
        """Make a container. Returns (id, warnings)."""
        if config is None:
            raise InvalidArgument("config cannot be empty in order to create a container")
        asked = host_config or HostConfig()
        validate.request(config, asked)
        missing = await self._missing(mountpoints.needed_sources(asked))
        wanted = platforms.parse(platform, any_os=True) if platform else None
        warnings = validate.create(config, asked, self._config, self._machine, missing)
        image = self._images.resolve(config.image, wanted) if config.image else None
        settled = merge.host_config(asked, self._config, self._machine)
        merged = merge.container_config(config, (image.config.get("config") or {}) if image is not None else {})
        validate.logging(settled)
        with self._table.reserve(name) as reserved:
            planned = endpoints.plan(merged, settled, networking, version)
            warnings += planned.warnings
            c = self._plan(reserved, planned, image)
            self._table.making.add(c.id)
            try:
                await self._make(c, image)
            except OSError as e:
                raise Internal(f"cannot create container {reserved}: {words(e)}") from e
            finally:
                self._table.making.discard(c.id)
        publish(self._events, c, "create")
        return c.id, warnings

    async def _missing(self, paths: list[str]) -> frozenset[str]:
        """Return those paths of the host that do not exist."""
        if not paths:
            return frozenset()
        return await self._host_paths.run(
            " or ".join(paths), lambda: frozenset(path for path in paths if not os.path.lexists(path))
        )

    def _plan(
        self,
        name: str,
        planned: EndpointPlan,
        image: Image | None,
    ) -> Container:
        """Check what depends on other objects and return the record; nothing has been changed yet."""
        config, settled = planned.config, planned.host
        validate.security_options(settled.security_opt)
        validate.storage_options(settled)
        settled = self._resolve_joined(settled)
        for ref, _ in validate.links(settled):
            if self._table.find(ref) is None:
                raise InvalidArgument(f"could not get container for {ref}: No such container: {ref}")
        mounts = mountpoints.plan(config, settled, data_root=self._config.data_root, lookup=self._donor)
        for m in mounts:
            if m.type == "volume":
                self._volumes.check_driver(m.name, m.driver)
            elif m.type == "image":
                self._images.resolve(m.name)
        id = self._table.new_id()
        path, args = merge.process(config)
        return Container(
            id=id,
            name=name,
            driver=self._table.driver,
            created_ns=time.time_ns(),
            image_id=image.id if image is not None else "",
            path=path,
            args=args,
            config=replace(config, hostname=self._hostname(id, config, settled)),
            host_config=settled,
            endpoints=planned.endpoints,
            mounts=mounts,
        )

    def _donor(self, ref: str) -> Container:
        try:
            return self._table.get(ref)
        except NotFound as e:
            raise InvalidArgument(e.message) from None

    def _resolve_joined(self, h: HostConfig) -> HostConfig:
        """Name other containers by id, so that renaming them breaks nothing.

        Those of IPC and PID must exist, that of the network may come later. Raises: InvalidArgument.
        """
        changes: dict[str, str] = {}
        for field in ("ipc_mode", "pid_mode", "network_mode"):
            kind, _, ref = str(getattr(h, field)).partition(":")
            if kind != "container" or not ref:
                continue
            found = self._table.find(ref)
            if found is not None:
                changes[field] = f"container:{found.id}"
            elif field != "network_mode":
                raise InvalidArgument(f"No such container: {ref}")
        return replace(h, **changes) if changes else h

    def _hostname(self, id: str, config: ContainerConfig, h: HostConfig) -> str:
        if config.hostname:
            return config.hostname
        if h.network_mode == "host" or h.uts_mode == "host":
            return self._machine.hostname
        if h.network_mode.startswith("container:"):
            found = self._table.find(h.network_mode.partition(":")[2])
            if found is not None:
                return found.config.hostname
        return id[:12]

    async def _make(self, c: Container, image: Image | None) -> None:
        async with AsyncExitStack() as undo:
            if image is not None:
                await self._roots.prepare(c.id, image.chain_id, partial(self._images.claim, c.id, image))
            else:
                await self._roots.prepare(c.id, "")
            undo.callback(lambda: self._roots.remove(c.id, self._images.unclaim(c.id)))
            directory = self._launcher.directory(c.id)
            os.makedirs(directory, mode=0o700)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            claims = undo.enter_context(ExitStack())
            await self._make_working_directory(c, image)
            made = await self._make_volumes(c, undo, claims)
            c.mounts = made
            store = self._table.store
            holder = Ref("container", c.id)
            references = [store.reference(holder, Ref("volume", m.name)) for m in made if m.type == "volume"]
            await self._table.save(c, *references, durable=True)
            undo.pop_all()
            claims.close()

    async def _make_working_directory(self, c: Container, image: Image | None) -> None:
        """Make the working directory that the request names. The image's own is there, or the start makes it."""
        path = c.config.working_dir
        if path in ("", "/") or (image is not None and path == (image.config.get("config") or {}).get("WorkingDir")):
            return

        def make() -> None:
            root = self._roots.open_root(c.id, writable=True)
            try:
                _make_directories(root, path)
            except NotADirectoryError:
                raise Internal(f"Cannot mkdir: {path} is not a directory") from None
            finally:
                os.close(root)

        await self._host_paths.run("a working directory", make)

    async def _make_volumes(self, c: Container, undo: AsyncExitStack, claims: ExitStack) -> list[MountPoint]:
        """Make the volumes that do not exist, fill empty ones from the image; return the mounts with sources."""
        requests = {m.target: m.volume_options for m in c.host_config.mounts or []}
        resolved: list[MountPoint] = []
        for m in c.mounts:
            if m.type == "volume":
                options = requests.get(m.destination)
                driver = options.driver_config if options is not None else None
                existed = bool(m.name) and self._volumes.get(m.name) is not None
                volume = await self._volumes.get_or_create(
                    m.name,
                    driver="" if existed else m.driver,
                    options=(driver.options if driver is not None else None),
                    labels=(options.labels if options is not None else None),
                    anonymous=not m.name,
                    claimant=c.id,
                )
                claims.callback(self._volumes.let_go, volume.id, c.id)
                if not existed:
                    undo.push_async_callback(self._discard_volume, volume.id, c.id)
                m = replace(m, name=volume.id, driver=volume.driver, source=volume.mountpoint)
            resolved.append(m)
        fill = [m for m in resolved if m.type == "volume" and m.copy and m.destination != "/"]
        if fill:
            await self._fill_volumes(c, fill)
        return resolved

    async def _discard_volume(self, name: str, id: str) -> None:
        """Take back a volume that was made for a container that is not; another one may have taken it meanwhile."""
        self._volumes.let_go(name, id)
        with suppress(SampanError):
            await self._volumes.remove(name, force=True)

    async def _fill_volumes(self, c: Container, fill: list[MountPoint]) -> None:
        root = self._roots.open_root(c.id, writable=False)
        try:
            for m in fill:
                await self._volumes.fill(m.name, c.id, root, m.destination, subpath=m.subpath)
        finally:
            os.close(root)

    # --- rename, update ----------------------------------------------------------------------------------------------

    async def rename(self, ref: str, new_name: str) -> None:
        """Give the container another name."""
        if not new_name:
            raise InvalidArgument("Neither old nor new names may be empty")
        id = self._table.get(ref).id
        bare = new_name.removeprefix("/")
        async with self._table.live.lock(id):
            c = self._table.get(id)
            if bare == c.name:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            try:
                with self._table.reserve(new_name if new_name.startswith("/") else "/" + new_name) as reserved:
                    old = c.name
                    answers = self._launcher.renaming(c.id, reserved)  # on its networks, while it runs
                    c = await self._table.save(replace(c, name=reserved), *answers, durable=True)
                await self._launcher.renamed(c.id)
            except (InvalidArgument, Conflict) as e:
                raise type(e)(f"Error when allocating new name: {e.message}") from None
        publish(self._events, c, "rename", oldName="/" + old)

    async def update(self, ref: str, asked: UpdateConfig) -> list[str] | None:
        """Change limits and the restart policy. Returns warnings, None when there are none."""
        if asked.io_maximum_iops or asked.io_maximum_bandwidth:
            raise InvalidArgument(
                "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps"
            )
        warnings = validate.resources(asked, self._machine, update=True)
        warnings += [f"{name} cannot be updated. {name} discarded." for name in _lasting(asked)]
        if asked.restart_policy.name:
            validate.restart_policy(asked.restart_policy)
        c = self._table.get(ref)
        async with self._table.live.lock(c.id):
            c = self._table.get(c.id)
            try:
                c = await self._update(c, asked)
            except SampanError as e:
                raise type(e)(f"Cannot update container {c.id}: {e.message}") from e
        publish(self._events, c, "update")
        return warnings or None

    async def _update(self, c: Container, asked: UpdateConfig) -> Container:
        if c.status.state in (State.REMOVING, State.DEAD):
            raise Conflict('container is marked for removal and cannot be "update"')
        h = c.host_config
        if asked.restart_policy.name:
            if h.auto_remove and asked.restart_policy.name != "no":
                raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
            h = replace(h, restart_policy=asked.restart_policy)
        _check_update(h, asked)
        changes: dict[str, Any] = {f: getattr(asked, f) for f in _UPDATABLE if getattr(asked, f)}
        if not self._machine.blkio_weight:
            changes.pop("blkio_weight", None)
        if asked.pids_limit is not None:
            changes["pids_limit"] = max(asked.pids_limit, 0)
        h = replace(h, **changes)
        if c.status.state in (State.RUNNING, State.PAUSED) and changes:
            limits = specgen.resource_limits(h)
            numbers = {}
            if limits.block_devices():
                numbers = await self._host_paths.run("a device", partial(devices.numbers, limits))
            resources = task_limits.resources(limits, numbers)
            if asked.memory_swap == -1:
                resources.setdefault("memory", {})["swap"] = -1
            if asked.pids_limit is not None and asked.pids_limit <= 0:
                resources["pids"] = {"limit": -1}
            try:
                with suppress(NotFound):  # it has just ended: the next start has them
                    await self._supervisor.update(c.id, resources)
            except SampanError as e:
                raise Internal(f"runc did not terminate successfully: exit status 1: {e.message}\n") from e
        return await self._table.save(replace(c, host_config=h), durable=True)


def _make_directories(root: int, path: str) -> None:
    """Make a directory and its parents inside a root, mode 755 whatever the umask. Raises: NotADirectoryError."""
    parts = [part for part in path.split("/") if part]
    for count in range(1, len(parts) + 1):
        fd, made = saferoot.mkdirs(root, "/".join(parts[:count]))
        try:
            if made:
                os.chmod(f"/proc/self/fd/{fd}", 0o755)
        finally:
            os.close(fd)


def _lasting(asked: UpdateConfig) -> list[str]:
    """Name what is asked for and what a container has for all its life. Docker takes it and says nothing."""
    changeable = {*_UPDATABLE, "pids_limit", "restart_policy", "io_maximum_iops", "io_maximum_bandwidth"}
    unasked = {"kernel_memory", "cpu_percent"}  # never had, or warned of already
    return [
        f.encode_name
        for f in msgspec.structs.fields(type(asked))
        if f.name not in changeable | unasked and getattr(asked, f.name)
    ]


def _check_update(h: HostConfig, asked: UpdateConfig) -> None:
    """Refuse limits that contradict those already set."""
    if asked.nano_cpus and (h.cpu_period or asked.cpu_period):
        raise Conflict("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
    if asked.nano_cpus and (h.cpu_quota or asked.cpu_quota):
        raise Conflict("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
    if asked.cpu_period and h.nano_cpus:
        raise Conflict("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
    if asked.cpu_quota and h.nano_cpus:
        raise Conflict("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
    if asked.memory and asked.memory > h.memory_swap and asked.memory_swap == 0:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
