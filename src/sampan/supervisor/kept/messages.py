"""Messages with descriptors, received so that no program started later inherits them.

`socket.recv_fds` takes flags and leaves them out (CPython 3.11), so not even MSG_CMSG_CLOEXEC helps: a process that is
started a moment later has every descriptor received, and a port that has been given back stays taken.
"""

from __future__ import annotations

import array
import socket

MOST_DESCRIPTORS = 240  # of one message; the kernel's limit is 253
_SPACE = socket.CMSG_SPACE(253 * 4)


def receive(channel: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Return a message of up to `size` bytes and its descriptors, which are the caller's. Raises: OSError."""
    message, ancillary, _, _ = channel.recvmsg(size, _SPACE, socket.MSG_CMSG_CLOEXEC)
    numbers = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
    return message, list(numbers)
