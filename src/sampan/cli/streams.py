"""The two-way copy between this process and a container: one poll loop, no threads.

    standard input ──▶ socket            (a slow container stops the reading of input, never of its output)
    socket ──▶ standard output, error    (stdcopy frames taken apart; raw with a terminal)
    signals ──▶ whoever asked

Source: Docker Engine API, "attach: stream format" (1 byte stream, 3 bytes zero, u32be length, payload).
"""

from __future__ import annotations

import os
import select

from sampan.client.transport import close_write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.tty import DetachKeys, Signals
    from sampan.client.engine import Hijacked
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
        """Write what `data` holds. Raises ValueError on a frame of no known stream."""
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
    stream: Hijacked,
    output: Demultiplexer,
    *,
    stdin: int | None = None,
    detach: DetachKeys | None = None,
    signals: Signals | None = None,
    on_signal: Callable[[int], None] | None = None,
    stop_with: int | None = None,
) -> bool:
    """Copy both ways until the container's side ends. True when the user typed the detach keys instead.

    `stop_with`: a descriptor of our own side; when nobody is left behind it, the copy ends too.
    """
    sock = stream.sock
    sock.setblocking(False)
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    if stdin is not None:
        poll.register(stdin, select.POLLIN)
    if signals is not None:
        poll.register(signals.fd, select.POLLIN)
    if stop_with is not None and stop_with != stdin:
        poll.register(stop_with, 0)  # only POLLERR and POLLHUP, which are always reported
    if stream.rest:
        output.feed(stream.rest)
    pending = b""
    while True:
        for fd, event in poll.poll():
            if signals is not None and fd == signals.fd:
                for number in signals.take():
                    if on_signal is not None:
                        on_signal(number)
            elif fd == stop_with and fd != stdin:
                return False
            elif fd == stdin:
                data = _read(fd)
                ended = not data
                if detach is not None:
                    data, typed = detach.feed(data)
                    if typed:
                        return True
                poll.unregister(fd)
                pending = _send(sock, data)
                if pending:
                    poll.modify(sock.fileno(), select.POLLIN | select.POLLOUT)
                elif not ended:
                    poll.register(fd, select.POLLIN)
                if ended:
                    close_write(sock)
                    sock.setblocking(False)
                    stdin = None
            else:
                if event & select.POLLOUT and pending:
                    pending = _send(sock, pending)
                    if not pending:
                        poll.modify(sock.fileno(), select.POLLIN)
                        if stdin is not None:
                            poll.register(stdin, select.POLLIN)
                if event & ~select.POLLOUT and not _drain(sock, output):
                    return False


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
            return _not_now(e)
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
            if _not_now(e):
                return data
            return b""  # the container's input is closed: what it does not read is lost, as with a pipe
    return data


def _not_now(error: OSError) -> bool:
    return isinstance(error, BlockingIOError) or type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")
