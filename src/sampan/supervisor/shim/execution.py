"""One exec from its request to its execve, which the shim does not wait for.

The container may hold such a process up as long as it likes (a `kill -STOP -1` in a loop does), so it has a limit,
after which it is killed and has failed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from sampan.errors import SampanError
from sampan.linux.loop import READ, Loop
from sampan.runtime.container import Container
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.joiner import Joiner
from sampan.supervisor import layout, wire
from sampan.supervisor.shim.external import External
from sampan.supervisor.shim.process import Pipes, Process
from sampan.supervisor.shim.worker import Worker

LIMIT_S = 30.0

Ended = Callable[["Execution", BaseException | None], None]


class Execution:
    """`ended` is called once: with no error when `process` runs, its stdio not yet open."""

    def __init__(self, loop: Loop, process: Process, spec: wire.ProcessArguments, ended: Ended) -> None:
        self._loop = loop
        self._spec = spec
        self._ended = ended
        self._joiner: Joiner | None = None
        self.process = process
        self.pipes = None if process.terminal else Pipes(stdin=process.wants_stdin)
        self.console: int | None = None

    def begin(self, container: Container | External) -> None:
        """Set it going. Raises with nothing left."""
        try:
            if isinstance(container, External):
                self._ask_binary(container)
            else:
                self._join(container)
        except BaseException as e:
            self._let_go()
            if isinstance(e, RuntimeFailure):
                raise wire.TaskFailed(e.step, e.errno, e.message) from e
            raise

    # ── our own runtime ─────────────────────────────────────────────────────────────────────────────────────────────

    def _join(self, container: Container) -> None:
        self._joiner = container.join(
            self._spec["process"],
            stdio=self.pipes.for_child if self.pipes else None,
            seccomp_bpf=layout.read_filter(self._spec["seccomp"]),
        )
        self._timer = self._loop.after(LIMIT_S, self._too_late)
        self._loop.watch(self._joiner.channel.fd, READ, lambda _: self.hear())

    def hear(self) -> None:
        """Take what the process to be has said; also before children are reaped, for it may have said which one it
        is.
        """
        if self._joiner is None:
            return
        try:
            if not self._joiner.hear(wait=False):
                return
        except RuntimeFailure as e:
            self._abort(wire.TaskFailed(e.step, e.errno, e.message))
            return
        joiner = self._part()
        joiner.close()
        self.process.pid, self.process.pidfd = joiner.pid, joiner.pidfd
        self.console = joiner.console
        self._ended(self, None)

    def _too_late(self) -> None:
        text = f"the process was not ready after {LIMIT_S:.0f} seconds: does the container stop it?"
        self._abort(wire.TaskFailed("exec", errno.ETIMEDOUT, text))

    def _abort(self, error: BaseException) -> None:
        self._part().abort()
        self._let_go()
        self._ended(self, error)

    def _part(self) -> Joiner:
        """The joiner has nothing more to say."""
        joiner, self._joiner = self._joiner, None
        assert joiner is not None
        self._timer.cancel()
        self._loop.forget(joiner.channel.fd)
        return joiner

    # ── another runtime ─────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_binary(self, external: External) -> None:
        number, stdio = external.number_exec(), self.pipes.for_child if self.pipes else None

        def done(value: dict[str, int] | None, fds: list[int], error: SampanError | None) -> None:
            if value is None:
                self._let_go()
                self._ended(self, error)
                return
            self.process.pid, self.process.pidfd = value["pid"], os.pidfd_open(value["pid"])
            self.console = fds[0] if fds else None
            self._ended(self, None)

        Worker(self._loop, lambda: external.exec(number, self._spec["process"], stdio), done, limit_s=LIMIT_S)

    def _let_go(self) -> None:
        if self.pipes:
            self.pipes.close()
