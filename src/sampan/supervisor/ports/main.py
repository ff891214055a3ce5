"""sampan-ports' entry: the carrier of the published ports of one exec root, held by a lock.

    python -m sampan.supervisor.ports.main EXEC_ROOT CHANNEL_FD

The supervisor starts it with the first port that a process has to carry, and again when it has ended; it outlives both
sampand and the supervisor, and ends when no port is left. kill -9 is always safe. Before the first byte it gives up
what it does not need (rights.py). Before the first byte it gives up
what it does not need (rights.py).
"""

from __future__ import annotations

import gc
import sys

from sampan.linux.confinement import confine
from sampan.supervisor.kept.entry import begin
from sampan.supervisor.kept.processes import PORTS
from sampan.supervisor.notes import note
from sampan.supervisor.ports.rights import RIGHTS
from sampan.supervisor.ports.service import PortServer


def main() -> int:
    """Serve until no port is left, or SIGTERM. Returns 1 when another one serves this exec root."""
    begun = begin(PORTS, sys.argv)
    if begun is None:
        return 1
    service = PortServer(begun.directory, begun.holding, begun.descriptors)
    service.begin()
    for what in confine(RIGHTS):
        note(f"ports: the carrier has more rights than it needs: {what}")
    gc.collect()
    gc.freeze()
    service.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
