"""What any task may ask for, as one value: a container, a RUN step of a build, a program of the host.

`TaskOptions` says what is wanted; `spec.Provisions` says what the engine has made for it (namespaces, files, devices);
`spec.build` turns the two into an OCI spec. Whoever starts tasks maps its own request to this value:
containers/specgen.py the HostConfig of a container, builder/solver/runspec.py a RUN step, builder/files/hosttask.py a
script.

Values only. What is wrong with a request is found by the mapping, or by `devices.look`, never by `spec.build`.

Source: OCI runtime-spec 1.2; the words of Docker's HostConfig where the OCI has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from sampan.engine.config import EngineConfig
from sampan.engine.tasks.security import SecurityOptions
from sampan.spec.oci_runtime import Mount


class NamespaceMode(StrEnum):
    """Whose namespace a task lives in: one of its own, the host's, or that of another task."""

    OWN = "own"
    HOST = "host"
    JOINED = "joined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespaces:
    """The namespaces of a task. The path of one that is joined stands in `Provisions.namespaces`."""

    network: NamespaceMode = NamespaceMode.OWN
    uts: NamespaceMode = NamespaceMode.OWN
    pid: NamespaceMode = NamespaceMode.OWN
    ipc: NamespaceMode = NamespaceMode.OWN
    cgroup: NamespaceMode = NamespaceMode.OWN


class Rlimit(NamedTuple):
    """One limit of setrlimit(2). type: RLIMIT_NOFILE, …; 2**64 - 1 is no limit at all. Made by `limits.rlimits`."""

    type: str
    soft: int
    hard: int


class HostDevice(NamedTuple):
    """A device of the host, or a directory with such, to be found inside under another path. access: of r, w, m."""

    path_on_host: str
    path_in_container: str
    access: str


class DeviceWeight(NamedTuple):
    """The share that a task has of a block device's time, 10 to 1000."""

    path: str
    weight: int


class DeviceRate(NamedTuple):
    """A limit on the use of a block device: bytes or operations a second."""

    path: str
    rate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceLimits:
    """What the cgroup of a task is limited to; 0, None and () are no limit.

    memory_swap_bytes: memory and swap together.
    """

    memory_bytes: int = 0
    memory_reservation_bytes: int = 0
    memory_swap_bytes: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    nano_cpus: int = 0
    cpu_shares: int = 0
    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpu_realtime_period_us: int = 0
    cpu_realtime_runtime_us: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    blkio_weight: int = 0
    blkio_weights: tuple[DeviceWeight, ...] = ()
    read_bytes: tuple[DeviceRate, ...] = ()
    write_bytes: tuple[DeviceRate, ...] = ()
    read_operations: tuple[DeviceRate, ...] = ()
    write_operations: tuple[DeviceRate, ...] = ()

    def block_devices(self) -> frozenset[str]:
        """Return the paths of the block devices that are named: their numbers are still to be looked up."""
        rates = (*self.read_bytes, *self.write_bytes, *self.read_operations, *self.write_operations)
        return frozenset((*(d.path for d in self.blkio_weights), *(d.path for d in rates)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """One process: a task's first, or a further one in it.

    user: `name|uid[:group|gid]`, looked up in the task's own passwd and group files; groups: further ones.
    console_size: (height, width). oom_score_adj None: as that of the process that starts it.
    filter_capabilities: what the seccomp profile's conditions are about, the task's own; None: `capabilities`.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    terminal: bool = False
    console_size: tuple[int, int] = (0, 0)
    capabilities: tuple[str, ...] = ()
    filter_capabilities: tuple[str, ...] | None = None
    security: SecurityOptions = field(default_factory=SecurityOptions)
    rlimits: tuple[Rlimit, ...] = ()
    oom_score_adj: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverOptions:
    """What /etc/hosts and /etc/resolv.conf have beside the network's own. extra_hosts: `name:address`."""

    extra_hosts: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What one task asks for.

    privileged: every device of the host, and /sys to write to. init: docker-init is process 1. without: the default
    mounts, by destination, that the task does without. etc_options: how the files of `Provisions.files` are mounted.
    shm_size_bytes None: no /dev/shm. root_propagation "": the runtime's own. cgroup_parent: absolute.
    device_rules: further rules of the device cgroup, `c 1:3 rw`.
    """

    id: str
    process: ProcessOptions
    namespaces: Namespaces = field(default_factory=Namespaces)
    hostname: str = ""
    domainname: str = ""
    resolver: ResolverOptions = field(default_factory=ResolverOptions)
    privileged: bool = False
    init: bool = False
    readonly_root: bool = False
    root_propagation: str = ""
    mounts: tuple[Mount, ...] = ()
    without: frozenset[str] = frozenset()
    etc_options: tuple[str, ...] = ("rbind", "rprivate")
    shm_size_bytes: int | None = 64 * 1024 * 1024
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    devices: tuple[HostDevice, ...] = ()
    device_rules: tuple[str, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = "/sampan"


def cgroup_parent(asked: str, engine: EngineConfig) -> str:
    """Return the absolute path of the cgroup below which a task's is made: asked for, the daemon's, or the default."""
    parent = asked or engine.cgroup_parent or "/sampan"
    return parent if parent.startswith("/") else f"/{parent}"
