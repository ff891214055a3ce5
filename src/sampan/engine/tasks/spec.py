"""The parts of an OCI spec that containers and build steps have in common. Pure.

Deviations from what Docker hands to runc are named in containers/specgen.py, which puts a container's spec together;
builder/solver/run.py does it for a RUN step.

Source: OCI runtime-spec 1.2; specs that Docker Engine 28.5 generated.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from typing import Any

from sampan.engine.tasks import capabilities, devices
from sampan.errors import Internal
from sampan.spec.engine_api.container import HostConfig, Resources, Ulimit

_REFUSED = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
)
_RLIMITS = frozenset(n for n in dir(resource) if n.startswith("RLIMIT_")) | {"RLIMIT_LOCKS"}
_PRIVATE_NET_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What exists before the spec does. Namespace paths: "" is a new one of the container's own."""

    netns: str = ""
    files: tuple[tuple[str, str], ...] = ()  # (destination, source): resolv.conf, hostname, hosts
    shm_path: str = ""  # a host directory to bind on /dev/shm: shareable, joined or host IPC
    pid_path: str = ""
    ipc_path: str = ""
    net_path: str = ""
    init_path: str = ""
    cgroup_parent: str = "/sampan"
    unified_cgroups: bool = False
    default_ulimits: tuple[Ulimit, ...] = ()
    available_capabilities: tuple[str, ...] = ()
    host_hostname: str = ""


def capability_names(host: HostConfig, available: tuple[str, ...]) -> list[str]:
    """Return the capabilities of a container's process."""
    return capabilities.of_container(
        add=[capabilities.normal(n) for n in host.cap_add or ()],
        drop=[capabilities.normal(n) for n in host.cap_drop or ()],
        privileged=host.privileged,
        available=available,
    )


def user(name: str, groups: list[str] | None) -> dict[str, Any]:
    """Return `process.user` in our extended form: resolved inside the container, from its own passwd and group files."""
    found: dict[str, Any] = {"uid": 0, "gid": 0, "username": name or "0"}
    if groups:
        found["additionalGroupNames"] = list(groups)
    return found


def rlimits(asked: list[Ulimit | None] | None, defaults: tuple[Ulimit, ...]) -> list[dict[str, Any]]:
    """Return `process.rlimits`: the daemon's defaults with what was asked for instead."""
    limits = {u.name: u for u in defaults} | {u.name: u for u in asked or () if u is not None}
    return [_rlimit(u) for u in limits.values()]


def _rlimit(u: Ulimit) -> dict[str, Any]:
    """One limit; -1 is no limit at all. Raises: Internal in runc's words."""
    name = f"RLIMIT_{u.name.upper()}"
    hard, soft = u.hard % 2**64, u.soft % 2**64
    if name not in _RLIMITS:
        raise Internal(f"{_REFUSED}wrong rlimit value: {name}")
    if soft > hard:
        raise Internal(
            f"{_REFUSED}unable to start container process: error during container init: error setting rlimits for ready"
            f" process: error setting rlimit type {getattr(resource, name)}: invalid argument"
        )
    return {"type": name, "hard": hard, "soft": soft}


# --- mounts ----------------------------------------------------------------------------------------------------------


def default_mounts(host: HostConfig, prepared: Prepared) -> list[dict[str, Any]]:
    """The kernel's file systems and /dev, as every container has them."""
    ro = [] if host.privileged else ["ro"]
    mounts = [
        mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
        ),
        mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", *ro]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", [*ro, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ]
    if prepared.shm_path:
        mounts.append(mount("/dev/shm", "bind", prepared.shm_path, ["rbind", "rprivate"]))
    elif host.ipc_mode != "none":
        mounts.append(
            mount("/dev/shm", "tmpfs", "shm", ["nosuid", "noexec", "nodev", "mode=1777", f"size={host.shm_size}"])
        )
    return mounts


def mount(destination: str, type_: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": destination, "type": type_, "source": source, "options": options}


_TMPFS_FLAGS = {
    "ro": "rw", "rw": "ro", "exec": "noexec", "noexec": "exec", "suid": "nosuid", "nosuid": "suid", "dev": "nodev", "nodev": "dev",
    "sync": "async", "async": "sync", "dirsync": "", "remount": "", "mand": "nomand", "nomand": "mand", "atime": "noatime",
    "noatime": "atime", "diratime": "nodiratime", "nodiratime": "diratime", "bind": "", "rbind": "", "unbindable": "",
    "runbindable": "", "private": "", "rprivate": "", "shared": "", "rshared": "", "slave": "", "rslave": "", "relatime": "norelatime",
    "norelatime": "relatime", "strictatime": "nostrictatime", "nostrictatime": "strictatime", "defaults": "",
}  # fmt: skip
_TMPFS_KEYS = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})


