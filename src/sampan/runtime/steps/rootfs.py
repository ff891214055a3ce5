"""The container's root: mounted inside its own mount namespace, entered by pivot_root.

Nothing of it is ever mounted on the host, so nothing has to be unmounted there. The root's descriptor is what all
later steps resolve against.

Source: pivot_root(2) ("." twice), mount_namespaces(7), Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os

from sampan.linux import mounts as m
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_FDCWD, AT_RECURSIVE
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.options import split_overlay_layers
from sampan.runtime.plan import Plan, PlannedMount
from sampan.runtime.steps import mounts as step

_OVERLAY_LAYER_KEYS = {"lowerdir": "lowerdir+", "datadir": "datadir+"}


def cut_propagation(plan: Plan) -> None:
    """Make sure that nothing mounted here reaches the host; what the host mounts may still come in, as OCI wants.

    A shared root (a volume with shared propagation needs one) leaves the host's mounts peers of ours: then the mount
    that will hold the root is made private, so that the root itself stays ours.
    """
    propagation, recursive = plan.root_propagation or (m.MS_SLAVE, True)
    if propagation == m.MS_UNBINDABLE:
        propagation = m.MS_PRIVATE  # what is unbindable could not be cloned any more; the root gets it in the end
    m.mount(None, "/", None, propagation | (m.MS_REC if recursive else 0))
    if propagation == m.MS_SHARED or not recursive:
        _make_parent_private(plan.root_path)


def _make_parent_private(path: str) -> None:
    """Make the mount that holds `path` private; only the root of a mount takes a propagation, so walk up to it."""
    while True:
        try:
            m.mount_setattr(AT_FDCWD, path, 0, propagation=m.MS_PRIVATE)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT) or path == "/":
                raise
        path = os.path.dirname(path)


def open_source(plan: Plan) -> int:
    """Make the root as a detached mount: the first of the plan's rootfs mounts, or a clone of root.path."""
    if not plan.rootfs:
        try:
            return m.open_tree(AT_FDCWD, plan.root_path, m.OPEN_TREE_CLONE | AT_RECURSIVE)
        except OSError as error:
            message = f"root.path {plan.root_path}: {strerror(error.errno or 0)}"
            raise RuntimeFailure("rootfs", error.errno or 0, message) from error
    first = plan.rootfs[0]
    try:
        if first.fstype == "overlay":
            return overlay(first)
        return step.make(first)
    except OSError as error:
        raise step.failed(first, error, step="rootfs") from error


def attach(plan: Plan, fd: int) -> None:
    """Attach the detached root at root.path, where hooks look for it, then the rootfs mounts that lie inside it.

    In a user namespace root.path may be out of reach: then the root goes on top of "/", which pivot_root takes as well.
    """
    flags = m.MOVE_MOUNT_F_EMPTY_PATH
    try:
        m.move_mount(fd, b"", AT_FDCWD, plan.root_path, flags)
    except OSError as error:
        if not plan.user_namespace or error.errno not in (errno.EACCES, errno.ENOENT):
            raise
        m.move_mount(fd, b"", AT_FDCWD, "/", flags)
    for mount in plan.rootfs[1:]:
        inner = step.make(mount)
        try:
            step.attach(mount, inner, fd)
        finally:
            os.close(inner)


def overlay(mount: PlannedMount) -> int:
    """Mount an overlay of any number of layers, detached.

    One string of at most 255 bytes is all that fsconfig takes, so layers go one by one with `lowerdir+` (6.8); a path
    that is longer goes as a descriptor (6.13). Before that, mount(2) with paths relative to their common directory.
    """
    if not m.overlay_takes_layers():
        return overlay_by_relative_paths(mount)
    context = m.fsopen("overlay")
    opened: list[int] = []
    try:
        m.fsconfig(context, m.FSCONFIG_SET_STRING, "source", mount.source or "overlay")
        for flag in mount.options.superblock:
            m.fsconfig(context, m.FSCONFIG_SET_FLAG, flag)
        for key, value in mount.options.data:
            if key in _OVERLAY_LAYER_KEYS and value is not None:
                for layer in split_overlay_layers(value):
                    _set_directory(context, _OVERLAY_LAYER_KEYS[key], layer, opened)
            elif key in ("upperdir", "workdir") and value is not None:
                _set_directory(context, key, value, opened)
            else:
                step.set_data(context, key, value)
        m.fsconfig(context, m.FSCONFIG_CMD_CREATE)
        return m.fsmount(context, attributes=mount.options.attr_set)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENAMETOOLONG) or error.filename not in (
            "lowerdir+",
            "upperdir",
            "workdir",
        ):
            raise
        return overlay_by_relative_paths(mount)
    finally:
        os.close(context)
        for fd in opened:
            os.close(fd)


def _set_directory(context: int, key: str, path: str, opened: list[int]) -> None:
    if len(os.fsencode(path)) <= m.FSCONFIG_STRING_LIMIT:
        m.fsconfig(context, m.FSCONFIG_SET_STRING, key, path)
        return
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.append(fd)
    m.fsconfig(context, m.FSCONFIG_SET_FD, key, None, fd)


def overlay_by_relative_paths(mount: PlannedMount) -> int:
    """mount(2) on the working directory's overlay: one page of data holds some 120 short relative paths."""
    layers: list[str] = []
    others: list[str] = []
    upper: dict[str, str] = {}
    for key, value in mount.options.data:
        if key == "lowerdir" and value is not None:
            layers += split_overlay_layers(value)
        elif key in ("upperdir", "workdir") and value is not None:
            upper[key] = value
        else:
            others.append(key if value is None else f"{key}={value}")
    base = os.path.commonpath([*layers, *upper.values()])
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(base)
    try:
        lower = ":".join(os.path.relpath(layer, base).replace(":", "\\:") for layer in layers)
        parts = [f"lowerdir={lower}", *(f"{k}={os.path.relpath(v, base)}" for k, v in upper.items()), *others]
        m.mount(mount.source or "overlay", base, "overlay", 0, ",".join(parts))
        try:
            fd = m.open_tree(AT_FDCWD, base, m.OPEN_TREE_CLONE)
            step.set_attributes(fd, mount.options)
            return fd
        finally:
            m.umount2(base, m.MNT_DETACH)
    finally:
        os.fchdir(before)
        os.close(before)


def pivot(plan: Plan, root_fd: int) -> None:
    """Make `root_fd` the root and drop the host's tree, which pivot_root stacks on top of it."""
    if not plan.pivot_root:
        os.fchdir(root_fd)
        _move_over_root()
        return
    host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if plan.root_propagation is not None else -1
    os.fchdir(root_fd)
    m.pivot_root(".", ".")
    if host >= 0:  # unmounting must not reach the host where the two are peers
        m.mount_setattr(host, b"", AT_EMPTY_PATH | AT_RECURSIVE, propagation=m.MS_SLAVE)
        os.close(host)
    m.umount2(".", m.MNT_DETACH)
    os.chdir("/")
    if plan.root_propagation is not None:
        m.mount_setattr(root_fd, b"", AT_EMPTY_PATH, propagation=plan.root_propagation[0])


def _move_over_root() -> None:
    """Put the current directory's mount over "/": for a root on the kernel's initial ramdisk, which cannot be pivoted.

    The host's tree stays mounted below, out of reach of a process that cannot leave its chroot; hence only on demand.
    """
    m.mount(".", "/", None, m.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def make_readonly(root_fd: int) -> None:
    m.mount_setattr(root_fd, b"", AT_EMPTY_PATH, attr_set=m.MOUNT_ATTR_RDONLY)
