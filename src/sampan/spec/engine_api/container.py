"""Bodies about containers: ContainerConfig and HostConfig above all, which records hold as Docker stores them.

Data only: defaults are Go's zero values, not the engine's (create fills those in). None stands where Docker prints
null. A field of `OMIT_EMPTY` is left out of the JSON when empty; `codec.to_json` does that.

Source: Engine API 1.51, definitions ContainerConfig, HostConfig, Resources, HealthConfig.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import field

from sampan.spec.engine_api.mount import MountSpec
from sampan.spec.engine_api.network import NetworkingConfig
from sampan.spec.engine_api.wire import (
    EMBEDDED,
    Duration,
    EmptySet,
    GoType,
    Int,
    Int64,
    StringMap,
    Strings,
    StrSlice,
    Uint,
    Uint16,
    Uint64,
    Wire,
)


class HealthConfig(Wire, omit_defaults=True):
    """`test` is [] (inherit), ["NONE"], ["CMD", …] or ["CMD-SHELL", line]; times are nanoseconds, 0 is the default."""

    GO: ClassVar[str] = "v1.HealthcheckConfig"
    test: Strings = None
    interval: Duration = 0
    timeout: Duration = 0
    start_period: Duration = 0
    start_interval: Duration = 0
    retries: Int = 0


class ContainerConfig(Wire):
    """What the image and the user say about the process: portable between hosts."""

    GO: ClassVar[str] = "container.Config"
    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset(
        {"ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress", "StopSignal", "Shell"}
        | {"StopTimeout"}
    )
    GO_FIELDS: ClassVar[dict[str, str]] = {"ExposedPorts": "nat.PortSet"}
    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: EmptySet | None = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: Strings = None
    cmd: StrSlice = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: EmptySet | None = None
    working_dir: str = ""
    entrypoint: StrSlice = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: Strings = None
    labels: StringMap = None
    stop_signal: str = ""
    stop_timeout: Int | None = None
    shell: StrSlice = None


class WeightDevice(Wire):
    GO: ClassVar[str] = "blkiodev.WeightDevice"
    path: str = ""
    weight: Uint16 = 0


class ThrottleDevice(Wire):
    GO: ClassVar[str] = "blkiodev.ThrottleDevice"
    path: str = ""
    rate: Uint64 = 0


class DeviceMapping(Wire):
    GO: ClassVar[str] = "container.DeviceMapping"
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(Wire):
    GO: ClassVar[str] = "container.DeviceRequest"
    driver: str = ""
    count: Int = 0
    device_ids: Strings = field(name="DeviceIDs", default=None)
    capabilities: list[list[str]] | None = None
    options: StringMap = None


class Ulimit(Wire):
    GO: ClassVar[str] = "units.Ulimit"
    name: str = ""
    hard: Int64 = 0
    soft: Int64 = 0


class LogConfig(Wire):
    GO: ClassVar[str] = "container.LogConfig"
    type: str = ""
    config: StringMap = None


class RestartPolicy(Wire):
    GO: ClassVar[str] = "container.RestartPolicy"
    name: Annotated[str, GoType("container.RestartPolicyMode")] = ""
    maximum_retry_count: Int = 0


class PortBinding(Wire):
    GO: ClassVar[str] = "nat.PortBinding"
    host_ip: str = ""
    host_port: str = ""


class Resources(Wire):
    """Limits that may change while the container lives (`docker update`)."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"KernelMemory", "KernelMemoryTCP"})
    cpu_shares: Int64 = 0
    memory: Int64 = 0
    nano_cpus: Int64 = 0
    cgroup_parent: str = ""
    blkio_weight: Uint16 = 0
    blkio_weight_device: list[WeightDevice | None] | None = None
    blkio_device_read_bps: list[ThrottleDevice | None] | None = None
    blkio_device_write_bps: list[ThrottleDevice | None] | None = None
    blkio_device_read_iops: list[ThrottleDevice | None] | None = field(name="BlkioDeviceReadIOps", default=None)
    blkio_device_write_iops: list[ThrottleDevice | None] | None = field(name="BlkioDeviceWriteIOps", default=None)
    cpu_period: Int64 = 0
    cpu_quota: Int64 = 0
    cpu_realtime_period: Int64 = 0
    cpu_realtime_runtime: Int64 = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: Strings = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: Int64 = 0
    kernel_memory_tcp: Int64 = field(name="KernelMemoryTCP", default=0)
    memory_reservation: Int64 = 0
    memory_swap: Int64 = 0
    memory_swappiness: Int64 | None = None
    oom_kill_disable: bool | None = None
    pids_limit: Int64 | None = None
    ulimits: list[Ulimit | None] | None = None
    cpu_count: Int64 = 0
    cpu_percent: Int64 = 0
    io_maximum_iops: Uint64 = field(name="IOMaximumIOps", default=0)
    io_maximum_bandwidth: Uint64 = field(name="IOMaximumBandwidth", default=0)


