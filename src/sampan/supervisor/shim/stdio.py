"""The byte streams of one process: from its pipes or terminal to the log and the attachers, and from attachers to its
stdin.

                          ┌──▶ log (a whole read at a time)
    stdout, stderr ──read─┤
    (or the terminal)     └──▶ every attacher's queue ──▶ its socket          attacher's socket ──▶ sink queue ──▶ stdin

Back-pressure, as Docker's: when an attacher holds 1 MiB that it has not accepted, the process's output is not read
until it has caught up; an attached client loses nothing, and once the process has ended what its pipes still hold (1
MiB at most) is read at once. So that a dead client cannot stop a container's log for ever, one that accepts no byte for
ten minutes is cut off.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sampan.linux.loop import ERROR, HANG_UP, READ, WRITE, Loop
from sampan.supervisor.logs.record import LogSink
from sampan.supervisor.shim import memory

_READ_BYTES = 64 * 1024  # a pipe's size
_BULK_BYTES = 256 * 1024
_PIPE_BYTES = 1024 * 1024
_CALM_BYTES = 8 * 1024
_CALM_S = 2.0
_FILL_S = 0.001
HIGH_WATER_BYTES = 1024 * 1024
LOW_WATER_BYTES = 256 * 1024


class OutputReader(Protocol):
    """Who gets a process's output: an attached client."""

    pending_bytes: int

    def send(self, stream: str, data: bytes) -> None: ...
    def finish(self) -> None:
        """No more output comes."""
        ...

    def resume_input(self) -> None:
        """The process's stdin has room again."""
        ...


class Stdio:
    """Owns the shim's ends of one process's stdio."""

    def __init__(
        self,
        loop: Loop,
        outputs: dict[str, int],
        stdin: int | None,
        *,
        terminal: bool,
        log: LogSink | None,
        on_drained: Callable[[], None],
    ) -> None:
        """`outputs`: stream → descriptor to read (a terminal's master is "stdout").

        `on_drained` is called once, when all output has ended.
        """
        self._loop = loop
        self._outputs = outputs
        self._log = log
        self._on_drained = on_drained
        self._sizes = dict.fromkeys(outputs, _READ_BYTES)
        self._held = False
        self._hurry = False
        self._abandoned = False
        self.terminal = terminal
        self.attachers: list[OutputReader] = []
        self.stdin = Sink(loop, stdin, self._stdin_ready) if stdin is not None else None
        for stream, fd in outputs.items():
            os.set_blocking(fd, False)
            loop.watch(fd, READ, lambda mask, s=stream: self._on_readable(s))  # type: ignore[misc]

    @property
    def drained(self) -> bool:
        return self._abandoned or not self._outputs

    def _on_readable(self, stream: str) -> None:
        fd = self._outputs[stream]
        size = self._sizes[stream]
        try:
            data = os.read(fd, size)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last process has left the terminal
            data = b""
        if not data:
            self._end(stream)
            return
        if not self.terminal:
            self._pace(stream, fd, len(data))
        if self._abandoned:
            return
        if self._log:
            self._log.write(stream, data)
        for attacher in list(self.attachers):
            attacher.send(stream, data)
        self.balance()

    def _pace(self, stream: str, fd: int, got_bytes: int) -> None:
        """Read a busy pipe in big pieces: give it more room, and let it fill for a moment instead of waking up for
        every write.

        Idle pipes keep the kernel's per-user budget free and are read at once.
        """
        if self._sizes[stream] == _READ_BYTES:
            if got_bytes == _READ_BYTES:
                self._sizes[stream] = _BULK_BYTES
                memory.keep_buffers()
                try:
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                except OSError:
                    pass
        elif got_bytes < _CALM_BYTES:
            self._sizes[stream] = _READ_BYTES
            self._loop.after(_CALM_S, self._shrink)
        elif got_bytes < _BULK_BYTES and not self._held:
            self._loop.change(fd, 0)
            self._loop.after(_FILL_S, lambda: self._resume(stream))

    def _shrink(self) -> None:
        if all(size == _READ_BYTES for size in self._sizes.values()):
            memory.give_back()

    def _resume(self, stream: str) -> None:
        if stream in self._outputs and not self._held:
            self._loop.change(self._outputs[stream], READ)

    def balance(self) -> None:
        """Hold or resume reading, by the attacher that is furthest behind."""
        behind = 0 if self._hurry else max((a.pending_bytes for a in self.attachers), default=0)
        if not self._held and behind > HIGH_WATER_BYTES:
            self._held = True
            for fd in self._outputs.values():
                self._loop.change(fd, 0)
        elif self._held and behind <= LOW_WATER_BYTES:
            self._held = False
            for fd in self._outputs.values():
                self._loop.change(fd, READ)

    def hurry(self) -> None:
        """The process has ended: what its pipes still hold is read at once, whoever is behind."""
        self._hurry = True
        self.balance()

    def _end(self, stream: str) -> None:
        fd = self._outputs.pop(stream)
        self._loop.forget(fd)
        os.close(fd)
        if self._sizes.pop(stream) != _READ_BYTES:
            self._loop.after(_CALM_S, self._shrink)
        if self._abandoned:
            return
        if self._log:
            self._log.end(stream)
        if not self._outputs:
            self._on_drained()

    def _stdin_ready(self) -> None:
        for attacher in self.attachers:
            attacher.resume_input()

    def abandon(self) -> None:
        """The process has ended: what its children still write counts no more.

        It is read all the same, and dropped: closed pipes would kill them by SIGPIPE, full ones would stop them.
        """
        self._abandoned = True
        if self._log:
            for stream in self._outputs:
                self._log.end(stream)
        self._on_drained()

    def finish(self) -> None:
        """End of output for every attacher, after what is queued; close stdin."""
        if self.stdin:
            self.stdin.close()
        for attacher in list(self.attachers):
            attacher.finish()


class Sink:
    """Writes to a process's stdin without ever blocking.

    A full queue makes `write` return False; `ready` is called when there is room.
    """

    _LIMIT_BYTES = 64 * 1024

    def __init__(self, loop: Loop, fd: int, ready: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._loop = loop
        self._fd = fd
        self._ready = ready
        self._queue: deque[memoryview] = deque()
        self._queued_bytes = 0
        self._ending = False

    @property
    def full(self) -> bool:
        return self._queued_bytes >= self._LIMIT_BYTES

    def write(self, data: bytes) -> bool:
        """Queue input; False when the caller should wait for `ready`. Input after the end is discarded."""
        if self._fd >= 0 and not self._ending:
            self._queue.append(memoryview(data))
            self._queued_bytes += len(data)
            if len(self._queue) == 1:
                self._flush()
        return not self.full

    def end(self) -> None:
        """End of input, after what is queued."""
        self._ending = True
        if not self._queue:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._queue.clear()
            self._queued_bytes = 0

    def _flush(self) -> None:
        while self._queue:
            chunk = self._queue[0]
            try:
                written = os.write(self._fd, chunk)
            except BlockingIOError:
                self._loop.forget(self._fd)
                self._loop.watch(self._fd, WRITE, self._on_writable)
                return
            except OSError:  # EPIPE: the process closed its stdin
                self.close()
                return
            self._queued_bytes -= written
            if written == len(chunk):
                self._queue.popleft()
            else:
                self._queue[0] = chunk[written:]
        self._loop.forget(self._fd)
        if self._ending:
            self.close()

    def _on_writable(self, mask: int) -> None:
        if mask & (ERROR | HANG_UP) and not mask & WRITE:
            self.close()
        else:
            self._flush()
        if not self.full:
            self._ready()
