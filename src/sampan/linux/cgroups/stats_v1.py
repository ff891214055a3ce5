"""Usage of a v1 cgroup, in the one shape that both versions share; see `Cgroup.stats`.

Source: Documentation/admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller,hugetlb,pids}.rst.
"""

from __future__ import annotations

import os
from typing import Any

from sampan.linux.cgroups import files

#: cpuacct.stat counts in USER_HZ, which is 100 on every architecture of today.
_TICK_NS = 1_000_000_000 // 100
_THROTTLE = "blkio.throttle."
_BFQ = "blkio.bfq."


def read(paths: dict[str, str]) -> dict[str, Any]:
    """Read all statistics; a controller that is missing leaves zeros."""
    return {
        "version": 1,
        "cpu": _cpu(paths.get("cpu"), paths.get("cpuacct")),
        "memory": _memory(paths["memory"])
        if "memory" in paths
        else {"usage": 0, "limit": 0, "max_usage": 0, "stats": {}},
        "pids": pids(paths.get("pids")),
        "blkio": _blkio(paths["blkio"]) if "blkio" in paths else {},
        "hugetlb": _hugetlb(paths["hugetlb"]) if "hugetlb" in paths else {},
        "rdma": {},
    }


def pids(directory: str | None) -> dict[str, int]:
    """Read pids.current and pids.max, the same in v1 and v2; limit 0 is none."""
    if directory is None:
        return {"current": 0, "limit": 0}
    limit = files.read_or(directory, "pids.max", "max").strip()
    return {"current": files.read_int(directory, "pids.current"), "limit": 0 if limit == "max" else int(limit)}


def _cpu(cpu: str | None, cpuacct: str | None) -> dict[str, Any]:
    ticks = files.read_map(cpuacct, "cpuacct.stat") if cpuacct else {}
    throttle = files.read_map(cpu, "cpu.stat") if cpu else {}
    return {
        "usage_ns": files.read_int(cpuacct, "cpuacct.usage") if cpuacct else 0,
        "user_ns": ticks.get("user", 0) * _TICK_NS,
        "kernel_ns": ticks.get("system", 0) * _TICK_NS,
        "percpu_ns": list(map(int, files.read_or(cpuacct, "cpuacct.usage_percpu", "").split())) if cpuacct else [],
        "periods": throttle.get("nr_periods", 0),
        "throttled_periods": throttle.get("nr_throttled", 0),
        "throttled_ns": throttle.get("throttled_time", 0),
    }


def _memory(directory: str) -> dict[str, Any]:
    return {
        **_counter(directory, "memory."),
        "swap": _counter(directory, "memory.memsw."),
        "kernel": _counter(directory, "memory.kmem."),
        "stats": files.read_map(directory, "memory.stat"),
    }


def _counter(directory: str, prefix: str) -> dict[str, int]:
    return {
        "usage": files.read_int(directory, prefix + "usage_in_bytes"),
        "max_usage": files.read_int(directory, prefix + "max_usage_in_bytes"),
        "limit": files.read_int(directory, prefix + "limit_in_bytes"),
        "failcnt": files.read_int(directory, prefix + "failcnt"),
    }


def _blkio(directory: str) -> dict[str, Any]:
    """Return the scheduler's own counters when it has any, else those of the throttling layer, which always count."""
    serviced = _lines(directory, _BFQ + "io_serviced_recursive")
    prefix = _BFQ if serviced else _THROTTLE
    return {
        "io_service_bytes_recursive": _lines(directory, prefix + "io_service_bytes_recursive"),
        "io_serviced_recursive": serviced or _lines(directory, prefix + "io_serviced_recursive"),
    }


def _lines(directory: str, file: str) -> list[dict[str, Any]]:
    """Parse "major:minor Operation value" lines; the closing "Total value" is left out."""
    result = []
    for line in files.read_or(directory, file, "").splitlines():
        words = line.split()
        if len(words) == 3:
            major, minor = words[0].split(":")
            result.append({"major": int(major), "minor": int(minor), "op": words[1], "value": int(words[2])})
    return result


def _hugetlb(directory: str) -> dict[str, Any]:
    sizes = {name.split(".")[1] for name in os.listdir(directory) if name.startswith("hugetlb.")}
    return {
        size: {
            "usage": files.read_int(directory, f"hugetlb.{size}.usage_in_bytes"),
            "max_usage": files.read_int(directory, f"hugetlb.{size}.max_usage_in_bytes"),
            "failcnt": files.read_int(directory, f"hugetlb.{size}.failcnt"),
        }
        for size in sorted(sizes)
    }
