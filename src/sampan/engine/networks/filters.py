"""Filters of `GET /networks` and `POST /networks/prune`. Pure.

Source: Engine API 1.51 NetworkList, NetworkPrune; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from sampan.engine.networks.records import PREDEFINED, NetworkRecord
from sampan.errors import Internal, InvalidArgument
from sampan.spec import go_patterns, times

LIST = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type", "idOrName"})
PRUNE = frozenset({"label", "label!", "until"})

Filters = Mapping[str, Iterable[str]]


def matches(network: NetworkRecord, given: Filters, *, used: bool) -> bool:
    """Return whether a network passes every filter; of one filter's values any will do, of labels all must."""
    for name, values in given.items():
        wanted = list(values)
        if not wanted:
            continue
        if name == "dangling":
            ok = _dangling(wanted) == (not used and network.name not in PREDEFINED)
        elif name == "type":
            ok = _type(wanted, network)
        elif name == "label":
            ok = all(_label(network, value) for value in wanted)
        elif name == "name":
            ok = go_patterns.any_of(wanted)(network.name)
        elif name == "id":
            ok = go_patterns.any_of(wanted)(network.id)
        else:
            ok = any(value == {"driver": network.driver, "scope": network.scope}.get(name) for value in wanted)
        if not ok:
            return False
    return True


def _dangling(values: list[str]) -> bool:
    if len(values) > 1:
        raise InvalidArgument('got more than one value for filter key "dangling"')
    if values[0] in ("1", "true"):
        return True
    if values[0] in ("0", "false"):
        return False
    raise InvalidArgument('invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")')


def _type(values: list[str], network: NetworkRecord) -> bool:
    for value in values:
        if value not in ("builtin", "custom"):
            raise Internal(f"invalid filter: 'type'='{value}'")
    return ("builtin" if network.name in PREDEFINED else "custom") in values


def _label(network: NetworkRecord, wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in network.labels and (not equals or network.labels[name] == value)


def prunable(network: NetworkRecord, given: Filters, before_ns: int | None) -> bool:
    """Return whether prune may remove it by these filters. before_ns: what `until_ns` made of them."""
    if before_ns is not None and times.parse(network.created) >= before_ns:
        return False
    if not all(_label(network, value) for value in given.get("label", ())):
        return False
    return not any(_label(network, value) for value in given.get("label!", ()))


def until_ns(given: Filters) -> int | None:
    """Read `until` as nanoseconds since 1970, None without one. Raises: InvalidArgument."""
    values = list(given.get("until", ()))
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    try:
        return times.moment(values[0], time.time_ns()) if values else None
    except ValueError as error:
        raise InvalidArgument(str(error)) from error
