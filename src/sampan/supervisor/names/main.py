"""sampan-names' entry: the name service of one exec root, held by a lock.

    python -m sampan.supervisor.names.main EXEC_ROOT CHANNEL_FD

The supervisor starts it with the first sandbox that needs it, and again when it has ended; it outlives both sampand
and the supervisor. kill -9 is always safe. Before the first question it gives up what it does not need (rights.py).
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys

from sampan.linux.confinement import confine
from sampan.supervisor import layout, title
from sampan.supervisor.names import table
from sampan.supervisor.names.held import Holding
from sampan.supervisor.names.rights import RIGHTS
from sampan.supervisor.names.service import NameServer
from sampan.supervisor.notes import note


def main() -> int:
    """Serve until SIGTERM. Returns 1 when another one serves this exec root."""
    exec_root, channel = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    channel.set_inheritable(False)
    directory = f"{exec_root}/{table.DIRECTORY}"
    os.umask(0o077)
    os.makedirs(directory, 0o700, exist_ok=True)
    lock = layout.lock(f"{directory}/{table.LOCK}")
    if lock is None:
        return 1
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    title.set_title(f"sampan-names {exec_root}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    service = NameServer(directory, Holding(channel))
    service.begin()
    for what in confine(RIGHTS):
        note(f"names: the name service has more rights than it needs: {what}")
    gc.collect()
    gc.freeze()
    service.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
