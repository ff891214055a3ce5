"""Device nodes, links and the console below /dev.

Nodes are made by mknod; where the kernel forbids that (user namespaces, the device cgroup), the host's node is bound
after it proved to be the device that was asked for (CVE-2025-31133).

Source: OCI runtime-spec 1.2 config-linux.md "Devices", "Default Devices"; pts(4).
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux import mounts as m
from sampan.linux import pty
from sampan.linux.saferoot import mkdirs, open_in_root, open_or_make
from sampan.linux.syscalls import AT_EMPTY_PATH
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.plan import Device

_EXPECTED = {0o020000: stat.S_ISCHR, 0o060000: stat.S_ISBLK, 0o010000: stat.S_ISFIFO}


def make_all(root_fd: int, devices: list[Device], links: list[tuple[str, str]], host: dict[str, int]) -> None:
    """Make every device and link; `host` maps paths to clones of host nodes that the parent has opened."""
    if not devices and not links:
        return
    dev_fd, _ = mkdirs(root_fd, "/dev")
    umask = os.umask(0)  # a node gets its mode as it is asked for
    try:
        for device in devices:
            directory, name = os.path.split(device.path)
            if directory == "/dev":
                _make(root_fd, dev_fd, name, device, host)
            else:
                parent, _ = mkdirs(root_fd, directory)
                try:
                    _make(root_fd, parent, name, device, host)
                finally:
                    os.close(parent)
        for name, target in links:
            _link(dev_fd, name, target)
    finally:
        os.umask(umask)
        os.close(dev_fd)


def _make(root_fd: int, parent_fd: int, name: str, device: Device, host: dict[str, int]) -> None:
    if device.path in host:
        _bind(root_fd, device, host[device.path])
        return
    try:
        os.mknod(name, device.kind | device.mode, device.number, dir_fd=parent_fd)
    except FileExistsError:
        os.close(open_verified(parent_fd, name, device.kind, device.number))
        return
    except PermissionError:
        _bind(root_fd, device, clone_host_node(device))
        return
    if device.uid or device.gid:
        os.chown(name, device.uid, device.gid, dir_fd=parent_fd, follow_symlinks=False)


def open_verified(parent_fd: int, name: str, kind: int, number: int) -> int:
    """Open a node with O_PATH and make sure that it is the device it is taken for."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    status = os.fstat(fd)
    if not _EXPECTED[kind](status.st_mode) or (kind != 0o010000 and status.st_rdev != number):
        os.close(fd)
        what = f"{os.major(number)}:{os.minor(number)}"
        raise RuntimeFailure("devices", errno.EINVAL, f"device {name}: not the expected device {what}")
    return fd


def clone_host_node(device: Device) -> int:
    """Return a detached bind of the host's node at the same path, verified."""
    directory, name = os.path.split(device.path)
    parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        node = open_verified(parent, name, device.kind, device.number)
    finally:
        os.close(parent)
    try:
        return m.open_tree(node, b"", m.OPEN_TREE_CLONE | AT_EMPTY_PATH)
    finally:
        os.close(node)


def _bind(root_fd: int, device: Device, clone: int) -> None:
    place, _ = open_or_make(root_fd, device.path, directory=False, mode=0o644)
    try:
        m.attach(clone, place)
    finally:
        os.close(place)
        os.close(clone)


def _link(dev_fd: int, name: str, target: str) -> None:
    if name == "ptmx":
        try:
            os.unlink(name, dir_fd=dev_fd)
        except FileNotFoundError:
            pass
    try:
        os.symlink(target, name, dir_fd=dev_fd)
    except FileExistsError:
        pass


def open_null(root_fd: int) -> int:
    """Open the root's /dev/null, proven to be the null device."""
    fd = open_in_root(root_fd, "/dev", os.O_PATH | os.O_DIRECTORY)
    try:
        return open_verified(fd, "null", 0o020000, os.makedev(1, 3))
    finally:
        os.close(fd)


def open_terminal(root_fd: int) -> tuple[int, int]:
    """Open a terminal of the container's own devpts; return (master, slave)."""
    fd = open_in_root(root_fd, "/dev/pts", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return pty.open_pair(fd)
    finally:
        os.close(fd)


def bind_console(root_fd: int, slave: int) -> None:
    """Bind the slave at /dev/console, from its descriptor: no name below /dev/pts is looked up (CVE-2025-52565)."""
    clone = m.open_tree(slave, b"", m.OPEN_TREE_CLONE | AT_EMPTY_PATH)
    try:
        place, _ = open_or_make(root_fd, "/dev/console", directory=False, mode=0o620)
        try:
            m.attach(clone, place)
        finally:
            os.close(place)
    finally:
        os.close(clone)
