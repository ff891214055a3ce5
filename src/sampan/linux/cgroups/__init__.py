"""Control groups, v1 (with or without the hybrid v2 tree) and v2, behind one interface; see `interface.Cgroup`."""

from __future__ import annotations

from sampan.linux.cgroups.factory import controllers as controllers
from sampan.linux.cgroups.factory import create as create
from sampan.linux.cgroups.factory import load as load
from sampan.linux.cgroups.factory import mode as mode
from sampan.linux.cgroups.hierarchy import CgroupLayout as CgroupLayout
from sampan.linux.cgroups.hierarchy import layout as layout
from sampan.linux.cgroups.interface import Cgroup as Cgroup

__all__ = ["Cgroup", "CgroupLayout", "controllers", "create", "layout", "load", "mode"]
