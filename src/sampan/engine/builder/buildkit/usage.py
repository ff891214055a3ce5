"""The build cache in BuildKit's words: records, filters, prune options. Pure.

Source: BuildCache of Engine API 1.51; UsageRecord as buildx 0.29 prints it; containerd's filter syntax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.builder.solver.cache import Space
from sampan.errors import InvalidArgument
from sampan.spec import times

_FIELDS = {"id": "ID", "description": "Description", "type": "RecordType"}
_FLAGS = {"inuse": "InUse", "mutable": "Mutable", "immutable": "Mutable", "shared": "Shared", "private": "Shared"}
_NEGATED = frozenset({"immutable", "private"})
_MUTABLE = frozenset({"source.local", "exec.cachemount"})


def record(cache: Mapping[str, Any]) -> pb.UsageRecord:
    """Return a BuildCache object of the Engine API as a UsageRecord."""
    return pb.UsageRecord(
        ID=cache["ID"],
        Mutable=cache.get("Mutable", cache.get("Type") in _MUTABLE),
        InUse=bool(cache.get("InUse")),
        Size=int(cache.get("Size") or 0),
        CreatedAt=_time(cache.get("CreatedAt")),
        LastUsedAt=_time(cache.get("LastUsedAt")),
        UsageCount=int(cache.get("UsageCount") or 0),
        Description=str(cache.get("Description") or ""),
        RecordType=str(cache.get("Type") or "regular"),
        Shared=bool(cache.get("Shared")),
        Parents=list(cache.get("Parents") or ()),
    )


def matches(one: pb.UsageRecord, filters: Sequence[str]) -> bool:
    """Return whether one of the filters holds; none means all.

    Each is a comma separated list of conditions that all hold.

    Conditions: `field==value`, `field!=value`, `field~=text`, or a flag alone. Raises: InvalidArgument.
    """
    return not filters or any(all(_holds(one, part) for part in text.split(",") if part) for text in filters)


def _holds(one: pb.UsageRecord, condition: str) -> bool:
    for operator in ("==", "!=", "~="):
        name, found, value = condition.partition(operator)
        if found:
            have = _value(one, name)
            return {"==": have == value, "!=": have != value, "~=": value in have}[operator]
    name = condition.lower()
    if name not in _FLAGS:
        raise InvalidArgument(f"invalid filter {condition}")
    return bool(getattr(one, _FLAGS[name])) != (name in _NEGATED)


def _value(one: pb.UsageRecord, name: str) -> str:
    name = name.lower()
    if name in ("parent", "parents"):
        return ",".join(one.Parents)
    if name in _FLAGS:
        return str(bool(getattr(one, _FLAGS[name])) != (name in _NEGATED)).lower()
    if name not in _FIELDS:
        raise InvalidArgument(f"invalid filter field {name}")
    return str(getattr(one, _FIELDS[name]))


def prune_arguments(
    request: pb.PruneRequest, filters: Sequence[str], records: Sequence[pb.UsageRecord]
) -> dict[str, Any]:
    """Return a PruneRequest as arguments of `Solver.prune`; the filters are applied to the `records` that there are."""
    asked: dict[str, list[str]] = {}
    if filters:
        asked["id"] = [one.ID for one in records if matches(one, filters)]
    if request.keepDuration:
        asked["until"] = [f"{request.keepDuration // 10**9}s"]
    space = Space(
        reserved_bytes=request.reservedSpace,
        max_used_bytes=request.maxUsedSpace,
        min_free_bytes=request.minFreeSpace,
    )
    return {"filters": asked, "all": request.all, "space": space}


def _time(text: Any) -> Timestamp | None:
    if not text:
        return None
    ns = times.parse(str(text))
    return Timestamp(seconds=ns // 10**9, nanos=ns % 10**9)
