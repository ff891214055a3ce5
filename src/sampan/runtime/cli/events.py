"""events: a container's statistics, and its OOM kills, as JSON lines."""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

from sampan.linux.cgroups.interface import Cgroup
from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.create import load
from sampan.runtime.cli.output import CommandFailure, print_out

Stats = dict[str, Any]


def events(call: Invocation) -> int:
    interval_s = call.flags.get("interval", 5.0)
    if interval_s <= 0:
        raise CommandFailure("duration interval must be greater than 0")
    entry = load(call)
    container = entry.container
    if entry.status() == "stopped":
        raise CommandFailure(f"container with id {container.id} is not running")
    if call.flags.get("stats"):
        _print("stats", container.id, convert(container.cgroup))
        return 0
    _follow(container.id, container.cgroup, container.pidfd, interval_s)
    return 0


def _follow(id: str, cgroup: Cgroup, pidfd: int, interval_s: float) -> None:
    """Print until init has gone."""
    oom_fd = cgroup.oom_fd()
    kills = cgroup.oom_count()
    poll = select.poll()
    poll.register(oom_fd, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    due = time.monotonic() + interval_s
    while True:
        ready = dict(poll.poll(max(0.0, due - time.monotonic()) * 1000))
        if oom_fd in ready:
            now = cgroup.oom_count()
            if now > kills:
                _print("oom", id, None)
            kills = now
        if pidfd in ready:
            return
        if not ready:
            _print("stats", id, convert(cgroup))
            due = time.monotonic() + interval_s


def _print(kind: str, id: str, data: Stats | None) -> None:
    event: Stats = {"type": kind, "id": id}
    if data is not None:
        event["data"] = data
    print_out(json.dumps(event, separators=(",", ":")) + "\n")


def convert(cgroup: Cgroup) -> Stats:
    """Return the cgroup's statistics in runc's shape; Go leaves out zeros."""
    stats = cgroup.stats()
    cpu, memory, pids = stats["cpu"], stats["memory"], stats["pids"]
    raw = memory["stats"]
    usage: Stats = {
        "total": cpu["usage_ns"],
        "percpu": cpu["percpu_ns"],
        "kernel": cpu["kernel_ns"],
        "user": cpu["user_ns"],
    }
    usage = {key: value for key, value in usage.items() if value or key in ("kernel", "user")}
    throttling = {
        "periods": cpu["periods"],
        "throttledPeriods": cpu["throttled_periods"],
        "throttledTime": cpu["throttled_ns"],
    }
    return {
        "cpu": {"usage": usage, "throttling": _without_zeros(throttling)},
        "cpuset": _cpuset(cgroup),
        "memory": {
            **_without_zeros({"cache": raw.get("cache") or raw.get("file") or 0}),
            "usage": _counter(memory),
            "swap": _counter(memory.get("swap") or {}),
            "kernel": _counter(memory.get("kernel") or {}),
            "kernelTCP": {"limit": 0, "failcnt": 0},
            "raw": raw,
        },
        "pids": _without_zeros({"current": pids["current"], "limit": pids["limit"]}),
        "blkio": _blkio(stats["blkio"]),
        "hugetlb": {
            size: {**_without_zeros({"usage": page["usage"], "max": page["max_usage"]}), "failcnt": page["failcnt"]}
            for size, page in stats["hugetlb"].items()
        },
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _without_zeros(values: Stats) -> Stats:
    return {key: value for key, value in values.items() if value}


def _counter(values: Stats) -> Stats:
    counter = {"limit": values.get("limit", 0)}
    counter.update(_without_zeros({"usage": values.get("usage", 0), "max": values.get("max_usage", 0)}))
    counter["failcnt"] = values.get("failcnt", 0)
    return counter


def _blkio(values: Stats) -> Stats:
    names = {"io_service_bytes_recursive": "ioServiceBytesRecursive", "io_serviced_recursive": "ioServicedRecursive"}
    return {new: [_without_zeros(entry) for entry in values[old]] for old, new in names.items() if values.get(old)}


def _cpuset(cgroup: Cgroup) -> Stats:
    directory = cgroup.paths.get("cpuset") or cgroup.paths.get("")
    if directory is None:
        return {}
    result: Stats = {}
    for key, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        try:
            with open(f"{directory}/{file}", encoding="ascii") as control:
                result[key] = numbers(control.read())
        except FileNotFoundError:
            continue
    for name in sorted(os.listdir(directory)):
        key = name.removeprefix("cpuset.")
        if name.startswith("cpuset.") and key in _CPUSET_FLAGS:
            with open(f"{directory}/{name}", encoding="ascii") as control:
                result[key] = int(control.read())
    return result


_CPUSET_FLAGS = frozenset(
    (
        "cpu_exclusive",
        "mem_exclusive",
        "mem_hardwall",
        "memory_migrate",
        "memory_pressure",
        "memory_spread_page",
        "memory_spread_slab",
        "sched_load_balance",
        "sched_relax_domain_level",
    )
)


def numbers(text: str) -> list[int]:
    """Parse a cpu list: "0-2,7" → [0, 1, 2, 7]."""
    found: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    return found
