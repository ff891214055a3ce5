"""A sealed copy of the Python interpreter, and the starting of a process from it.

CVE-2019-5736 is a container overwriting the runtime's binary through /proc/self/exe. Here the binary is an anonymous
file in memory, sealed against any change: a write to it fails even for root, and the host's interpreter is not
reachable from it.
Source: memfd_create(2), fcntl(2) "File Sealing".
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sys

import sampan

_F_ADD_SEALS = 1033
_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL, SHRINK, GROW, WRITE


def sealed() -> int:
    """A descriptor (close-on-exec) of a sealed in-memory copy of the running interpreter's binary. Raises OSError."""
    memory = os.memfd_create("sampan-python", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open("/proc/self/exe", "rb") as source, open(memory, "wb", closefd=False) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        os.fchmod(memory, 0o500)
        fcntl.fcntl(memory, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(memory)
        raise
    return memory


def spawn(binary: int, module: str, arguments: list[str], peer: socket.socket) -> int:
    """Start `python -m module arguments…` from the descriptor `binary`, in a session of its own, with `peer` as
    descriptor 3. Returns the pid.

    argv[0] stays the interpreter's path: getpath finds the virtual environment through it.
    """
    source_root = os.path.dirname(os.path.dirname(os.path.abspath(sampan.__file__)))
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": source_root,
        "SAMPAN_TITLE": " " * 512,  # room for process titles, which overwrite this area
    }
    return os.posix_spawn(
        f"/proc/self/fd/{binary}",
        [sys.executable, "-s", "-P", "-m", module, *arguments],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, peer.fileno(), 3),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )
