"""The sandboxes' sockets, held by the supervisor: while the name service is away, questions wait in them.

    name service                       supervisor
    ready                              it answers from now on
    keep ID, with both sockets         holds them, in the place of older ones
    drop ID                            closes them
    take ID                            answers with `taken ID` and both, or none
    rest                               closes what this name service has not asked for

Messages of one SOCK_SEQPACKET pair. The name service waits for the supervisor in `take` alone, and for all sandboxes
together not for long: what is not held it makes again, and only the questions that were waiting are lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable

_TAKE_S = 1.0
_BYTES = 256
_BOTH = 2


class Holder:
    """The supervisor's side: what is held, over all the name services that come and go."""

    def __init__(self) -> None:
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
        if word == "keep" and len(fds) == _BOTH:
            self._drop(id)
            self._held[id], fds = tuple(fds), []
            self._asked.add(id)
        elif word == "drop":
            self._drop(id)
        elif word == "take":
            self._asked.add(id)
            with contextlib.suppress(OSError):
                socket.send_fds(channel, [f"taken {id}".encode()], self._held.get(id, ()), socket.MSG_DONTWAIT)
        elif word == "rest":
            for unasked in [id for id in self._held if id not in self._asked]:
                self._drop(unasked)
        elif word == "ready":
            ready()
        for fd in fds:
            os.close(fd)
        return bool(message)

    def _drop(self, id: str) -> None:
        for fd in self._held.pop(id, ()):
            os.close(fd)


class Holding:
    """The name service's side. Without a supervisor nothing is held, and nothing fails."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._patience_s = _TAKE_S

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

    def take(self, id: str) -> tuple[socket.socket, socket.socket] | None:
        """Return the sockets that are held for a sandbox, UDP and TCP.

        A supervisor that does not answer is waited for once, and again when it has said something.
        """
        self._say(f"take {id}")
        fds: list[int] = []
        while True:
            begun = time.monotonic()
            try:
                self._channel.settimeout(self._patience_s)
                message, fds, _, _ = socket.recv_fds(self._channel, _BYTES, _BOTH, socket.MSG_CMSG_CLOEXEC)
            except OSError:
                self._patience_s = max(0.0, self._patience_s - (time.monotonic() - begun))
                return None
            self._patience_s = _TAKE_S
            if message == f"taken {id}".encode() or not message:
                break
            for fd in fds:  # the late answer to an earlier question: those sockets have been made again
                os.close(fd)
        return (socket.socket(fileno=fds[0]), socket.socket(fileno=fds[1])) if len(fds) == _BOTH else None

    def rest(self) -> None:
        """Have all closed that has not been taken."""
        self._say("rest")

    def _say(self, message: str) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(message.encode(), socket.MSG_DONTWAIT)
