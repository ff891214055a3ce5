"""The sandboxes' sockets, held by the supervisor: while the name service is away, questions wait in them.

    name service                       supervisor
    ready                              it answers from now on
    keep ID, with both sockets         holds them, in the place of older ones
    drop ID                            closes them
    take ID                            answers with both, or with none
    rest                               closes what this name service has not asked for
    ended ID                           closes them, and deletes the sandbox's file
    servers                            says which resolvers the host has

Messages of one SOCK_SEQPACKET pair. The name service waits for the supervisor in `take` alone, and not for long: what
is not held it makes again, and only the questions that were waiting are lost. It does here what it has no right to do
itself (rights.py); whoever took it over could delete files of `names`, and no others.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from sampan.linux.loop import READ, Loop
from sampan.supervisor.names import table
from sampan.supervisor.names.hostservers import HostFile

_TAKE_S = 1.0
_BYTES = 256
_BOTH = 2
TAKEN = b"taken"


class Holder:
    """The supervisor's side: what is held, over all the name services that come and go.

    directory: where the sandboxes' files are.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._host = HostFile()
        self._held: dict[str, tuple[int, ...]] = {}
        self._asked: set[str] = set()

    def __len__(self) -> int:
        return len(self._held)

    def begin(self) -> None:
        """Forget what was asked for: another name service begins."""
        self._asked.clear()

    def close(self) -> None:
        """Close everything."""
        for id in list(self._held):
            self._drop(id)

    def handle(self, channel: socket.socket, ready: Callable[[], None]) -> bool:
        """Do what one message of a name service says; False when it has ended. The channel does not block."""
        try:
            message, fds, _, _ = socket.recv_fds(channel, _BYTES, _BOTH, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        except OSError:
            return False
        word, _, id = message.decode(errors="replace").partition(" ")
        if word == "keep" and len(fds) == _BOTH and self._known(id):
            self._drop(id)
            self._held[id], fds = tuple(fds), []
            self._asked.add(id)
        elif word == "drop":
            self._drop(id)
        elif word == "ended":
            self._drop(id)
            if self._known(id):
                with contextlib.suppress(OSError):
                    os.unlink(f"{self._directory}/{table.file_name(id)}")
        elif word == "servers":
            with contextlib.suppress(OSError):
                channel.send(" ".join(["servers", *self._host.servers()]).encode(), socket.MSG_DONTWAIT)
        elif word == "take":
            self._asked.add(id)
            with contextlib.suppress(OSError):
                socket.send_fds(channel, [TAKEN], self._held.get(id, ()), socket.MSG_DONTWAIT)
        elif word == "rest":
            for unasked in [id for id in self._held if id not in self._asked]:
                self._drop(unasked)
        elif word == "ready":
            ready()
        for fd in fds:
            os.close(fd)
        return bool(message)

    def _known(self, id: str) -> bool:
        """Return whether sampand has written a file of this sandbox: so no more is held than there are sandboxes."""
        return id.replace("-", "").isalnum() and os.path.exists(f"{self._directory}/{table.file_name(id)}")

    def _drop(self, id: str) -> None:
        for fd in self._held.pop(id, ()):
            os.close(fd)


class Holding:
    """The name service's side. Without a supervisor nothing is held, and nothing fails."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        channel.settimeout(_TAKE_S)
        self._loop: Loop | None = None
        self._servers: Callable[[list[str]], None] = lambda _: None

    def watch(self, loop: Loop, servers: Callable[[list[str]], None]) -> None:
        """Take in what the supervisor says when it was asked for the host's resolvers."""
        self._loop, self._servers = loop, servers
        loop.watch(self._channel.fileno(), READ, self._readable)

    def replace(self, channel: socket.socket) -> None:
        """Go on with another supervisor, which holds nothing yet."""
        loop, servers = self._loop, self._servers
        self._close()
        Holding.__init__(self, channel)
        if loop is not None:
            self.watch(loop, servers)

    def _close(self) -> None:
        if self._loop is not None:
            self._loop.forget(self._channel.fileno())
        self._channel.close()

    def _readable(self, _: int) -> None:
        try:
            message = self._channel.recv(_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:  # the supervisor has ended; the next one brings another channel
            self._close()
        self._said(message)

    def _said(self, message: bytes) -> None:
        word, *values = message.decode(errors="replace").split() or [""]
        if word == "servers":
            self._servers(values)

    def ready(self) -> None:
        """Say that questions are answered."""
        self._say("ready")

    def keep(self, id: str, udp: socket.socket, tcp: socket.socket) -> None:
        """Have the sockets of a sandbox held."""
        with contextlib.suppress(OSError):
            both = [udp.fileno(), tcp.fileno()]
            socket.send_fds(self._channel, [f"keep {id}".encode()], both, socket.MSG_DONTWAIT)

    def drop(self, id: str) -> None:
        """Have them closed."""
        self._say(f"drop {id}")

    def ended(self, id: str) -> None:
        """Have them closed and the sandbox's file deleted."""
        self._say(f"ended {id}")

    def ask_servers(self) -> None:
        """Ask which resolvers the host has."""
        self._say("servers")

    def take(self, id: str) -> tuple[socket.socket, socket.socket] | None:
        """Return the sockets that are held for a sandbox, UDP and TCP."""
        self._say(f"take {id}")
        try:
            message, fds, _, _ = socket.recv_fds(self._channel, _BYTES, _BOTH, socket.MSG_CMSG_CLOEXEC)
            while message and message != TAKEN:
                self._said(message)
                message, fds, _, _ = socket.recv_fds(self._channel, _BYTES, _BOTH, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        return (socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])) if len(fds) == _BOTH else None

    def rest(self) -> None:
        """Have all closed that has not been taken."""
        self._say("rest")

    def _say(self, message: str) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(message.encode(), socket.MSG_DONTWAIT)
