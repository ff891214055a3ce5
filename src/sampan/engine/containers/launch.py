"""From a record to a running task, and back to nothing when a step fails.

What is wrong with the request is found first. Then one `AsyncExitStack` is the undo log: each step that takes something
pushes what gives it back; success pops it all. The order: directories on the host · volumes · shared memory · network ·
files · spec · task. Nothing here knows states, restart policies or clients.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.containers import logopts, specgen
from sampan.engine.containers.attach import PendingSessions
from sampan.engine.containers.records import Container, MountPoint
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.layers.roots import Roots
from sampan.engine.networks import ports
from sampan.engine.networks.request import SandboxRequest
from sampan.engine.networks.service import Networks, Sandbox
from sampan.engine.store import Op
from sampan.engine.tasks import devices, etcfiles, failures, namespaces, spec
from sampan.engine.tasks.capabilities import permitted
from sampan.engine.tasks.namespaces import HeldNamespace
from sampan.engine.tasks.options import ProcessOptions, TaskOptions
from sampan.engine.tasks.seccomp import Filters
from sampan.engine.tasks.spec import Provisions
from sampan.engine.volumes.service import MountedVolume, Volumes
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, NotImplemented_, words
from sampan.linux import mounts as kernel
from sampan.linux.cgroups import realtime
from sampan.spec.engine_api.network import EndpointSettings
from sampan.spec.oci_runtime import Mount
from sampan.supervisor.client import MountSource, NamespaceSource, Supervisor, TaskFailed, TaskInfo, TaskRequest
from sampan.supervisor.logs import options as log_options

_SPEC = msgspec.json.Encoder()
_INIT_CANDIDATES = ("/usr/bin/docker-init", "/usr/bin/tini-static", "/usr/bin/tini", "/usr/sbin/tini-static")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Where a task's output goes: the driver's name, its options, what it notes beside each line."""

    driver: str
    options: dict[str, str]
    attributes: dict[str, str]


