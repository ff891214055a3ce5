"""Every check of `create` and `update` that needs no other object, in Docker's words and with its status. Pure.

A function returns the warnings or raises; it changes nothing. The order of the checks is the reference's, so that a
request with two faults is refused for the same one.

Source: answers of Docker Engine 28.5 (tests/unit/test_containers_validate.py keeps them).
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Collection

from sampan.engine.config import EngineConfig
from sampan.engine.containers import mountpoints, signals
from sampan.engine.tasks.capabilities import CAPABILITIES, normal
from sampan.engine.tasks.host import Host, parse_list
from sampan.errors import Internal, InvalidArgument
from sampan.spec import go_values
from sampan.spec.engine_api.container import ContainerConfig, HealthConfig, HostConfig, Resources, RestartPolicy
from sampan.supervisor.logs import options as log_options

MIB = 1024 * 1024
MINIMUM_MEMORY_BYTES = 6 * MIB
MINIMUM_HEALTH_NS = 1_000_000
_NAMED_RUNTIMES = frozenset({"runc", "io.containerd.runc.v2"})


def create(
    config: ContainerConfig, host: HostConfig, engine: EngineConfig, machine: Host, missing: Collection[str] = ()
) -> list[str]:
    """Check a whole create request. missing: the bind sources that do not exist. Returns the warnings."""
    container_config(config)
    _auto_remove(host)
    for mount in host.mounts or []:
        mountpoints.check_mount(mount, missing)
    for extra in host.extra_hosts or []:
        _extra_host(extra)
    _port_bindings(host)
    restart_policy(host.restart_policy)
    _capabilities(host.cap_add, "CapAdd")
    _capabilities(host.cap_drop, "CapDrop")
    if any(k == "" for k in host.annotations or ()):
        raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key")
    warnings = resources(host, machine, update=False)
    warnings += _platform(host, engine)
    if host.links:
        warnings.append("Links have no effect. Containers find each other by name on a network of their own.")
    if any(m.type == "image" for m in host.mounts or []):
        warnings.insert(0, "Image mount is an experimental feature")
    return warnings


def request(config: ContainerConfig, host: HostConfig) -> None:
    """Check what Docker checks while it decodes the request, before it looks at anything else."""
    _network_mode(config, host)
    if host.isolation not in ("", "default"):
        raise InvalidArgument(f"invalid isolation ({host.isolation}): linux only supports 'default'")
    for value, what in ((host.io_maximum_bandwidth, "maximum bandwidth"), (host.io_maximum_iops, "maximum IOPs")):
        if value:
            raise InvalidArgument(f"invalid option: QoS {what} configuration is not supported on linux")
    if host.cpu_realtime_period > 0 and host.cpu_realtime_runtime > host.cpu_realtime_period:
        raise InvalidArgument("cpu real-time runtime cannot be higher than cpu real-time period")


def container_config(config: ContainerConfig) -> None:
    """Check the portable half."""
    if config.working_dir and not posixpath.isabs(config.working_dir):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        signals.parse(config.stop_signal)
    for item in config.env or []:
        if not item.partition("=")[0]:
            raise InvalidArgument(f"invalid environment variable: {item}")
    if config.healthcheck is not None:
        _healthcheck(config.healthcheck)


def _healthcheck(h: HealthConfig) -> None:
    for name, value in (("Interval", h.interval), ("Timeout", h.timeout)):
        if value != 0 and value < MINIMUM_HEALTH_NS:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if h.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")
    for name, value in (("StartPeriod", h.start_period), ("StartInterval", h.start_interval)):
        if value != 0 and value < MINIMUM_HEALTH_NS:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")


def _auto_remove(host: HostConfig) -> None:
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def restart_policy(policy: RestartPolicy) -> None:
    """Check a restart policy; also used by update."""
    name, count = policy.name, policy.maximum_retry_count
    if name in ("", "no", "always", "unless-stopped"):
        if count:
            words = "maximum retry count can only be used with 'on-failure'"
            raise InvalidArgument(f"invalid restart policy: {words}{' and cannot be negative' if count < 0 else ''}")
    elif name == "on-failure":
        if count < 0:
            raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    else:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{name}';"
            " use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )


def _extra_host(text: str) -> None:
    name, colon, address = text.partition(":")
    if not colon or not name:
        raise InvalidArgument(f'bad format for add-host: "{text}"')
    if address != "host-gateway" and not _is_address(address.removeprefix("[").removesuffix("]")):
        raise InvalidArgument(f'invalid IP address in add-host: "{address}"')


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


_PORT = re.compile(r"[0-9]+")


def _port_number(text: str) -> int | None:
    return int(text) if _PORT.fullmatch(text) and int(text) <= 65535 else None


def _port_bindings(host: HostConfig) -> None:
    for port, bindings in (host.port_bindings or {}).items():
        number = port.partition("/")[0]
        if number and _port_number(number) is None:
            raise InvalidArgument(f'invalid port specification: "{number}"')
        for binding in bindings or []:
            text = binding.host_port.partition("/")[0]
            low, dash, high = text.partition("-")
            bounds = [_port_number(low), _port_number(high) if dash else 0]
            if text and (None in bounds or (dash and int(low) > int(high))):
                raise InvalidArgument(f'invalid port specification: "{binding.host_port}"')


def _capabilities(names: list[str] | None, field: str) -> None:
    for name in names or []:
        full = normal(name)
        if full != "ALL" and full not in CAPABILITIES:
            raise InvalidArgument(f'invalid {field}: unknown capability: "{full}"')


def _network_mode(config: ContainerConfig, host: HostConfig) -> None:
    mode = host.network_mode
    kind, colon, target = mode.partition(":")
    if kind == "container" and (not colon or not target):
        raise InvalidArgument("invalid network mode: invalid container format container:<name|id>")
    joins = kind == "container" and bool(colon)
    if joins and host.dns:
        raise InvalidArgument("conflicting options: dns and the network mode")
    if joins and host.links:
        raise InvalidArgument(
            "conflicting options: container type network can't be used with links."
            " This would result in undefined behavior"
        )
    if mode == "host" and host.links:
        raise InvalidArgument(
            "conflicting options: host type networking can't be used with links."
            " This would result in undefined behavior"
        )
    if not joins:
        return
    if host.extra_hosts:
        raise InvalidArgument("conflicting options: custom host-to-IP mapping and the network mode")
    if host.port_bindings or host.publish_all_ports:
        raise InvalidArgument("conflicting options: port publishing and the container type network mode")
    if config.exposed_ports:
        raise InvalidArgument("conflicting options: port exposing and the container type network mode")


def resources(r: Resources, machine: Host, *, update: bool) -> list[str]:
    """Check limits; returns the warnings about those that this kernel cannot enforce."""
    warnings: list[str] = []
    _memory(r, machine, update, warnings)
    if r.pids_limit is not None and r.pids_limit > 0 and not machine.pids:
        warnings.append(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
        )
    _cpu(r, machine)
    if r.cpu_percent > 0:
        warnings.append("linux does not support CPU percent. Percent discarded.")
    _cpuset(r, machine)
    if r.blkio_weight > 0:
        if not machine.blkio_weight:
            warnings.append(
                "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
            )
        elif not 10 <= r.blkio_weight <= 1000:
            raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    if r.blkio_weight_device and not machine.blkio_weight_device:
        warnings.append(
            "Your kernel does not support Block I/O weight_device or the cgroup is not mounted."
            " Weight-device discarded."
        )
    return warnings


def _memory(r: Resources, machine: Host, update: bool, warnings: list[str]) -> None:
    if r.memory != 0 and r.memory < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    if r.memory > 0 and not machine.swap and machine.memory:
        warnings.append(
            "Your kernel does not support swap limit capabilities or the cgroup is not mounted."
            " Memory limited without swap."
        )
    if r.memory > 0 and 0 < r.memory_swap < r.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if r.memory == 0 and r.memory_swap > 0 and not update:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if r.memory_swappiness is not None and not (r.memory_swappiness == -1 or 0 <= r.memory_swappiness <= 100):
        raise InvalidArgument(f"Invalid value: {r.memory_swappiness}, valid memory swappiness range is 0-100")
    if r.memory_swappiness not in (None, -1) and not machine.swappiness:
        warnings.append(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted."
            " Memory swappiness discarded."
        )
    if r.memory_reservation != 0 and r.memory_reservation < MINIMUM_MEMORY_BYTES:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if 0 < r.memory < r.memory_reservation:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if r.oom_kill_disable:
        if not machine.oom_kill_disable:
            warnings.append("Your kernel does not support OomKillDisable. OomKillDisable discarded.")
        elif r.memory == 0:
            warnings.append(
                "OOM killer is disabled for the container, but no memory limit is set,"
                " this can result in the system running out of resources."
            )


def _cpu(r: Resources, machine: Host) -> None:
    if r.nano_cpus > 0 and r.cpu_period > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period cannot both be set")
    if r.nano_cpus > 0 and r.cpu_quota > 0:
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
    if r.nano_cpus < 0 or r.nano_cpus > machine.cpu_count * 1_000_000_000:
        n = machine.cpu_count
        raise InvalidArgument(f"range of CPUs is from 0.01 to {n}.00, as there are only {n} CPUs available")
    if r.cpu_shares < 0:
        raise InvalidArgument(f"invalid CPU shares ({r.cpu_shares}): value must be a positive integer")
    if r.cpu_period != 0 and not 1000 <= r.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < r.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")


def _cpuset(r: Resources, machine: Host) -> None:
    for value, what, available, missing in (
        (r.cpuset_cpus, "cpus", machine.cpus, "CPUs"),
        (r.cpuset_mems, "mems", machine.mems, "memory nodes"),
    ):
        if not value:
            continue
        try:
            wanted = parse_list(value)
        except InvalidArgument as e:
            raise InvalidArgument(f"Invalid value {value} for cpuset {what}: {e.message}") from None
        if not wanted <= parse_list(available):
            raise InvalidArgument(f"Requested {missing} are not available - requested {value}, available: {available}")


def _platform(host: HostConfig, engine: EngineConfig) -> list[str]:
    warnings: list[str] = []
    if host.ipc_mode not in ("", "none", "private", "shareable", "host") and not host.ipc_mode.startswith("container:"):
        raise InvalidArgument(f"invalid IPC mode: {host.ipc_mode}")
    if host.pid_mode not in ("", "host") and not _joins(host.pid_mode):
        raise InvalidArgument(f"invalid PID mode: {host.pid_mode}")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    if host.uts_mode not in ("", "host"):
        raise InvalidArgument(f"invalid UTS mode: {host.uts_mode}")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    if host.network_mode == "host" and host.port_bindings:
        warnings.append("Published ports are discarded when using host network mode")
    _runtime(host.runtime, engine)
    for destination in host.tmpfs or ():
        mountpoints.check_tmpfs_target(destination)
    if host.cgroupns_mode not in ("", "private", "host"):
        raise InvalidArgument(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    return warnings


def _joins(mode: str) -> bool:
    return mode.startswith("container:") and mode != "container:"


def _runtime(name: str, engine: EngineConfig) -> None:
    if name and name not in engine.runtimes and name not in _NAMED_RUNTIMES:
        raise InvalidArgument(f"unknown or invalid runtime name: {name}")


def security_options(options: list[str] | None) -> None:
    """Check --security-opt. Raises: Internal, as Docker answers 500."""
    for option in options or []:
        if option == "no-new-privileges":
            continue
        key, separator, value = option.partition("=")
        if not separator:
            key, separator, value = option.partition(":")
        if not separator:
            raise Internal(f'invalid --security-opt 1: "{option}"')
        if key in ("no-new-privileges", "writable-cgroups"):
            try:
                go_values.boolean(value)
            except ValueError as e:
                raise Internal(f'invalid --security-opt 2: "{option}"') from e
        elif key not in ("label", "apparmor", "seccomp"):
            raise Internal(f'invalid --security-opt 2: "{option}"')


def links(host: HostConfig) -> list[tuple[str, str]]:
    """Parse --link entries to (container, alias)."""
    parsed = []
    for link in host.links or []:
        parts = link.split(":")
        if not parts[0] or len(parts) > 2:
            raise Internal(f"bad format for links: {link}")
        parsed.append((parts[0].removeprefix("/"), parts[-1].rpartition("/")[2]))
    return parsed


def logging(host: HostConfig) -> None:
    """Check the log driver and its options."""
    log_options.validate(host.log_config.type, host.log_config.config or {})


def storage_options(host: HostConfig) -> None:
    """Check --storage-opt: our snapshots have no size quota. Raises: Internal, as Docker answers 500."""
    for key in host.storage_opt or ():
        if key.lower() != "size":
            raise Internal(f"Unknown option {key}")
        raise Internal("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")
