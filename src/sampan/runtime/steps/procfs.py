"""A procfs of another pid namespace, made by a process that is not in it.

A new procfs shows the pid namespace of the process that calls `fsopen`. Linux 6.17 takes another one as `pidns`. Before
that a process must be born there for it, and whoever is in that namespace already can look into it: so that process has
given up everything first. Its mount namespace holds one empty tmpfs, its other namespaces are new, its only descriptor
is one end of a socket pair. The caller stands in the container's cgroup already.

Source: Documentation/filesystems/proc.rst "pidns="; proc_init_fs_context in fs/proc/root.c; pid_namespaces(7).
"""

from __future__ import annotations

import errno
import os

from sampan.linux import mounts as m
from sampan.linux import namespaces, process
from sampan.linux.namespaces import (
    CLONE_CLEAR_SIGHAND,
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
)
from sampan.linux.syscalls import AT_FDCWD
from sampan.runtime import sync
from sampan.runtime.steps.process import close_others

_NEW = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP


def context(pid_namespace: int) -> int:
    """Return an open file system context, as `fsopen` does, for the procfs of a pid namespace. Raises: OSError."""
    context = m.fsopen("proc")
    try:
        m.fsconfig(context, m.FSCONFIG_SET_FD, "pidns", None, pid_namespace)
        return context
    except OSError as error:
        os.close(context)
        if error.errno != errno.EINVAL:
            raise
    return context_from_inside(pid_namespace)


def context_from_inside(pid_namespace: int) -> int:
    """Have the context opened by a process that is born in the pid namespace, with nothing else."""
    ours, theirs = sync.pair()
    try:
        emptied, pidfd = namespaces.clone3(CLONE_CLEAR_SIGHAND | _NEW)
        if emptied == 0:
            _run(pid_namespace, theirs)
        theirs.close()
        try:
            _, fd = ours.receive()
        finally:
            process.end(emptied, pidfd)
    finally:
        ours.close()
        if theirs.fd >= 0:
            theirs.close()
    if fd is None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), "procfs of another pid namespace")
    return fd


def _run(pid_namespace: int, channel: sync.Channel) -> None:
    """Leave the host's tree, let a child be born in the pid namespace, and wait for it."""
    try:
        process.prctl(process.PR_SET_DUMPABLE, 0)
        close_others([channel.fd, pid_namespace])
        process.close_range(0, 2)
        _leave_tree()
        namespaces.setns(pid_namespace, CLONE_NEWPID)
        os.close(pid_namespace)
        born, _ = namespaces.clone3(CLONE_CLEAR_SIGHAND)
        if born == 0:
            channel.send_fd(sync.GO, m.fsopen("proc"))
        else:
            os.waitpid(born, 0)
    finally:
        os._exit(0)


def _leave_tree() -> None:
    """Make an empty tmpfs the only mount of this mount namespace."""
    m.mount(None, "/", None, m.MS_PRIVATE | m.MS_REC)
    tmpfs = m.fsopen("tmpfs")
    m.fsconfig(tmpfs, m.FSCONFIG_CMD_CREATE)
    root = m.fsmount(tmpfs)
    os.close(tmpfs)
    m.move_mount(root, b"", AT_FDCWD, "/", m.MOVE_MOUNT_F_EMPTY_PATH)
    os.fchdir(root)
    os.close(root)
    m.pivot_root(".", ".")
    m.umount2(".", m.MNT_DETACH)
    os.chdir("/")
