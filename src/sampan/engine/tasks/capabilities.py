"""Linux capabilities by name: those that exist, and those a container has by default.

Source: capabilities(7); Docker's default set.
"""

from __future__ import annotations

import functools

from sampan.linux.capabilities import NAMES

CAPABILITIES = NAMES

DEFAULT = (  # noqa: SIM905
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP"
    " CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
).split()


@functools.cache
def permitted() -> tuple[str, ...]:
    """What this process may hand out: its permitted set, in the kernel's order."""
    with open("/proc/self/status") as f:
        mask = next(int(line.split()[1], 16) for line in f if line.startswith("CapPrm:"))
    return tuple(name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)


def normal(name: str) -> str:
    """`net_admin` → `CAP_NET_ADMIN`; `all` → `ALL`."""
    upper = name.upper()
    return "ALL" if upper in ("ALL", "CAP_ALL") else "CAP_" + upper.removeprefix("CAP_")


def of_container(*, add: list[str], drop: list[str], privileged: bool, available: tuple[str, ...]) -> list[str]:
    """Return a container's capabilities. `add` and `drop` are normal names (`CAP_…` or `ALL`).

    A dropped name that is also added stays added, as with Docker; ALL adds what the daemon itself has.
    """
    if privileged:
        return list(available)
    if "ALL" in add:
        return [c for c in available if c not in drop]
    if "ALL" in drop:
        return [c for c in add if c != "ALL"]
    kept = [c for c in DEFAULT if c not in drop]
    return kept + [c for c in add if c not in kept]
