"""Which containers `docker ps` and `docker container prune` mean. Filters are parsed once, then applied. Pure.

Source: Engine API 1.51, ContainerList and ContainerPrune filters; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from sampan.engine.containers.records import Container
from sampan.engine.containers.states import State
from sampan.errors import InvalidArgument, NotFound
from sampan.spec import go_patterns, times

LIST_FILTERS = frozenset(
    {"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name"}
    | {"network", "publish", "since", "status", "volume"}
)
PRUNE_FILTERS = frozenset({"label", "label!", "until"})
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTH = ("starting", "healthy", "unhealthy", "none")

Filters = Mapping[str, Iterable[str]]
Test = Callable[[Container], bool]


def check_names(filters: Filters, accepted: frozenset[str]) -> None:
    """Refuse a filter that the command does not know."""
    for name in filters:
        if name not in accepted:
            raise InvalidArgument(f"invalid filter '{name}'")


def implies_all(filters: Filters) -> bool:
    """Tell whether the filters ask for stopped containers, too."""
    return bool(list(filters.get("status", ()))) or bool(list(filters.get("exited", ())))


def tests(
    filters: Filters,
    *,
    find: Callable[[str], Container | None],
    image_ids: Callable[[str], frozenset[str]],
    health: Callable[[Container], str],
    networks: Callable[[Container], set[str]],
) -> list[Test]:
    """Parse the filters into predicates; a container must pass all of them. Raises: InvalidArgument, NotFound."""
    check_names(filters, LIST_FILTERS)
    found: list[Test] = []
    for name, values_ in filters.items():
        values = list(values_)
        if not values:
            continue
        if name in ("before", "since"):
            found.append(_around(name, values, find))
        elif name == "ancestor":
            ids = frozenset().union(*(image_ids(v) for v in values))
            found.append(lambda c, ids=ids: c.image_id in ids)  # type: ignore[misc]
        elif name == "health":
            _one_of("health", values, _HEALTH)
            found.append(lambda c, v=frozenset(values): health(c) in v)  # type: ignore[misc]
        elif name == "network":
            found.append(lambda c, v=set(values): bool(v & networks(c)))  # type: ignore[misc]
        else:
            found.append(_simple(name, values))
    return found


def _one_of(name: str, values: list[str], known: tuple[str, ...]) -> None:
    for value in values:
        if value not in known:
            raise InvalidArgument(
                f"invalid filter '{name}={value}': invalid value for state ({value}): must be one of {', '.join(known)}"
            )


def _around(name: str, values: list[str], find: Callable[[str], Container | None]) -> Test:
    pivot = find(values[0])
    if pivot is None:
        raise NotFound(f"No such container: {values[0]}")
    if name == "before":
        return lambda c: c.created_ns < pivot.created_ns
    return lambda c: c.created_ns > pivot.created_ns


def _simple(name: str, values: list[str]) -> Test:
    """Filters that ask nobody but the record."""
    wanted = frozenset(values)
    if name == "status":
        _one_of("status", values, _STATES)
        return lambda c: c.status.state.value in wanted
    if name == "exited":
        try:
            codes = {int(v) for v in values}
        except ValueError as e:
            raise InvalidArgument(f"invalid filter 'exited={values[0]}'") from e
        return lambda c: c.status.exit_status in codes and c.status.state is State.EXITED
    if name == "id":
        matches = go_patterns.any_of(values)
        return lambda c: matches(c.id)
    if name == "name":
        matches = go_patterns.any_of(values)
        return lambda c: matches(c.name) or matches("/" + c.name)
    if name == "label":
        return lambda c: all(has_label(c, v) for v in values)
    if name in ("publish", "expose"):
        ports = {port for v in values for port in port_range(name, v)}
        if name == "publish":
            return lambda c: bool(ports & _published(c))
        return lambda c: bool(ports & {_normal(p) for p in c.config.exposed_ports or ()})
    if name == "volume":
        return lambda c: any(m.name in wanted or m.destination in wanted or m.source in wanted for m in c.mounts)
    if name == "is-task":
        return lambda c: "false" in wanted or "0" in wanted
    return lambda c: c.host_config.isolation in wanted or "default" in wanted


def has_label(c: Container, wanted: str) -> bool:
    """Tell whether a container has a label: `key`, or `key=value`."""
    key, equals, value = wanted.partition("=")
    labels = c.config.labels or {}
    return key in labels and (not equals or labels[key] == value)


def _normal(port: str) -> str:
    return port if "/" in port else port + "/tcp"


def _published(c: Container) -> set[str]:
    found: set[str] = set()
    for port, bindings in (c.host_config.port_bindings or {}).items():
        protocol = port.partition("/")[2] or "tcp"
        found.add(_normal(port))
        found |= {f"{b.host_port}/{protocol}" for b in bindings or () if b.host_port}
    return found


def port_range(name: str, text: str) -> list[str]:
    """Expand `80`, `80/udp` or `80-90/tcp`."""
    numbers, _, protocol = text.partition("/")
    low, _, high = numbers.partition("-")
    if not low.isdigit() or (high and not high.isdigit()):
        raise InvalidArgument(f"invalid filter '{name}={text}'")
    return [f"{n}/{protocol or 'tcp'}" for n in range(int(low), min(int(high or low), 65535) + 1)]


def prune_tests(filters: Filters) -> list[Test]:
    """Parse the filters of prune."""
    check_names(filters, PRUNE_FILTERS)
    found: list[Test] = []
    if labels := list(filters.get("label", ())):
        found.append(lambda c: all(has_label(c, v) for v in labels))
    if barred := list(filters.get("label!", ())):
        found.append(lambda c: not any(has_label(c, v) for v in barred))
    if until := list(filters.get("until", ())):
        if len(until) > 1:
            raise InvalidArgument("more than one until filter specified")
        limit = timestamp_ns(until[0])
        found.append(lambda c: c.created_ns < limit)
    return found


def timestamp_ns(text: str) -> int:
    """Read a point in time: Unix seconds, RFC 3339, or a Go duration before now. Raises: InvalidArgument."""
    try:
        return times.moment(text, time.time_ns())
    except ValueError as e:
        raise InvalidArgument(str(e)) from e


def passes(c: Container, tests: Iterable[Test]) -> bool:
    """Tell whether a container passes every test."""
    return all(test(c) for test in tests)
