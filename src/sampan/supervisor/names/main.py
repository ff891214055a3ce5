"""sampan-names' entry: the name service of one exec root, held by a lock.

    python -m sampan.supervisor.names.main EXEC_ROOT READY_FD

The supervisor starts it with the first sandbox that needs it, and again when it has ended; it outlives both sampand
and the supervisor. kill -9 is always safe.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import resource
import signal
import sys

from sampan.linux import process
from sampan.supervisor import title
from sampan.supervisor.names import table
from sampan.supervisor.names.service import NameServer

LOCK = "names.pid"


def main() -> int:
    """Serve until SIGTERM. Returns 1 when another one serves this exec root."""
    exec_root, ready_fd = sys.argv[1], int(sys.argv[2])
    directory = f"{exec_root}/{table.DIRECTORY}"
    os.umask(0o077)
    os.makedirs(directory, 0o700, exist_ok=True)
    lock = os.open(f"{directory}/{LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 1
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    process.prctl(process.PR_SET_DUMPABLE, 0)  # what is in here is no container's, whatever its capabilities
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    title.set_title(f"sampan-names {exec_root}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    service = NameServer(directory)
    gc.collect()
    gc.freeze()

    def ready() -> None:
        with contextlib.suppress(OSError):
            os.write(ready_fd, b"1")
            os.close(ready_fd)

    service.serve(ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
