"""A shim's life from fork to exit: title, session, subreaper, sockets, loop.

The shim is a fork of the zygote, one per container. It stays when supervisor or daemon die, and serves whoever connects
to its socket: the supervisor (control), the daemon (attach, exec). It leaves when its task has been deleted, or when
the creation failed.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import NoReturn

from sampan.linux import process
from sampan.linux.loop import Loop
from sampan.supervisor import notes, title
from sampan.supervisor.shim.creator import Creator
from sampan.supervisor.shim.server import Server


def run(exec_root: str, control: int) -> NoReturn:
    """Be a shim: wait on the descriptor `control` for a task, then be its shim. Never returns to the zygote."""
    status = 1
    try:
        os.setsid()
        process.set_handler(signal.SIGCHLD, process.SIG_DFL)
        creator = Creator(exec_root)  # first: what is written from now on stays private
        title.set_title(f"sampan-shim (waiting) {exec_root}")
        process.set_name("sampan-shim")
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        loop = Loop()
        server = Server(loop, exec_root, control, creator)
        gc.enable()
        loop.run()
        server.close()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        notes.flush()
        os._exit(status)
