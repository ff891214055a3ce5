"""From what a task asks for to its OCI spec. Pure.

`process` is the one place that writes a process document: of a task's first process, and of an exec.

Differences from what Docker's daemon writes, all on purpose:
- `process.user.username` and `additionalGroupNames` (our extension) instead of looked-up ids: init reads the
  container's passwd file inside the container, where a hostile image cannot do harm.
- the root path is `rootfs` in the bundle; what is mounted there travels as the task's rootfs mounts.
- the device list is not written twice.
- no seccomp profile: the engine sends a compiled program beside the spec (see `security.profile`).

Source: OCI runtime-spec 1.2; specs that Docker Engine 28.5 generated (tests/unit/containers_specs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sampan.engine.tasks import limits
from sampan.engine.tasks.devices import DEFAULT_RULES, HostDevices
from sampan.engine.tasks.options import NamespaceMode, Namespaces, ProcessOptions, TaskOptions
from sampan.errors import Internal
from sampan.spec.oci_runtime import Mount, OciMount

INIT_IN_CONTAINER = "/sbin/docker-init"
_PRIVATE_NET_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
_KINDS = ("network", "uts", "pid", "ipc", "cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisions:
    """What the engine has made for one task before its spec is written.

    namespaces: {kind: path} of those that exist already. files: (destination, source) of /etc/hosts and its like.
    sources: {destination: host path} of mounts whose source was not known before, that is of volumes. shm_path: a host
    directory to bind on /dev/shm, "" for a file system of the task's own. init_path: of docker-init on the host.
    """

    namespaces: Mapping[str, str] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    shm_path: str = ""
    init_path: str = ""
    devices: HostDevices = field(default_factory=lambda: HostDevices(rules=tuple(DEFAULT_RULES)))


def build(options: TaskOptions, provisions: Provisions) -> dict[str, Any]:
    """Return the spec (config.json as a dict)."""
    found: dict[str, Any] = {
        "ociVersion": "1.2.1",
        "process": process(options.process, init=options.init),
        "root": {"path": "rootfs"},
        "mounts": _mounts(options, provisions),
        "linux": _linux(options, provisions),
    }
    if options.readonly_root:
        found["root"]["readonly"] = True
    if options.namespaces.uts is not NamespaceMode.HOST:
        found["hostname"] = options.hostname
    if options.annotations:
        found["annotations"] = dict(options.annotations)
    return found


def process(options: ProcessOptions, *, init: bool = False) -> dict[str, Any]:
    """Return a process document. init: docker-init runs the arguments."""
    caps = list(options.capabilities)
    found: dict[str, Any] = {
        "user": _user(options),
        "args": [INIT_IN_CONTAINER, "--", *options.args] if init else list(options.args),
        "env": list(options.env),
        "cwd": options.cwd,
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
    }
    if options.oom_score_adj is not None:
        found["oomScoreAdj"] = options.oom_score_adj
    if options.terminal:
        found["terminal"] = True
        if any(options.console_size):
            found["consoleSize"] = {"height": options.console_size[0], "width": options.console_size[1]}
    if options.rlimits:
        found["rlimits"] = [{"type": r.type, "hard": r.hard, "soft": r.soft} for r in options.rlimits]
    if options.security.no_new_privileges:
        found["noNewPrivileges"] = True
    if options.security.apparmor_profile:
        found["apparmorProfile"] = options.security.apparmor_profile
    return found


def _user(options: ProcessOptions) -> dict[str, Any]:
    """Write the user in our extended form: resolved inside the container, from its own passwd and group files."""
    found: dict[str, Any] = {"uid": 0, "gid": 0, "username": options.user or "0"}
    if options.groups:
        found["additionalGroupNames"] = list(options.groups)
    return found


# --- mounts ----------------------------------------------------------------------------------------------------------


def _mounts(options: TaskOptions, provisions: Provisions) -> list[OciMount]:
    asked = list(options.mounts)
    if options.init:
        asked.insert(0, Mount("bind", provisions.init_path, INIT_IN_CONTAINER, ("bind", "ro")))
    asked = [m._replace(source=provisions.sources.get(m.target, m.source)) for m in asked]
    taken = {m.target for m in asked}
    asked += [
        Mount("bind", source, destination, options.etc_options)
        for destination, source in provisions.files
        if destination not in taken
    ]
    # A mount on /a must come before one on /a/b; sorting by depth alone keeps the order asked for otherwise.
    asked.sort(key=lambda m: m.target.rstrip("/").count("/"))
    unwanted = taken | options.without
    defaults = [m for m in _default_mounts(options, provisions) if m.target not in unwanted]
    return [m.oci() for m in (*defaults, *asked)]


def _default_mounts(options: TaskOptions, provisions: Provisions) -> list[Mount]:
    """The kernel's file systems and /dev, as every container has them."""
    ro = [] if options.privileged else ["ro"]
    writable = options.process.security.writable_cgroups
    cgroups = ro if writable is None else [] if writable else ["ro"]
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
    mounts = [
        Mount("proc", "proc", "/proc", ("nosuid", "noexec", "nodev")),
        Mount("tmpfs", "tmpfs", "/dev", ("nosuid", "strictatime", "mode=755", "size=65536k")),
        Mount("devpts", "devpts", "/dev/pts", tuple(pts)),
        Mount("sysfs", "sysfs", "/sys", ("nosuid", "noexec", "nodev", *ro)),
        Mount("cgroup", "cgroup", "/sys/fs/cgroup", (*cgroups, "nosuid", "noexec", "nodev")),
        Mount("mqueue", "mqueue", "/dev/mqueue", ("nosuid", "noexec", "nodev")),
    ]
    if provisions.shm_path:
        mounts.append(Mount("bind", provisions.shm_path, "/dev/shm", ("rbind", "rprivate")))
    elif options.shm_size_bytes is not None:
        shm = ["nosuid", "noexec", "nodev", "mode=1777", f"size={options.shm_size_bytes}"]
        mounts.append(Mount("tmpfs", "shm", "/dev/shm", tuple(shm)))
    return mounts


