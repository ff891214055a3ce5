"""Refuse a bad `linux.resources`, naming the field and the reason. Pure; used for config.json and for update.

Source: OCI runtime-spec 1.2 config-linux.md "Control groups"; ranges are those of the kernel's files.
"""

from __future__ import annotations

from typing import Any

from sampan.runtime.failure import InvalidSpec

_INT64, _UINT64, _UINT16, _UINT32 = (-(2**63), 2**63 - 1), (0, 2**64 - 1), (0, 2**16 - 1), (0, 2**32 - 1)
_RATE = {"major": _INT64, "minor": _INT64, "rate": _UINT64}
_WEIGHT = {"major": _INT64, "minor": _INT64, "weight": _UINT16, "leafWeight": _UINT16}

#: A range is an integer, a type itself, a one-element list an array, a dict an object with these keys.
_SCHEMA: dict[str, Any] = {
    "devices": [{"allow": bool, "type": str, "major": _INT64, "minor": _INT64, "access": str}],
    "memory": {
        "limit": _INT64,
        "reservation": _INT64,
        "swap": _INT64,
        "kernel": _INT64,
        "kernelTCP": _INT64,
        "swappiness": _UINT64,
        "disableOOMKiller": bool,
        "useHierarchy": bool,
        "checkBeforeUpdate": bool,
    },
    "cpu": {
        "shares": _UINT64,
        "quota": _INT64,
        "burst": _UINT64,
        "period": _UINT64,
        "realtimeRuntime": _INT64,
        "realtimePeriod": _UINT64,
        "cpus": str,
        "mems": str,
        "idle": _INT64,
    },
    "pids": {"limit": _INT64},
    "blockIO": {
        "weight": _UINT16,
        "leafWeight": _UINT16,
        "weightDevice": [_WEIGHT],
        "throttleReadBpsDevice": [_RATE],
        "throttleWriteBpsDevice": [_RATE],
        "throttleReadIOPSDevice": [_RATE],
        "throttleWriteIOPSDevice": [_RATE],
    },
    "hugepageLimits": [{"pageSize": str, "limit": _UINT64}],
    "network": {"classID": _UINT32, "priorities": [{"name": str, "priority": _UINT32}]},
}
_REQUIRED = {
    "devices": ("allow",),
    "hugepageLimits": ("pageSize", "limit"),
    "priorities": ("name", "priority"),
    "weightDevice": ("major", "minor"),
    **{key: ("major", "minor", "rate") for key in _SCHEMA["blockIO"] if key.startswith("throttle")},
}
_WORDS = {bool: "a boolean", str: "a string", list: "an array", dict: "an object"}


def validate_resources(resources: Any, field: str = "linux.resources") -> None:
    """Check types, ranges and required keys. Raises InvalidSpec."""
    _check(resources, _SCHEMA, field)
    rdma = resources.get("rdma") or {}
    _check(rdma, {}, f"{field}.rdma")
    for name, limits in rdma.items():
        _check(limits, {"hcaHandles": _UINT32, "hcaObjects": _UINT32}, f"{field}.rdma.{name}")
    unified = resources.get("unified") or {}
    _check(unified, {}, f"{field}.unified")
    for name, value in unified.items():
        _check(value, str, f"{field}.unified.{name}")
        if "/" in name:
            raise InvalidSpec(f"{field}.unified.{name}", "must be a file name (no slashes)")


def _check(value: Any, schema: Any, field: str) -> None:
    if isinstance(schema, tuple):
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidSpec(field, f"must be an integer, not {_describe(value)}")
        if not schema[0] <= value <= schema[1]:
            raise InvalidSpec(field, f"{value} is not in range {schema[0]}-{schema[1]}")
        return
    kind: Any = schema if isinstance(schema, type) else type(schema)
    if not isinstance(value, kind):
        raise InvalidSpec(field, f"must be {_WORDS[kind]}, not {_describe(value)}")
    if isinstance(schema, list):
        for index, item in enumerate(value):
            _check(item, schema[0], f"{field}[{index}]")
            for key in _REQUIRED.get(field.rpartition(".")[2], ()):
                if item.get(key) is None:
                    raise InvalidSpec(f"{field}[{index}].{key}", "required")
    elif isinstance(schema, dict):
        for key, inner in schema.items():
            if value.get(key) is not None:
                _check(value[key], inner, f"{field}.{key}")


def _describe(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "null" if value is None else _WORDS.get(type(value), type(value).__name__)