class HostConfig(Resources):
    """What the host gives the container: mounts, limits, privileges, networking mode."""

    GO: ClassVar[str] = "container.HostConfig"
    OMIT_EMPTY: ClassVar[frozenset[str]] = Resources.OMIT_EMPTY | {
        "Annotations",
        "StorageOpt",
        "Tmpfs",
        "Sysctls",
        "Runtime",
        "Mounts",
        "Init",
    }
    GO_FIELDS: ClassVar[dict[str, str]] = {"PortBindings": "nat.PortMap"}
    binds: Strings = None
    container_id_file: str = field(name="ContainerIDFile", default="")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: Annotated[str, GoType("container.NetworkMode")] = ""
    port_bindings: dict[str, list[PortBinding] | None] | None = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: Strings = None
    console_size: tuple[Uint, Uint] = (0, 0)
    annotations: StringMap = None
    cap_add: StrSlice = None
    cap_drop: StrSlice = None
    cgroupns_mode: Annotated[str, GoType("container.CgroupnsMode")] = ""
    dns: Strings = None
    dns_options: Strings = None
    dns_search: Strings = None
    extra_hosts: Strings = None
    group_add: Strings = None
    ipc_mode: Annotated[str, GoType("container.IpcMode")] = ""
    cgroup: Annotated[str, GoType("container.CgroupSpec")] = ""
    links: Strings = None
    oom_score_adj: Int = 0
    pid_mode: Annotated[str, GoType("container.PidMode")] = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: Strings = None
    storage_opt: StringMap = None
    tmpfs: StringMap = None
    uts_mode: Annotated[str, GoType("container.UTSMode")] = field(name="UTSMode", default="")
    userns_mode: Annotated[str, GoType("container.UsernsMode")] = ""
    shm_size: Int64 = 0
    sysctls: StringMap = None
    runtime: str = ""
    isolation: Annotated[str, GoType("container.Isolation")] = ""
    mounts: list[MountSpec] | None = None
    masked_paths: Strings = None
    readonly_paths: Strings = None
    init: bool | None = None


class CreateRequest(Wire):
    """Body of POST /containers/create: a ContainerConfig with two more keys beside its own."""

    GO: ClassVar[str] = "container.CreateRequest"
    config: Annotated[ContainerConfig | None, EMBEDDED] = None
    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class UpdateConfig(Resources):
    """Body of POST /containers/{id}/update: a field left at its zero value stays as it is.

    port_bindings: not Docker's; all that is to be published from now on.
    """

    GO: ClassVar[str] = "container.UpdateConfig"
    ROOT: ClassVar[str] = "UpdateConfig"
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    port_bindings: dict[str, list[PortBinding] | None] | None = None


class ExecConfig(Wire):
    """Body of POST /containers/{id}/exec."""

    GO: ClassVar[str] = "container.ExecOptions"
    ROOT: ClassVar[str] = "ExecOptions"
    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[Uint, Uint] | None = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach_keys: str = ""
    env: Strings = None
    working_dir: str = ""
    cmd: Strings = None
    detach: bool = False


class ExecStartConfig(Wire):
    """Body of POST /exec/{id}/start."""

    GO: ClassVar[str] = "container.ExecStartOptions"
    ROOT: ClassVar[str] = "ExecStartOptions"
    detach: bool = False
    tty: bool = False
    console_size: tuple[Uint, Uint] | None = None
