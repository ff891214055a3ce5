"""One client attached to one process's stdio over shim.sock.

Towards the client: stdcopy frames (1 byte stream, 3 bytes zero, u32be length), or raw, as for a terminal. From the
client: raw stdin; a half-close is end of input.

What the end of a client's input means, as in Docker: with stdin_once and no terminal the process's stdin ends and
output goes on; otherwise an attacher with stdin is done and its output ends too. One that never had stdin may
half-close without consequence.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque

from sampan.linux.loop import ERROR, HANG_UP, READ, WRITE, Loop, Timer
from sampan.supervisor.shim.stdio import LOW_WATER_BYTES, Stdio

_HEADER = struct.Struct(">BxxxI")
_STREAMS = {"stdout": 1, "stderr": 2}
_COPY_BYTES = 16 * 1024  # up to here copying is cheaper than another system call
_STALL_LIMIT_S = 600.0


class Attacher:
    def __init__(
        self,
        loop: Loop,
        peer: socket.socket,
        stdio: Stdio,
        *,
        stdin: bool,
        streams: frozenset[str],
        end_stdin: bool,
        logged: bool,
        raw: bool,
    ) -> None:
        """Takes over `peer` (non-blocking, not yet watched).

        `end_stdin`: the end of its input is the process's. `logged`: a stalled client is cut off. `raw`: no frames.
        """
        self._loop = loop
        self._peer = peer
        self._stdio = stdio
        self._stdin = stdin and stdio.stdin is not None
        self._streams = streams
        self._end_stdin = end_stdin
        self._logged = logged
        self._raw = raw
        self._queue: deque[memoryview] = deque()
        self._finishing = False
        self._input_open = True
        self._parked = False
        self._stall: Timer | None = None
        self._progress_at = 0.0
        self.pending_bytes = 0
        stdio.attachers.append(self)
        loop.watch(peer.fileno(), self._mask(), self._on_event)

    def say(self, line: bytes) -> None:
        """Queue the answer line, in front of all output."""
        self._push(line)

    def send(self, stream: str, data: bytes) -> None:
        """Deliver one read of output."""
        if stream not in self._streams or self._finishing:
            return
        if self._raw:
            self._push(data)
        elif len(data) < _COPY_BYTES:
            self._push(_HEADER.pack(_STREAMS[stream], len(data)) + data)
        else:
            self._push(_HEADER.pack(_STREAMS[stream], len(data)))
            self._push(data)

    def finish(self) -> None:
        """End of output, after what is queued."""
        self._finishing = True
        if not self._queue:
            self._half_close()

    def _half_close(self) -> None:
        """Say that no more output comes, and close when the other side has: closing a socket that holds input nobody
        read would reach it as a reset connection, before output that it has not read.
        """
        self._stdin = False
        if self._parked or not self._input_open:
            self.close()
            return
        try:
            self._peer.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._watch()

    def close(self) -> None:
        if self._peer.fileno() >= 0:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
            self._queue.clear()
            self.pending_bytes = 0
            if self._stall:
                self._stall.cancel()
            self._stdio.attachers.remove(self)
            self._stdio.balance()

    def feed(self, data: bytes) -> None:
        """Input that arrived together with the request line."""
        if data and self._stdin and self._stdio.stdin and not self._stdio.stdin.write(data):
            self._watch()

    def resume_input(self) -> None:
        """stdin has room again."""
        if self._parked:
            self._parked = False
            self._loop.watch(self._peer.fileno(), self._mask(), self._on_event)
        elif self._peer.fileno() >= 0:
            self._watch()

    def _push(self, data: bytes) -> None:
        if self._peer.fileno() < 0:
            return
        view = memoryview(data)
        if not self._queue:
            try:
                view = view[self._peer.send(view) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            if not view:
                return
            self._queue.append(view)
            self.pending_bytes += len(view)
            self._watch()
            self._watch_progress()
        else:
            self._queue.append(view)
            self.pending_bytes += len(view)

    def _mask(self) -> int:
        wants_input = self._input_open and not (self._stdin and self._stdio.stdin and self._stdio.stdin.full)
        return (READ if wants_input else 0) | (WRITE if self._queue else 0)

    def _watch(self) -> None:
        if not self._parked:
            self._loop.change(self._peer.fileno(), self._mask())

    def _on_event(self, mask: int) -> None:
        if mask & WRITE and self._queue:
            self._flush()
        if self._peer.fileno() >= 0 and mask & READ:
            self._read()
        elif mask & (HANG_UP | ERROR) and self._peer.fileno() >= 0:
            self._gone()

    def _gone(self) -> None:
        """The client has closed both directions; input it sent before still counts."""
        if self._input_open and self._stdin and self._stdio.stdin and self._stdio.stdin.full:
            self._loop.forget(self._peer.fileno())  # a hang-up cannot be masked: look again when stdin has room
            self._parked = True
            return
        self._end_of_input()
        self.close()

    def _flush(self) -> None:
        while self._queue:
            chunk = self._queue[0]
            try:
                sent = self._peer.send(chunk)
            except BlockingIOError:
                break
            except OSError:
                self.close()
                return
            self.pending_bytes -= sent
            self._progress_at = time.monotonic()
            if sent == len(chunk):
                self._queue.popleft()
            else:
                self._queue[0] = chunk[sent:]
        if self.pending_bytes <= LOW_WATER_BYTES:
            self._stdio.balance()
        if not self._queue and self._finishing:
            self._half_close()
            return
        self._watch()

    def _read(self) -> None:
        try:
            data = self._peer.recv(64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            if self._stdin and self._stdio.stdin and not self._stdio.stdin.write(data):
                self._watch()
            return
        self._end_of_input()
        if self._finishing and not self._queue:
            self.close()
        elif self._peer.fileno() >= 0:
            self._watch()

    def _end_of_input(self) -> None:
        if not self._input_open:
            return
        self._input_open = False
        if not self._stdin or not self._stdio.stdin:
            return
        if self._end_stdin and not self._stdio.terminal:
            self._stdio.stdin.end()
        else:
            self.finish()

    def _watch_progress(self) -> None:
        """Cut off a client that takes nothing for too long; one timer, however busy the queue."""
        if not self._logged or self._stall:
            return
        self._progress_at = time.monotonic()

        def check() -> None:
            self._stall = None
            idle_s = time.monotonic() - self._progress_at
            if self._queue and idle_s >= _STALL_LIMIT_S:
                self.close()
            elif self._queue:
                self._stall = self._loop.after(_STALL_LIMIT_S - idle_s, check)

        self._stall = self._loop.after(_STALL_LIMIT_S, check)
