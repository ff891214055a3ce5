"""How a process of ours that outsiders can talk to gives up what it does not need, once it has started.

    RIGHTS = Rights(calls={"read": (), "socket": ((Among(0, (AF_INET,)),),)}, capabilities=(), connects=(53,))
    confine(RIGHTS)        after this, each other system call fails with EPERM

Whoever takes such a process over has what `RIGHTS` names, and no way to get more: no path can be opened without
`openat`, no program is started without `execve`, and no new privilege comes with one (no_new_privs). Beside the
filter, Landlock (where the kernel has it) takes away the file system and every TCP port but those named, because a
filter sees the numbers of a call, not what its pointers lead to.

The filter is classic BPF, assembled here from a table: a small process does not load libseccomp for it. A call that is
not in the table fails and does not kill, so that a C library which tries something newer first falls back; a call by
another architecture's numbers kills.

Source: seccomp(2), landlock(7), prctl(2), capabilities(7); arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h for the numbers.
"""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sampan.linux import capabilities, landlock, process, seccomp

# name → its number on x86_64 (-1: it has none), and in the generic table (aarch64, riscv64)
NUMBERS = {
    "accept4": (288, 242),
    "bind": (49, 200),
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "close": (3, 57),
    "connect": (42, 203),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, -1),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fcntl": (72, 25),
    "fstat": (5, 80),
    "ftruncate": (77, 46),
    "futex": (202, 98),
    "geteuid": (107, 175),
    "getpeername": (52, 205),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "gettid": (186, 178),
    "ioctl": (16, 29),
    "listen": (50, 201),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "pidfd_open": (434, 434),
    "pipe2": (293, 59),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "pread64": (17, 67),
    "read": (0, 63),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "recvmmsg": (299, 243),
    "recvmsg": (47, 212),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "setns": (308, 268),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "socket": (41, 198),
    "splice": (275, 76),
    "write": (1, 64),
    "writev": (20, 66),
}

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_X32_BIT = 0x40000000
_LOAD, _JEQ, _JSET, _RETURN = 0x20, 0x15, 0x45, 0x06
_OFFSET_NR, _OFFSET_ARCH, _OFFSET_ARGUMENTS = 0, 4, 16
_ALLOW = seccomp.ACTIONS["SCMP_ACT_ALLOW"]
_KILL = seccomp.ACTIONS["SCMP_ACT_KILL_PROCESS"]
_FAIL = seccomp.ACTIONS["SCMP_ACT_ERRNO"] | errno.EPERM


@dataclass(frozen=True, slots=True)
class Among:
    """An argument of a call is one of these values. For arguments that the kernel takes as 32 bits."""

    argument: int
    values: tuple[int, ...]
    ignoring: int = 0  # bits that do not count


@dataclass(frozen=True, slots=True)
class Without:
    """An argument of a call has none of these bits."""

    argument: int
    bits: int


Test = Among | Without
Alternatives = Sequence[Sequence[Test]]
"""A call is allowed when all tests of one alternative hold; without alternatives it always is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What a process keeps. calls: by name, in the order in which the filter tries them.

    capabilities: of those that it has. connects: the TCP ports that it may connect to; None: to all.
    """

    calls: Mapping[str, Alternatives]
    capabilities: tuple[str, ...] = ()
    connects: tuple[int, ...] | None = ()


def confine(rights: Rights) -> list[str]:
    """Give up everything but `rights`, for the calling thread, which must be the only one, and for ever.

    Returns what this kernel or machine does not offer, one line for each; with that the process has more than it needs.

    Raises: OSError
    """
    process.prctl(process.PR_SET_DUMPABLE, 0)  # nobody of its user reads its memory or takes its descriptors
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))
    _keep_capabilities(rights.capabilities)
    missing = [f"Landlock: {what}" for what in landlock.restrict(rights.connects)]
    try:
        code = program(rights.calls, os.uname().machine)
    except KeyError as error:
        return [*missing, f"seccomp: the numbers of {error} are not known here"]
    seccomp.load(code)
    return missing


def _keep_capabilities(names: Iterable[str]) -> None:
    keep = capabilities.mask(names)
    had = capabilities.capget()[1] & keep
    capabilities.set_ambient(0)
    if capabilities.capget()[0] & capabilities.mask(["CAP_SETPCAP"]):
        capabilities.drop_bounding(keep)
    capabilities.capset(had, had, 0)


def program(calls: Mapping[str, Alternatives], machine: str) -> bytes:
    """Assemble the filter. Raises: KeyError for a machine whose numbers are not known."""
    column = 0 if machine == "x86_64" else 1
    code = [_insn(_LOAD, _OFFSET_ARCH), _insn(_JEQ, _AUDIT_ARCH[machine], 1), _insn(_RETURN, _KILL)]
    code.append(_insn(_LOAD, _OFFSET_NR))
    if machine == "x86_64":
        code += [_insn(_JSET, _X32_BIT, 0, 1), _insn(_RETURN, _KILL)]
    for name, alternatives in calls.items():
        number = NUMBERS[name][column]
        if number >= 0:
            body = _body(alternatives)
            code += [_insn(_JEQ, number, 0, len(body)), *body]
    return b"".join([*code, _insn(_RETURN, _FAIL)])


def _body(alternatives: Alternatives) -> list[bytes]:
    """Assemble what decides about a call whose number has been found; it always returns."""
    if not alternatives:
        return [_insn(_RETURN, _ALLOW)]
    body: list[bytes] = []
    for tests in alternatives:
        code = [_insn(_RETURN, _ALLOW)]
        for test in reversed(tests):
            code = _test(test, len(code)) + code
        body += code
    return [*body, _insn(_RETURN, _FAIL)]


def _test(test: Test, rest: int) -> list[bytes]:
    """Assemble one test: it falls through when it holds, else it passes over `rest` instructions more."""
    load = _insn(_LOAD, _OFFSET_ARGUMENTS + 8 * test.argument)  # the low half: all our architectures are little-endian
    if isinstance(test, Without):
        return [load, _insn(_JSET, test.bits, rest, 0)]
    head = [load, _insn(_AND, ~test.ignoring & 0xFFFFFFFF)] if test.ignoring else [load]
    count = len(test.values)
    tail = [_insn(_JEQ, value, count - n - 1, rest if n == count - 1 else 0) for n, value in enumerate(test.values)]
    return head + tail


_AND = 0x54


def _insn(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    """Pack one `struct sock_filter`: u16 code, u8 jt, u8 jf, u32 k."""
    return struct.pack("<HBBI", code, jt, jf, k)
