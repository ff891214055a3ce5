"""Filters of `GET /networks` and `POST /networks/prune`. Pure.

Source: Engine API 1.51 NetworkList, NetworkPrune; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime

from sampan.engine.networks.records import PREDEFINED, NetworkRecord
from sampan.errors import Internal, InvalidArgument

LIST = frozenset({"dangling", "driver", "id", "label", "name", "scope", "type", "idOrName"})
PRUNE = frozenset({"label", "label!", "until"})
_UNITS_S = {"s": 1, "m": 60, "h": 3600}

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
            ok = any(value in network.name for value in wanted)
        elif name == "id":
            ok = any(value in network.id for value in wanted)
        else:
            ok = any(value == {"driver": network.driver, "scope": network.scope}.get(name) for value in wanted)
        if not ok:
            return False
    return True


def _dangling(values: list[str]) -> bool:
    if len(values) == 1 and values[0] in ("1", "true"):
        return True
    if len(values) == 1 and values[0] in ("0", "false"):
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


def prunable(network: NetworkRecord, given: Filters) -> bool:
    """Return whether prune may remove it by these filters."""
    if not all(_label(network, value) for value in given.get("label", ())):
        return False
    if any(_label(network, value) for value in given.get("label!", ())):
        return False
    return all(_created_s(network) < until_s(value) for value in given.get("until", ()))


def _created_s(network: NetworkRecord) -> float:
    return datetime.fromisoformat(network.created[:26] + "+00:00").timestamp()


def until_s(text: str) -> float:
    """Read a time: seconds since the epoch, RFC 3339, or a Go duration before now. Raises: InvalidArgument."""
    try:
        return float(text)
    except ValueError:
        pass
    total, number = 0.0, ""
    for character in text:
        if character in _UNITS_S and number:
            total, number = total + float(number) * _UNITS_S[character], ""
        elif character.isdigit() or character == ".":
            number += character
        else:
            number = "?"
            break
    if text and not number:
        return time.time() - total
    try:
        return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError as error:
        raise InvalidArgument(f"failed to parse value as time or duration: {text!r}".replace("'", '"')) from error
