"""sampan-names' entry: the name service of one exec root, held by a lock.

    python -m sampan.supervisor.names.main EXEC_ROOT CHANNEL_FD

The supervisor starts it with the first sandbox that needs it, and again when it has ended; it outlives both sampand
and the supervisor. kill -9 is always safe.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import sys

from sampan.linux import capabilities, process
from sampan.supervisor import layout, title
from sampan.supervisor.names import table
from sampan.supervisor.names.held import Holding
from sampan.supervisor.names.service import NameServer

CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN")
"""For setns(2), for opening /proc/PID/ns/net of another user's process, and for the namespace of a socket."""


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
    process.prctl(process.PR_SET_DUMPABLE, 0)  # what is in here is no container's, whatever its capabilities
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    title.set_title(f"sampan-names {exec_root}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    service = NameServer(directory, Holding(channel))
    give_up()
    gc.collect()
    gc.freeze()
    service.serve()
    return 0


def give_up() -> None:
    """Keep what entering a sandbox's namespace takes, and nothing else; no program started from here gets more."""
    for name in capabilities.NAMES:
        if name not in CAPABILITIES:
            with contextlib.suppress(OSError):  # one that this kernel does not know
                process.prctl(process.PR_CAPBSET_DROP, capabilities.NUMBERS[name])
    had = capabilities.capget()[1]
    kept = had & capabilities.mask(CAPABILITIES)
    capabilities.capset(kept, kept, 0)
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)


if __name__ == "__main__":
    sys.exit(main())
