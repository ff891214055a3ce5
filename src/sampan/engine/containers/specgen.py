"""A container's record as what its task asks for: HostConfig and configuration mapped to `TaskOptions`. Pure.

`tasks.spec.build` makes the OCI spec of it, once networks, volumes and files are there.

Source: Docker's meaning of HostConfig, as the specs that Docker Engine 28.5 generated show it
(tests/unit/containers_specs).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sampan.engine.config import EngineConfig
from sampan.engine.containers.merge import environment
from sampan.engine.containers.mountpoints import clean
from sampan.engine.containers.records import Container, MountPoint
from sampan.engine.tasks import capabilities, failures, limits, security, spec
from sampan.engine.tasks.options import (
    DeviceRate,
    DeviceWeight,
    HostDevice,
    NamespaceMode,
    Namespaces,
    ProcessOptions,
    ResolverOptions,
    ResourceLimits,
    Rlimit,
    TaskOptions,
    cgroup_parent,
)
from sampan.errors import Internal
from sampan.spec.engine_api.container import ExecConfig, HostConfig, Resources, ThrottleDevice, Ulimit
from sampan.spec.oci_runtime import Mount


def task_options(
    c: Container, engine: EngineConfig, available: Sequence[str], linked: Sequence[str] = ()
) -> TaskOptions:
    """Return what the container's task asks for.

    available: the capabilities that the daemon can hand out. linked: the variables of its links.

    Raises: Internal for what only a start refuses: GPUs, limits and tmpfs options that do not exist.
    """
    host = c.host_config
    _refuse_device_requests(host)
    ro = ["rro"] if host.readonly_rootfs else []
    return TaskOptions(
        id=c.id,
        process=_process(c, engine, available, linked),
        namespaces=_namespaces(host),
        hostname=c.config.hostname,
        domainname=c.config.domainname,
        resolver=ResolverOptions(
            extra_hosts=tuple(host.extra_hosts or ()),
            servers=tuple(host.dns or ()),
            search=tuple(host.dns_search or ()),
            options=tuple(host.dns_options or ()),
        ),
        privileged=host.privileged,
        init=uses_init(c, engine.init),
        readonly_root=host.readonly_rootfs,
        root_propagation=_root_propagation(c.mounts),
        mounts=tuple(_mounts(c)),
        etc_options=("rbind", *ro, "rprivate"),
        shm_size_bytes=None if host.ipc_mode == "none" else host.shm_size,
        masked_paths=tuple(host.masked_paths or ()),
        readonly_paths=tuple(host.readonly_paths or ()),
        limits=resource_limits(host),
        devices=tuple(
            HostDevice(d.path_on_host, d.path_in_container, d.cgroup_permissions) for d in host.devices or ()
        ),
        device_rules=tuple(host.device_cgroup_rules or ()),
        sysctls=_sysctls(host),
        annotations=dict(host.annotations or {}),
        cgroup_parent=cgroup_parent(host.cgroup_parent, engine),
    )


def uses_init(c: Container, default: bool) -> bool:
    """Tell whether docker-init is process 1; never in a pid namespace that is not the container's own."""
    wanted = default if c.host_config.init is None else c.host_config.init
    return wanted and c.host_config.pid_mode == ""


def _refuse_device_requests(host: HostConfig) -> None:
    if host.device_requests:
        first = host.device_requests[0]
        words = " ".join("[" + " ".join(group) + "]" for group in first.capabilities or [])
        raise Internal(f'could not select device driver "{first.driver}" with capabilities: [{words}]')


# --- processes -------------------------------------------------------------------------------------------------------


def _process(c: Container, engine: EngineConfig, available: Sequence[str], linked: Sequence[str]) -> ProcessOptions:
    host, config = c.host_config, c.config
    return ProcessOptions(
        args=(c.path, *c.args),
        env=tuple(environment(config, hostname=config.hostname, linked=linked)),
        cwd=config.working_dir or "/",
        user=config.user,
        groups=tuple(host.group_add or ()),
        terminal=config.tty,
        console_size=_size(host.console_size),
        capabilities=_capabilities(host, available),
        security=security.parse(host.security_opt or (), engine, privileged=host.privileged),
        rlimits=_rlimits(host.ulimits, engine),
        oom_score_adj=host.oom_score_adj,
    )


def exec_process(
    c: Container,
    config: ExecConfig,
    engine: EngineConfig,
    available: Sequence[str],
    size: Sequence[int] | None,
    linked: Sequence[str] = (),
) -> ProcessOptions:
    """Return a further process of the container: its surroundings with what this exec asks for instead.

    size: (height, width) of the terminal. linked: the variables of its links.
    Raises: Internal for a relative directory or a variable without a name.
    """
    if config.working_dir and not config.working_dir.startswith("/"):
        raise Internal("OCI runtime exec failed: exec failed: Cwd must be an absolute path")
    if any(item.startswith("=") for item in config.env or ()):
        raise Internal(f"{failures.EXEC}invalid environment variable: name cannot be empty")
    host = c.host_config
    return ProcessOptions(
        args=tuple(config.cmd or ()),
        env=tuple(
            environment(c.config, hostname=c.config.hostname, linked=linked, extra=config.env or [], tty=config.tty)
        ),
        cwd=config.working_dir or c.config.working_dir or "/",
        user=config.user or c.config.user,
        groups=tuple(host.group_add or ()),
        terminal=config.tty,
        console_size=_size(size or ()),
        capabilities=tuple(available) if config.privileged else _capabilities(host, available),
        filter_capabilities=_capabilities(host, available),
        security=_exec_security(host, engine, privileged=config.privileged),
        rlimits=_rlimits(host.ulimits, engine),
    )


