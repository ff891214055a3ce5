"""The `process` object of a spec as plain values; shared by init and by exec. Pure.

Extension: `user.username` (Docker's `name|uid[:group|gid]`) and `user.additionalGroupNames` are resolved inside the
root, by `user.resolve`; without `username` the OCI numbers count.

Source: OCI runtime-spec 1.2 config.md "Process", config-linux.md "Linux Process".
"""

from __future__ import annotations

from typing import Any

from sampan.linux import capabilities
from sampan.linux.process import RLIMITS

_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_POLICY_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}


class CapabilitySets:
    """The five sets as bit masks."""

    __slots__ = ("ambient", "bounding", "effective", "inheritable", "permitted")

    def __init__(self, spec: dict[str, Any]) -> None:
        self.bounding = _mask(spec, "bounding")
        self.effective = _mask(spec, "effective")
        self.permitted = _mask(spec, "permitted")
        self.inheritable = _mask(spec, "inheritable")
        self.ambient = _mask(spec, "ambient")


def _mask(spec: dict[str, Any], name: str) -> int:
    # A capability that this kernel lacks is left out with no failure: the spec only lets us warn.
    return capabilities.mask(cap for cap in spec.get(name) or () if cap in capabilities.NUMBERS)


class ProcessPlan:
    """What the user's process is to be."""

    __slots__ = (
        "additional_gids",
        "affinity",
        "apparmor",
        "args",
        "capabilities",
        "console_size",
        "cwd",
        "env",
        "gid",
        "group_names",
        "io_priority",
        "no_new_privileges",
        "oom_score_adj",
        "rlimits",
        "scheduler",
        "selinux",
        "terminal",
        "uid",
        "umask",
        "username",
    )

    args: list[str]
    env: dict[str, str]
    cwd: str
    terminal: bool
    console_size: tuple[int, int] | None  # height, width
    uid: int
    gid: int
    additional_gids: list[int]
    umask: int | None
    username: str | None
    group_names: list[str]
    capabilities: CapabilitySets | None
    rlimits: list[tuple[str, int, int, int]]  # name, number, soft, hard
    no_new_privileges: bool
    apparmor: str
    selinux: str
    oom_score_adj: int | None
    scheduler: dict[str, Any] | None  # arguments of sched_setattr
    io_priority: int | None  # class << 13 | level
    affinity: tuple[set[int], set[int]]  # exec's CPUs before and after it joins the cgroup; empty: as they are

    def describe(self) -> list[str]:
        who = self.username if self.username is not None else f"{self.uid}:{self.gid}"
        lines = [f"user {who}", f"cwd {self.cwd}"]
        lines += [f"rlimit {name} {soft}:{hard}" for name, _, soft, hard in self.rlimits]
        if self.capabilities is not None:
            lines.append(
                f"capabilities bounding {self.capabilities.bounding:#x} effective {self.capabilities.effective:#x}"
            )
        if self.no_new_privileges:
            lines.append("no new privileges")
        lines.append(f"exec {self.args}")
        return lines


_CPU_LIMIT = 8192  # CONFIG_NR_CPUS at its most


def build(spec: dict[str, Any]) -> ProcessPlan:
    """Decide everything from a validated `process`."""
    plan = ProcessPlan()
    user = spec.get("user") or {}
    plan.uid = user.get("uid") or 0
    plan.gid = user.get("gid") or 0
    plan.additional_gids = user.get("additionalGids") or []
    plan.umask = user.get("umask")
    plan.username = user.get("username")
    plan.group_names = user.get("additionalGroupNames") or []
    plan.args = spec["args"]
    plan.env = _environment(spec.get("env") or [])
    plan.cwd = spec["cwd"]
    plan.terminal = bool(spec.get("terminal"))
    size = spec.get("consoleSize")
    plan.console_size = (size["height"], size["width"]) if size else None
    caps = spec.get("capabilities")
    plan.capabilities = None if caps is None else CapabilitySets(caps)
    plan.rlimits = [
        (limit["type"], RLIMITS[limit["type"]], limit["soft"], limit["hard"]) for limit in spec.get("rlimits") or ()
    ]
    plan.no_new_privileges = bool(spec.get("noNewPrivileges"))
    plan.apparmor = spec.get("apparmorProfile") or ""
    plan.selinux = spec.get("selinuxLabel") or ""
    plan.oom_score_adj = spec.get("oomScoreAdj")
    plan.scheduler = _scheduler(spec.get("scheduler"))
    io = spec.get("ioPriority")
    plan.io_priority = None if not io else _IO_CLASSES[io["class"]] << 13 | (io.get("priority") or 0)
    affinity = spec.get("execCPUAffinity") or {}
    plan.affinity = (cpu_list(affinity.get("initial") or ""), cpu_list(affinity.get("final") or ""))
    return plan


INHERITED = ("capabilities", "ioPriority", "oomScoreAdj", "rlimits", "scheduler")


def inherit(own: dict[str, Any], process: dict[str, Any]) -> dict[str, Any]:
    """Return an exec's `process` with what it leaves open taken from the container's own, as in the reference.

    That is `INHERITED` and the umask.
    """
    merged = {key: own[key] for key in INHERITED if own.get(key)}
    merged |= {key: value for key, value in process.items() if value is not None}
    umask = (own.get("user") or {}).get("umask")
    user = process.get("user") or {}
    if umask is not None and user.get("umask") is None:
        merged["user"] = {**user, "umask": umask}
    return merged


def cpu_list(text: str) -> set[int]:
    """Return the CPUs of a list such as "0-3,7". Raises: ValueError, also for what no kernel has."""
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        low, high = int(first), int(last if dash else first)
        if not 0 <= low <= high < _CPU_LIMIT:
            raise ValueError(text)
        cpus.update(range(low, high + 1))
    return cpus


def _environment(entries: list[str]) -> dict[str, str]:
    """Last one wins, as in the reference."""
    result: dict[str, str] = {}
    for entry in entries:
        key, _, value = entry.partition("=")
        result[key] = value
    return result


def _scheduler(spec: dict[str, Any] | None) -> dict[str, Any] | None:
    """Arguments of `sched_setattr`."""
    if not spec:
        return None
    flags = 0
    for name in spec.get("flags") or ():
        flags |= _POLICY_FLAGS[name]
    return {
        "policy": _POLICIES[spec["policy"]],
        "flags": flags,
        "nice": spec.get("nice") or 0,
        "priority": spec.get("priority") or 0,
        "times": (spec.get("runtime") or 0, spec.get("deadline") or 0, spec.get("period") or 0),
    }


POLICIES = frozenset(_POLICIES)
POLICY_FLAGS = frozenset(_POLICY_FLAGS)
IO_CLASSES = frozenset(_IO_CLASSES)
