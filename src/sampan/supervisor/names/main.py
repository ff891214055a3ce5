"""sampan-names' entry: the name service of one exec root, held by a lock.

    python -m sampan.supervisor.names.main EXEC_ROOT CHANNEL_FD

The supervisor starts it with the first sandbox that needs it, and again when it has ended; it outlives both sampand
and the supervisor. kill -9 is always safe. Before the first question it gives up what it does not need (rights.py).
"""

from __future__ import annotations

import gc
import sys

from sampan.linux.confinement import confine
from sampan.supervisor.kept.entry import begin
from sampan.supervisor.kept.processes import NAMES
from sampan.supervisor.names.rights import RIGHTS
from sampan.supervisor.names.service import NameServer
from sampan.supervisor.notes import note


def main() -> int:
    """Serve until SIGTERM. Returns 1 when another one serves this exec root."""
    begun = begin(NAMES, sys.argv)
    if begun is None:
        return 1
    service = NameServer(begun.directory, begun.holding)
    service.begin()
    for what in confine(RIGHTS):
        note(f"names: the name service has more rights than it needs: {what}")
    gc.collect()
    gc.freeze()
    service.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
