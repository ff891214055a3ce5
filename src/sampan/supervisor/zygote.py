"""The zygote: a small single-threaded process with the runtime and the shim imported, of which every shim is a fork.

A container start then costs a fork instead of an interpreter's boot. It runs from a sealed copy of the interpreter in
memory (interpreter.py), so nothing that a container could reach through /proc/self/exe is the host's file. It holds no
secrets and no state: when it dies, the supervisor makes another.

Protocol: on descriptor 3, a SOCK_SEQPACKET pair with the supervisor, one byte plus one descriptor (the shim's control
socket) = one shim. There is no answer: the shim itself says hello on its control socket. End of file means the
supervisor is gone; the zygote goes too, its shims stay.
"""

from __future__ import annotations

import _socket
import encodings.ascii
import gc
import os
import resource
import signal
import sys

from sampan.linux import process, seccomp
from sampan.runtime.warm import warm
from sampan.supervisor import title
from sampan.supervisor.shim import main as shim
from sampan.supervisor.shim import rehearsal

SOCKET_FD = 3
_ROOM_FOR_ONE = _socket.CMSG_SPACE(4)
_PRELOADED = (encodings.ascii, seccomp)  # imported at first use otherwise: late, or even inside a container


def main() -> None:
    """`python -m sampan.supervisor.zygote <exec_root> <soft nofile limit>`."""
    exec_root, nofile = sys.argv[1], int(sys.argv[2])
    os.umask(0o077)
    # the supervisor raised its own soft limit; containers inherit what the supervisor was given
    resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    process.prctl(process.PR_SET_DUMPABLE, 0)
    os.set_inheritable(SOCKET_FD, False)
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, SOCKET_FD)
    warm()
    rehearsal.rehearse(exec_root)
    title.set_title(f"sampan-zygote {exec_root}")
    process.set_handler(signal.SIGCHLD, process.SIG_IGN)  # the kernel reaps shims
    gc.collect()
    gc.disable()
    rehearsal.fill_gaps()
    gc.freeze()
    while True:
        message, rights, _, _ = peer.recvmsg(1, _ROOM_FOR_ONE, _socket.MSG_CMSG_CLOEXEC)
        if not message:
            return
        if not rights:
            continue
        control = int.from_bytes(rights[0][2], sys.byteorder)
        if process.fork() == 0:
            peer.close()
            shim.run(exec_root, control)
        os.close(control)


if __name__ == "__main__":
    main()
