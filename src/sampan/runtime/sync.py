"""The channel between init and its parent: one SOCK_SEQPACKET pair, one packet a message.

    parent                                   init
      | ------ GO ----------------------------> |  user namespace: maps are written, cgroup is joined;
      |                                         |  else: the cgroup has been made, init joins it
      | <----- UNSHARED ----------------------- |  only when init makes its user namespace itself (a pid namespace by
      |                                         |  path); then there is a GO before it too, once the cgroup is joined
      | <----- PID ---------------------------- |  a new process goes on as init: the one that planned it has become
      |                                         |  init, or init has been born in a pid namespace by path
      | <----- NAMESPACES --------------------- |  only with prestart/createRuntime hooks: they run now
      | ------ GO ----------------------------> |
      | <----- CONSOLE + SCM_RIGHTS ----------- |  only with a terminal: the master
      | <----- LISTENER ----------------------- |  only with a seccomp agent: the number of the filter's listener
      | ------ GO ----------------------------> |
      | <----- TIMING ------------------------- |  only when measured
      | <----- GATE --------------------------- |  all is done but the execve; `create` returns
      |               …                         |
      | ------ GO ----------------------------> |  `start`
      | <----- end of file -------------------- |  execve has closed init's end: success
      | <----- {"step", "errno", "message"} --- |  at any time instead: failure, init exits

A missing packet is never waited for after the other side has gone: that is end of file. `exec` has PID, CONSOLE,
LISTENER and its GO, the end of file and the failure.

Who says PID may be seen, and so meddled with, by processes of a container: it is taken only for a child (`child`).
"""

from __future__ import annotations

import _socket
import array
import errno
import os

from sampan.linux import process
from sampan.runtime import failure

GO = b"g"
PID = b"p"
UNSHARED = b"u"
NAMESPACES = b"n"
CONSOLE = b"c"
TIMING = b"t"
LISTENER = b"s"
GATE = b"r"
PACKET_LIMIT = 65536


class Channel:
    """One end. `fd` is its descriptor; close-on-exec."""

    __slots__ = ("fd", "socket")

    def __init__(self, socket: _socket.socket) -> None:
        self.socket = socket
        self.fd = socket.fileno()

    def send(self, packet: bytes) -> None:
        self.socket.send(packet)

    def send_fd(self, packet: bytes, fd: int) -> None:
        self.socket.sendmsg([packet], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [fd]))])

    def receive(self, *, wait: bool = True) -> tuple[bytes, int | None]:
        """Return (packet, descriptor or None); an empty packet is end of file.

        Raises: the RuntimeFailure that the packet is; BlockingIOError without `wait`, when there is none yet.
        """
        flags = _socket.MSG_CMSG_CLOEXEC | (0 if wait else _socket.MSG_DONTWAIT)
        try:
            packet, ancillary, _, _ = self._receive(flags)
        except ConnectionResetError:
            # The other side has closed without reading our last packet. The kernel says so once, before it hands out
            # what that side had sent: its reason.
            packet, ancillary, _, _ = self._receive(flags)
        fd: int | None = None
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                fd = array.array("i", data[:4])[0]
        if packet[:1] == b"{":
            if fd is not None:
                os.close(fd)
            raise failure.decode(packet)
        return packet, fd

    def _receive(self, flags: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        return self.socket.recvmsg(PACKET_LIMIT, _socket.CMSG_SPACE(4), flags)

    def is_abandoned(self) -> bool:
        """Say whether the other side has gone; takes nothing out of the channel."""
        try:
            return not self.socket.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.socket.close()
        self.fd = -1


def pair() -> tuple[Channel, Channel]:
    """Return two connected ends."""
    a, b = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC, 0)
    return Channel(a), Channel(b)


def said_pid(packet: bytes) -> int:
    """Return the pid that a PID packet names. It is no more than a claim: see `child`."""
    return int(packet[len(PID) :])


def child(pid: int, parent: int) -> tuple[int, int]:
    """Return `pid` and an open pidfd of it, once it is proven to be a child of `parent`.

    Raises: ChildProcessError when it is none, or none any more.
    """
    if parent == os.getpid():
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return pid, process.pidfd_open(pid)
    pidfd = process.pidfd_open(pid)
    if process.parent_of(pid) != parent:
        os.close(pidfd)
        raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))
    return pid, pidfd


def adopt(fd: int) -> Channel:
    """Make an end of a descriptor that came from elsewhere; takes it over."""
    return Channel(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fileno=fd))
