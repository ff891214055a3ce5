"""Device rules: OCI `linux.resources.devices` → v1 `devices.allow`/`devices.deny` lines, or an eBPF program (v2). Pure.

In OCI's list the last rule that matches a request wins. v1 cannot express all of that: it keeps one default and a set
of exceptions, and removes an exception only by its exact name. `DeviceAccess` is that model; `transition` goes from one
to another without a moment at which less is allowed than both would allow.

Source: OCI runtime-spec 1.2 config-linux.md "Allowed Device list"; Documentation/admin-guide/cgroup-v1/devices.rst.
"""

from __future__ import annotations

import errno
from typing import Any

#: (type "a"|"b"|"c", major or -1, minor or -1)
Device = tuple[str, int, int]
#: (allow, device, access subset of "rwm")
Rule = tuple[bool, Device, str]

#: What every container may use, appended to the spec's list as runc does: mknod of anything, and the harmless devices.
DEFAULTS: tuple[Rule, ...] = (
    (True, ("c", -1, -1), "m"),
    (True, ("b", -1, -1), "m"),
    (True, ("c", 1, 3), "rwm"),  # null
    (True, ("c", 1, 8), "rwm"),  # random
    (True, ("c", 1, 7), "rwm"),  # full
    (True, ("c", 5, 0), "rwm"),  # tty
    (True, ("c", 1, 5), "rwm"),  # zero
    (True, ("c", 1, 9), "rwm"),  # urandom
    (True, ("c", 136, -1), "rwm"),  # pts/*
    (True, ("c", 5, 2), "rwm"),  # ptmx
    (True, ("c", 10, 200), "rwm"),  # net/tun
)


def rules(devices: list[dict[str, Any]]) -> list[Rule]:
    """Normalise OCI's list: a missing type is "a", a missing number any, a missing access "rwm".

    Raises:
        OSError: EINVAL, naming the field.
    """
    result = []
    for index, entry in enumerate(devices):
        kind = entry.get("type") or "a"
        access = entry.get("access") or "rwm"
        if kind == "u":
            kind = "c"
        if kind not in ("a", "b", "c"):
            raise OSError(errno.EINVAL, f'linux.resources.devices[{index}].type: invalid device type "{kind}"')
        if set(access) - set("rwm"):
            raise OSError(errno.EINVAL, f'linux.resources.devices[{index}].access: invalid access "{access}"')
        major, minor = entry.get("major"), entry.get("minor")
        number = (-1 if major is None else int(major), -1 if minor is None else int(minor))
        result.append((bool(entry["allow"]), (kind, *number), access))
    return result


class DeviceAccess:
    """What a v1 devices cgroup holds: a default, and per device the accesses that are the other way round."""

    __slots__ = ("allow", "exceptions")

    def __init__(self, allow: bool, exceptions: dict[Device, str] | None = None) -> None:
        self.allow = allow
        self.exceptions = exceptions if exceptions is not None else {}

    def apply(self, rule: Rule) -> None:
        """Change the state as one write to devices.allow or devices.deny does."""
        allow, device, access = rule
        if device[0] == "a":
            self.allow, self.exceptions = allow, {}
            return
        had = self.exceptions.get(device, "")
        if allow != self.allow:
            self.exceptions[device] = "".join(bit for bit in "rwm" if bit in had or bit in access)
            return
        left = "".join(bit for bit in had if bit not in access)
        if left:
            self.exceptions[device] = left
        else:
            self.exceptions.pop(device, None)


def wanted(rule_list: list[Rule]) -> DeviceAccess:
    """Fold rules into a state; before the first rule everything is denied."""
    state = DeviceAccess(False)
    for rule in rule_list:
        state.apply(rule)
    return state


def parse_list(text: str) -> DeviceAccess:
    """Read `devices.list`. A cgroup that allows by default prints "a *:* rwm" and hides its exceptions."""
    exceptions: dict[Device, str] = {}
    for line in text.splitlines():
        kind, number, access = line.split()
        if kind == "a":
            return DeviceAccess(True)
        major, minor = (-1 if part == "*" else int(part) for part in number.split(":"))
        exceptions[(kind, major, minor)] = access
    return DeviceAccess(False, exceptions)


def transition(now: DeviceAccess, to: DeviceAccess, *, fresh: bool) -> list[tuple[str, str]]:
    """List (file, line) writes that lead from `now` to `to`; nothing when both are the same.

    `fresh`: `now` was read from a cgroup just made, so an allow-all state hides no exceptions.
    """
    writes: list[tuple[str, str]] = []
    known = dict(now.exceptions)
    if now.allow != to.allow or (now.allow and not fresh):
        writes.append(("devices.allow" if to.allow else "devices.deny", "a"))
        known = {}
    add, remove = ("devices.deny", "devices.allow") if to.allow else ("devices.allow", "devices.deny")
    for device, access in to.exceptions.items():
        missing = "".join(bit for bit in access if bit not in known.get(device, ""))
        if missing:
            writes.append((add, _line(device, missing)))
    for device, access in known.items():
        surplus = "".join(bit for bit in access if bit not in to.exceptions.get(device, ""))
        if surplus:
            writes.append((remove, _line(device, surplus)))
    return writes


def _line(device: Device, access: str) -> str:
    kind, major, minor = device
    return f"{kind} {'*' if major < 0 else major}:{'*' if minor < 0 else minor} {access}"
