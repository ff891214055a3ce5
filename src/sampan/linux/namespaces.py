"""Namespaces: their flags and names, `clone3`, `unshare`, `setns`, and the id maps of a user namespace.

`clone3` here is the raw call: no handler of the C library or of Python runs in the child, the interpreter lock stays
with the caller, which therefore must be the only thread of its process. The child sees 0 and must end in execve or
`os._exit`.

Source: clone3(2), fcntl(2) "F_SETOWN", setns(2), user_namespaces(7), time_namespaces(7).
"""

from __future__ import annotations

import _ctypes
import ctypes
import fcntl
import mmap
import os
import struct
from signal import SIGCHLD

from sampan.linux.syscalls import INT, LIBC, bind_libc, fail

CLONE_NEWTIME = 0x80
CLONE_VM = 0x100
CLONE_PIDFD = 0x1000
CLONE_VFORK = 0x4000
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
CLONE_PARENT_SETTID = 0x100000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

# OCI namespace type → (flag, name below /proc/<pid>/ns)
TYPES: dict[str, tuple[int, str]] = {
    "user": (CLONE_NEWUSER, "user"),
    "mount": (CLONE_NEWNS, "mnt"),
    "pid": (CLONE_NEWPID, "pid"),
    "network": (CLONE_NEWNET, "net"),
    "ipc": (CLONE_NEWIPC, "ipc"),
    "uts": (CLONE_NEWUTS, "uts"),
    "cgroup": (CLONE_NEWCGROUP, "cgroup"),
    "time": (CLONE_NEWTIME, "time"),
}

_SYS_CLONE3 = 435
_unshare = bind_libc("unshare", INT)
_setns = bind_libc("setns", INT, INT)


class _HoldingCall(_ctypes.CFuncPtr):
    """A foreign function that keeps the interpreter lock across the call: the child must come back holding it."""

    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = ctypes.c_long
    _argtypes_ = (ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t)


_clone3 = _HoldingCall(("syscall", LIBC))


def unshare(flags: int) -> None:
    if _unshare(flags) < 0:
        fail()


def setns(fd: int, nstype: int) -> None:
    """Join a namespace by its descriptor, or all of `nstype` of the process behind a pidfd."""
    if _setns(fd, nstype) < 0:
        fail()


def clone3(flags: int, *, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Clone the calling, single-threaded process; return (pid, pidfd) in the parent and (0, -1) in the child.

    `cgroup_fd` (a v2 directory) adds CLONE_INTO_CGROUP. The end of the child is told by SIGCHLD; with CLONE_PARENT by
    what tells the end of the caller.
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD
    exit_signal = 0 if flags & CLONE_PARENT else SIGCHLD
    if cgroup_fd is not None:
        flags |= CLONE_INTO_CGROUP
    # flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size cgroup
    args = struct.pack("11Q", flags, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup_fd or 0)
    pid = int(_clone3(_SYS_CLONE3, args, len(args)))
    if pid < 0:
        fail()
    return (pid, pidfd.value) if pid else (0, -1)


class SharedPid:
    """Where the kernel writes a pid, in a page that a process and those that it clones see alike; 0 before that."""

    __slots__ = ("_number",)

    def __init__(self) -> None:
        self._number = ctypes.c_int.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))

    @property
    def value(self) -> int:
        return self._number.value

    @property
    def address(self) -> int:
        return ctypes.addressof(self._number)


def move_on(flags: int, *, cgroup_fd: int | None = None, told: SharedPid | None = None) -> int:
    """Go on as a new process, a sibling of the calling one, which ends; return the new one's pid as the parent sees it.

    told: gets the pid too, before the new process runs; the parent reads it there, whatever becomes of the new process.

    The new process gets the memory itself instead of a copy that it would have to make page by page. The kernel holds
    the old one in the system call until the new one executes a program (CLONE_VFORK), and it must never come back from
    there: the stack that it would return to is in use. So the first thing that the new process does is to write into a
    pipe whose SIGIO goes to the old one, across the border of the pid namespace, and ends it where it stands.

    Raises: OSError, in the old process.
    """
    pid = ctypes.c_int(0)
    place = told.address if told is not None else ctypes.addressof(pid)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(reader, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
        flags |= CLONE_VM | CLONE_VFORK | CLONE_PARENT | CLONE_PARENT_SETTID
        if cgroup_fd is not None:
            flags |= CLONE_INTO_CGROUP
        args = struct.pack("11Q", flags, 0, 0, place, 0, 0, 0, 0, 0, 0, cgroup_fd or 0)
        if _clone3(_SYS_CLONE3, args, len(args)) < 0:
            fail()
        os.write(writer, b"x")
    finally:
        os.close(reader)
        os.close(writer)
    return told.value if told is not None else pid.value


def write_id_maps(pid: int, uid_map: list[dict[str, int]], gid_map: list[dict[str, int]]) -> None:
    """Write the maps of a new user namespace; entries are OCI's {containerID, hostID, size}."""
    proc = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name, entries in (("uid_map", uid_map), ("gid_map", gid_map)):
            if entries:
                text = "".join(f"{e['containerID']} {e['hostID']} {e['size']}\n" for e in entries)
                _write_at(proc, name, text)
    finally:
        os.close(proc)


def _write_at(dirfd: int, name: str, text: str) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    finally:
        os.close(fd)
