"""From a valid spec to what will be done, as plain values. Pure: nothing is opened, asked or changed.

`build` is called in the parent, before the clone: the child only walks what is here. `describe()` says it in lines for
`--debug`.

Source: OCI runtime-spec 1.2 config.md, config-linux.md.
"""

from __future__ import annotations

import os
from typing import Any

from sampan.linux.namespaces import CLONE_NEWCGROUP, CLONE_NEWTIME, TYPES
from sampan.runtime.options import PROPAGATION, MountOptions, normal, parse
from sampan.runtime.process_plan import ProcessPlan
from sampan.runtime.process_plan import build as build_process

OCI_VERSION = "1.2.1"  # of the state, whatever the bundle was written for
Spec = dict[str, Any]

# name, major, minor: what every container gets (config-linux.md "Default Devices")
DEFAULT_DEVICES = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
# link below /dev, target
DEFAULT_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)


class PlannedMount:
    """One mount: the OCI fields, options parsed, and the id maps of an idmapped one."""

    __slots__ = ("destination", "fstype", "gid_map", "options", "source", "text", "uid_map")

    def __init__(self, spec: Spec) -> None:
        words: list[str] = spec.get("options") or []
        self.fstype: str = spec.get("type") or ""
        self.source: str = spec.get("source") or ""
        self.destination: str = normal(spec["destination"])
        self.options: MountOptions = parse(self.fstype, words)
        self.text = ",".join(words)
        self.uid_map: list[dict[str, int]] = spec.get("uidMappings") or []
        self.gid_map: list[dict[str, int]] = spec.get("gidMappings") or []

    def describe(self) -> str:
        return f"mount {self.fstype or 'bind'} {self.source} at {self.destination} ({self.text})"


class Device:
    """A device node: `kind` is S_IFCHR, S_IFBLK or S_IFIFO."""

    __slots__ = ("gid", "kind", "mode", "number", "path", "uid")

    def __init__(self, path: str, kind: int, number: int, mode: int, uid: int, gid: int) -> None:
        self.path = path
        self.kind = kind
        self.number = number
        self.mode = mode
        self.uid = uid
        self.gid = gid

    def describe(self) -> str:
        return f"device {self.path} {os.major(self.number)}:{os.minor(self.number)} mode {self.mode:o}"


class Plan:
    """Everything init does, decided. Lists are in the order in which they are done."""

    __slots__ = (
        "annotations",
        "bundle",
        "cgroup_path",
        "clone_flags",
        "devices",
        "domainname",
        "gid_map",
        "hooks",
        "hostname",
        "id",
        "joins",
        "links",
        "masked_paths",
        "mounts",
        "personality",
        "pivot_root",
        "process",
        "readonly_paths",
        "readonly_root",
        "resources",
        "root_path",
        "root_propagation",
        "rootfs",
        "seccomp",
        "sysctl",
        "time_offsets",
        "uid_map",
        "unshare_cgroup",
        "unshare_time",
    )

    id: str
    bundle: str
    annotations: dict[str, str]
    root_path: str
    readonly_root: bool
    root_propagation: tuple[int, bool] | None
    rootfs: list[PlannedMount]
    mounts: list[PlannedMount]
    joins: list[tuple[int, str]]  # (namespace flag, path); the user namespace first
    clone_flags: int
    unshare_cgroup: bool
    unshare_time: bool
    time_offsets: Spec
    uid_map: list[dict[str, int]]
    gid_map: list[dict[str, int]]
    hostname: str
    domainname: str
    hooks: dict[str, list[Spec]]
    cgroup_path: str
    resources: Spec
    devices: list[Device]
    links: list[tuple[str, str]]  # (name below /dev, target)
    masked_paths: list[str]
    readonly_paths: list[str]
    sysctl: list[tuple[str, str]]  # (path below /proc/sys, value)
    seccomp: Spec | None
    personality: str
    pivot_root: bool  # False: move the root over "/" instead
    process: ProcessPlan | None

    def __init__(self) -> None:
        self.process = None
        self.joins = []
        self.clone_flags = 0
        self.pivot_root = True
        self.unshare_cgroup = False
        self.unshare_time = False

    @property
    def user_namespace(self) -> bool:
        return bool(self.clone_flags & TYPES["user"][0]) or any(flag == TYPES["user"][0] for flag, _ in self.joins)

    @property
    def joins_mount_namespace(self) -> bool:
        return any(flag == TYPES["mount"][0] for flag, _ in self.joins)

    @property
    def joins_pid_namespace(self) -> bool:
        return any(flag == TYPES["pid"][0] for flag, _ in self.joins)

    @property
    def new_network(self) -> bool:
        return bool(self.clone_flags & TYPES["network"][0])

    def describe(self) -> list[str]:
        """Return the plan as lines, one thing each, in order."""
        new = [name for name, (flag, _) in TYPES.items() if self.clone_flags & flag]
        if self.unshare_cgroup:
            new.append("cgroup")
        if self.unshare_time:
            new.append("time")
        lines = [f"cgroup {self.cgroup_path}", f"new namespaces {' '.join(new)}"]
        names = {flag: name for name, (flag, _) in TYPES.items()}
        lines += [f"join {names[flag]} namespace {path}" for flag, path in self.joins]
        lines += [f"rootfs {mount.describe()}" for mount in self.rootfs]
        lines.append(f"root {self.root_path}{' readonly' if self.readonly_root else ''}")
        lines += [mount.describe() for mount in self.mounts]
        lines += [device.describe() for device in self.devices]
        lines += [f"link /dev/{name} -> {target}" for name, target in self.links]
        lines += [f"hook {kind} {hook['path']}" for kind, hooks in self.hooks.items() for hook in hooks]
        lines += [f"sysctl {key}={value}" for key, value in self.sysctl]
        lines += [f"readonly {path}" for path in self.readonly_paths]
        lines += [f"masked {path}" for path in self.masked_paths]
        if self.process is not None:
            lines += self.process.describe()
        return lines