def _exec_security(host: HostConfig, engine: EngineConfig, *, privileged: bool) -> security.SecurityOptions:
    """A privileged exec has no AppArmor profile, but its container's filter and what this may gain of privileges."""
    found = security.parse(host.security_opt or (), engine, privileged=host.privileged)
    return replace(found, apparmor_profile="") if privileged else found


def _size(size: Sequence[int]) -> tuple[int, int]:
    return (size[0], size[1]) if len(size) == 2 else (0, 0)


def _capabilities(host: HostConfig, available: Sequence[str]) -> tuple[str, ...]:
    return capabilities.of_task(
        add=host.cap_add or (), drop=host.cap_drop or (), privileged=host.privileged, available=available
    )


def _rlimits(asked: Iterable[Ulimit | None] | None, engine: EngineConfig) -> tuple[Rlimit, ...]:
    return limits.rlimits(((u.name, u.soft, u.hard) for u in asked or () if u is not None), engine)


# --- namespaces, mounts, limits --------------------------------------------------------------------------------------


def _namespaces(host: HostConfig) -> Namespaces:
    return Namespaces(
        network=_mode(host.network_mode),
        uts=_mode(host.uts_mode),
        pid=_mode(host.pid_mode),
        ipc=_mode(host.ipc_mode),
        cgroup=NamespaceMode.OWN if host.cgroupns_mode == "private" else NamespaceMode.HOST,
    )


def _mode(text: str) -> NamespaceMode:
    if text == "host":
        return NamespaceMode.HOST
    return NamespaceMode.JOINED if text.startswith("container:") else NamespaceMode.OWN


def _mounts(c: Container) -> Iterable[Mount]:
    for destination, words in (c.host_config.tmpfs or {}).items():
        yield spec.tmpfs(clean(destination), words.split(",") if words else [])
    for point in c.mounts:
        yield spec.tmpfs(point.destination, list(point.tmpfs_options)) if point.type == "tmpfs" else _bind(point)


def _bind(point: MountPoint) -> Mount:
    words = ["rbind" if point.recursive else "bind"]
    if not point.rw:
        words.append("rro" if point.read_only_recursive else "ro")
    if point.propagation:
        words.append(point.propagation)
    return Mount("bind", point.source, "/" + point.destination.lstrip("/"), tuple(words))


def _root_propagation(mounts: Iterable[MountPoint]) -> str:
    """A shared or slave bind needs the root to be no more private than itself."""
    asked = {m.propagation for m in mounts}
    if asked & {"shared", "rshared"}:
        return "rshared"
    if asked & {"slave", "rslave"}:
        return "rslave"
    return ""


def resource_limits(r: Resources) -> ResourceLimits:
    """Return the limits of a HostConfig, or of an update."""
    return ResourceLimits(
        memory_bytes=r.memory,
        memory_reservation_bytes=r.memory_reservation,
        memory_swap_bytes=r.memory_swap,
        memory_swappiness=r.memory_swappiness,
        oom_kill_disable=bool(r.oom_kill_disable),
        nano_cpus=r.nano_cpus,
        cpu_shares=r.cpu_shares,
        cpu_period_us=r.cpu_period,
        cpu_quota_us=r.cpu_quota,
        cpu_realtime_period_us=r.cpu_realtime_period,
        cpu_realtime_runtime_us=r.cpu_realtime_runtime,
        cpuset_cpus=r.cpuset_cpus,
        cpuset_mems=r.cpuset_mems,
        pids=r.pids_limit or 0,
        blkio_weight=r.blkio_weight,
        blkio_weights=tuple(DeviceWeight(d.path, d.weight) for d in r.blkio_weight_device or () if d is not None),
        read_bytes=_rates(r.blkio_device_read_bps),
        write_bytes=_rates(r.blkio_device_write_bps),
        read_operations=_rates(r.blkio_device_read_iops),
        write_operations=_rates(r.blkio_device_write_iops),
    )


def _rates(asked: Iterable[ThrottleDevice | None] | None) -> tuple[DeviceRate, ...]:
    return tuple(DeviceRate(d.path, d.rate) for d in asked or () if d is not None)


def _sysctls(host: HostConfig) -> dict[str, str]:
    """Return the sysctls that the runtime writes, last of all.

    `net.ipv6.conf.all.disable_ipv6=0` is how a new namespace begins. Written later it would be copied to every
    interface, those too that have no IPv6 because their network has none.
    """
    found = dict(host.sysctls or {})
    shared = host.network_mode == "host" or host.network_mode.startswith("container:")
    if not shared and found.get(_NO_IPV6) == "0":
        del found[_NO_IPV6]
    return found


_NO_IPV6 = "net.ipv6.conf.all.disable_ipv6"
