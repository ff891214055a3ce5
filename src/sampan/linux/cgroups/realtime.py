"""Real-time budgets of cgroups v1 (a kernel with CONFIG_RT_GROUP_SCHED): a child gets of what its parents have.

Source: Documentation/scheduler/sched-rt-group.rst.
"""

from __future__ import annotations

import os

from sampan.linux.cgroups import files, hierarchy

_RUNTIME, _PERIOD = "cpu.rt_runtime_us", "cpu.rt_period_us"


def supported() -> bool:
    """Tell whether this machine has real-time budgets: cgroups v1, and a kernel that was built with them."""
    mount = hierarchy.layout().mounts.get("cpu")
    return mount is not None and os.path.exists(f"{mount}/{_RUNTIME}")


def allow(path: str, *, period_us: int, runtime_us: int) -> None:
    """Give every cgroup on the way to `path`, which is absolute, this budget; what is missing is made. 0: as it is.

    Raises: OSError when the kernel refuses a value; nothing without support.
    """
    if not supported():
        return
    directory = hierarchy.layout().mounts["cpu"]
    for name in path.strip("/").split("/"):
        directory += f"/{name}"
        files.make_directory(directory)
        if period_us:
            files.write(directory, _PERIOD, str(period_us))
        if runtime_us:
            files.write(directory, _RUNTIME, str(runtime_us))
