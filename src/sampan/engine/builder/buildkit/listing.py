"""Which builds of the history a client wants to see: references and filters. Pure.

Source: the filters of `docker buildx history ls` (buildx 0.29): fields ref, status, repository, startedAt, completedAt,
duration.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.errors import InvalidArgument
from sampan.spec import go_patterns, times

_CONDITION = re.compile(r"([A-Za-z.]+)(==|!=|~=|>=|<=|>|<|=)(.*)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
Test = Callable[[pb.BuildHistoryRecord], bool]


def wanted(request: pb.BuildHistoryRequest) -> Test:
    """Return a test for one record: the reference, and one of the filters. Raises: InvalidArgument."""
    filters = [[_condition(part) for part in text.split(",")] for text in request.Filter if text]

    def test(record: pb.BuildHistoryRecord) -> bool:
        if request.Ref and record.Ref != request.Ref:
            return False
        return not filters or any(all(one(record) for one in conditions) for conditions in filters)

    return test


def _condition(text: str) -> Test:
    found = _CONDITION.fullmatch(text)
    if not found:
        raise InvalidArgument(f"invalid filter {text}")
    name, operator, value = found.groups()
    if name in ("startedAt", "completedAt", "duration"):
        return _measure(name, operator, value)
    if name not in ("ref", "status", "repository"):
        raise InvalidArgument(f"invalid filter field {name}")

    matches = _matcher(value) if operator == "~=" else None

    def test(record: pb.BuildHistoryRecord) -> bool:
        have = _text(record, name)
        if matches is not None:
            return matches(have)
        return (have == value) != (operator == "!=")

    return test


def _matcher(pattern: str) -> Callable[[str], bool]:
    try:
        return go_patterns.searcher(pattern)
    except go_patterns.BadPattern as e:
        raise InvalidArgument(str(e)) from None


def _text(record: pb.BuildHistoryRecord, name: str) -> str:
    if name == "ref":
        return record.Ref
    if name == "repository":
        return record.FrontendAttrs.get("vcs:source") or record.FrontendAttrs.get("context", "")
    if not record.HasField("CompletedAt"):
        return "running"
    if not record.HasField("error"):
        return "completed"
    return "canceled" if record.error.code == 1 else "error"


def _measure(name: str, operator: str, value: str) -> Test:
    """Times and durations; an age (`24h`) means that long ago."""
    parts = _DURATION.findall(value)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        try:
            limit = times.parse_partial(value) / 1e9
        except ValueError:
            raise InvalidArgument(f"invalid value {value} for {name}") from None
    elif name == "duration":
        limit = seconds
    else:
        limit = time.time() - seconds

    def test(record: pb.BuildHistoryRecord) -> bool:
        begun, ended = record.CreatedAt.ToNanoseconds() / 1e9, record.CompletedAt.ToNanoseconds() / 1e9
        have = {"startedAt": begun, "completedAt": ended, "duration": ended - begun}[name]
        return {">": have > limit, ">=": have >= limit, "<": have < limit, "<=": have <= limit}.get(operator, False)

    return test