def cgroup_path(spec: Spec, id: str) -> str:
    """Return the path of the container's cgroup below each hierarchy's root."""
    return (spec.get("linux") or {}).get("cgroupsPath") or f"/{id}"


def build(spec: Spec, *, id: str, bundle: str, rootfs: list[Spec] | tuple[Spec, ...] = ()) -> Plan:
    """Decide everything from a validated spec. `bundle` is absolute; `rootfs` are mounts relative to the root."""
    linux: Spec = spec.get("linux") or {}
    root: Spec = spec.get("root") or {}
    plan = Plan()
    plan.id = id
    plan.bundle = bundle
    plan.annotations = spec.get("annotations") or {}
    plan.root_path = os.path.normpath(os.path.join(bundle, root.get("path") or ""))
    plan.readonly_root = bool(root.get("readonly"))
    plan.rootfs = [PlannedMount(mount) for mount in rootfs]
    plan.root_propagation = PROPAGATION.get(linux.get("rootfsPropagation") or "")
    plan.mounts = [PlannedMount(mount) for mount in spec.get("mounts") or ()]
    plan.hostname = spec.get("hostname") or ""
    plan.domainname = spec.get("domainname") or ""
    plan.hooks = {kind: hooks for kind, hooks in (spec.get("hooks") or {}).items() if hooks}
    plan.cgroup_path = cgroup_path(spec, id)
    plan.resources = linux.get("resources") or {}
    plan.masked_paths = linux.get("maskedPaths") or []
    plan.readonly_paths = linux.get("readonlyPaths") or []
    plan.sysctl = [(key.replace(".", "/") if "/" not in key else key, value) for key, value in _items(linux, "sysctl")]
    plan.seccomp = linux.get("seccomp")
    plan.personality = (linux.get("personality") or {}).get("domain") or ""
    plan.uid_map = linux.get("uidMappings") or []
    plan.gid_map = linux.get("gidMappings") or []
    plan.time_offsets = linux.get("timeOffsets") or {}
    _namespaces(plan, linux)
    _devices(plan, linux)
    if spec.get("process"):
        plan.process = build_process(spec["process"])
    return plan


def _items(parent: Spec, key: str) -> list[tuple[str, str]]:
    return list((parent.get(key) or {}).items())


def _namespaces(plan: Plan, linux: Spec) -> None:
    for namespace in linux.get("namespaces") or ():
        flag = TYPES[namespace["type"]][0]
        path = namespace.get("path")
        if path:
            plan.joins.append((flag, path))
        elif flag == CLONE_NEWCGROUP:  # only from inside the new cgroup: its root is where the process stands
            plan.unshare_cgroup = True
        elif flag == CLONE_NEWTIME:  # offsets can be written only while nobody is inside
            plan.unshare_time = True
        else:
            plan.clone_flags |= flag
    # The user namespace comes first: it decides over the others.
    plan.joins.sort(key=lambda join: join[0] != TYPES["user"][0])


_KINDS = {"c": 0o020000, "u": 0o020000, "b": 0o060000, "p": 0o010000}


def _devices(plan: Plan, linux: Spec) -> None:
    """The default devices and the spec's; none when the spec binds a /dev of its own."""
    plan.devices = []
    plan.links = []
    if any(mount.destination == "/dev" and mount.options.bind for mount in plan.mounts):
        return
    own = {device["path"]: device for device in linux.get("devices") or ()}
    for name, major, minor in DEFAULT_DEVICES:
        if f"/dev/{name}" not in own:
            plan.devices.append(Device(f"/dev/{name}", 0o020000, os.makedev(major, minor), 0o666, 0, 0))
    for path, device in own.items():
        number = os.makedev(device.get("major") or 0, device.get("minor") or 0)
        mode = 0o666 if device.get("fileMode") is None else device["fileMode"]
        kind = _KINDS[device["type"]]
        plan.devices.append(
            Device(os.path.normpath(path), kind, number, mode, device.get("uid") or 0, device.get("gid") or 0)
        )
    plan.links = list(DEFAULT_LINKS)
