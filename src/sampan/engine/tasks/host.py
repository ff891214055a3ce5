"""What the machine offers, as far as create-time checks and warnings ask: CPUs, memory nodes, cgroup files.

Read once: none of it changes while the daemon runs (a CPU that goes offline is the kernel's to refuse).

Source: cpuset(7), Documentation/admin-guide/cgroup-v1 and cgroup-v2.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from sampan.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """`cpus` and `mems` are kernel lists such as `0-3`."""

    cpu_count: int
    cpus: str
    mems: str
    hostname: str
    unified: bool
    memory: bool = True
    swap: bool = True
    swappiness: bool = True
    oom_kill_disable: bool = True
    cpu_shares: bool = True
    cpu_cfs: bool = True
    cpu_realtime: bool = True
    cpuset: bool = True
    pids: bool = True
    blkio_weight: bool = False
    blkio_weight_device: bool = False
    blkio_throttle: bool = True


@functools.cache
def probe() -> Host:
    """Look at this machine."""
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    base = "/sys/fs/cgroup"
    if unified:
        controllers = _read(f"{base}/cgroup.controllers").split()
        return Host(
            cpu_count=os.cpu_count() or 1,
            cpus=_read(f"{base}/cpuset.cpus.effective") or f"0-{(os.cpu_count() or 1) - 1}",
            mems=_read(f"{base}/cpuset.mems.effective") or "0",
            hostname=os.uname().nodename,
            unified=True,
            memory="memory" in controllers,
            swap="memory" in controllers and os.path.exists("/proc/swaps"),
            swappiness=False,
            oom_kill_disable=False,
            cpu_shares="cpu" in controllers,
            cpu_cfs="cpu" in controllers,
            cpu_realtime=False,
            cpuset="cpuset" in controllers,
            pids="pids" in controllers,
            blkio_weight="io" in controllers,
            blkio_weight_device="io" in controllers,
            blkio_throttle="io" in controllers,
        )

    def has(path: str) -> bool:
        return os.path.exists(f"{base}/{path}")

    return Host(
        cpu_count=os.cpu_count() or 1,
        cpus=_read(f"{base}/cpuset/cpuset.cpus") or f"0-{(os.cpu_count() or 1) - 1}",
        mems=_read(f"{base}/cpuset/cpuset.mems") or "0",
        hostname=os.uname().nodename,
        unified=False,
        memory=has("memory/memory.limit_in_bytes"),
        swap=has("memory/memory.memsw.limit_in_bytes"),
        swappiness=has("memory/memory.swappiness"),
        oom_kill_disable=has("memory/memory.oom_control"),
        cpu_shares=has("cpu/cpu.shares"),
        cpu_cfs=has("cpu/cpu.cfs_quota_us"),
        cpu_realtime=has("cpu/cpu.rt_period_us"),
        cpuset=has("cpuset"),
        pids=has("pids"),
        blkio_weight=has("blkio/blkio.weight"),
        blkio_weight_device=has("blkio/blkio.weight_device"),
        blkio_throttle=has("blkio/blkio.throttle.read_bps_device"),
    )


def _read(path: str) -> str:
    try:
        with open(path) as f:
            return f.read().strip()
    except OSError:
        return ""


def parse_list(text: str) -> set[int]:
    """Parse a kernel list (`0-2,7`). Raises: InvalidArgument `invalid format: …`."""
    numbers: set[int] = set()
    for part in text.split(","):
        if not part:
            continue
        low, dash, high = part.partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or (dash and int(high) < int(low)):
            raise InvalidArgument(f"invalid format: {text}")
        if int(high or low) > 8192:
            raise InvalidArgument("value of out range, maximum is 8192")
        numbers.update(range(int(low), int(high or low) + 1))
    return numbers
