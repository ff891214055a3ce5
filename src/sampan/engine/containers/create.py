"""Making and unmaking a container: create, rename, update, remove. Everything but its process.

`create` validates all there is to validate before it changes anything; then snapshot, directory, volumes and one
store transaction, with an undo log. `remove` marks the record first, so that a removal that is interrupted is
resumed at the next start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from sampan.engine import platforms
from sampan.engine.config import EngineConfig
from sampan.engine.containers import merge, mountpoints, validate
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.lifecycle import Lifecycle
from sampan.engine.containers.records import Container, MountPoint, with_status
from sampan.engine.containers.registry import Registry, next_state
from sampan.engine.containers.states import Event, State
from sampan.engine.store import Ref
from sampan.engine.tasks import host, spec
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError
from sampan.spec.engine_api.container import ContainerConfig, HostConfig, UpdateConfig
from sampan.spec.engine_api.network import NetworkingConfig

if TYPE_CHECKING:
    from sampan.engine.containers.exec import Execs
    from sampan.engine.images.records import Image
    from sampan.engine.images.service import Images

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
]


class Maker:
    """The life of a container's record."""

    def __init__(
        self,
        config: EngineConfig,
        registry: Registry,
        launcher: Launcher,
        lifecycle: Lifecycle,
        images: Images,
        volumes: Volumes,
        execs: Execs,
    ) -> None:
        self._config = config
        self._registry = registry
        self._launcher = launcher
        self._lifecycle = lifecycle
        self._images = images
        self._volumes = volumes
        self._execs = execs
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
        validate.platform(platform)
        validate.request(config, asked)
        wanted = platforms.parse(platform, any_os=True) if platform else None
        image = self._images.resolve(config.image, wanted) if config.image else None
        warnings = validate.create(config, asked, self._config, self._machine)
        settled = merge.host_config(asked, self._config, self._machine)
        merged = merge.container_config(config, (image.config.get("config") or {}) if image is not None else {})
        validate.logging(settled)
        with self._registry.reserve(name) as reserved:
            c = self._plan(reserved, merged, settled, networking, image)
            self._registry.making.add(c.id)
            try:
                await self._make(c, image)
            except OSError as e:
                raise Internal(f"cannot create container {reserved}: {e.strerror or e}") from e
            finally:
                self._registry.making.discard(c.id)
        self._lifecycle.publish(c, "create")
        return c.id, warnings

    def _plan(
        self,
        name: str,
        config: ContainerConfig,
        settled: HostConfig,
        networking: NetworkingConfig | None,
        image: Image | None,
    ) -> Container:
        """Check what depends on other objects and return the record; nothing has been changed yet."""
        validate.security_options(settled.security_opt)
        validate.storage_options(settled)
        validate.endpoint_addresses(settled.network_mode, config.mac_address)
        settled = self._resolve_joined(settled)
        for ref, _ in validate.links(settled):
            if self._registry.find(ref) is None:
                raise InvalidArgument(f"could not get container for {ref}: No such container: {ref}")
        mounts = mountpoints.plan(config, settled, data_root=self._config.data_root, lookup=self._donor)
        for m in mounts:
            if m.type == "volume":
                validate.volume_driver(m.driver, m.name)
            elif m.type == "image":
                self._images.resolve(m.name)
        id = self._registry.new_id()
        path, args = merge.process(config)
        return Container(
            id=id,
            name=name,
            driver=self._registry.driver,
            created_ns=time.time_ns(),
            image_id=image.id if image is not None else "",
            path=path,
            args=args,
            config=replace(config, hostname=self._hostname(id, config, settled)),
            host_config=settled,
            endpoints=merge.endpoints(settled, config, networking),
            mounts=mounts,
        )

    def _donor(self, ref: str) -> Container:
        try:
            return self._registry.get(ref)
        except NotFound as e:
            raise InvalidArgument(e.message) from None

    def _resolve_joined(self, h: HostConfig) -> HostConfig:
        """Name other containers by id, so that renaming them breaks nothing. IPC and PID must exist, a network may come later."""
        changes: dict[str, str] = {}
        for field in ("ipc_mode", "pid_mode", "network_mode"):
            kind, _, ref = str(getattr(h, field)).partition(":")
            if kind != "container" or not ref:
                continue
            found = self._registry.find(ref)
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
            found = self._registry.find(h.network_mode.partition(":")[2])
            if found is not None:
                return found.config.hostname
        return id[:12]

    async def _make(self, c: Container, image: Image | None) -> None:
        async with AsyncExitStack() as undo:
            await self._images.prepare(c.id, image)
            undo.push_async_callback(self._images.remove_snapshot, c.id)
            directory = self._launcher.directory(c.id)
            os.makedirs(directory, mode=0o700)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
            made = await self._make_volumes(c, undo)
            c.mounts = made
            store = self._registry.store
            holder = Ref("container", c.id)
            references = [store.reference(holder, Ref("volume", m.name)) for m in made if m.type == "volume"]
            await self._registry.save(c, *references, durable=True)
            undo.pop_all()

    async def _make_volumes(self, c: Container, undo: AsyncExitStack) -> list[MountPoint]:
        """Make the volumes that do not exist, fill empty ones from the image, and return the mounts with their sources."""
        requests = {m.target: m.volume_options for m in c.host_config.mounts or []}
        resolved: list[MountPoint] = []
        for m in c.mounts:
            if m.type == "volume":
                options = requests.get(m.destination)
                driver = options.driver_config if options is not None else None
                existed = bool(m.name) and self._volumes.get(m.name) is not None
                volume = await self._volumes.get_or_create(
                    m.name,
                    driver="local",
                    options=(driver.options if driver is not None else None),
                    labels=(options.labels if options is not None else None),
                    anonymous=not m.name,
                )
                if not existed:
                    undo.push_async_callback(self._volumes.remove, volume.id, force=True)
                m = replace(m, name=volume.id, source=self._volumes.path(volume.id))
            resolved.append(m)
        fill = [m for m in resolved if m.type == "volume" and m.copy and not m.subpath and m.destination != "/"]
        if fill:
            await self._copy_up(c, fill)
        return resolved

    async def _copy_up(self, c: Container, fill: list[MountPoint]) -> None:
        root = self._images.open_root(c.id, writable=False)
        try:
            for m in fill:
                await self._volumes.copy_up(m.name, root, m.destination)
        finally:
            os.close(root)

    # --- rename, update ----------------------------------------------------------------------------------------------

    async def rename(self, ref: str, new_name: str) -> None:
        """Give the container another name."""
        c = self._registry.get(ref)
        bare = new_name.removeprefix("/")
        if not bare:
            raise InvalidArgument("Neither old nor new names may be empty")
        async with self._registry.live(c.id).lock:
            c = self._registry.get(c.id)
            if bare == c.name:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            try:
                with self._registry.reserve(new_name if new_name.startswith("/") else "/" + new_name) as reserved:
                    old = c.name
                    answers = self._launcher.renaming(c.id, reserved)  # on its networks, while it runs
                    c = await self._registry.save(replace(c, name=reserved), *answers, durable=True)
            except (InvalidArgument, Conflict) as e:
                raise type(e)(f"Error when allocating new name: {e.message}") from None
        self._lifecycle.publish(c, "rename", oldName="/" + old)

    async def update(self, ref: str, asked: UpdateConfig) -> list[str] | None:
        """Change limits and the restart policy. Returns warnings, None when there are none."""
        warnings = validate.resources(asked, self._machine, update=True)
        if asked.restart_policy.name:
            validate.restart_policy(asked.restart_policy)
        c = self._registry.get(ref)
        async with self._registry.live(c.id).lock:
            c = self._registry.get(c.id)
            try:
                c = await self._update(c, asked)
            except SampanError as e:
                raise type(e)(f"Cannot update container {c.id}: {e.message}") from e
        self._lifecycle.publish(c, "update")
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
            changes["pids_limit"] = asked.pids_limit if asked.pids_limit > 0 else None
        h = replace(h, **changes)
        if c.status.state in (State.RUNNING, State.PAUSED) and changes:
            resources = spec.resources(h)
            if asked.memory_swap == -1:
                resources.setdefault("memory", {})["swap"] = -1
            if asked.pids_limit is not None and asked.pids_limit <= 0:
                resources["pids"] = {"limit": -1}
            try:
                await self._launcher.supervisor.update(c.id, resources)
            except SampanError as e:
                raise Internal(f"runc did not terminate successfully: exit status 1: {e.message}\n") from e
        return await self._registry.save(replace(c, host_config=h), durable=True)

    # --- remove ------------------------------------------------------------------------------------------------------

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False, link: bool = False) -> None:
        """Remove a container; force kills it first, volumes takes its anonymous volumes with it."""
        c = self._registry.get(ref)
        if link:
            raise NotFound(f"Cannot get parent {ref} for link")
        if c.active:
            if not force:
                state = c.status.state.value
                advice = (
                    " and must be unpaused first"
                    if c.status.state is State.PAUSED
                    else ": stop the container before removing or force remove"
                )
                raise Conflict(f'cannot remove container "{ref}": container is {state}{advice}')
            await self._lifecycle.kill_and_wait(c)
        live = self._registry.live(c.id)
        if c.status.state is State.REMOVING and live.lock.locked():
            raise Conflict(f"removal of container {ref} is already in progress")
        async with live.lock:
            now = self._registry.find(c.id)
            if now is not None:  # else --rm was faster: it is as the caller wanted it
                await self._remove_locked(now, volumes=volumes)

    async def _remove_locked(self, c: Container, *, volumes: bool) -> None:
        live = self._registry.live(c.id)
        if c.active:
            raise Conflict(f'cannot remove container "{c.name}": it was started meanwhile')
        c = with_status(c, state=next_state(c, Event.REMOVE), pid=0)
        c = await self._registry.save(replace(c, removal={"volumes": volumes}))
        try:
            await self._unmake(c, volumes=volumes)
        except (SampanError, OSError) as e:
            text = e.message if isinstance(e, SampanError) else str(e)
            await self._registry.save(with_status(c, state=next_state(c, Event.REMOVE_FAILED), error=text))
            raise Internal(f"container {c.id}: cannot remove: {text}") from e
        for session in live.pending:
            session.abandon()
        self._lifecycle.publish(c, "destroy")
        self._lifecycle.removed(c, live)

    async def _unmake(self, c: Container, *, volumes: bool) -> None:
        _to_trash(self._config.data_root, self._launcher.directory(c.id), c.id)
        await self._images.remove_snapshot(c.id)  # wakes the one who empties the trash
        store = self._registry.store
        self._execs.forget(c.id)
        await self._registry.delete(c, store.release(Ref("container", c.id)))
        if volumes:
            for m in c.mounts:
                if m.type == "volume" and self._is_anonymous(m) and not store.holders(Ref("volume", m.name)):
                    with contextlib.suppress(SampanError):
                        await self._volumes.remove(m.name)

    def _is_anonymous(self, m: MountPoint) -> bool:
        volume = self._volumes.get(m.name)
        return volume is not None and volume.anonymous

    def discard_directory(self, name: str) -> None:
        """Throw away the directory of a container that has no record."""
        _to_trash(self._config.data_root, self._launcher.directory(name), name)

    async def auto_remove(self, id: str) -> None:
        """Remove a --rm container that has ended, with its anonymous volumes."""
        with contextlib.suppress(NotFound):
            await self.remove(id, volumes=True)

    def was_removed(self, c: Container) -> bool:
        """Whether all that a container has on the disk is gone: then it was removed, and power loss took only the note.

        Its directory goes first, then its snapshot, then its record; the disk may keep what came later and lose what came
        before, as the record is in a database and the others are names in directories.
        """
        return not os.path.isdir(self._launcher.directory(c.id)) and self._images.is_lost(c.id)

    async def resume_removal(self, c: Container) -> None:
        """Finish a removal that a crash interrupted."""
        async with self._registry.live(c.id).lock:
            await self._remove_locked(c, volumes=c.removal.get("volumes", False))


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


def _to_trash(data_root: str, directory: str, id: str) -> None:
    """Rename away, so that nobody waits for unlink; the images service reaps the trash."""
    trash = f"{data_root}/trash"
    os.makedirs(trash, mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(directory, f"{trash}/container-{id}")
