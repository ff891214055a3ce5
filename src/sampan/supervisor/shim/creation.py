"""One task's creation, step by step: asked of the creator, handed over, at the gate. The shim waits for none of it.

    ask ──creator's answer──▶ Handover ──init's packets──▶ Container         (our own runtime)
    prepare ──worker: `create` of the binary──▶ External                     (another runtime)

It ends once: with `made`, or with `failed` and nothing left. One that takes longer than the limit has failed.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from sampan.errors import InvalidArgument, SampanError
from sampan.linux.loop import READ, Loop
from sampan.runtime import container as runtime
from sampan.runtime.failure import RuntimeFailure
from sampan.supervisor import wire
from sampan.supervisor.logs.drivers import open_sink
from sampan.supervisor.logs.record import LogSink
from sampan.supervisor.notes import note
from sampan.supervisor.shim.creator import Creator, clear, read_spec
from sampan.supervisor.shim.external import External
from sampan.supervisor.shim.process import Pipes, Process
from sampan.supervisor.shim.worker import LIMIT_S, Worker

Made = Callable[["Creation", "runtime.Container | External"], None]
Failed = Callable[[BaseException], None]


class Creation:
    def __init__(
        self,
        loop: Loop,
        directory: str,
        creator: Creator,
        request: wire.TaskCreateRequest,
        *,
        made: Made,
        failed: Failed,
    ) -> None:
        self._loop = loop
        self._directory = directory
        self._creator = creator
        self._made = made
        self._failed = failed
        self._handover: runtime.Handover | None = None
        self._watched = -1
        self._error: BaseException | None = None  # what is told once the container that is being made is gone again
        self.request = request
        self.init = Process(loop, "", terminal=request["terminal"], stdin=request["stdin"])
        self.pipes = None if self.init.terminal else Pipes(stdin=self.init.wants_stdin)
        self.log: LogSink | None = None

    def begin(self, sources: dict[str, int], open_door: Callable[[], None]) -> None:
        """Set it going. `sources`: index in the spec's mounts → detached mount, of the caller's; used at once.

        `open_door`: what else there is to do before the answer; it is done while the creator works. Raises with nothing
        left.
        """
        try:
            if self.request["runtime"]:
                self._creator.dismiss()
                open_door()
                self.log = _open_log(self.request["logging"])
                self._ask_binary(sources)
                return
            self._creator.ask(self.request, self.pipes.for_child if self.pipes else None, sources)
        except BaseException:
            self._let_go()
            raise
        try:
            open_door()
            self.log = _open_log(self.request["logging"])
        except Exception as e:
            self._error = e
        self._timer = self._loop.after(LIMIT_S, self._too_late)
        self._watch(self._creator.fileno(), self._on_creator)

    # ── our own runtime ─────────────────────────────────────────────────────────────────────────────────────────────

    def _on_creator(self, _: int) -> None:
        try:
            handover = self._creator.take()
            if handover is None:
                return
        except EOFError:
            clear(self._directory)
            self._fail(wire.TaskFailed("create", 0, "the process that made the container was killed"))
            return
        except SampanError as e:
            self._fail(e)
            return
        self._forget()
        self._creator.dismiss()
        self._handover = handover
        self._watch(handover.channel.fd, self._on_init)
        self._on_init(READ)

    def _on_init(self, _: int) -> None:
        assert self._handover is not None
        try:
            container = self._handover.hear(wait=False)
        except RuntimeFailure as e:
            self._undo(wire.TaskFailed(e.step, e.errno, e.message))
            return
        if container is None:
            return
        if self._error is not None:
            self._undo(self._error)
            return
        self._forget()
        self._timer.cancel()
        self._made(self, container)

    def _undo(self, error: BaseException) -> None:
        """Take back what has been handed over."""
        assert self._handover is not None
        self._forget()
        try:
            self._handover.undo()
        except OSError as e:
            note(f"task {self.request['id']}: undo: {e}")
        self._fail(error)

    def _too_late(self) -> None:
        """Whoever is stuck is killed, and what the kernel does not let die is left to whoever clears the cgroup."""
        error = wire.TaskFailed("create", errno.ETIMEDOUT, f"container init was not ready after {LIMIT_S:.0f} seconds")
        if self._handover is not None:
            self._undo(error)
            return
        self._creator.kill()
        clear(self._directory)
        self._fail(error)

    # ── another runtime ─────────────────────────────────────────────────────────────────────────────────────────────

    def _ask_binary(self, sources: dict[str, int]) -> None:
        request = self.request
        external = External(request["runtime"], request["runtime_args"], id=request["id"], bundle=self._directory)
        try:
            external.prepare(read_spec(self._directory), request["rootfs"], sources)
        except RuntimeFailure as e:
            external.clear()
            raise wire.TaskFailed(e.step, e.errno, e.message) from e
        except BaseException:
            external.clear()
            raise
        stdio = self.pipes.for_child if self.pipes else None

        def done(value: dict[str, int] | None, fds: list[int], error: SampanError | None) -> None:
            if value is None:
                external.clear()
                self._fail(error or wire.TaskFailed("create", 0, "no answer"))
                return
            external.created()
            external.pid = value["pid"]
            external.console_fd = fds[0] if fds else None
            self._made(self, external)

        Worker(self._loop, lambda: external.create(stdio), done)

    # ── the end ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fail(self, error: BaseException) -> None:
        self._forget()
        if not self.request["runtime"]:
            self._timer.cancel()
            self._creator.dismiss()
        self._let_go()
        self._failed(error)

    def _let_go(self) -> None:
        if self.pipes:
            self.pipes.close()
        if self.log:
            self.log.close()

    def _watch(self, fd: int, callback: Callable[[int], None]) -> None:
        self._watched = fd
        self._loop.watch(fd, READ, callback)

    def _forget(self) -> None:
        if self._watched >= 0:
            self._loop.forget(self._watched)
            self._watched = -1


def _open_log(logging: wire.Logging) -> LogSink:
    try:
        return open_sink(logging["driver"], logging["path"], logging["options"], logging["attrs"])
    except InvalidArgument as e:
        raise wire.TaskFailed("log", 0, f"failed to initialize logging driver: {e.message}") from e
