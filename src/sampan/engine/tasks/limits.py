"""Limits of a task in the OCI's form: `linux.resources` of its cgroup, `process.rlimits` of its processes. Pure.

Source: OCI runtime-spec 1.2, config-linux.md "Control groups"; setrlimit(2); what Docker Engine 28.5 hands to runc.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.tasks.options import ResourceLimits, Rlimit
from sampan.errors import Internal

_REFUSED = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
)
_RLIMITS = frozenset(n for n in dir(resource) if n.startswith("RLIMIT_")) | {"RLIMIT_LOCKS"}
_CPU_PERIOD_US = 100_000

Numbers = Mapping[str, tuple[int, int]]  # path of a block device → (major, minor)


def rlimits(asked: Iterable[tuple[str, int, int]], engine: EngineConfig) -> tuple[Rlimit, ...]:
    """Return the daemon's default limits with what was asked for instead. asked: (name, soft, hard), -1 is no limit.

    Raises: Internal in runc's words.
    """
    defaults = ((n, int(u.get("Soft", -1)), int(u.get("Hard", -1))) for n, u in engine.default_ulimits.items())
    limits = {limit[0]: limit for limit in (*defaults, *asked)}
    return tuple(_rlimit(*limit) for limit in limits.values())


def _rlimit(name: str, soft: int, hard: int) -> Rlimit:
    type_ = f"RLIMIT_{name.upper()}"
    soft, hard = soft % 2**64, hard % 2**64
    if type_ not in _RLIMITS:
        raise Internal(f"{_REFUSED}wrong rlimit value: {type_}")
    if soft > hard:
        raise Internal(
            f"{_REFUSED}unable to start container process: error during container init: error setting rlimits for ready"
            f" process: error setting rlimit type {getattr(resource, type_)}: invalid argument"
        )
    return Rlimit(type_, soft, hard)


def resources(limits: ResourceLimits, numbers: Numbers) -> dict[str, Any]:
    """Return `linux.resources` without devices: only what was asked for. numbers: of every block device named."""
    found: dict[str, Any] = {"memory": _memory(limits), "cpu": _cpu(limits), "blockIO": _block_io(limits, numbers)}
    if limits.pids > 0:
        found["pids"] = {"limit": limits.pids}
    return {k: v for k, v in found.items() if v}


def _memory(limits: ResourceLimits) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if limits.memory_bytes > 0:
        memory["limit"] = limits.memory_bytes
    if limits.memory_reservation_bytes > 0:
        memory["reservation"] = limits.memory_reservation_bytes
    if limits.memory_swap_bytes > 0:
        memory["swap"] = limits.memory_swap_bytes
    if limits.memory_swappiness is not None:
        memory["swappiness"] = limits.memory_swappiness
    if limits.oom_kill_disable:
        memory["disableOOMKiller"] = True
    return memory


def _cpu(limits: ResourceLimits) -> dict[str, Any]:
    cpu: dict[str, Any] = {}
    if limits.cpu_shares:
        cpu["shares"] = limits.cpu_shares
    if limits.nano_cpus:
        cpu["period"] = _CPU_PERIOD_US
        cpu["quota"] = limits.nano_cpus * _CPU_PERIOD_US // 1_000_000_000
    if limits.cpu_quota_us:
        cpu["quota"] = limits.cpu_quota_us
    if limits.cpu_period_us:
        cpu["period"] = limits.cpu_period_us
    if limits.cpu_realtime_period_us:
        cpu["realtimePeriod"] = limits.cpu_realtime_period_us
    if limits.cpu_realtime_runtime_us:
        cpu["realtimeRuntime"] = limits.cpu_realtime_runtime_us
    if limits.cpuset_cpus:
        cpu["cpus"] = limits.cpuset_cpus
    if limits.cpuset_mems:
        cpu["mems"] = limits.cpuset_mems
    return cpu


def _block_io(limits: ResourceLimits, numbers: Numbers) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if limits.blkio_weight:
        found["weight"] = limits.blkio_weight
    if limits.blkio_weights:
        found["weightDevice"] = [{**_device(numbers, d.path), "weight": d.weight} for d in limits.blkio_weights]
    for key, rates in (
        ("throttleReadBpsDevice", limits.read_bytes),
        ("throttleWriteBpsDevice", limits.write_bytes),
        ("throttleReadIOPSDevice", limits.read_operations),
        ("throttleWriteIOPSDevice", limits.write_operations),
    ):
        if rates:
            found[key] = [{**_device(numbers, d.path), "rate": d.rate} for d in rates]
    return found


def _device(numbers: Numbers, path: str) -> dict[str, int]:
    major, minor = numbers[path]
    return {"major": major, "minor": minor}
