"""Two ends joined: what one says the other gets, both ways at once.

An end that takes nothing stops what goes to it, and nothing else: the other way goes on. No more than one piece of each
way is held here (PIECE_BYTES), so whoever writes too fast waits. One thread, because a TLS connection may not be read
and written at the same time.

Source: poll(2); pipe(7), PIPE_BUF.
"""

from __future__ import annotations

import os
import select

from sampan.client.transport import close_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from sampan.client.http import Socket

    class End(Protocol):
        """`input` and `output` are descriptors to wait for."""

        input: int
        output: int

        def holds(self) -> bool:
            """Whether something can be received although `input` shows nothing."""

        def receive(self) -> bytes | None:
            """Return a piece, b"" at the end, None for nothing now."""

        def send(self, data: bytes) -> int:
            """Return how much was taken."""

        def finish(self) -> None:
            """Tell it that no more comes."""


PIECE_BYTES = 64 * 1024
PIPE_BYTES = 4096
"""A pipe that can be written takes so much without waiting."""


class SocketEnd:
    """A connection, with TLS or without; it is its owner's, who closes it."""

    def __init__(self, sock: Socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.input = self.output = sock.fileno()

    def holds(self) -> bool:
        pending = getattr(self._sock, "pending", None)
        return pending is not None and bool(pending())

    def receive(self) -> bytes | None:
        try:
            return self._sock.recv(PIECE_BYTES)
        except OSError as e:
            return None if not_now(e) else b""

    def send(self, data: bytes) -> int:
        try:
            return self._sock.send(data)
        except OSError as e:
            if not_now(e):
                return 0
            raise

    def finish(self) -> None:
        try:
            close_write(self._sock)
            self._sock.setblocking(False)
        except OSError:  # its owner has closed it
            pass


class StandardStreams:
    """This process's standard input and output, which stay as blocking as others that share them want them."""

    input, output = 0, 1

    def holds(self) -> bool:
        return False

    def receive(self) -> bytes | None:
        try:
            return os.read(self.input, PIECE_BYTES)
        except OSError:  # a terminal that went away reads as the end
            return b""

    def send(self, data: bytes) -> int:
        return os.write(self.output, data[:PIPE_BYTES])

    def finish(self) -> None:
        return None


class _Way:
    """One of the two ways."""

    def __init__(self, source: End, target: End) -> None:
        self._source, self._target = source, target
        self._waiting = b""
        self._ended = False

    @property
    def over(self) -> bool:
        return self._ended and not self._waiting

    @property
    def at_hand(self) -> bool:
        return not self._waiting and not self._ended and self._source.holds()

    def awaits(self) -> tuple[int, int] | None:
        """What must be so before it goes on: a descriptor and an event."""
        if self._waiting:
            return self._target.output, select.POLLOUT
        return None if self._ended else (self._source.input, select.POLLIN)

    def go_on(self) -> None:
        """Receive a piece, or send what is there of one."""
        if not self._waiting:
            data = self._source.receive()
            if data:
                self._waiting = data
            elif data is not None:
                self._ended = True
                self._target.finish()
            return
        try:
            self._waiting = self._waiting[self._target.send(self._waiting) :]
        except OSError:  # nobody is left there: what it does not read is lost, as with a pipe
            self._waiting, self._ended = b"", True


def join(near: End, far: End, *, either: bool = False) -> None:
    """Carry bytes until `far` has said its last and `near` has it, or nobody is left behind `near`.

    either: also until `near` has said its last.
    """
    inward, outward = _Way(near, far), _Way(far, near)
    poll = select.poll()
    polled: dict[int, int] = {}
    while not outward.over and not (either and inward.over):
        wanted = {near.output: 0}  # its end is always reported
        for way in (inward, outward):
            if (waits := way.awaits()) is not None:
                wanted[waits[0]] = wanted.get(waits[0], 0) | waits[1]
        for fd in polled.keys() - wanted.keys():
            poll.unregister(fd)
        for fd in [fd for fd, events in wanted.items() if polled.get(fd) != events]:
            poll.register(fd, wanted[fd])
        polled = wanted
        ready = dict(poll.poll(0 if inward.at_hand or outward.at_hand else None))
        if ready.get(near.output) and not wanted[near.output]:
            return
        for way in (inward, outward):
            waits = way.awaits()
            if way.at_hand or (waits and ready.get(waits[0], 0) & (waits[1] | select.POLLERR | select.POLLHUP)):
                way.go_on()


def not_now(error: OSError) -> bool:
    """Whether a non-blocking call says that it would have to wait."""
    return isinstance(error, BlockingIOError) or type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
