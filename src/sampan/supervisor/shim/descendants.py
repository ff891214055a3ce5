"""A process of a container and all that descends from it, as long as the parents live.

Each is stopped before its children are listed, so that it makes no further ones meanwhile.

Source: proc(5), /proc/<pid>/task/<tid>/children.
"""

from __future__ import annotations

import os
import signal

_STOPS_OR_ENDS = (signal.SIGKILL, signal.SIGSTOP)


def signal_all(pid: int, number: int) -> None:
    """Send a signal to a process and its descendants. The caller holds `pid` as its own child, so it is not reused."""
    found = [pid]
    for parent in found:
        _send(parent, signal.SIGSTOP)
        found += _children(parent)
    for one in found:
        _send(one, number)
        if number not in _STOPS_OR_ENDS:
            _send(one, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:  # it ended, or the kernel does not tell (CONFIG_PROC_CHILDREN)
        pass
    return found


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
