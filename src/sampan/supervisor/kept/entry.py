"""How a kept process begins: it takes its lock and makes room for descriptors.

What it does not need it gives up when it has begun (linux/confinement.py)."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from sampan.supervisor import layout, title
from sampan.supervisor.kept.held import Holding
from sampan.supervisor.kept.processes import KeptProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a kept process has. descriptors: so many may be open. lock: held as long as the process lives."""

    directory: str
    holding: Holding
    descriptors: int
    lock: int


def begin(kind: KeptProcess, argv: Sequence[str]) -> Begun | None:
    """Begin, with the arguments EXEC_ROOT and CHANNEL_FD; None when another process serves this exec root."""
    exec_root, channel = argv[1], socket.socket(fileno=int(argv[2]))
    channel.set_inheritable(False)
    directory = f"{exec_root}/{kind.directory}"
    os.umask(0o077)
    os.makedirs(directory, 0o700, exist_ok=True)
    lock = layout.lock(f"{directory}/{kind.lock}")
    if lock is None:
        return None
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    title.set_title(f"sampan-{kind.directory} {exec_root}")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return Begun(directory=directory, holding=Holding(channel, kind.sockets), descriptors=hard, lock=lock)
