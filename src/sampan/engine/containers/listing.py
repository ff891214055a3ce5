"""Which containers `docker ps` and `docker container prune` mean. Filters are parsed once, then applied. Pure.

Source: Engine API 1.51, ContainerList and ContainerPrune filters; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.engine.containers.records import Container
from sampan.engine.containers.states import State
from sampan.engine.images.views import boolean_filter
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec import go_patterns, go_values, times

LIST_FILTERS = frozenset(
    {"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name"}
    | {"network", "publish", "since", "status", "volume"}
)
PRUNE_FILTERS = frozenset({"label", "label!", "until"})
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_HEALTH = ("none", "starting", "healthy", "unhealthy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPorts:
    """Ports of a running container as `80/tcp`: those of the host, and its own."""

    published: frozenset[str] = frozenset()
    exposed: frozenset[str] = frozenset()


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
    networks: Callable[[Container], tuple[set[str], set[str]]],
    ports: Callable[[Container], ShownPorts],
) -> list[Test]:
    """Parse the filters into predicates; a container must pass all of them. Raises: InvalidArgument, NotFound.

    networks: names and ids of a container's networks. ports: what its sandbox exposes and publishes.
    """
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
            found.append(lambda c, v=values: _is_on(v, *networks(c)))  # type: ignore[misc]
        elif name in ("publish", "expose"):
            wanted = frozenset(port for v in values for port in port_range(name, v))
            published = name == "publish"
            found.append(
                lambda c, w=wanted, p=published: bool(w & (ports(c).published if p else ports(c).exposed))  # type: ignore[misc]
            )
        else:
            found.append(_simple(name, values))
    return found


def _one_of(name: str, values: list[str], known: tuple[str, ...]) -> None:
    what = "state" if name == "status" else name
    for value in values:
        if value not in known:
            words = f"invalid value for {what} ({value}): must be one of {', '.join(known)}"
            raise InvalidArgument(f"invalid filter '{name}={value}': {words}")


def _around(name: str, values: list[str], find: Callable[[str], Container | None]) -> Test:
    pivot = find(values[0])
    if pivot is None:
        raise NotFound(f"No such container: {values[0]}")
    place = age(pivot)
    if name == "before":
        return lambda c: age(c) < place
    return lambda c: age(c) > place


def age(c: Container) -> tuple[int, str]:
    """Return what containers are ordered by, oldest first: two that were made at one time have an order, too."""
    return c.created_ns, c.id


def _exit_code(text: str) -> int:
    try:
        return go_values.integer(text, call="Atoi")
    except ValueError as e:
        raise InvalidArgument(f"invalid filter 'exited={text}': {e}") from None


def _simple(name: str, values: list[str]) -> Test:
    """Filters that ask nobody but the record."""
    wanted = frozenset(values)
    if name == "status":
        _one_of("status", values, _STATES)
        return lambda c: c.status.state.value in wanted
    if name == "exited":
        codes = {_exit_code(v) for v in values}
        return lambda c: c.status.exit_status in codes and c.status.state is State.EXITED
    if name == "id":
        return lambda c: any(v and c.id.startswith(v) for v in values)
    if name == "name":
        matches = go_patterns.any_of(values)
        return lambda c: matches(c.name) or matches("/" + c.name)
    if name == "label":
        return lambda c: all(has_label(c, v) for v in values)
    if name == "volume":
        return lambda c: any(m.name in wanted or m.destination in wanted or m.source in wanted for m in c.mounts)
    if name == "is-task":
        tasks = boolean_filter({name: wanted}, name, False)
        return lambda c: not tasks
    return lambda c: c.host_config.isolation in wanted or "default" in wanted


def has_label(c: Container, wanted: str) -> bool:
    """Tell whether a container has a label: `key`, or `key=value`."""
    key, equals, value = wanted.partition("=")
    labels = c.config.labels or {}
    return key in labels and (not equals or labels[key] == value)


def ports_of(rows: Mapping[str, Any]) -> ShownPorts:
    """Return what `NetworkSettings.Ports` says: {"80/tcp": [{"HostIp", "HostPort"}] or None}."""
    published = {
        f"{binding['HostPort']}/{port.partition('/')[2]}"
        for port, bindings in rows.items()
        for binding in bindings or ()
    }
    return ShownPorts(published=frozenset(published), exposed=frozenset(rows))


def _is_on(wanted: Iterable[str], names: set[str], ids: set[str]) -> bool:
    """Tell whether one of the wanted is a network's name, or begins its id."""
    return any(v in names or (v and any(id.startswith(v) for id in ids)) for v in wanted)


def port_range(name: str, text: str) -> list[str]:
    """Expand `80`, `80/udp` or `80-90/tcp`."""
    numbers, _, protocol = text.partition("/")
    bounds = numbers.split("-")[:2]
    try:
        if not numbers:
            raise ValueError("Empty string specified for ports.")
        low, high = (go_values.unsigned(bound, bits=16) for bound in (bounds[0], bounds[-1]))
        if low > high:
            raise ValueError(f"Invalid range specified for the Port: {numbers}")
    except ValueError as e:
        raise Internal(f"error while looking up for {name} {text}: {e}") from None
    return [f"{n}/{protocol or 'tcp'}" for n in range(low, high + 1)]


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
