"""Which garbage collection daemon.json asks for (`builder.gc`), as policies. Pure but for the size of the disk.

Source: docs.docker.com, "Build garbage collection"; BuildKit's default policy and shares of the disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from sampan.engine.builder.solver.cache import GcPolicy, Space
from sampan.errors import InvalidArgument

GB = 10**9
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?", re.IGNORECASE)
_TEMPORARY = {"type": ("source.local", "exec.cachemount", "source.git.checkout"), "unused-for": ("48h",)}


def of(builder: Mapping[str, Any], data_root: str) -> list[GcPolicy]:
    """Return the policies in order; [] when collection is off. Raises: InvalidArgument for sizes that are none."""
    asked = builder.get("gc") or {}
    if not asked.get("enabled", True):
        return []
    disk = os.statvfs(data_root)
    total = disk.f_blocks * disk.f_frsize
    space = Space(
        reserved_bytes=_bytes(asked, ("defaultReservedSpace", "defaultKeepStorage"), total, min(total // 10, 10 * GB)),
        max_used_bytes=_bytes(asked, ("defaultMaxUsedSpace",), total, min(total * 8 // 10, 100 * GB)),
        min_free_bytes=_bytes(asked, ("defaultMinFreeSpace",), total, total // 5),
    )
    if asked.get("policy"):
        return [_policy(rule, total) for rule in asked["policy"]]
    return [
        GcPolicy(filters=_TEMPORARY, space=Space(max_used_bytes=512 * 1024 * 1024)),
        GcPolicy(filters={"unused-for": ("1440h",)}, space=space),
        GcPolicy(space=space),
        GcPolicy(space=space, all=True),
    ]


def _policy(rule: Mapping[str, Any], total: int) -> GcPolicy:
    return GcPolicy(
        filters=_filters(rule.get("filter") or ()),
        all=bool(rule.get("all")),
        space=Space(
            reserved_bytes=_bytes(rule, ("reservedSpace", "keepStorage"), total, 0),
            max_used_bytes=_bytes(rule, ("maxUsedSpace",), total, 0),
            min_free_bytes=_bytes(rule, ("minFreeSpace",), total, 0),
        ),
    )


def _filters(asked: Any) -> dict[str, list[str]]:
    """`["unused-for=2200h"]` or `{"unused-for": {"2200h": true}}`."""
    if isinstance(asked, Mapping):
        return {key: [value for value, on in values.items() if on] for key, values in asked.items()}
    found: dict[str, list[str]] = {}
    for item in asked:
        key, _, value = str(item).partition("=")
        found.setdefault(key.rstrip("="), []).append(value.lstrip("="))
    return found


def _bytes(asked: Mapping[str, Any], keys: tuple[str, ...], total: int, default: int) -> int:
    """The first of these settings that is there: a number, `20GB`, `10%`."""
    value = next((asked[key] for key in keys if asked.get(key) not in (None, "")), None)
    if value is None:
        return default
    if isinstance(value, int):
        return value
    text = str(value).strip()
    if text.endswith("%"):
        return int(total * float(text[:-1]) / 100)
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"builder.gc: invalid size: '{text}'")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2].lower() or " "))
