"""Capabilities: names, sets, and the order in which a process may give them up.

Source: capabilities(7), capget(2), prctl(2); names up to Linux 6.x (include/uapi/linux/capability.h).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable

from sampan.linux.process import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_CAPBSET_READ,
    prctl,
)
from sampan.linux.syscalls import PTR, STR, bind, fail, number

NAMES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]
NUMBERS = {name: value for value, name in enumerate(NAMES)}

_VERSION_3 = 0x20080522
_capget = bind(number("capget"), STR, PTR)
_capset = bind(number("capset"), STR, STR)


def mask(names: Iterable[str]) -> int:
    """Return the bit set of capability names; a name that does not exist is a KeyError."""
    bits = 0
    for name in names:
        bits |= 1 << NUMBERS[name]
    return bits


def capget(pid: int = 0) -> tuple[int, int, int]:
    """Return (effective, permitted, inheritable) as bit sets."""
    data = ctypes.create_string_buffer(24)
    if _capget(struct.pack("Ii", _VERSION_3, pid), ctypes.addressof(data)) < 0:
        fail()
    e0, p0, i0, e1, p1, i1 = struct.unpack("6I", data.raw)
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's three sets."""
    low = 0xFFFFFFFF
    data = struct.pack(
        "6I", effective & low, permitted & low, inheritable & low, effective >> 32, permitted >> 32, inheritable >> 32
    )
    if _capset(struct.pack("Ii", _VERSION_3, 0), data) < 0:
        fail()


def last() -> int:
    """Return the number of the kernel's last capability, found by asking."""
    value = len(NAMES) - 1
    while value > 0:
        try:
            prctl(PR_CAPBSET_READ, value)
            return value
        except OSError:
            value -= 1
    return value


def drop_bounding(keep: int) -> None:
    """Drop every capability from the bounding set that is not in `keep`; unknown ones beyond our table too."""
    value = 0
    while value < 64:
        if not keep >> value & 1:
            try:
                prctl(PR_CAPBSET_DROP, value)
            except OSError:
                if value >= len(NAMES) or prctl_unknown(value):
                    return
                raise
        value += 1


def prctl_unknown(value: int) -> bool:
    """Say whether the kernel does not know this capability."""
    try:
        prctl(PR_CAPBSET_READ, value)
    except OSError:
        return True
    return False


def set_ambient(bits: int) -> None:
    """Make the ambient set exactly `bits`; they must be permitted and inheritable already."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    for value in range(bits.bit_length()):
        if bits >> value & 1:
            prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, value)