class Launcher:
    """Starts tasks and takes down what surrounds them."""

    def __init__(
        self,
        config: EngineConfig,
        table: ContainerTable,
        supervisor: Supervisor,
        events: Events,
        roots: Roots,
        networks: Networks,
        volumes: Volumes,
        host_paths: HostPaths,
        pending: PendingSessions,
    ) -> None:
        self._config = config
        self._table = table
        self._supervisor = supervisor
        self._events = events
        self._roots = roots
        self._networks = networks
        self._volumes = volumes
        self._host_paths = host_paths
        self._pending = pending
        self._filters = Filters(host_paths)

    def reconfigure(self, config: EngineConfig) -> None:
        """Take new defaults."""
        self._config = config
        self._filters.clear()

    def directory(self, id: str) -> str:
        """Return the container's own directory under the data root."""
        return f"{self._config.data_root}/containers/{id}"

    async def launch(self, c: Container) -> TaskInfo:
        """Start the container's task; what is wrong with the request is found before anything is changed.

        Raises: SampanError (StartFailed for a task that was refused); nothing is left behind.
        """
        with ExitStack() as opened:  # what only the creation needs
            return await self._launch(c, opened)

    async def _launch(self, c: Container, opened: ExitStack) -> TaskInfo:
        log = self._log_settings(c)
        runtime = self._runtime(c)
        options = specgen.task_options(c, self._config, permitted())
        owners = self._owners(c)
        joined = _hold(owners, opened)
        init_path = self._init_path() if options.init else ""
        missing = await self._missing_sources(c)
        if devices.waits(options):
            found = await self._host_paths.run("a device", partial(devices.look, options))
        else:
            found = devices.look(options)
        async with AsyncExitStack() as undo:
            rootfs = self._roots.mounts(c.id)
            await self._make_sources(missing)
            volumes = await self._mount_volumes(c, undo, opened)
            shm = await self._shm(c, owners["ipc"].shm_path if "ipc" in owners else "", undo)
            sandbox = await self._attach_network(c, undo)
            if sandbox is not None and sandbox.netns:
                joined["network"] = HeldNamespace.by_path(sandbox.netns, opened)
            provisions = Provisions(
                namespaces=namespaces.paths(joined),
                files=self._write_files(c, options, sandbox),
                sources={destination: volume.path for destination, volume in volumes.items()},
                shm_path=shm,
                init_path=init_path,
                devices=found,
            )
            document = spec.build(options, provisions)
            held = _held(document["mounts"], volumes, joined)
            self._allow_realtime(options.cgroup_parent)
            request = await self._request(c, document, options.process, rootfs, held, runtime, log)
            try:
                attached = self._pending.any(c.id)  # whoever gives up meanwhile does not keep it from running
                task = await self._supervisor.create(request, start=not attached)
                if attached:
                    task = await self._start_attached(c, undo)
            except TaskFailed as e:
                raise StartFailed(failures.of_start(e.step, e.errno, e.message)) from e
            undo.pop_all()
        if sandbox is not None:
            await self._networks.started(c.id, task.pid)
        return task

    def _allow_realtime(self, parent: str) -> None:
        """Give the cgroup above the container the real-time budget of the daemon's configuration."""
        period_us, runtime_us = self._config.cpu_rt_period, self._config.cpu_rt_runtime
        if period_us or runtime_us:
            try:
                realtime.allow(parent, period_us=period_us, runtime_us=runtime_us)
            except OSError as e:
                reason = os.strerror(e.errno or 0).lower()
                raise Internal(f"unable to init CPU RT controller: write {e.filename}: {reason}") from e

    async def _request(
        self,
        c: Container,
        document: dict[str, Any],
        process: ProcessOptions,
        rootfs: tuple[Mount, ...],
        sources: tuple[MountSource | NamespaceSource, ...],
        runtime: tuple[str, tuple[str, ...]],
        log: LogSettings,
    ) -> TaskRequest:
        path, args = runtime
        if path:  # another runtime compiles the profile itself
            seccomp = ""
            profile = await self._filters.profile(process)
            if profile is not None:
                document["linux"]["seccomp"] = profile
        else:
            seccomp = await self.seccomp_path(process)
        return TaskRequest(
            id=c.id,
            spec=_SPEC.encode(document),
            rootfs=rootfs,
            seccomp=seccomp,
            terminal=c.config.tty,
            stdin=c.config.open_stdin,
            stdin_once=c.config.stdin_once,
            log_driver=log.driver,
            log_path=f"{self.directory(c.id)}/{c.id}-json.log",
            log_options=log.options,
            log_attrs=log.attributes,
            runtime=path,
            runtime_args=args,
            sources=sources,
        )

    async def _start_attached(self, c: Container, undo: AsyncExitStack) -> TaskInfo:
        """Connect those who attached before the start, then let the task run: they miss no byte."""
        undo.push_async_callback(self._supervisor.delete, c.id)
        for session in self._pending.take(c.id):
            await session.connect(self._supervisor)
        return await self._supervisor.start(c.id)

    def remembered_endpoints(self, c: Container) -> dict[str, EndpointSettings]:
        """Return the container's endpoints with what stays known of them once its network is gone."""
        sandbox = self._networks.sandbox(c.id)
        if sandbox is None:
            return c.endpoints
        kept: dict[str, EndpointSettings] = {}
        for name, settings in c.endpoints.items():
            shown = sandbox.endpoints.get(name)
            if shown is not None:
                settings = replace(settings, network_id=shown.network_id, dns_names=shown.dns_names)
            kept[name] = settings
        return kept

    def renaming(self, id: str, name: str) -> list[Op]:
        """Return the changes by which a container that has a network answers to another name there."""
        return self._networks.renaming(id, name)

    async def renamed(self, id: str) -> None:
        """Have the container answer to its other name, once that is written."""
        await self._networks.renamed(id)

    async def take_down(self, c: Container) -> None:
        """Give back what a task that has ended used: network, shared memory, volumes. Idempotent.

        The task itself goes with `delete_task`, which nobody but the next start has to wait for.
        """
        if not c.host_config.network_mode.startswith("container:"):
            await self._networks.detach(c.id)
        if c.shm_path or c.host_config.ipc_mode == "shareable":
            _unmount(self._shm_directory(c.id))
        await self._unmount_volumes(c)

    async def delete_task(self, id: str) -> None:
        """Remove the task with its cgroup and directory; kills what is left in it."""
        await self._supervisor.delete(id)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _log_settings(self, c: Container) -> LogSettings:
        """Return where the task's output goes. Raises: StartFailed for options that the driver does not take."""
        log = c.host_config.log_config
        options = log.config or {}
        try:
            if options and log.type != "none":
                log_options.rotation(log.type, options)
            attributes = logopts.attributes(
                options,
                labels=c.config.labels or {},
                env=c.config.env or [],
                id=c.id,
                name=c.name,
                image=c.config.image,
                image_id=c.image_id,
            )
        except InvalidArgument as e:
            raise StartFailed(failures.of_start("log", 0, e.message)) from e
        return LogSettings(driver=log.type, options=options, attributes=attributes)

    async def _missing_sources(self, c: Container) -> list[str]:
        """Look at the sources of binds; return those that are to be made.

        Raises: InvalidArgument for one that must be there, Internal for mount options that contradict each other.
        """
        binds = [point for point in c.mounts if point.type == "bind"]
        for point in binds:
            _check_read_only(point)
        if not binds:
            return []
        paths = [point.source for point in binds]
        there = await self._host_paths.run(" or ".join(paths), lambda: [os.path.lexists(path) for path in paths])
        missing = [point for point, exists in zip(binds, there, strict=True) if not exists]
        for point in missing:
            if not point.create_source:
                raise InvalidArgument(
                    f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
                )
        return [point.source for point in missing]

    async def _make_sources(self, paths: list[str]) -> None:
        """Make the directories on the host that `-v` asks for. They stay, as Docker's do, when the start fails."""
        for path in paths:
            try:
                await self._host_paths.run(path, partial(_make_directories, path))
            except OSError as e:
                raise Internal(
                    f"error while creating mount source path '{path}': mkdir {e.filename}: {words(e)}"
                ) from e

    def _owners(self, c: Container) -> dict[str, Container]:
        """Find the containers whose namespaces this one joins, by the namespace's type."""
        found: dict[str, Container] = {}
        h = c.host_config
        if h.network_mode.startswith("container:"):
            found["network"] = self._network_owner(h.network_mode.partition(":")[2])
        if h.pid_mode.startswith("container:"):
            try:
                found["pid"] = self._running(h.pid_mode.partition(":")[2])
            except Conflict as e:
                raise Internal(f"failed to join PID namespace: {e.message}") from None
        if h.ipc_mode.startswith("container:"):
            found["ipc"] = self._ipc_owner(h.ipc_mode.partition(":")[2])
        return found

    def _network_owner(self, ref: str) -> Container:
        try:
            owner = self._table.get(ref)
        except NotFound as e:
            raise Internal(f"joining network namespace of container: {e.message}") from None
        if not owner.status.pid:
            raise Conflict(
                "cannot join network namespace of a non running container:"
                f" container {owner.name} is {owner.status.state.value}"
            )
        return owner

    def _running(self, ref: str) -> Container:
        owner = self._table.get(ref)
        if not owner.status.pid:
            raise Conflict(f"container {owner.id} is not running")
        return owner

    def _ipc_owner(self, ref: str) -> Container:
        if not ref:
            raise InvalidArgument('failed to join IPC namespace: invalid name or ID supplied: ""')
        try:
            owner = self._running(ref)
        except Conflict as e:
            raise Conflict(f"failed to join IPC namespace: {e.message}") from None
        if not owner.shm_path:
            raise InvalidArgument(
                f"failed to join IPC namespace: container {owner.id}: non-shareable IPC"
                " (hint: use IpcMode:shareable for the donor container)"
            )
        return owner

    def shm_of(self, c: Container) -> str:
        """Return the host path of the shared memory that others may join: a shareable container's, or the host's."""
        return self._shm_directory(c.id) if c.host_config.ipc_mode == "shareable" else ""

    def _shm_directory(self, id: str) -> str:
        return f"{self.directory(id)}/mounts/shm"

    async def _shm(self, c: Container, joined: str, undo: AsyncExitStack) -> str:
        """Return the host directory for /dev/shm, or "". Only a shareable one needs a mount on the host."""
        mode = c.host_config.ipc_mode
        if mode == "host":
            return "/dev/shm"
        if joined or mode != "shareable":
            return joined
        path = self._shm_directory(c.id)
        os.makedirs(path, mode=0o700, exist_ok=True)
        _unmount(path)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("shm", path, "tmpfs", flags, f"mode=1777,size={c.host_config.shm_size}")
        undo.callback(_unmount, path)
        return path

    async def _attach_network(self, c: Container, undo: AsyncExitStack) -> Sandbox | None:
        h = c.host_config
        if h.network_mode.startswith("container:"):
            return None
        exposed = tuple(p for p in c.config.exposed_ports or () if p.partition("/")[0].isdigit())
        request = SandboxRequest(
            id=c.id,
            mode="none" if c.config.network_disabled else h.network_mode,
            name=c.name,
            hostname=c.config.hostname,
            endpoints=None if c.config.network_disabled else c.endpoints,
            ports=ports.published(h.port_bindings, exposed=exposed, publish_all=h.publish_all_ports),
            exposed=exposed,
            mac=c.config.mac_address,
            resolvers=tuple(h.dns or self._config.dns),
        )
        sandbox = await self._networks.attach(request)
        undo.push_async_callback(self._networks.detach, c.id)
        return sandbox

    def _write_files(self, c: Container, options: TaskOptions, sandbox: Sandbox | None) -> tuple[tuple[str, str], ...]:
        """Write the container's own files; with a joined network it gets those of the owner."""
        if sandbox is None:
            directory = self.directory(self._network_owner(c.host_config.network_mode.partition(":")[2]).id)
        else:
            directory = self.directory(c.id)
            etcfiles.write(directory, options, sandbox, self._config)
        return tuple((f"/etc/{name}", f"{directory}/{name}") for name in etcfiles.NAMES)

    def _init_path(self) -> str:
        if self._config.init_path:
            return self._config.init_path
        for path in _INIT_CANDIDATES:
            if os.access(path, os.X_OK):
                return path
        raise Internal('exec: "docker-init": executable file not found in $PATH')

    def _runtime(self, c: Container) -> tuple[str, tuple[str, ...]]:
        """Return (path, arguments) of a runtime of daemon.json; ("", ()) is our own."""
        found = self._config.runtimes.get(c.host_config.runtime)
        if found is None or not found.get("path"):
            return "", ()
        path = str(found["path"])
        resolved = shutil.which(path)
        if resolved is None:
            raise Internal(f"failed to create task for container: exec: {path!r}: executable file not found in $PATH")
        return resolved, tuple(found.get("runtimeArgs") or ())

    async def seccomp_path(self, process: ProcessOptions) -> str:
        """Return the path of the compiled filter of a process; "" is none. Cached."""
        return await self._filters.path(self._supervisor, process)

    async def _mount_volumes(self, c: Container, undo: AsyncExitStack, opened: ExitStack) -> dict[str, MountedVolume]:
        """Make volumes ready; return them by destination. `opened` will close their descriptors."""
        found: dict[str, MountedVolume] = {}
        if not any(m.type in ("volume", "image") for m in c.mounts):
            return found
        undo.push_async_callback(self._unmount_volumes, c)
        for m in c.mounts:
            if m.type == "volume":
                volume = await self._volumes.mount(m.name, c.id, subpath=m.subpath, recursive=m.recursive)
                opened.callback(os.close, volume.fd)
                found["/" + m.destination.lstrip("/")] = volume
                self._events.publish(
                    "volume",
                    "mount",
                    m.name,
                    {
                        "container": c.id,
                        "destination": m.destination,
                        "driver": m.driver,
                        "propagation": m.propagation,
                        "read/write": "true" if m.rw else "false",
                    },
                )
            elif m.type == "image":
                raise NotImplemented_("mounting an image is not supported yet: use a volume or a bind mount")
        return found

    async def _unmount_volumes(self, c: Container) -> None:
        for m in c.mounts:
            if m.type == "volume":
                await self._volumes.unmount(m.name, c.id)
                self._events.publish("volume", "unmount", m.name, {"container": c.id, "driver": m.driver})

    def adopt(self, c: Container) -> None:
        """Remember what a running container of an earlier daemon uses."""
        for m in c.mounts:
            if m.type == "volume":
                self._volumes.adopt(m.name, c.id)


