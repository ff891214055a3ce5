"""How Python talks to the kernel here: prototypes bound once, errno kept, failures as `OSError` with the path.

This module holds the binding itself and the calls that have no family of their own; the families are in `mounts`,
`namespaces`, `process`, `capabilities`. Names and argument order are C's. No policy, no retry, no default that the
kernel does not have.

Invariants: a function either returns the kernel's value or raises `OSError(errno, text, path)`; every descriptor that a
function here opens is close-on-exec; strings are encoded with the file system encoding, bytes are passed as they are.

Source: man pages section 2; the numbers from 424 on are the same on every architecture (asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from typing import NoReturn

Path = str | bytes

LIBC = ctypes.CDLL(None, use_errno=True)
_machine = os.uname().machine

# The few calls below 424 that the C library does not wrap: x86_64, then the generic table (arm64, riscv64).
_OLD_NUMBERS = {
    "capget": (125, 90),
    "capset": (126, 91),
    "pivot_root": (155, 41),
    "setgroups": (116, 159),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "keyctl": (250, 219),
    "ioprio_set": (251, 30),
    "sched_setattr": (314, 274),
    "gettid": (186, 178),
    "add_key": (248, 217),
    "rt_sigaction": (13, 134),
}

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

O_PATH = 0o10000000

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

KEYCTL_GET_KEYRING_ID = 0
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL_SETPERM = 5
KEY_SPEC_SESSION_KEYRING = -3
KEY_USR_SEARCH = 0x080000
KEY_OF_A_NEW_SESSION = 0x3F130000  # join_session_keyring: all to the possessor; view, read, link to the owner
KEY_OTH_SEARCH = 0x08

IOPRIO_WHO_PROCESS = 1

PROC_SUPER_MAGIC = 0x9FA0
DEVPTS_SUPER_MAGIC = 0x1CD1
TMPFS_MAGIC = 0x01021994
CGROUP2_SUPER_MAGIC = 0x63677270


def number(name: str) -> int:
    """Return the number of an old system call on this architecture."""
    return _OLD_NUMBERS[name][0 if _machine == "x86_64" else 1]


def bind(nr: int, *argtypes: type) -> Callable[..., int]:
    """Return `syscall(nr, …)` with its own prototype; the interpreter lock is released while it runs."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, *argtypes, use_errno=True)
    function = prototype(("syscall", LIBC))

    def call(*args: object) -> int:
        return int(function(nr, *args))

    return call


def bind_libc(name: str, *argtypes: type) -> Callable[..., int]:
    """Return a function of the C library with its prototype; for calls that it wraps since ever."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *argtypes, use_errno=True)
    function = prototype((name, LIBC))
    return function


def fail(path: Path | None = None, path2: Path | None = None) -> NoReturn:
    """Raise the `OSError` of the call that failed just now."""
    number = ctypes.get_errno()
    if path2 is not None:
        raise OSError(number, os.strerror(number), os.fsdecode(path or b""), None, os.fsdecode(path2))
    if path is not None:
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    raise OSError(number, os.strerror(number))


def raw(path: Path) -> bytes:
    """Return the bytes of a path."""
    return path if isinstance(path, bytes) else os.fsencode(path)


INT = ctypes.c_int
UINT = ctypes.c_uint
STR = ctypes.c_char_p
SIZE = ctypes.c_size_t
LONG = ctypes.c_long
ULONG = ctypes.c_ulong
PTR = ctypes.c_void_p

_openat2 = bind(437, INT, STR, STR, SIZE)
_sethostname = bind_libc("sethostname", STR, SIZE)
_setdomainname = bind_libc("setdomainname", STR, SIZE)
_personality = bind_libc("personality", ULONG)
_keyctl = bind(number("keyctl"), INT, ULONG, ULONG, ULONG, ULONG)
_keyctl_name = bind(number("keyctl"), INT, STR)
_add_key = bind(number("add_key"), STR, STR, STR, SIZE, INT)
_ioprio_set = bind(number("ioprio_set"), INT, INT, INT)
_fstatfs = bind_libc("fstatfs", INT, PTR)


def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below `dirfd` under the RESOLVE_* rules; close-on-exec is added."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve)
    fd = _openat2(dirfd, raw(path), how, 24)
    if fd < 0:
        fail(path)
    return fd


def mknodat(dirfd: int, path: Path, mode: int, device: int) -> None:
    """Make a device node, FIFO or regular file."""
    os.mknod(path, mode, device, dir_fd=dirfd)


def memfd_create(name: str, flags: int = 1) -> int:
    """Make an anonymous file; flags default to MFD_CLOEXEC."""
    return os.memfd_create(name, flags)


def sethostname(name: str) -> None:
    data = name.encode()
    if _sethostname(data, len(data)) < 0:
        fail()


def setdomainname(name: str) -> None:
    data = name.encode()
    if _setdomainname(data, len(data)) < 0:
        fail()


def personality(persona: int) -> int:
    """Set the execution domain and return the one before; 0xFFFFFFFF only asks."""
    previous = _personality(persona)
    if previous < 0:
        fail()
    return previous


def keyctl(operation: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    result = _keyctl(operation, arg2, arg3, arg4, arg5)
    if result < 0:
        fail()
    return result


def keyctl_join_session_keyring(name: str | None) -> int:
    """Give the caller a session keyring of its own; returns the key's serial number."""
    result = _keyctl_name(KEYCTL_JOIN_SESSION_KEYRING, None if name is None else name.encode())
    if result < 0:
        fail()
    return result


def add_key(kind: str, description: str, payload: bytes, keyring: int) -> int:
    """Add a key to a keyring; returns its serial number."""
    key = _add_key(kind.encode(), description.encode(), payload, len(payload), keyring)
    if key < 0:
        fail()
    return key


def ioprio_set(which: int, who: int, priority: int) -> None:
    """Set the I/O priority: class << 13 | level."""
    if _ioprio_set(which, who, priority) < 0:
        fail()


def fstatfs_type(fd: int) -> int:
    """Return the magic number of the file system that `fd` lies on."""
    buffer = ctypes.create_string_buffer(256)
    if _fstatfs(fd, ctypes.addressof(buffer)) < 0:
        fail()
    return int(struct.unpack_from("l", buffer)[0])