_TMPFS_FLAGS = {
    "ro": "rw", "rw": "ro", "exec": "noexec", "noexec": "exec", "suid": "nosuid", "nosuid": "suid", "dev": "nodev",
    "nodev": "dev", "sync": "async", "async": "sync", "dirsync": "", "remount": "", "mand": "nomand", "nomand": "mand",
    "atime": "noatime", "noatime": "atime", "diratime": "nodiratime", "nodiratime": "diratime", "bind": "", "rbind": "",
    "unbindable": "", "runbindable": "", "private": "", "rprivate": "", "shared": "", "rshared": "", "slave": "",
    "rslave": "", "relatime": "norelatime", "norelatime": "relatime", "strictatime": "nostrictatime",
    "nostrictatime": "strictatime", "defaults": "",
}  # fmt: skip
_TMPFS_KEYS = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})


def tmpfs(destination: str, asked: list[str]) -> Mount:
    """Merge the defaults with what was asked: the later of two that exclude each other stays.

    Raises: Internal for an option that tmpfs does not have.
    """
    words = ["noexec", "nosuid", "nodev", "rprivate"]
    for word in asked:
        key, equals, _ = word.partition("=")
        if word not in _TMPFS_FLAGS and not (equals and key in _TMPFS_KEYS):
            raise Internal(f'invalid tmpfs option "{word}"')
        opposite = _TMPFS_FLAGS.get(word, "")
        words = [w for w in words if w not in (word, opposite) and not (equals and w.startswith(key + "="))]
        words.append(word)
    return Mount("tmpfs", "tmpfs", destination, tuple(words))


# --- linux -----------------------------------------------------------------------------------------------------------


def _linux(options: TaskOptions, provisions: Provisions) -> dict[str, Any]:
    devices = provisions.devices
    found: dict[str, Any] = {
        "resources": limits.resources(options.limits, devices.numbers),
        "cgroupsPath": f"{options.cgroup_parent}/{options.id}",
        "namespaces": _namespaces(options.namespaces, provisions),
    }
    found["resources"]["devices"] = list(devices.rules)
    if devices.nodes:
        found["devices"] = list(devices.nodes)
    if sysctl := _sysctl(options):
        found["sysctl"] = sysctl
    if options.masked_paths:
        found["maskedPaths"] = [p for p in options.masked_paths if p.startswith("/")]
    if options.readonly_paths:
        found["readonlyPaths"] = [p for p in options.readonly_paths if p.startswith("/")]
    if options.root_propagation:
        found["rootfsPropagation"] = options.root_propagation
    return found


def _namespaces(asked: Namespaces, provisions: Provisions) -> list[dict[str, str]]:
    found: list[dict[str, str]] = [{"type": "mount"}]
    for kind in _KINDS:
        if getattr(asked, kind) is not NamespaceMode.HOST:
            path = provisions.namespaces.get(kind, "")
            found.append({"type": kind, "path": path} if path else {"type": kind})
    return found


def _sysctl(options: TaskOptions) -> dict[str, str]:
    found: dict[str, str] = {}
    if options.domainname and options.namespaces.uts is not NamespaceMode.HOST:
        found["kernel.domainname"] = options.domainname
    if options.namespaces.network is NamespaceMode.OWN:
        found |= _PRIVATE_NET_SYSCTLS
    return found | dict(options.sysctls)
