"""Facts about the host for `/info` and `/version`: read from /proc, /sys and os, nothing else. No engine state.

Source: proc(5), os-release(5); field meanings from Engine API 1.51, SystemInfo.
"""

from __future__ import annotations

import functools
import os
import platform
import socket
from collections.abc import Mapping
from typing import Any

from sampan.linux.cgroups import groups

_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}


def go_arch() -> str:
    """Return the machine's architecture in Go's word: amd64, arm64, …"""
    return _GOARCH.get(platform.machine(), platform.machine())


@functools.cache
def operating_system() -> str:
    """Return PRETTY_NAME of os-release, or "Linux"."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            with open(path, encoding="utf-8", errors="replace") as f:
                fields = dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line)
        except OSError:
            continue
        return fields.get("PRETTY_NAME", "Linux").strip("\"'")
    return "Linux"


def memory_total_bytes() -> int:
    """Return the host's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1


def ipv4_forwarding() -> bool:
    """Tell whether the host forwards IPv4."""
    try:
        with open("/proc/sys/net/ipv4/ip_forward", encoding="ascii") as f:
            return f.read().strip() == "1"
    except OSError:
        return False


@functools.cache
def backing_filesystem(path: str) -> str:
    """Name the filesystem that holds `path`, in the words of Docker's storage drivers."""
    best, kind = "", "unknown"
    real = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as f:
        for line in f:
            before, _, after = line.partition(" - ")
            point = before.split()[4]
            if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
                best, kind = point, after.split()[0]
    return "extfs" if kind.startswith("ext") else kind


def limits() -> dict[str, Any]:
    """Report which resource limits the host's cgroups can enforce."""
    controllers = groups.controllers()
    v2 = groups.mode() == "unified"
    memory, cpu = "memory" in controllers, "cpu" in controllers
    found: dict[str, Any] = {
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if v2 else "1",
        "MemoryLimit": memory,
        "SwapLimit": memory and _swap_accounted(v2),
        "CpuCfsPeriod": cpu,
        "CpuCfsQuota": cpu,
        "CPUShares": cpu,
        "CPUSet": "cpuset" in controllers,
        "PidsLimit": "pids" in controllers,
        "OomKillDisable": memory and not v2,
    }
    if not v2:
        found["KernelMemoryTCP"] = memory
    return found


def _swap_accounted(v2: bool) -> bool:
    if v2:  # a kernel with swap accounts for it; the root cgroup has no memory.swap.max to look for
        return os.path.exists("/proc/swaps")
    return os.path.exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")


def identity() -> Mapping[str, Any]:
    """Return what does not change while the machine runs."""
    return {
        "KernelVersion": platform.release(),
        "OperatingSystem": operating_system(),
        "OSVersion": _os_version(),
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": memory_total_bytes(),
        "Name": socket.gethostname(),
    }


@functools.cache
def _os_version() -> str:
    try:
        return platform.freedesktop_os_release().get("VERSION_ID", "")
    except OSError:
        return ""
