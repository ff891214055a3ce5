"""sampan-supervisor's entry: one process for one exec root, held by a lock; zygote, server, end.

    sampan-supervisor --exec-root DIR [--ready-fd N] [--debug]

It is started by sampand when absent and outlives it. SIGTERM is obeyed only when no task exists: containers do not
depend on this process, but they are its reason to be; kill -9 is always safe.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import sys

import setproctitle

from sampan.supervisor import layout
from sampan.supervisor.nursery import Nursery


def main() -> int:
    parser = argparse.ArgumentParser(prog="sampan-supervisor", description="Runs and watches containers for sampand.")
    parser.add_argument("--exec-root", required=True, help="directory for sockets and task state")
    parser.add_argument("--ready-fd", type=int, default=-1, help="descriptor to write a byte to when ready")
    parser.add_argument("--debug", action="store_true", help="write every event to the log")
    arguments = parser.parse_args()
    exec_root = os.path.abspath(arguments.exec_root)
    os.umask(0o077)
    os.makedirs(exec_root, 0o700, exist_ok=True)
    setproctitle.setproctitle(f"sampan-supervisor {exec_root}")
    lock = layout.lock(f"{exec_root}/supervisor.pid")
    if lock is None:
        print(f"sampan-supervisor: another one serves {exec_root}", file=sys.stderr)
        return 1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    nursery = Nursery(exec_root, soft)
    nursery.start()
    try:
        asyncio.run(_serve(exec_root, nursery, arguments.ready_fd, debug=arguments.debug))
    finally:
        nursery.close()
    return 0


async def _serve(exec_root: str, nursery: Nursery, ready_fd: int, *, debug: bool) -> None:
    from sampan.supervisor import server  # after the zygote has been started: it boots while this imports

    def ready() -> None:
        if ready_fd >= 0:
            with contextlib.suppress(OSError):
                os.write(ready_fd, b"1")
            os.close(ready_fd)

    await server.serve(exec_root, nursery, ready, debug=debug)


if __name__ == "__main__":
    sys.exit(main())
