"""Refuse a bad spec before any side effect, naming the field and the reason. Pure.

Checked is what this runtime would otherwise stumble over half-way: types, required fields, names from closed lists,
ranges, and combinations that the kernel or OCI forbids. Unknown fields are let pass, as OCI asks.

Source: OCI runtime-spec 1.2 config.md, config-linux.md.
"""

from __future__ import annotations

import os
from typing import Any

from sampan.linux.namespaces import TYPES
from sampan.linux.process import RLIMITS
from sampan.runtime.failure import InvalidSpec
from sampan.runtime.options import PROPAGATION, normal
from sampan.runtime.process_plan import IO_CLASSES, POLICIES, POLICY_FLAGS, cpu_list
from sampan.runtime.validate_resources import validate_resources

Spec = dict[str, Any]

ID_LIMIT = 2**31 - 1
HOOK_KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_PROC_FILES = (
    "cpuinfo diskstats meminfo stat swaps uptime loadavg slabinfo"
    " sys/kernel/ns_last_pid sys/crypto/fips_enabled net/dev"
)
PROC_FILES = frozenset(f"/proc/{name}" for name in _PROC_FILES.split())
_KINDS = {str: "a string", int: "an integer", bool: "a boolean", list: "an array", dict: "an object"}
# sysctls that belong to a namespace: prefix or name → the namespace that must be the container's own
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in [
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
        "msg_next_id",
        "sem_next_id",
        "shm_next_id",
    ]
)


def validate(spec: Any) -> None:
    """Check a whole spec. Raises: InvalidSpec."""
    _typed(spec, dict, "config.json")
    version = _required(spec, "ociVersion", str, "")
    if not version.split(".")[0] == "1":
        raise InvalidSpec("ociVersion", f"unsupported version {version!r}, want 1.x")
    _root(_required(spec, "root", dict, ""))
    process = _optional(spec, "process", dict, "")
    if process is not None:
        validate_process(process, "process")
    linux = _optional(spec, "linux", dict, "") or {}
    own = _namespaces(linux)
    _strings(spec, ("hostname", "domainname"))
    for name in ("hostname", "domainname"):
        if spec.get(name):
            if "uts" not in own:
                raise InvalidSpec(name, "needs a UTS namespace of the container's own")
            if len(spec[name].encode()) > 64:
                raise InvalidSpec(name, "longer than 64 bytes")
    for index, mount in enumerate(_list(spec, "mounts", "")):
        _mount(mount, f"mounts[{index}]", own)
    _hooks(_optional(spec, "hooks", dict, "") or {})
    _annotations(spec)
    _linux(linux, own)


# ── small checkers ────────────────────────────────────────────────────────────────────────────────────────


