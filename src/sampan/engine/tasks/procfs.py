"""What belongs to a task's process, by way of /proc/<pid>: a pid may have another owner by the time it is used.

Source: pidfd_open(2), cgroups(7) "/proc files".
"""

from __future__ import annotations

import os
import signal


def open_root(pid: int, id: str) -> int:
    """Open the root directory of a process of the task `id`, with O_PATH. Raises: as `open_of`."""
    return open_of(pid, id, "root", os.O_PATH | os.O_DIRECTORY)


def open_namespace(pid: int, id: str, name: str) -> int:
    """Open a namespace of a process of the task `id`. name: of its link in /proc/<pid>/ns. Raises: as `open_of`."""
    return open_of(pid, id, f"ns/{name}", os.O_RDONLY)


def open_of(pid: int, id: str, name: str, flags: int) -> int:
    """Open /proc/<pid>/<name> of a process of the task `id`.

    The cgroup says whose process it is, and a pidfd that it was one process all the time. Raises: OSError, ESRCH when
    the process has gone or the pid is another's.
    """
    pidfd = os.pidfd_open(pid)
    try:
        found = os.open(f"/proc/{pid}/{name}", flags | os.O_CLOEXEC)
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
                ours = id in file.read()
            signal.pidfd_send_signal(pidfd, 0)
            if not ours:
                raise ProcessLookupError(f"process {pid} is not of task {id}")
        except BaseException:
            os.close(found)
            raise
        return found
    finally:
        os.close(pidfd)
