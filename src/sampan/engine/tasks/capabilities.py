"""Linux capabilities by name: those that exist, and those a container has by default.

Source: capabilities(7); Docker's default set.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from sampan.linux.capabilities import NAMES

CAPABILITIES = NAMES

DEFAULT = (  # noqa: SIM905
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP"
    " CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
).split()


@functools.cache
def permitted() -> tuple[str, ...]:
    """Return what this process may hand out: its permitted set, in the kernel's order."""
    with open("/proc/self/status") as f:
        mask = next(int(line.split()[1], 16) for line in f if line.startswith("CapPrm:"))
    return tuple(name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)


def normal(name: str) -> str:
    """`net_admin` → `CAP_NET_ADMIN`; `all` → `ALL`."""
    upper = name.upper()
    return "ALL" if upper in ("ALL", "CAP_ALL") else "CAP_" + upper.removeprefix("CAP_")


def of_task(*, add: Iterable[str], drop: Iterable[str], privileged: bool, available: Sequence[str]) -> tuple[str, ...]:
    """Return a task's capabilities: what was asked for with --cap-add and --cap-drop, in any spelling.

    A dropped name that is also added stays added, as with Docker; ALL adds what the daemon itself has.
    """
    if privileged:
        return tuple(available)
    added, dropped = [normal(name) for name in add], {normal(name) for name in drop}
    if "ALL" in added:
        return tuple(c for c in available if c not in dropped)
    if "ALL" in dropped:
        return tuple(c for c in added if c != "ALL")
    kept = [c for c in DEFAULT if c not in dropped]
    return (*kept, *(c for c in added if c not in kept))
