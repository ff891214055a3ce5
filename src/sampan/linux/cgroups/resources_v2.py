"""OCI `linux.resources` → what to write into which v2 control file, v1 units converted as runc converts them. Pure.

A write is (controller, file, value) as in `resources_v1`; devices are in `devices.py`.

Source: OCI runtime-spec 1.2 config-linux.md; Documentation/admin-guide/cgroup-v2.rst; runc docs/cgroup-v2.md, and runc
1.3.2's formula for cpu.weight.
"""

from __future__ import annotations

import errno
import math
from typing import Any

from sampan.linux.cgroups.resources_v1 import Write, rdma_lines

_THROTTLES = (
    ("throttleReadBpsDevice", "rbps"),
    ("throttleWriteBpsDevice", "wbps"),
    ("throttleReadIOPSDevice", "riops"),
    ("throttleWriteIOPSDevice", "wiops"),
)


def plan(resources: dict[str, Any], *, fresh: bool, bfq: bool = False) -> list[Write]:
    """List the writes that `resources` ask for.

    Args:
        bfq: the io controller has `io.bfq.weight`.

    Raises:
        OSError: EINVAL, the message names the field.
    """
    values = resources.get("cpu") or {}
    writes: list[Write] = [("cpuset", f"cpuset.{key}", values[key]) for key in ("cpus", "mems") if values.get(key)]
    writes += memory(resources.get("memory") or {}, fresh=fresh)
    writes += cpu(values, fresh=fresh)
    limit = (resources.get("pids") or {}).get("limit") or 0
    if limit and not (fresh and limit < 0):
        writes.append(("pids", "pids.max", "max" if limit < 0 else str(limit)))
    writes += io(resources.get("blockIO") or {}, bfq=bfq)
    for page in resources.get("hugepageLimits") or ():
        writes.append(("hugetlb", f"hugetlb.{page['pageSize']}.max", str(page["limit"])))
    writes += [("rdma", "rdma.max", line) for line in rdma_lines(resources.get("rdma") or {})]
    for file, value in (resources.get("unified") or {}).items():
        if "/" in file or file.partition(".")[0] == "":
            raise OSError(errno.EINVAL, f'unified resource "{file}" must be a file name (no slashes)')
        writes += [(file.partition(".")[0], file, line) for line in str(value).splitlines() or [""]]
    return writes


def cpu_weight(shares: int) -> int:
    """Turn cpu.shares 2…262144 into cpu.weight 1…10000; a quadratic in log2 that maps 2 → 1, 1024 → 100 and
    262144 → 10000.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612.0 - 7.0 / 34.0))


def cpu(values: dict[str, Any], *, fresh: bool) -> list[Write]:
    writes: list[Write] = []
    if values.get("idle") is not None and not (fresh and not values["idle"]):
        writes.append(("cpu", "cpu.idle", str(values["idle"])))
    shares = values.get("shares") or 0
    if shares and not values.get("idle") and not (fresh and shares == 1024):
        writes.append(("cpu", "cpu.weight", str(cpu_weight(shares))))
    quota, period = values.get("quota") or 0, values.get("period") or 0
    if (quota or period) and not (fresh and quota <= 0 and period in (0, 100000)):
        writes.append(("cpu", "cpu.max", f"{quota if quota > 0 else 'max'} {period or 100000}"))
    # The kernel refuses a burst above the quota: it comes after.
    if values.get("burst") is not None and not (fresh and not values["burst"]):
        writes.append(("cpu", "cpu.max.burst", str(values["burst"])))
    return writes


def swap_max(limit: int, swap: int) -> int:
    """Turn OCI's memory+swap into v2's swap alone, in bytes; 0 leaves it as it is, -1 is unlimited. Equal
    values: see `memory`.
    """
    if limit == -1 and swap == 0:
        return -1
    if swap in (0, -1):
        return swap
    if limit in (0, -1):
        raise OSError(errno.EINVAL, "unable to set swap limit without memory limit")
    if limit < 0:
        raise OSError(errno.EINVAL, f"invalid memory value: {limit}")
    if swap < limit:
        raise OSError(errno.EINVAL, "memory+swap limit should be >= memory limit")
    return swap - limit


def memory(values: dict[str, Any], *, fresh: bool) -> list[Write]:
    """Plan memory.*. disableOOMKiller, swappiness and kernel limits have no counterpart in v2 and are left out,
    as runc does.
    """
    limit, swap = values.get("limit") or 0, values.get("swap") or 0
    writes: list[Write] = []
    swap_value = swap_max(limit, swap)
    if swap_value == 0 and swap > 0:
        writes.append(("memory", "memory.swap.max", "0"))
    elif swap_value and not (fresh and swap_value < 0):
        writes.append(("memory", "memory.swap.max", _max(swap_value)))
    if limit and not (fresh and limit < 0):
        writes.append(("memory", "memory.max", _max(limit)))
    if values.get("reservation") and not (fresh and values["reservation"] < 0):
        writes.append(("memory", "memory.low", _max(values["reservation"])))
    return writes


def check_usage(values: dict[str, Any], usage: int) -> None:
    """Refuse limits at or below the present usage, when `checkBeforeUpdate` asks for it: v2 would OOM-kill
    instead of EBUSY.
    """
    limit, swap = values.get("limit") or 0, values.get("swap") or 0
    if not values.get("checkBeforeUpdate"):
        return
    if 0 < swap <= usage:
        raise OSError(errno.EBUSY, f"rejecting memory+swap limit {swap} <= usage {usage}")
    if 0 < limit <= usage:
        raise OSError(errno.EBUSY, f"rejecting memory limit {limit} <= usage {usage}")


def io_weight(weight: int) -> int:
    """Turn blkio weight 10…1000 into io.weight 1…10000."""
    return 1 + (weight - 10) * 9999 // 990


def io(values: dict[str, Any], *, bfq: bool) -> list[Write]:
    writes: list[Write] = []
    if values.get("weight"):
        if bfq:
            writes.append(("io", "io.bfq.weight", str(values["weight"])))
        else:
            writes.append(("io", "io.weight", f"default {io_weight(values['weight'])}"))
    for device in values.get("weightDevice") or ():
        if device.get("weight"):
            number = f"{device['major']}:{device['minor']}"
            value = device["weight"] if bfq else io_weight(device["weight"])
            writes.append(("io", "io.bfq.weight" if bfq else "io.weight", f"{number} {value}"))
    for key, name in _THROTTLES:
        for device in values.get(key) or ():
            writes.append(("io", "io.max", f"{device['major']}:{device['minor']} {name}={device['rate']}"))
    return writes


def _max(value: int) -> str:
    return "max" if value < 0 else str(value)
