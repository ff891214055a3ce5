"""One process of the task, init or exec'd: its pid, its stdio, and the order in which its end is told.

reaped ─▶ output drained (at most 2 s, as Docker waits) ─▶ `on_ended` ─▶ attachers see end of file
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

from sampan.linux.loop import Loop
from sampan.supervisor import wire
from sampan.supervisor.logs.record import LogSink
from sampan.supervisor.shim.stdio import Stdio

_DRAIN_LIMIT_S = 2.0


class Pipes:
    """Descriptors for a process without a terminal: the child's three, and ours."""

    def __init__(self, *, stdin: bool) -> None:
        self.child: list[int] = []
        self.outputs: dict[str, int] = {}
        self.stdin: int | None = None
        try:
            if stdin:
                read_end, self.stdin = os.pipe2(os.O_CLOEXEC)
                self.child.append(read_end)
            else:
                self.child.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            for stream in ("stdout", "stderr"):
                self.outputs[stream], write_end = os.pipe2(os.O_CLOEXEC)
                self.child.append(write_end)
        except OSError:
            self.close()
            raise

    @property
    def for_child(self) -> tuple[int, int, int]:
        stdin, stdout, stderr = self.child
        return stdin, stdout, stderr

    def close_child(self) -> None:
        while self.child:
            os.close(self.child.pop())

    def close(self) -> None:
        self.close_child()
        for fd in self.outputs.values():
            os.close(fd)
        if self.stdin is not None:
            os.close(self.stdin)


class Waiting(Protocol):
    """A client that attached before the process exists."""

    def opened(self, process: Process) -> None: ...
    def refused(self) -> None: ...


class Process:
    def __init__(self, loop: Loop, exec_id: str, *, terminal: bool, stdin: bool) -> None:
        self._loop = loop
        self.exec_id = exec_id
        self.terminal = terminal
        self.wants_stdin = stdin
        self.pid = 0
        self.pidfd = -1
        self.console = -1
        self.stdio: Stdio | None = None
        self.exit: wire.ExitRecord | None = None
        self.status = -1  # once reaped
        self.exited_at_ns = 0
        self.waiting: list[Waiting] = []
        self._log: LogSink | None = None
        self._on_ended: Callable[[Process], None] | None = None

    def open_stdio(
        self, pipes: Pipes | None, console: int | None, log: LogSink | None, on_ended: Callable[[Process], None]
    ) -> None:
        """Take over the descriptors of a process that has just been made; `on_ended` is called once."""
        self._log = log
        self._on_ended = on_ended
        if console is not None:
            self.console = console
            outputs = {"stdout": os.dup(console)}
            stdin = os.dup(console) if self.wants_stdin else None
        else:
            assert pipes is not None
            pipes.close_child()
            outputs, stdin = pipes.outputs, pipes.stdin
        self.stdio = Stdio(self._loop, outputs, stdin, terminal=self.terminal, log=log, on_drained=self._on_drained)
        while self.waiting:
            self.waiting.pop().opened(self)

    def refuse(self) -> None:
        """The process could not be made."""
        while self.waiting:
            self.waiting.pop().refused()

    @property
    def running(self) -> bool:
        return self.pid > 0 and self.status < 0

    def reaped(self, wait_status: int) -> None:
        """waitpid has returned the process's status."""
        self.exited_at_ns = time.time_ns()
        self.status = 128 + os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else os.WEXITSTATUS(wait_status)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.stdio is None or self.stdio.drained:
            self._ended()
        else:
            self.stdio.hurry()
            self._loop.after(_DRAIN_LIMIT_S, self._give_up_draining)

    def _give_up_draining(self) -> None:
        if self.stdio and not self.stdio.drained:
            self.stdio.abandon()

    def _on_drained(self) -> None:
        if self.status >= 0:
            self._ended()

    def _ended(self) -> None:
        if self._log:
            self._log.close()
            self._log = None
        if self.console >= 0:
            os.close(self.console)
            self.console = -1
        if self._on_ended:
            self._on_ended(self)
        if self.stdio:
            self.stdio.finish()
