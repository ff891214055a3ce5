"""Masked and read-only paths, and sysctls: what of procfs and sysfs a container may see and write.

Everything is opened first, looked at, and mounted from its descriptor (CVE-2025-31133). sysctls go through the handle
of a proc mount, across no other mount and no symlink (CVE-2025-52881).

Source: OCI runtime-spec 1.2 config-linux.md "Masked Paths", "Readonly Paths", "Sysctl".
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux import mounts as m
from sampan.linux.saferoot import open_in_proc, open_in_root
from sampan.linux.syscalls import AT_EMPTY_PATH, AT_RECURSIVE
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.steps.devices import open_null

_MISSING = (errno.ENOENT, errno.ENOTDIR)


def _open(root_fd: int, path: str) -> int | None:
    try:
        return open_in_root(root_fd, path)
    except OSError as error:
        if error.errno in _MISSING:
            return None
        raise


def make_readonly(root_fd: int, paths: list[str]) -> None:
    """Bind each path over itself, read-only, with all that is mounted below it; what is missing is left out."""
    for path in paths:
        place = _open(root_fd, path)
        if place is None:
            continue
        try:
            clone = m.open_tree(place, b"", m.OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH)
            try:
                m.mount_setattr(clone, b"", AT_EMPTY_PATH | AT_RECURSIVE, attr_set=m.MOUNT_ATTR_RDONLY)
                m.attach(clone, place)
            finally:
                os.close(clone)
        finally:
            os.close(place)


def mask(root_fd: int, paths: list[str]) -> None:
    """Cover each file with /dev/null and each directory with one and the same empty, read-only tmpfs."""
    null: int | None = None
    empty: int | None = None
    try:
        for path in paths:
            place = _open(root_fd, path)
            if place is None:
                continue
            try:
                if not stat.S_ISDIR(os.fstat(place).st_mode):
                    null = open_null(root_fd) if null is None else null
                    _cover(null, place)
                elif empty is None:  # attached itself: before Linux 6.15 what is detached cannot be cloned
                    empty = _empty_directory()
                    m.attach(empty, place)
                else:
                    _cover(empty, place)
            finally:
                os.close(place)
    finally:
        for fd in (null, empty):
            if fd is not None:
                os.close(fd)


def _cover(source: int, place: int) -> None:
    clone = m.open_tree(source, b"", m.OPEN_TREE_CLONE | AT_EMPTY_PATH)
    try:
        m.attach(clone, place)
    finally:
        os.close(clone)


def _empty_directory() -> int:
    """Return an empty tmpfs that can hold nothing, mounted detached and read-only."""
    context = m.fsopen("tmpfs")
    try:
        m.fsconfig(context, m.FSCONFIG_SET_STRING, "source", "tmpfs")
        m.fsconfig(context, m.FSCONFIG_SET_FLAG, "ro")
        m.fsconfig(context, m.FSCONFIG_SET_STRING, "size", "4k")
        m.fsconfig(context, m.FSCONFIG_SET_STRING, "nr_inodes", "1")
        m.fsconfig(context, m.FSCONFIG_CMD_CREATE)
        return m.fsmount(context, attributes=m.MOUNT_ATTR_RDONLY)
    finally:
        os.close(context)


def write_sysctls(proc_fd: int, values: list[tuple[str, str]]) -> None:
    """Write each (path below /proc/sys, value)."""
    for key, value in values:
        try:
            fd = open_in_proc(proc_fd, "sys/" + key, os.O_WRONLY)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)
        except OSError as error:
            number = error.errno or 0
            raise RuntimeFailure("sysctl", number, f"open /proc/sys/{key}: {strerror(number)}") from error
