"""The two-way copy between this process and a container: one poll loop, no threads.

    standard input ──▶ socket            (a slow container stops the reading of input, never of its output)
    socket ──▶ standard output, error    (stdcopy frames taken apart; raw with a terminal)
    signals ──▶ whoever asked

Source: Docker Engine API, "attach: stream format" (1 byte stream, 3 bytes zero, u32be length, payload).
"""

from __future__ import annotations

import os
import select

from sampan.client.joining import not_now
from sampan.client.transport import close_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.tty import DetachKeys, Signals
    from sampan.client.engine import UpgradedStream
    from sampan.client.http import Socket

READ_BYTES = 1 << 18


class Demultiplexer:
    """Takes stdcopy frames apart as they arrive and writes their payloads; a raw stream passes through."""

    def __init__(self, *, raw: bool, stdout: int | None = 1, stderr: int | None = 2) -> None:
        self._raw = raw
        self._stdout = stdout
        self._targets = (stdout, stdout, stderr, stderr)
        self._target = stdout
        self._head = b""
        self._left = 0

    def feed(self, data: bytes) -> None:
        """Write what `data` holds. Raises: ValueError on a frame of no known stream."""
        if self._raw:
            write_all(self._stdout, data)
            return
        position = 0
        pieces: list[bytes] = []  # payloads in a row for one target are written at once
        while position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                self._left -= len(piece)
                position += len(piece)
                continue
            need = 8 - len(self._head)
            self._head += data[position : position + need]
            position += need
            if len(self._head) < 8:
                break
            if self._head[0] >= len(self._targets):
                raise ValueError(f"Unrecognized input header: {self._head[0]}")
            target = self._targets[self._head[0]]
            if target != self._target:
                write_all(self._target, b"".join(pieces))
                pieces.clear()
                self._target = target
            self._left = int.from_bytes(self._head[4:], "big")
            self._head = b""
        write_all(self._target, b"".join(pieces))


def write_all(fd: int | None, data: bytes) -> None:
    """Write everything; None throws it away."""
    while data and fd is not None:
        data = data[os.write(fd, data) :]


def copy(
    stream: UpgradedStream,
    output: Demultiplexer,
    *,
    stdin: int | None = None,
    detach: DetachKeys | None = None,
    signals: Signals | None = None,
    on_signal: Callable[[int], None] | None = None,
) -> bool:
    """Copy both ways until the container's side ends. True when the user typed the detach keys instead."""
    sock = stream.sock
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    inward = _Inward(poll, sock, stdin, detach)

    def from_socket(event: int) -> bool | None:
        if event & select.POLLOUT:
            inward.go_on()
        return False if event & ~select.POLLOUT and not _drain(sock, output) else None

    handlers: dict[int, Callable[[int], bool | None]] = {sock.fileno(): from_socket}
    if stdin is not None:
        handlers[stdin] = inward.readable
    if signals is not None:
        poll.register(signals.fd, select.POLLIN)
        handlers[signals.fd] = lambda _: _hand_on(signals, on_signal)
    if stream.rest:
        output.feed(stream.rest)
    while True:
        for fd, event in poll.poll():
            detached = handlers[fd](event)
            if detached is not None:
                return detached


def _hand_on(signals: Signals, on_signal: Callable[[int], None] | None) -> None:
    for number in signals.take():
        if on_signal is not None:
            on_signal(number)


class _Inward:
    """The way in: input is read when the socket has taken what was read before, and not earlier."""

    def __init__(self, poll: select.poll, sock: Socket, stdin: int | None, detach: DetachKeys | None) -> None:
        self._poll = poll
        self._sock = sock
        self._stdin = stdin
        self._detach = detach
        self._pending = b""
        self._ended = False
        if stdin is not None:
            poll.register(stdin, select.POLLIN)

    def readable(self, _event: int) -> bool | None:
        """Read once and send what fits. True when the user typed the detach keys."""
        assert self._stdin is not None
        data = _read(self._stdin)
        self._ended = not data
        if self._detach is not None:
            data, typed = self._detach.feed(data)
            if typed:
                return True
        self._poll.unregister(self._stdin)
        self._pending = _send(self._sock, data)
        if self._pending:
            self._poll.modify(self._sock.fileno(), select.POLLIN | select.POLLOUT)
        else:
            self._read_on()
        return None

    def go_on(self) -> None:
        """Send the rest, now that the socket takes more; then read input again."""
        if not self._pending:
            return
        self._pending = _send(self._sock, self._pending)
        if not self._pending:
            self._poll.modify(self._sock.fileno(), select.POLLIN)
            self._read_on()

    def _read_on(self) -> None:
        """After everything was sent, wait for more input, or tell the container that no more comes."""
        if not self._ended and self._stdin is not None:
            self._poll.register(self._stdin, select.POLLIN)
        elif self._ended:
            close_write(self._sock)
            self._sock.setblocking(False)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, READ_BYTES)
    except OSError:  # a terminal that went away reads as the end
        return b""


def _drain(sock: Socket, output: Demultiplexer) -> bool:
    """Read what is there; False at the end."""
    while True:
        try:
            data = sock.recv(READ_BYTES)
        except OSError as e:
            return not_now(e)
        if not data:
            return False
        output.feed(data)
        if len(data) < READ_BYTES and not hasattr(sock, "pending"):
            return True


def _send(sock: Socket, data: bytes) -> bytes:
    """Send what fits; what is left."""
    while data:
        try:
            data = data[sock.send(data) :]
        except OSError as e:
            if not_now(e):
                return data
            return b""  # the container's input is closed: what it does not read is lost, as with a pipe
    return data