def _typed(value: Any, kind: type, field: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidSpec(field, f"must be {_KINDS[kind]}, not {_name(value)}")
    return value


def _name(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _optional(parent: Spec, name: str, kind: type, prefix: str) -> Any:
    value = parent.get(name)
    return None if value is None else _typed(value, kind, _join(prefix, name))


def _required(parent: Spec, name: str, kind: type, prefix: str) -> Any:
    if parent.get(name) is None:
        raise InvalidSpec(_join(prefix, name), "required")
    return _typed(parent[name], kind, _join(prefix, name))


def _list(parent: Spec, name: str, prefix: str, kind: type = dict) -> list[Any]:
    values = _optional(parent, name, list, prefix) or []
    for index, value in enumerate(values):
        _typed(value, kind, f"{_join(prefix, name)}[{index}]")
    return list(values)


def _strings(parent: Spec, names: tuple[str, ...], prefix: str = "") -> None:
    for name in names:
        value = _optional(parent, name, str, prefix)
        if value is not None:
            _text(value, _join(prefix, name))


def _string_list(parent: Spec, name: str, prefix: str) -> list[str]:
    values = _list(parent, name, prefix, str)
    for index, value in enumerate(values):
        _text(value, f"{_join(prefix, name)}[{index}]")
    return values


def _text(value: str, field: str) -> None:
    """The kernel takes bytes up to a NUL."""
    if "\0" in value:
        raise InvalidSpec(field, "contains a NUL byte")
    if not value.isascii():
        try:
            os.fsencode(value)
        except UnicodeEncodeError:
            raise InvalidSpec(field, "is not valid Unicode") from None


def _range(parent: Spec, name: str, prefix: str, low: int, high: int) -> int | None:
    value: int | None = _optional(parent, name, int, prefix)
    if value is not None and not low <= value <= high:
        raise InvalidSpec(_join(prefix, name), f"{value} is not in range {low}-{high}")
    return value


def _one_of(value: str, allowed: Any, field: str) -> None:
    if value not in allowed:
        raise InvalidSpec(field, f"unknown value {value!r}, want one of {', '.join(sorted(filter(None, allowed)))}")


# ── the parts ─────────────────────────────────────────────────────────────────────────────────────────────


def _root(root: Spec) -> None:
    _required(root, "path", str, "root")
    _strings(root, ("path",), "root")
    _optional(root, "readonly", bool, "root")
    if not root["path"]:
        raise InvalidSpec("root.path", "must not be empty")


def validate_process(process: Any, field: str) -> None:
    """Check a `process` object: a spec's, or what `exec` is given. Raises: InvalidSpec."""
    _typed(process, dict, field)
    if not _string_list(process, "args", field):
        raise InvalidSpec(f"{field}.args", "must not be empty")
    cwd = _required(process, "cwd", str, field)
    if not cwd.startswith("/"):
        raise InvalidSpec(f"{field}.cwd", f"must be an absolute path, not {cwd!r}")
    _strings(process, ("cwd", "apparmorProfile", "selinuxLabel"), field)
    for index, entry in enumerate(_string_list(process, "env", field)):
        if "=" not in entry[1:]:
            raise InvalidSpec(f"{field}.env[{index}]", "invalid environment variable: missing '=' or name")
    _optional(process, "terminal", bool, field)
    _optional(process, "noNewPrivileges", bool, field)
    _range(process, "oomScoreAdj", field, -1000, 1000)
    size = _optional(process, "consoleSize", dict, field)
    if size is not None:
        for name in ("height", "width"):
            _required(size, name, int, f"{field}.consoleSize")
            _range(size, name, f"{field}.consoleSize", 0, 65535)
    affinity = _optional(process, "execCPUAffinity", dict, field) or {}
    for name in ("initial", "final"):
        try:
            cpu_list(_optional(affinity, name, str, f"{field}.execCPUAffinity") or "")
        except ValueError:
            raise InvalidSpec(f"{field}.execCPUAffinity.{name}", "not a list of CPUs") from None
    _user(_optional(process, "user", dict, field) or {}, f"{field}.user")
    caps = _optional(process, "capabilities", dict, field) or {}
    for name in ("bounding", "effective", "permitted", "inheritable", "ambient"):
        _string_list(caps, name, f"{field}.capabilities")  # an unknown one is passed over, as in the reference
    _rlimits(process, field)
    _scheduling(process, field)
    if process.get("selinuxLabel"):
        raise InvalidSpec(f"{field}.selinuxLabel", "SELinux is not supported by this host")


def _user(user: Spec, field: str) -> None:
    for name in ("uid", "gid"):
        _range(user, name, field, 0, ID_LIMIT)
    _range(user, "umask", field, 0, 0o777)
    for index, gid in enumerate(_list(user, "additionalGids", field, int)):
        if not 0 <= gid <= ID_LIMIT:
            raise InvalidSpec(f"{field}.additionalGids[{index}]", f"{gid} is not in range 0-{ID_LIMIT}")
    _optional(user, "username", str, field)
    _string_list(user, "additionalGroupNames", field)


def _rlimits(process: Spec, field: str) -> None:
    seen = set()
    for index, limit in enumerate(_list(process, "rlimits", field)):
        where = f"{field}.rlimits[{index}]"
        name = _required(limit, "type", str, where)
        _one_of(name, RLIMITS, f"{where}.type")
        if name in seen:
            raise InvalidSpec(f"{where}.type", f"{name} is given twice")
        seen.add(name)
        for key in ("soft", "hard"):
            _required(limit, key, int, where)
            _range(limit, key, where, 0, 2**64 - 1)
        if limit["soft"] > limit["hard"]:
            raise InvalidSpec(f"{where}.soft", f"{limit['soft']} is above the hard limit {limit['hard']}")


def _scheduling(process: Spec, field: str) -> None:
    scheduler = _optional(process, "scheduler", dict, field)
    if scheduler is not None:
        where = f"{field}.scheduler"
        _one_of(_required(scheduler, "policy", str, where), POLICIES, f"{where}.policy")
        _range(scheduler, "nice", where, -20, 19)
        _range(scheduler, "priority", where, 0, 99)
        for name in ("runtime", "deadline", "period"):
            _range(scheduler, name, where, 0, 2**63 - 1)
        for index, flag in enumerate(_list(scheduler, "flags", where, str)):
            _one_of(flag, POLICY_FLAGS, f"{where}.flags[{index}]")
        if scheduler.get("priority") and scheduler["policy"] not in ("SCHED_FIFO", "SCHED_RR"):
            raise InvalidSpec(f"{where}.priority", "only SCHED_FIFO and SCHED_RR have a priority")
    priority = _optional(process, "ioPriority", dict, field)
    if priority is not None:
        where = f"{field}.ioPriority"
        _one_of(_required(priority, "class", str, where), IO_CLASSES, f"{where}.class")
        _range(priority, "priority", where, 0, 7)


def _namespaces(linux: Spec) -> set[str]:
    """Check the list; return the types that the container has, new or by path."""
    own: set[str] = set()
    for index, namespace in enumerate(_list(linux, "namespaces", "linux")):
        where = f"linux.namespaces[{index}]"
        kind = _required(namespace, "type", str, where)
        _one_of(kind, TYPES, f"{where}.type")
        if kind in own:
            raise InvalidSpec(f"{where}.type", f"{kind} is given twice")
        own.add(kind)
        path = _optional(namespace, "path", str, where)
        if path and not path.startswith("/"):
            raise InvalidSpec(f"{where}.path", f"must be an absolute path, not {path!r}")
    if "mount" not in own:
        raise InvalidSpec(
            "linux.namespaces", "a mount namespace is required: without it the host's mounts would change"
        )
    return own


def _mount(mount: Spec, field: str, own: set[str]) -> None:
    destination = _required(mount, "destination", str, field)
    _strings(mount, ("destination", "source", "type"), field)
    if not destination:
        raise InvalidSpec(f"{field}.destination", "must not be empty")
    options = _string_list(mount, "options", field)
    fstype = mount.get("type") or ""
    bind = fstype == "bind" or "bind" in options or "rbind" in options or "bind-nonrecursive" in options
    if not bind and not fstype and "remount" not in options and not PROPAGATION.keys() & set(options):
        raise InvalidSpec(f"{field}.type", "required for what is no bind mount")
    if bind and not mount.get("source") and "remount" not in options:
        raise InvalidSpec(f"{field}.source", "required for a bind mount")
    if "tmpcopyup" in options and fstype != "tmpfs":
        raise InvalidSpec(f"{field}.options", "tmpcopyup is for tmpfs only")
    _id_maps(mount, field)
    mapped = bool(mount.get("uidMappings") or mount.get("gidMappings"))
    if (mapped or "idmap" in options or "ridmap" in options) and not bind:
        raise InvalidSpec(f"{field}.options", "only bind mounts can be id-mapped")
    if not mapped and ("idmap" in options or "ridmap" in options) and "user" not in own:
        raise InvalidSpec(f"{field}.uidMappings", "required for an id-mapped mount without a user namespace")
    clean = normal(destination)
    if clean == "/proc" and fstype != "proc" and mount.get("source") != "/proc":
        raise InvalidSpec(f"{field}.destination", "only procfs may be mounted at /proc")
    if clean.startswith("/proc/") and clean not in PROC_FILES:
        raise InvalidSpec(f"{field}.destination", f'"{clean}" cannot be mounted because it is inside /proc')


def _id_maps(parent: Spec, field: str) -> None:
    for name in ("uidMappings", "gidMappings"):
        entries = _list(parent, name, field)
        for index, entry in enumerate(entries):
            where = f"{_join(field, name)}[{index}]"
            for key in ("containerID", "hostID", "size"):
                _required(entry, key, int, where)
                _range(entry, key, where, 0, 2**32 - 1)
            if not entry["size"]:
                raise InvalidSpec(f"{where}.size", "must not be 0")
        if len(entries) > 340:
            raise InvalidSpec(_join(field, name), "more than 340 entries")
    if bool(parent.get("uidMappings")) != bool(parent.get("gidMappings")):
        missing = "gidMappings" if parent.get("uidMappings") else "uidMappings"
        raise InvalidSpec(_join(field, missing), "required when the other mapping is given")


def _hooks(hooks: Spec) -> None:
    for kind in HOOK_KINDS:
        for index, hook in enumerate(_list(hooks, kind, "hooks")):
            where = f"hooks.{kind}[{index}]"
            path = _required(hook, "path", str, where)
            if not path.startswith("/"):
                raise InvalidSpec(f"{where}.path", f"must be an absolute path, not {path!r}")
            _string_list(hook, "args", where)
            for position, entry in enumerate(_string_list(hook, "env", where)):
                if "=" not in entry[1:]:
                    raise InvalidSpec(f"{where}.env[{position}]", "missing '=' or name")
            timeout = _optional(hook, "timeout", int, where)
            if timeout is not None and timeout <= 0:
                raise InvalidSpec(f"{where}.timeout", "must be greater than 0")


def _annotations(spec: Spec) -> None:
    for key, value in (_optional(spec, "annotations", dict, "") or {}).items():
        _typed(value, str, f"annotations.{key}")
        if not key:
            raise InvalidSpec("annotations", "a key must not be empty")


def _linux(linux: Spec, own: set[str]) -> None:
    _strings(linux, ("cgroupsPath", "rootfsPropagation", "mountLabel"), "linux")
    _one_of(linux.get("rootfsPropagation") or "", {"", *PROPAGATION}, "linux.rootfsPropagation")
    if ".." in (linux.get("cgroupsPath") or "").split("/"):
        raise InvalidSpec("linux.cgroupsPath", "must not contain '..'")
    if linux.get("mountLabel"):
        raise InvalidSpec("linux.mountLabel", "SELinux is not supported by this host")
    for name in ("maskedPaths", "readonlyPaths"):
        for index, path in enumerate(_string_list(linux, name, "linux")):
            if not path.startswith("/"):
                raise InvalidSpec(f"linux.{name}[{index}]", f"must be an absolute path, not {path!r}")
    _id_maps(linux, "linux")
    user = {n["type"]: n.get("path") for n in linux.get("namespaces") or ()}
    if linux.get("uidMappings") and "user" not in own:
        raise InvalidSpec("linux.uidMappings", "needs a user namespace")
    if "user" in own and not user["user"] and not linux.get("uidMappings"):
        raise InvalidSpec("linux.uidMappings", "required with a new user namespace")
    _time_offsets(linux, own, user)
    for index, device in enumerate(_list(linux, "devices", "linux")):
        _device(device, f"linux.devices[{index}]")
    _sysctl(linux, own)
    personality = _optional(linux, "personality", dict, "linux")
    if personality is not None:
        _one_of(
            _required(personality, "domain", str, "linux.personality"), {"LINUX", "LINUX32"}, "linux.personality.domain"
        )
        if personality.get("flags"):
            raise InvalidSpec("linux.personality.flags", "no flag is defined")
    if linux.get("resources") is not None:
        validate_resources(linux["resources"])
    if linux.get("intelRdt"):
        raise InvalidSpec("linux.intelRdt", "not supported")
    _seccomp(_optional(linux, "seccomp", dict, "linux") or {})


def _time_offsets(linux: Spec, own: set[str], paths: dict[str, Any]) -> None:
    offsets = _optional(linux, "timeOffsets", dict, "linux") or {}
    for clock, offset in offsets.items():
        _one_of(clock, {"monotonic", "boottime"}, f"linux.timeOffsets.{clock}")
        _typed(offset, dict, f"linux.timeOffsets.{clock}")
        _optional(offset, "secs", int, f"linux.timeOffsets.{clock}")
        _range(offset, "nanosecs", f"linux.timeOffsets.{clock}", 0, 999_999_999)
    if offsets and ("time" not in own or paths["time"]):
        raise InvalidSpec("linux.timeOffsets", "needs a new time namespace")


def _device(device: Spec, field: str) -> None:
    path = _required(device, "path", str, field)
    if not path.startswith("/"):
        raise InvalidSpec(f"{field}.path", f"must be an absolute path, not {path!r}")
    kind = _required(device, "type", str, field)
    _one_of(kind, {"c", "b", "u", "p"}, f"{field}.type")
    for name in ("major", "minor"):
        if kind != "p":
            _required(device, name, int, field)
        _range(device, name, field, 0, 2**32 - 1)
    _range(device, "fileMode", field, 0, 0o7777)
    for name in ("uid", "gid"):
        _range(device, name, field, 0, ID_LIMIT)


def _sysctl(linux: Spec, own: set[str]) -> None:
    """Only sysctls that belong to a namespace of the container's own: others would change the host."""
    for key, value in (_optional(linux, "sysctl", dict, "linux") or {}).items():
        field = f"linux.sysctl.{key}"
        _typed(value, str, field)
        name = key.replace("/", ".")
        if ".." in name or not name:
            raise InvalidSpec(field, "not a sysctl name")
        if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
            needed = "ipc"
        elif name.startswith("net."):
            needed = "network"
        elif name in ("kernel.domainname", "kernel.hostname"):
            needed = "uts"
        elif name.startswith("user."):
            needed = "user"
        else:
            raise InvalidSpec(field, f'sysctl "{key}" is not in a separate kernel namespace')
        if needed not in own:
            raise InvalidSpec(field, f'sysctl "{key}" not allowed in host {needed} namespace')


def _seccomp(seccomp: Spec) -> None:
    where = "linux.seccomp"
    if not seccomp:
        return
    _required(seccomp, "defaultAction", str, where)
    _strings(seccomp, ("defaultAction", "listenerPath", "listenerMetadata"), where)
    for name in ("architectures", "flags"):
        _string_list(seccomp, name, where)
    _range(seccomp, "defaultErrnoRet", where, 0, 2**32 - 1)
    for index, rule in enumerate(_list(seccomp, "syscalls", where)):
        place = f"{where}.syscalls[{index}]"
        _required(rule, "action", str, place)
        _string_list(rule, "names", place)
        _range(rule, "errnoRet", place, 0, 2**32 - 1)
        for position, argument in enumerate(_list(rule, "args", place)):
            _required(argument, "op", str, f"{place}.args[{position}]")
            for name in ("index", "value"):
                _required(argument, name, int, f"{place}.args[{position}]")
            for name in ("index", "value", "valueTwo"):
                _range(argument, name, f"{place}.args[{position}]", 0, 2**64 - 1)


__all__ = ["HOOK_KINDS", "validate", "validate_process"]
