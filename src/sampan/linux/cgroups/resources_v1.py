"""OCI `linux.resources` → what to write into which v1 control file. Pure: nothing here touches the machine.

A write is (controller, file, value). The order is the order in which the kernel accepts them. Devices are in
`devices.py`. `fresh` says that the cgroup was just made: then values that the kernel has by default are left out.

Source: OCI runtime-spec 1.2 config-linux.md "Control groups"; Documentation/admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import errno
from typing import Any

Write = tuple[str, str, str]

_THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
)


def plan(resources: dict[str, Any], *, fresh: bool, memory_limit: int | None = None, bfq: bool = False) -> list[Write]:
    """List the writes that `resources` ask for.

    Args:
        memory_limit: the present memory.limit_in_bytes; orders the memory and memory+swap writes. None: unlimited.
        bfq: the blkio controller has `blkio.bfq.weight` in place of `blkio.weight`.

    Raises:
        OSError: EINVAL, the message names the field.
    """
    if resources.get("unified"):
        raise OSError(errno.EINVAL, "invalid configuration: cannot use unified on cgroup v1")
    writes = cpuset(resources.get("cpu") or {})
    writes += memory(resources.get("memory") or {}, fresh=fresh, limit_now=memory_limit)
    writes += cpu(resources.get("cpu") or {}, fresh=fresh)
    writes += pids(resources.get("pids") or {}, fresh=fresh)
    writes += blkio(resources.get("blockIO") or {}, bfq=bfq)
    for limit in resources.get("hugepageLimits") or ():
        writes.append(("hugetlb", f"hugetlb.{limit['pageSize']}.limit_in_bytes", str(limit["limit"])))
    writes += network(resources.get("network") or {})
    writes += [("rdma", "rdma.max", line) for line in rdma_lines(resources.get("rdma") or {})]
    return writes


def cpuset(values: dict[str, Any]) -> list[Write]:
    return [("cpuset", f"cpuset.{key}", values[key]) for key in ("cpus", "mems") if values.get(key)]


def cpu(values: dict[str, Any], *, fresh: bool) -> list[Write]:
    """Plan cpu.*. cpu.rt_* come first: a realtime budget must exist before a realtime process may join."""
    writes: list[Write] = []

    def add(key: str, file: str, *defaults: int) -> None:
        value = values.get(key)
        if value and not (fresh and value in defaults):
            writes.append(("cpu", file, str(value)))

    add("realtimePeriod", "cpu.rt_period_us")
    add("realtimeRuntime", "cpu.rt_runtime_us")
    if values.get("idle") is not None and not (fresh and not values["idle"]):
        writes.append(("cpu", "cpu.idle", str(values["idle"])))
    add("shares", "cpu.shares", 1024)
    if not values.get("idle") and values.get("shares") is not None and 0 < values["shares"] < 2:
        raise OSError(errno.EINVAL, "the minimum allowed cpu-shares is 2")
    if values.get("shares") is not None and values["shares"] > 262144:
        raise OSError(errno.EINVAL, "the maximum allowed cpu-shares is 262144")
    add("period", "cpu.cfs_period_us", 100000)
    quota = values.get("quota")
    if quota and not (fresh and quota < 0):
        writes.append(("cpu", "cpu.cfs_quota_us", str(max(quota, -1))))
    # The kernel refuses a burst above the quota: it comes after.
    if values.get("burst") is not None and not (fresh and not values["burst"]):
        writes.append(("cpu", "cpu.cfs_burst_us", str(values["burst"])))
    return writes


def memory(values: dict[str, Any], *, fresh: bool, limit_now: int | None) -> list[Write]:
    """Plan memory.*. limit <= limit+swap must hold after each single write, so a growing limit is written last, a
    shrinking one first.
    """
    limit = values.get("limit") or 0
    swap = values.get("swap") or 0
    if limit == -1 and swap == 0 and not fresh:
        swap = -1  # unlimited memory under a finite memory+swap would mean nothing
    writes: list[Write] = []
    pair: list[Write] = []
    if limit and not (fresh and limit < 0):
        pair.append(("memory", "memory.limit_in_bytes", str(limit)))
    if swap and not (fresh and swap < 0):
        pair.append(("memory", "memory.memsw.limit_in_bytes", str(swap)))
    if len(pair) == 2 and (swap < 0 or (limit_now is not None and limit_now < swap)):
        pair.reverse()
    writes += pair
    if values.get("reservation"):
        writes.append(("memory", "memory.soft_limit_in_bytes", str(values["reservation"])))
    # kernel and kernelTCP: the kernel has no such limits since 5.16; ignored, as runc does.
    if values.get("disableOOMKiller"):
        writes.append(("memory", "memory.oom_control", "1"))
    swappiness = values.get("swappiness")
    if swappiness is not None and swappiness != -1 and swappiness != (1 << 64) - 1:
        if not 0 <= swappiness <= 100:
            raise OSError(errno.EINVAL, f"invalid memory swappiness value: {swappiness} (valid range is 0-100)")
        writes.append(("memory", "memory.swappiness", str(swappiness)))
    return writes


def pids(values: dict[str, Any], *, fresh: bool) -> list[Write]:
    limit = values.get("limit") or 0
    if not limit or (fresh and limit < 0):
        return []
    return [("pids", "pids.max", "max" if limit < 0 else str(limit))]


def blkio(values: dict[str, Any], *, bfq: bool) -> list[Write]:
    prefix = "blkio.bfq." if bfq else "blkio."
    writes: list[Write] = []
    if values.get("weight"):
        writes.append(("blkio", prefix + "weight", str(values["weight"])))
    if values.get("leafWeight"):
        writes.append(("blkio", "blkio.leaf_weight", str(values["leafWeight"])))
    for device in values.get("weightDevice") or ():
        number = f"{device['major']}:{device['minor']}"
        if device.get("weight"):
            writes.append(("blkio", prefix + "weight_device", f"{number} {device['weight']}"))
        if device.get("leafWeight"):
            writes.append(("blkio", "blkio.leaf_weight_device", f"{number} {device['leafWeight']}"))
    for key, file in _THROTTLES:
        for device in values.get(key) or ():
            writes.append(("blkio", file, f"{device['major']}:{device['minor']} {device['rate']}"))
    return writes


def network(values: dict[str, Any]) -> list[Write]:
    writes: list[Write] = []
    if values.get("classID"):
        writes.append(("net_cls", "net_cls.classid", str(values["classID"])))
    for entry in values.get("priorities") or ():
        writes.append(("net_prio", "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}"))
    return writes


def rdma_lines(values: dict[str, Any]) -> list[str]:
    """Return the lines of `rdma.max`, one per device, as both v1 and v2 take them."""
    lines = []
    for device, limit in values.items():
        words = [device]
        if limit.get("hcaHandles") is not None:
            words.append(f"hca_handle={limit['hcaHandles']}")
        if limit.get("hcaObjects") is not None:
            words.append(f"hca_object={limit['hcaObjects']}")
        if len(words) > 1:
            lines.append(" ".join(words))
    return lines
