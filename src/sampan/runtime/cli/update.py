"""update: change the limits of a running container."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.create import json_fault, load, without_nulls
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.container import Container
from sampan.runtime.failure import InvalidSpec, strerror
from sampan.runtime.validate_resources import validate_resources
from sampan.spec import go_values

Resources = dict[str, Any]

#: flag → (group, key) of linux.resources; memory sizes are texts with an optional unit
_NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "pids-limit": ("pids", "limit"),
}
#: numbers that are texts until they are used; the function of Go's that reads them
_TEXTS = {
    "cpu-period": ("period", "ParseUint"),
    "cpu-quota": ("quota", "ParseInt"),
    "cpu-burst": ("burst", "ParseUint"),
    "cpu-share": ("shares", "ParseUint"),
    "cpu-rt-period": ("realtimePeriod", "ParseUint"),
    "cpu-rt-runtime": ("realtimeRuntime", "ParseInt"),
    "cpu-idle": ("idle", "ParseInt"),
}
_SIZES = {"memory": "limit", "memory-reservation": "reservation", "memory-swap": "swap"}
_GROUPS = ("cpu", "memory", "pids", "blockIO", "hugepageLimits", "network", "rdma", "unified")


def update(call: Invocation) -> int:
    entry = load(call)
    if entry.status() == "stopped":
        raise CommandFailure("container not running")
    for flag in ("kernel-memory", "kernel-memory-tcp"):
        if call.flags.get(flag):
            call.log.write("warning", "Kernel memory settings are ignored and will be removed")
    for flag, what in (("l3-cache-schema", "CAT: l3 cache"), ("mem-bw-schema", "MBA: memory bandwidth")):
        if call.flags.get(flag):
            raise CommandFailure(f"Intel RDT/{what} schema is not enabled")
    try:
        changes = _from_file(call.flags["resources"]) if call.flags.get("resources") else from_flags(call.flags)
        validate_resources(changes, "resources")
    except InvalidSpec as error:
        raise CommandFailure(f"invalid {error.field}: {error.reason}") from error
    linux = entry.container.spec.setdefault("linux", {})
    present: Resources = linux.get("resources") or {}
    merged = {**present}
    apply: Resources = {}
    for group, values in changes.items():
        if isinstance(values, dict):
            values = {**(present.get(group) or {}), **values}
        merged[group] = apply[group] = values
    try:
        entry.container.update(apply)
    except OSError as error:
        _set_back(call, entry.container, {group: present[group] for group in apply if present.get(group)})
        raise CommandFailure(
            f"{(error.strerror or '').rpartition(': ')[0]}: write {error.filename}: {strerror(error.errno or 0)}"
            if error.filename
            else str(error.strerror)
        ) from error
    linux["resources"] = merged
    entry.save()
    return 0


def _set_back(call: Invocation, container: Container, present: Resources) -> None:
    """Undo a change of which a part has failed: all or nothing."""
    try:
        container.update(present)
    except OSError as error:
        call.log.write("warning", f"the former limits could not be set again: {error}")


def from_flags(flags: dict[str, Any]) -> Resources:
    """Return the groups of linux.resources that the flags name."""
    changes: Resources = {}
    for flag, (group, key) in _NUMBERS.items():
        if flags.get(flag) not in (None, "", 0):
            changes.setdefault(group, {})[key] = flags[flag]
    for flag, (key, reader) in _TEXTS.items():
        if flags.get(flag):
            changes.setdefault("cpu", {})[key] = _number(flag, reader, flags[flag])
    for flag, key in _SIZES.items():
        if flags.get(flag):
            changes.setdefault("memory", {})[key] = size(flag, flags[flag])
    return changes


def _number(flag: str, reader: str, text: str) -> int:
    signed = reader == "ParseInt"
    if not re.fullmatch("[+-]?[0-9]+" if signed else "[0-9]+", text):
        raise CommandFailure(f'invalid value for {flag}: strconv.{reader}: parsing "{text}": invalid syntax')
    number = int(text) if len(text) < 40 else 2**64
    if not (-(2**63) <= number < 2**63 if signed else number < 2**64):
        raise CommandFailure(f'invalid value for {flag}: strconv.{reader}: parsing "{text}": value out of range')
    return number


def size(flag: str, text: str) -> int:
    """Parse "64M" to bytes; -1 is unlimited. Raises: CommandFailure."""
    if text == "-1":
        return -1
    try:
        return go_values.size_bytes(text)
    except ValueError as error:
        raise CommandFailure(f"invalid value for {flag}: {error}") from error


def _from_file(path: str) -> Resources:
    try:
        if path == "-":
            resources = json.load(sys.stdin)
        else:
            with open(path, encoding="utf-8") as file:
                resources = json.load(file)
    except OSError as error:
        raise CommandFailure(f"open {path}: {strerror(error.errno or 0)}") from error
    except (ValueError, RecursionError) as error:
        raise CommandFailure(json_fault(error)) from error
    return resources_of(resources)


def resources_of(resources: Any) -> Resources:
    """Return what is to be changed of a decoded object. Raises: InvalidSpec when it is none."""
    if resources is None:
        return {}
    if not isinstance(resources, dict):
        raise InvalidSpec("resources", "not an object")
    changes: Resources = {}
    resources = without_nulls(resources)
    for group in _GROUPS:
        values = resources.get(group)
        if isinstance(values, dict):  # zero and "" mean unchanged, as in runc's own example file
            values = {key: value for key, value in values.items() if value not in (0, "", None)}
        if values:
            changes[group] = values
    return changes
