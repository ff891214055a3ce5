"""Calls about one process: prctl, pidfd, descriptors, credentials, limits, scheduling.

Credentials are set by the raw system calls: the C library's wrappers synchronise all threads of the process, and after
a raw `clone3` they would count threads that exist in the parent only.

Source: prctl(2), pidfd_open(2), pidfd_send_signal(2), pidfd_getfd(2), close_range(2), setresuid(2), prlimit(2),
sched_setattr(2).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import ctypes
import os
import select
import struct
from collections.abc import Callable
from signal import SIGKILL
from typing import Any

from sampan.linux.syscalls import INT, PTR, SIZE, STR, UINT, ULONG, bind, bind_libc, fail, number

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_MM = 35
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLOSE_RANGE_UNSHARE = 2
CLOSE_RANGE_CLOEXEC = 4
LAST_FD = 0xFFFFFFFF

PIDFD_THREAD = os.O_EXCL

# OCI name → number (asm-generic/resource.h)
RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

_fork = ctypes.PyDLL(None, use_errno=True).fork  # holds the interpreter lock, so that the child comes back with it
_prctl = bind_libc("prctl", INT, ULONG, ULONG, ULONG, ULONG)
_prctl_name = bind_libc("prctl", INT, STR, ULONG, ULONG, ULONG)
_pidfd_send_signal = bind(424, INT, INT, PTR, UINT)
_pidfd_open = bind(434, INT, UINT)
_close_range = bind(436, UINT, UINT, UINT)
_pidfd_getfd = bind(438, INT, INT, UINT)
_setgroups = bind(number("setgroups"), SIZE, STR)
_rt_sigaction = bind(number("rt_sigaction"), INT, STR, PTR, SIZE)
_setresuid = bind(number("setresuid"), UINT, UINT, UINT)
_setresgid = bind(number("setresgid"), UINT, UINT, UINT)
_prlimit64 = bind_libc("prlimit64", INT, INT, STR, PTR)
_sched_setattr = bind(number("sched_setattr"), INT, STR, UINT)


def fork() -> int:
    """Fork the calling process, which must be its only thread, without the hooks that Python runs around `os.fork`.

    Those put in order what threads may have left behind, and touch a hundred pages of the child for it.
    """
    pid: int = _fork()
    if pid < 0:
        fail()
    return pid


# `signal.signal` and its like are these behind two enums, whose code a fork would copy into memory of its own
set_handler: Callable[[int, Any], Any] = _signal.signal
get_handler: Callable[[int], Any] = _signal.getsignal
set_mask: Callable[[int, tuple[int, ...]], Any] = _signal.pthread_sigmask
SIG_DFL, SIG_IGN = 0, 1  # what they are there


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    result = _prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        fail()
    return result


def set_name(name: str) -> None:
    """Set the thread's name (15 bytes), as `ps -o comm` shows it."""
    if _prctl_name(PR_SET_NAME, name.encode()[:15], 0, 0, 0) < 0:
        fail()


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent; 0 when the process has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def pidfd_open(pid: int, flags: int = 0) -> int:
    fd = _pidfd_open(pid, flags)
    if fd < 0:
        fail(str(pid))
    return fd


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    if _pidfd_send_signal(pidfd, signal, None, 0) < 0:
        fail()


def pidfd_getfd(pidfd: int, target_fd: int) -> int:
    """Duplicate a descriptor out of another process; needs ptrace rights over it. The copy is close-on-exec."""
    fd = _pidfd_getfd(pidfd, target_fd, 0)
    if fd < 0:
        fail()
    return fd


def reset_signal(number: int) -> None:
    """Give a signal its default action, the C library's own two (32, 33) included: its sigaction(3) refuses those."""
    if _rt_sigaction(number, bytes(32), None, 8) < 0:
        fail()


def close_range(first: int, last: int = LAST_FD, flags: int = 0) -> None:
    if _close_range(first, last, flags) < 0:
        fail()


def setgroups(groups: list[int]) -> None:
    if _setgroups(len(groups), struct.pack(f"{len(groups)}I", *groups)) < 0:
        fail()


def setresuid(real: int, effective: int, saved: int) -> None:
    if _setresuid(real, effective, saved) < 0:
        fail()


def setresgid(real: int, effective: int, saved: int) -> None:
    if _setresgid(real, effective, saved) < 0:
        fail()


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set one resource limit of a process; 0 is the caller, 2**64 - 1 is unlimited."""
    if _prlimit64(pid, resource, struct.pack("QQ", soft, hard), None) < 0:
        fail()


def sched_setattr(pid: int, *, policy: int, flags: int, nice: int, priority: int, times: tuple[int, int, int]) -> None:
    """Set the scheduling policy; `times` are runtime, deadline and period in nanoseconds."""
    attributes = struct.pack("IIQiIQQQ", 48, policy, flags, nice, priority, *times)
    if _sched_setattr(pid, attributes, 0) < 0:
        fail()


def wait_pidfd(pidfd: int, timeout_s: float | None = None) -> bool:
    """Wait until the process behind `pidfd` has ended; False after `timeout_s`."""

    poll: Any = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))))


def end(pid: int, pidfd: int, limit_s: float = 5.0) -> None:
    """Kill a child or a sibling, wait for its end, close its pidfd; a child is reaped, one that has gone is fine.

    One that the kernel does not let die (it waits for a disk, or is frozen) is left after `limit_s`.
    """
    try:
        pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        pass
    wait_pidfd(pidfd, limit_s)
    os.close(pidfd)
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
