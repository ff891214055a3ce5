"""Control groups, v1 (with or without the hybrid v2 tree) and v2, behind one interface: make one, or find it again."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from sampan.linux.cgroups import files, hierarchy
from sampan.linux.cgroups.interface import Cgroup, Resources
from sampan.linux.cgroups.v1 import CgroupV1
from sampan.linux.cgroups.v2 import CgroupV2


def mode() -> hierarchy.Mode:
    """Return the machine's layout: "legacy" (v1), "hybrid" (v1 with a v2 tree that holds no controllers),
    "unified" (v2).
    """
    return hierarchy.layout().mode


def controllers() -> frozenset[str]:
    """Return the resource controllers this machine offers."""
    return hierarchy.layout().controllers()


def create(path: str, resources: Resources | None, *, systemd: bool = False) -> Cgroup:
    """Make the cgroup in every hierarchy and apply `resources` and the device rules.

    Args:
        path: absolute: below the mount point; relative: below the caller's own cgroup.
        resources: OCI linux.resources. Without a `devices` list all devices but the harmless ones are denied.

    Raises:
        OSError: nothing is left behind then, except parents.
    """
    if systemd:
        raise OSError(
            errno.EOPNOTSUPP, "systemd cgroup flag passed, but systemd support for managing cgroups is not available"
        )
    cgroup = _implementation(path, hierarchy.layout())
    cgroup.make()
    try:
        cgroup.apply_fresh(resources or {})
    except BaseException:
        with suppress(
            OSError
        ):  # a process may be inside already; its owner removes the rest, and the cause matters more
            files.remove_trees(cgroup.directories, patience_s=0.0)
        raise
    return cgroup


def load(path: str) -> Cgroup:
    """Return the cgroup at `path` as it is, in the hierarchies where it exists."""
    cgroup = _implementation(path, hierarchy.layout())
    cgroup.paths = {name: directory for name, directory in cgroup.paths.items() if os.path.isdir(directory)}
    return cgroup


def _implementation(path: str, layout: hierarchy.CgroupLayout) -> Cgroup:
    if ".." in path.split("/"):
        raise OSError(errno.EINVAL, f'invalid cgroup path "{path}": contains ".."')
    return CgroupV2(path, layout) if layout.mode == "unified" else CgroupV1(path, layout)
