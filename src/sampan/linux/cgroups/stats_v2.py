"""Usage of a v2 cgroup, in the one shape that both versions share; see `Cgroup.stats`.

Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
from typing import Any

from sampan.linux.cgroups import files
from sampan.linux.cgroups.stats_v1 import pids

_US = 1000
_IO_OPERATIONS = {
    "rbytes": "read",
    "wbytes": "write",
    "dbytes": "discard",
    "rios": "read",
    "wios": "write",
    "dios": "discard",
}


def read(directory: str) -> dict[str, Any]:
    """Read all statistics; a controller that is not enabled leaves zeros."""
    return {
        "version": 2,
        "cpu": _cpu(directory),
        "memory": _memory(directory),
        "pids": pids(directory),
        "blkio": io(files.read_or(directory, "io.stat", "")),
        "hugetlb": _hugetlb(directory),
        "rdma": {},
    }


def _cpu(directory: str) -> dict[str, Any]:
    stat = files.read_map(directory, "cpu.stat")
    return {
        "usage_ns": stat.get("usage_usec", 0) * _US,
        "user_ns": stat.get("user_usec", 0) * _US,
        "kernel_ns": stat.get("system_usec", 0) * _US,
        "percpu_ns": [],
        "periods": stat.get("nr_periods", 0),
        "throttled_periods": stat.get("nr_throttled", 0),
        "throttled_ns": stat.get("throttled_usec", 0) * _US,
    }


def _memory(directory: str) -> dict[str, Any]:
    events = files.read_map(directory, "memory.events")
    swap_usage = files.read_int(directory, "memory.swap.current")
    return {
        "usage": files.read_int(directory, "memory.current"),
        "max_usage": files.read_int(directory, "memory.peak"),
        "limit": files.read_int(directory, "memory.max"),
        "failcnt": events.get("oom", 0),
        "swap": {
            "usage": swap_usage,
            "max_usage": 0,
            "limit": files.read_int(directory, "memory.swap.max"),
            "failcnt": 0,
        },
        "stats": files.read_map(directory, "memory.stat"),
        "events": events,
    }


def io(text: str) -> dict[str, Any]:
    """Parse io.stat ("major:minor key=value …") into blkio's lists."""
    service_bytes: list[dict[str, Any]] = []
    serviced: list[dict[str, Any]] = []
    for line in text.splitlines():
        number, *pairs = line.split()
        if ":" not in number:
            continue
        major, minor = map(int, number.split(":"))
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in _IO_OPERATIONS:
                entry = {"major": major, "minor": minor, "op": _IO_OPERATIONS[key], "value": int(value)}
                (service_bytes if key.endswith("bytes") else serviced).append(entry)
    return {"io_service_bytes_recursive": service_bytes, "io_serviced_recursive": serviced}


def _hugetlb(directory: str) -> dict[str, Any]:
    sizes = [n.split(".")[1] for n in os.listdir(directory) if n.startswith("hugetlb.") and n.endswith(".current")]
    return {
        size: {
            "usage": files.read_int(directory, f"hugetlb.{size}.current"),
            "max_usage": 0,
            "failcnt": files.read_map(directory, f"hugetlb.{size}.events").get("max", 0),
        }
        for size in sorted(s for s in sizes if "rsvd" not in s)
    }
