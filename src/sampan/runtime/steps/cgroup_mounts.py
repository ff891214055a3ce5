"""The container's view of its cgroups at /sys/fs/cgroup: OCI mounts of type `cgroup` (and `cgroup2`).

    v2, cgroup namespace        a new mount of the v2 tree, whose root the kernel makes the container's cgroup
    v2, none                    a bind of the host's mount, so the whole tree
    v1, cgroup namespace        a tmpfs with one cgroup mount for each hierarchy
    v1, none                    a tmpfs with a bind of the container's own cgroup for each hierarchy

Source: cgroup_namespaces(7); what the reference runtime shows inside a container.
"""

from __future__ import annotations

import errno
import os

from sampan.linux import mounts as m
from sampan.linux.cgroups.hierarchy import layout
from sampan.linux.cgroups.interface import Cgroup
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD
from sampan.runtime.plan import PlannedMount
from sampan.runtime.steps import mounts as step


def mount(spec: PlannedMount, root_fd: int, cgroup: Cgroup, *, namespace: bool) -> None:
    """Mount `spec` (type cgroup or cgroup2) at its destination."""
    machine = layout()
    attributes = spec.options.attr_set
    if machine.mode == "unified" or spec.fstype == "cgroup2":
        # Without a namespace the container sees the tree as runc shows it; but bound, because a new mount made
        # outside of a cgroup namespace resets the options of all (nsdelegate, memory_recursiveprot).
        directory = cgroup.paths.get("", machine.v2_root) if namespace else machine.v2_root
        _attach_unified(spec, root_fd, directory, attributes, namespace=namespace)
        return
    context = m.fsopen("tmpfs")
    try:
        m.fsconfig(context, m.FSCONFIG_SET_STRING, "source", "tmpfs")
        m.fsconfig(context, m.FSCONFIG_SET_STRING, "mode", "755")
        m.fsconfig(context, m.FSCONFIG_CMD_CREATE)
        base = m.fsmount(context, attributes=attributes & ~m.MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)
    try:
        step.attach(spec, base, root_fd)
        _fill(base, cgroup, attributes, namespace=namespace)
    finally:
        os.close(base)


def _attach_unified(spec: PlannedMount, root_fd: int, directory: str, attributes: int, *, namespace: bool) -> None:
    fd = _new("cgroup2", None, attributes) if namespace else None
    if fd is None:
        fd = m.open_tree(AT_FDCWD, directory, m.OPEN_TREE_CLONE)
        m.mount_setattr(fd, b"", AT_EMPTY_PATH, attr_set=attributes)
    try:
        step.attach(spec, fd, root_fd)
    finally:
        os.close(fd)


def _fill(base: int, cgroup: Cgroup, attributes: int, *, namespace: bool) -> None:
    """Make one mount for each v1 hierarchy, and for co-mounted controllers a link by each name."""
    by_root: dict[str, list[str]] = {}
    for controller, root in layout().mounts.items():
        by_root.setdefault(root, []).append(controller)
    for root, controllers in by_root.items():
        name = os.path.basename(root)
        fd = _new("cgroup", controllers, attributes) if namespace else None
        if fd is None:
            directory = cgroup.paths.get(controllers[0])
            if directory is None:
                continue
            fd = m.open_tree(AT_FDCWD, directory, m.OPEN_TREE_CLONE)
            if attributes:
                m.mount_setattr(fd, b"", AT_EMPTY_PATH, attr_set=attributes)
        try:
            os.mkdir(name, 0o755, dir_fd=base)
            m.move_mount(fd, b"", base, name, m.MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(fd)
        for controller in controllers if len(controllers) > 1 else ():
            if controller != name:
                os.symlink(name, controller, dir_fd=base)


def _new(fstype: str, controllers: list[str] | None, attributes: int) -> int | None:
    """Mount a hierarchy anew, detached; None where the kernel does not allow it here (a user namespace of ours)."""
    context = m.fsopen(fstype)
    try:
        m.fsconfig(context, m.FSCONFIG_SET_STRING, "source", "cgroup")
        for controller in controllers or ():
            key, equals, value = controller.partition("=")
            if equals:
                m.fsconfig(context, m.FSCONFIG_SET_FLAG, "none")
                m.fsconfig(context, m.FSCONFIG_SET_STRING, key, value)
            else:
                m.fsconfig(context, m.FSCONFIG_SET_FLAG, key)
        m.fsconfig(context, m.FSCONFIG_CMD_CREATE)
        return m.fsmount(context, attributes=attributes)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EBUSY):
            raise
        return None
    finally:
        os.close(context)