class StartFailed(Internal):
    """The task was refused: `failure` has the client's error and the exit status."""

    def __init__(self, failure: failures.Failure) -> None:
        super().__init__(failure.error.message)
        self.failure = failure


def _hold(owners: Mapping[str, Container], opened: ExitStack) -> dict[str, HeldNamespace]:
    """Open the namespaces that are joined, by type. Raises: Conflict for a container that has ended meanwhile."""
    found: dict[str, HeldNamespace] = {}
    for kind, owner in owners.items():
        try:
            found[kind] = HeldNamespace.of_task(owner.status.pid, owner.id, kind, opened)
        except OSError as e:
            raise Conflict(f"container {owner.id} is not running") from e
    return found


def _held(
    mounts: list[dict[str, Any]], volumes: dict[str, MountedVolume], joined: dict[str, HeldNamespace]
) -> tuple[MountSource | NamespaceSource, ...]:
    """Match what is held by descriptor with the mounts of a spec. Raises: Internal, rather than have a name opened."""
    places = {m["destination"]: index for index, m in enumerate(mounts)}
    if missing := volumes.keys() - places.keys():
        raise Internal(f"volumes without a mount: {', '.join(sorted(missing))}")
    sources = [MountSource(index=places[destination], fd=v.fd) for destination, v in volumes.items()]
    return (*sources, *namespaces.sources(joined))


def _check_read_only(point: MountPoint) -> None:
    """Raises: Internal, in Docker's words."""
    if not point.rw and point.read_only_force_recursive and not point.read_only_recursive:
        raise Internal("mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
    if point.rw and point.read_only_force_recursive:
        raise Internal("mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive")


def _make_directories(path: str) -> None:
    """Make a directory and its parents for everybody to read: the daemon's own umask is for its own files."""
    missing: list[str] = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for part in reversed(missing):
        os.mkdir(part)
        os.chmod(part, 0o755)


def _unmount(path: str) -> None:
    with suppress(OSError):
        kernel.umount2(path, kernel.MNT_DETACH)
