"""`docker stats`: the supervisor's counters as the Engine API shows them, once or every second.

Source: Engine API 1.51, ContainerStatsResponse; answers of Docker Engine 28.5 on cgroup v1.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from sampan.engine.containers.records import Container, rfc3339
from sampan.engine.containers.states import WITH_TASK
from sampan.engine.containers.table import ContainerTable
from sampan.errors import NotFound
from sampan.spec import times
from sampan.supervisor.client import Supervisor

PERIOD_S = 1.0
_BLKIO = [
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
]
_NO_PIDS_LIMIT = (1 << 64) - 1  # how Docker shows pids.max on v2; on v1 it leaves the field out
_NO_THROTTLING = {"periods": 0, "throttled_periods": 0, "throttled_time": 0}
JSON = dict[str, Any]


class Stats:
    """Reads counters of running containers."""

    def __init__(self, table: ContainerTable, supervisor: Supervisor) -> None:
        self._table = table
        self._supervisor = supervisor

    async def stream(self, ref: str, *, stream: bool = True, one_shot: bool = False) -> AsyncIterator[JSON]:
        """Yield samples: one (after a second, to have two points) or, with stream, one a second until the removal."""
        c = self._table.get(ref)
        if one_shot and not stream:
            sample = await self._sample(c, None)
            if sample.get("read") != times.ZERO:
                del sample["name"], sample["id"]  # Docker fills these in where it collects, which this way passes by
            yield sample
            return
        previous = await self._sample(c, None)
        if not stream:
            if previous["read"] != times.ZERO:
                await asyncio.sleep(PERIOD_S)
                previous = await self._sample(c, previous)
            yield previous
            return
        yield previous
        while True:
            await asyncio.sleep(PERIOD_S)
            now = self._table.find(c.id)
            if now is None:
                return
            previous = await self._sample(now, previous)
            yield previous

    async def _sample(self, c: Container, previous: JSON | None) -> JSON:
        c = self._table.get(c.id)
        if c.status.state not in WITH_TASK:
            return empty(c)
        try:
            raw = await self._supervisor.stats(c.id)
        except NotFound:
            return empty(c)
        return render(c, raw, previous, now_ns=time.time_ns(), system_ns=_system_cpu_ns(), cpus=os.cpu_count() or 1)


def empty(c: Container) -> JSON:
    """Return the sample of a container without processes."""
    return {
        "name": "/" + c.name,
        "id": c.id,
        "read": times.ZERO,
        "preread": times.ZERO,
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_BLKIO),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _no_cpu(),
        "precpu_stats": _no_cpu(),
        "memory_stats": {},
    }


def _no_cpu() -> JSON:
    return {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": dict(_NO_THROTTLING),
    }


def render(c: Container, raw: JSON, previous: JSON | None, *, now_ns: int, system_ns: int, cpus: int) -> JSON:
    """Turn one sample of the supervisor into Docker's JSON. previous: the sample before, rendered, or None. Pure."""
    pids = {"current": raw.get("pids", {}).get("current", 0)}
    if limit := raw.get("pids", {}).get("limit", 0) or (_NO_PIDS_LIMIT if raw.get("version") == 2 else 0):
        pids["limit"] = limit
    before = previous if previous is not None and previous["read"] != times.ZERO else None
    shown: JSON = {
        "name": "/" + c.name,
        "id": c.id,
        "read": rfc3339(now_ns),
        "preread": before["read"] if before else times.ZERO,
        "pids_stats": pids,
        "blkio_stats": _blkio(raw),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(raw, system_ns, cpus),
        "precpu_stats": before["cpu_stats"] if before else _no_cpu(),
        "memory_stats": _memory(raw),
    }
    if networks := raw.get("networks"):
        shown["networks"] = {name: _interface(counters) for name, counters in networks.items()}
    return shown


def _blkio(raw: JSON) -> JSON:
    entries = raw.get("blkio", {})
    nothing: list[Any] | None = None if raw.get("version") == 2 else []
    return {key: entries.get(key) or nothing for key in _BLKIO}


def _cpu(raw: JSON, system_ns: int, cpus: int) -> JSON:
    cpu = raw.get("cpu", {})
    usage: JSON = {"total_usage": cpu.get("usage_ns", 0)}
    if cpu.get("percpu_ns"):
        usage["percpu_usage"] = cpu["percpu_ns"]
    usage["usage_in_kernelmode"] = cpu.get("kernel_ns", 0)
    usage["usage_in_usermode"] = cpu.get("user_ns", 0)
    return {
        "cpu_usage": usage,
        "system_cpu_usage": system_ns,
        "online_cpus": cpus,
        "throttling_data": {
            "periods": cpu.get("periods", 0),
            "throttled_periods": cpu.get("throttled_periods", 0),
            "throttled_time": cpu.get("throttled_ns", 0),
        },
    }


def _memory(raw: JSON) -> JSON:
    memory = raw.get("memory", {})
    shown: JSON = {"usage": memory.get("usage", 0)}
    if raw.get("version") != 2 and "max_usage" in memory:
        shown["max_usage"] = memory["max_usage"]
    shown["stats"] = memory.get("stats", {})
    if memory.get("failcnt"):
        shown["failcnt"] = memory["failcnt"]
    limit, total = memory.get("limit", 0), _memory_total()
    shown["limit"] = min(limit, total) if limit > 0 else total
    return shown


_INTERFACE = ["rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped"]


def _interface(counters: JSON) -> JSON:
    return {key: counters.get(key, 0) for key in _INTERFACE}


@functools.cache
def _memory_total() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _system_cpu_ns() -> int:
    """Return the host's CPU time in nanoseconds: user, nice, system, idle, iowait, irq and softirq."""
    with open("/proc/stat") as f:
        fields = f.readline().split()[1:8]
    return sum(int(n) for n in fields) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