def tmpfs(destination: str, asked: list[str]) -> dict[str, Any]:
    """Merge the defaults with what was asked: the later of two that exclude each other stays."""
    words = ["noexec", "nosuid", "nodev", "rprivate"]
    for word in asked:
        key, equals, _ = word.partition("=")
        if word not in _TMPFS_FLAGS and not (equals and key in _TMPFS_KEYS):
            raise Internal(f'invalid tmpfs option "{word}"')
        opposite = _TMPFS_FLAGS.get(word, "")
        words = [w for w in words if w not in (word, opposite) and not (equals and w.startswith(key + "="))]
        words.append(word)
    return mount(destination, "tmpfs", "tmpfs", words)


# --- linux -----------------------------------------------------------------------------------------------------------


def linux(
    host: HostConfig, prepared: Prepared, *, id: str, domainname: str = "", propagation: str = ""
) -> dict[str, Any]:
    """`linux` of the spec. propagation: of the root, "" for its default."""
    found: dict[str, Any] = {
        "resources": resources(host),
        "cgroupsPath": f"{prepared.cgroup_parent}/{id}",
        "namespaces": _namespaces(host, prepared),
    }
    nodes, rules = devices.of_container(host)
    found["resources"]["devices"] = rules
    if nodes:
        found["devices"] = nodes
    if sysctl := _sysctl(host, domainname):
        found["sysctl"] = sysctl
    if host.masked_paths:
        found["maskedPaths"] = [p for p in host.masked_paths if p.startswith("/")]
    if host.readonly_paths:
        found["readonlyPaths"] = [p for p in host.readonly_paths if p.startswith("/")]
    if propagation:
        found["rootfsPropagation"] = propagation
    return found


def _namespaces(host: HostConfig, prepared: Prepared) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{"type": "mount"}]
    if host.network_mode != "host":
        found.append(_namespace("network", prepared.net_path or prepared.netns))
    if host.uts_mode != "host":
        found.append({"type": "uts"})
    if host.pid_mode != "host":
        found.append(_namespace("pid", prepared.pid_path))
    if host.ipc_mode != "host":
        found.append(_namespace("ipc", prepared.ipc_path))
    if host.cgroupns_mode == "private":
        found.append({"type": "cgroup"})
    return found


def _namespace(type_: str, path: str) -> dict[str, str]:
    return {"type": type_, "path": path} if path else {"type": type_}


def _sysctl(host: HostConfig, domainname: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if domainname and host.uts_mode != "host":
        found["kernel.domainname"] = domainname
    if host.network_mode != "host" and not host.network_mode.startswith("container:"):
        found |= _PRIVATE_NET_SYSCTLS
    return found | (host.sysctls or {})


def resources(r: Resources) -> dict[str, Any]:
    """Return OCI `linux.resources` without devices: only what was asked for."""
    found: dict[str, Any] = {"memory": _memory(r), "cpu": _cpu(r), "blockIO": _block_io(r)}
    if r.pids_limit is not None and r.pids_limit > 0:
        found["pids"] = {"limit": r.pids_limit}
    return {k: v for k, v in found.items() if v}


def _memory(r: Resources) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if r.memory > 0:
        memory["limit"] = r.memory
    if r.memory_reservation > 0:
        memory["reservation"] = r.memory_reservation
    if r.memory_swap > 0:
        memory["swap"] = r.memory_swap
    if r.memory_swappiness is not None:
        memory["swappiness"] = r.memory_swappiness
    if r.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(r: Resources) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if r.cpu_shares:
        cpu["shares"] = r.cpu_shares
    if r.nano_cpus:
        cpu["period"] = 100_000
        cpu["quota"] = r.nano_cpus * 100_000 // 1_000_000_000
    if r.cpu_quota:
        cpu["quota"] = r.cpu_quota
    if r.cpu_period:
        cpu["period"] = r.cpu_period
    if r.cpu_realtime_period:
        cpu["realtimePeriod"] = r.cpu_realtime_period
    if r.cpu_realtime_runtime:
        cpu["realtimeRuntime"] = r.cpu_realtime_runtime
    if r.cpuset_cpus:
        cpu["cpus"] = r.cpuset_cpus
    if r.cpuset_mems:
        cpu["mems"] = r.cpuset_mems
    return cpu


def _block_io(r: Resources) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if r.blkio_weight:
        found["weight"] = r.blkio_weight
    if r.blkio_weight_device:
        found["weightDevice"] = [
            {**_numbers(d.path), "weight": d.weight} for d in r.blkio_weight_device if d is not None
        ]
    for key, throttles in (
        ("throttleReadBpsDevice", r.blkio_device_read_bps),
        ("throttleWriteBpsDevice", r.blkio_device_write_bps),
        ("throttleReadIOPSDevice", r.blkio_device_read_iops),
        ("throttleWriteIOPSDevice", r.blkio_device_write_iops),
    ):
        if throttles:
            found[key] = [{**_numbers(d.path), "rate": d.rate} for d in throttles if d is not None]
    return found


def _numbers(path: str) -> dict[str, int]:
    try:
        device = os.stat(path).st_rdev
    except OSError as e:
        raise Internal(f"stat {path}: {(e.strerror or '').lower()}") from e
    return {"major": os.major(device), "minor": os.minor(device)}
