"""A shim's life from fork to exit: title, session, subreaper, sockets, loop.

The shim is a fork of the zygote, one per container. It stays when supervisor or daemon die, and serves whoever connects
to its socket: the supervisor (control), the daemon (attach, exec). It leaves when its task has been deleted, or when
the creation failed.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from typing import NoReturn

from sampan.linux import process
from sampan.supervisor import title
from sampan.supervisor.shim.creator import Creator
from sampan.supervisor.shim.loop import Loop
from sampan.supervisor.shim.server import Server


def run(exec_root: str, control: socket.socket) -> NoReturn:
    """Be a shim: wait for a task, then be its shim. Never returns into the zygote's code."""
    status = 1
    try:
        os.setsid()
        title.set_title(f"sampan-shim (waiting) {exec_root}")
        process.set_name("sampan-shim")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        creator = Creator(exec_root)
        loop = Loop()
        server = Server(loop, exec_root, control, creator)
        gc.enable()
        loop.run()
        server.close()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)
