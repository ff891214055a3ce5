"""The shim's one task: what the supervisor may ask for, and what it is told.

    created ──start──▶ running ⇄ paused          any ──init ends──▶ stopped ──delete──▶ the shim exits

Each operation is a method that returns its answer or raises. Everything runs in the loop's one thread; the runtime's
calls are synchronous (a start takes about ten milliseconds), so no operation ever sees another one half done.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sampan.errors import Conflict, InvalidArgument, NotFound
from sampan.linux import pty
from sampan.runtime import container as runtime
from sampan.runtime.failure import RuntimeFailure
from sampan.supervisor import layout, wire
from sampan.supervisor.logs.drivers import open_writer
from sampan.supervisor.logs.record import LogWriter
from sampan.supervisor.shim import descendants, memory, network_counters
from sampan.supervisor.shim.creator import Creator, read_spec
from sampan.supervisor.shim.external import External
from sampan.supervisor.shim.loop import READ, Loop
from sampan.supervisor.shim.process import Pipes, Process

T = TypeVar("T")
Stdio = tuple[int, int, int]
Notify = Callable[[dict[str, Any]], None]
_LOOK_AGAIN_S = 1.0
_PRIORITY = 2  # EPOLLPRI: how cgroup v2 and PSI files signal


class Task:
    def __init__(self, loop: Loop, id: str, directory: str, notify: Notify, creator: Creator) -> None:
        self._loop = loop
        self._notify = notify
        self._creator = creator
        self._directory = directory
        self.id = id
        self.container: runtime.Container | External | None = None
        self.init: Process | None = None
        self.execs: dict[str, Process] = {}
        self.stdin_once = False
        self.status = "creating"
        self.started_at_ns = 0
        self.exit: dict[str, Any] | None = None
        self._specs: dict[str, dict[str, Any]] = {}  # exec_id → what a prepared exec will run
        self._oom_fd = -1
        self._oom_seen = 0
        self._on_stopped: list[Callable[[], None]] = []

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(self, request: dict[str, Any], sources: dict[str, int], open_door: Callable[[], None]) -> None:
        """Make the container, and start it if the request says so. On failure nothing of it is left.

        `sources`: place in the spec (wire.py) → descriptor, which stays the caller's.
        `open_door`: what else there is to do before the answer; it is done while the creator works.
        """
        self.stdin_once = request["stdin_once"]
        init = Process(self._loop, "", terminal=request["terminal"], stdin=request["stdin"])
        pipes = None if init.terminal else Pipes(stdin=init.wants_stdin)
        try:
            log = self._make(request, sources, pipes.for_child if pipes else None, open_door)
        except BaseException:
            if pipes:
                pipes.close()
            self.status = "failed"
            raise
        container = self._container()
        init.pid = container.pid
        console, container.console_fd = container.console_fd, None  # ours from here on
        init.open_stdio(pipes, console, log, self._init_ended)
        self.init = init
        self.status = "created"
        self._loop.after(0, self._settle)  # the answer need not wait for it
        if request["start"]:
            try:
                self.start()
            except BaseException:
                self._roll_back()
                raise

    def _make(
        self, request: dict[str, Any], sources: dict[str, int], stdio: Stdio | None, open_door: Callable[[], None]
    ) -> LogWriter | None:
        """Make `self.container`, and open its log."""
        external = bool(request["runtime"])
        if external:
            self._creator.dismiss()
        else:
            self._creator.ask(request, stdio, sources)
        try:
            open_door()
            log = _open_log(request["logging"])
        except BaseException:
            if not external:
                self._creator.undo(self.id)
            raise
        try:
            self.container = self._make_external(request, sources, stdio) if external else self._creator.answer(self.id)
        except BaseException:
            if log:
                log.close()
            raise
        return log

    def _make_external(self, request: dict[str, Any], sources: dict[str, int], stdio: Stdio | None) -> External:
        """Here in the shim, because its mount namespace is what the runtime will be executed in until the end."""
        spec = read_spec(self._directory)
        return _made(
            lambda: External.create(
                spec,
                binary=request["runtime"],
                arguments=request["runtime_args"],
                id=self.id,
                bundle=self._directory,
                rootfs=request["rootfs"],
                sources=sources,
                stdio=stdio,
            )
        )

    def _settle(self) -> None:
        """Write down what is needed later: the runtime's state, and the watch for OOM kills (those before are counted
        at the exit).
        """
        if self.container:
            state = {k: v for k, v in self.container.to_state().items() if k != "spec"}  # config.json has it
            layout.write_json(f"{self._directory}/state.json", state)
            self._watch_oom()
        memory.give_back()

    def _roll_back(self) -> None:
        if self.container:
            try:
                self.container.delete()
            except (OSError, RuntimeFailure) as e:
                print(f"task {self.id}: roll back: {e}", file=sys.stderr)
            self.container = None
        self.status = "failed"

    def start(self) -> None:
        container = self._container()
        if self.status != "created":
            raise Conflict(f"task {self.id} is {self.status}, not created")
        _made(container.start)
        self.started_at_ns = time.time_ns()
        self.status = "running"
        self._event("start", pid=container.pid)

    def _init_ended(self, init: Process) -> None:
        self._check_oom()
        self.exit = {"status": init.status, "exited_at_ns": init.exited_at_ns, "oom_killed": self._oom_seen > 0}
        init.exit = self.exit
        self.status = "stopped"
        try:
            layout.write_json(f"{self._directory}/exit.json", self.exit, durable=True)
        except OSError as e:  # a full disk must not hold back the news
            print(f"task {self.id}: exit.json: {e}", file=sys.stderr)
        self._event("exit", pid=init.pid, exit=self.exit)
        for callback in self._on_stopped:
            self._loop.after(0, callback)

    def delete(self, done: Callable[[dict[str, Any]], None]) -> None:
        """Kill what is left, wait for init's end, remove the cgroup; then call `done` with {"exit"}."""
        container = self._container()
        if self.init and self.init.exit is None:
            if self.init.running:
                container.cgroup.kill()
            self._on_stopped.append(lambda: self.delete(done))
            return
        if self.container:
            self._forget_oom()
            for failure in self.container.delete():
                print(f"task {self.id}: {failure}", file=sys.stderr)
            self.container = None
        done({"exit": self.exit})

    def reaped(self, pid: int, wait_status: int) -> None:
        """A child has ended: init, an exec'd process, or an orphan that came to us as subreaper."""
        for process in (self.init, *self.execs.values()):
            if process and process.pid == pid and process.running:
                if process is self.init:
                    self._kill_leftovers()
                process.reaped(wait_status)
                return

    def _kill_leftovers(self) -> None:
        """Without a pid namespace of its own the container's other processes outlive init: end them, as Docker does."""
        if self.container and self.container.cgroup and self.container.cgroup.pids():
            self.container.cgroup.kill()

    # ── exec ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def exec(self, request: dict[str, Any]) -> dict[str, Any]:
        """Prepare another process, and start it if the request says so. Returns {"pid"}, 0 when only prepared."""
        exec_id = request["exec_id"]
        self._running()
        if exec_id in self.execs and self.execs[exec_id].exit is None:
            raise Conflict(f"exec {exec_id} exists already")
        process = Process(self._loop, exec_id, terminal=request["terminal"], stdin=request["stdin"])
        self.execs[exec_id] = process
        self._specs[exec_id] = request
        return self.exec_start(request) if request["start"] else {"pid": 0}

    def exec_start(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a prepared exec. Who attached meanwhile gets every byte."""
        exec_id = request["exec_id"]
        spec = self._specs.pop(exec_id, None)
        if spec is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        process = self.execs[exec_id]
        try:
            self._run_exec(process, spec)
        except BaseException:
            del self.execs[exec_id]
            process.refuse()
            raise
        self._event("exec-start", exec_id=exec_id, pid=process.pid)
        return {"pid": process.pid}

    def _run_exec(self, process: Process, spec: dict[str, Any]) -> None:
        container = self._running()
        pipes = None if process.terminal else Pipes(stdin=process.wants_stdin)
        try:
            made = _made(
                lambda: container.exec(
                    spec["process"],
                    stdio=pipes.for_child if pipes else None,
                    seccomp_bpf=layout.read_filter(spec.get("seccomp", "")),
                )
            )
        except BaseException:
            if pipes:
                pipes.close()
            raise
        process.pid, process.pidfd = made.pid, made.pidfd
        process.open_stdio(pipes, made.console_fd, None, self._exec_ended)

    def _exec_ended(self, process: Process) -> None:
        process.exit = {"status": process.status, "exited_at_ns": process.exited_at_ns, "oom_killed": False}
        self._event("exec-exit", exec_id=process.exec_id, pid=process.pid, exit=process.exit)

    def forget_exec(self, exec_id: str) -> None:
        """The supervisor knows of its end. It is kept while a slow client still reads."""
        process = self.execs.get(exec_id)
        if process is None or process.exit is None:
            return
        if process.stdio and process.stdio.attachers:
            self._loop.after(_LOOK_AGAIN_S, lambda: self.forget_exec(exec_id))
        elif self.execs.get(exec_id) is process:
            del self.execs[exec_id]

    # ── while it runs ───────────────────────────────────────────────────────────────────────────────────────────────

    def kill(self, request: dict[str, Any]) -> None:
        number = request["signal"]
        if not 0 <= number <= signal.SIGRTMAX:
            raise InvalidArgument(f"invalid signal: {number}")
        container = self._container()
        try:
            if request.get("exec_id"):
                process = self.execs.get(request["exec_id"])
                if not process or not process.running:
                    raise NotFound(f"process {request['exec_id']} of task {self.id} is not running")
                if request.get("all"):
                    descendants.signal_all(process.pid, number)
                else:
                    signal.pidfd_send_signal(process.pidfd, number)
            elif request.get("all"):
                _made(lambda: container.signal(number, all=True))
            elif self.init and self.init.running:
                _made(lambda: container.signal(number))
                if number == signal.SIGKILL and self.status == "paused":
                    self.resume()  # a frozen process does not die (cgroup v1)
            else:
                raise NotFound(f"task {self.id} is not running")
        except ProcessLookupError as e:
            raise NotFound(f"task {self.id}: process not found") from e

    def pause(self) -> None:
        """Freeze every process; a repeated call, of a caller that lost the answer, has nothing left to do."""
        if self.status == "paused":
            return
        _made(self._running().pause)
        self.status = "paused"
        self._event("paused")

    def resume(self) -> None:
        """Let frozen processes go on; a repeated call has nothing left to do."""
        if self.status == "running":
            return
        if self.status != "paused":
            raise Conflict(f"task {self.id} is {self.status}, not paused")
        _made(self._container().resume)
        self.status = "running"
        self._event("resumed")

    def update(self, request: dict[str, Any]) -> None:
        _made(lambda: self._container().update(request["resources"]))

    def resize(self, request: dict[str, Any]) -> None:
        """Without a terminal there is nothing to do, which is no error (as in Docker)."""
        process = self.process(request.get("exec_id", ""))
        if process.console >= 0:
            pty.set_size(process.console, request["height"], request["width"])

    def stats(self) -> dict[str, Any]:
        container = self._container()
        return {**container.cgroup.stats(), "networks": network_counters.read(container.pid)}

    def pids(self) -> list[int]:
        return self._container().cgroup.pids()

    @property
    def attached(self) -> bool:
        """Somebody has not yet received all output."""
        return any(p and p.stdio and p.stdio.attachers for p in (self.init, *self.execs.values()))

    def report(self) -> dict[str, Any]:
        """What the supervisor keeps of this task."""
        return {
            "id": self.id,
            "shim_pid": os.getpid(),
            "pid": self.init.pid if self.init else 0,
            "status": self.status,
            "started_at_ns": self.started_at_ns,
            "exit": self.exit,
            "execs": [{"exec_id": p.exec_id, "pid": p.pid, "exit": p.exit} for p in self.execs.values()],
        }

    def process(self, exec_id: str) -> Process:
        process = self.execs.get(exec_id) if exec_id else self.init
        if process is None:
            raise NotFound(f"No such exec instance: {exec_id}" if exec_id else f"task {self.id} has no process")
        return process

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _container(self) -> runtime.Container | External:
        if self.container is None:
            raise NotFound(f"task {self.id} has no container")
        return self.container

    def _running(self) -> runtime.Container | External:
        container = self._container()
        if self.status != "running":
            raise Conflict(f"task {self.id} is {self.status}, not running")
        return container

    def _event(self, kind: str, **values: Any) -> None:
        self._notify({"kind": kind, **values})

    def _watch_oom(self) -> None:
        cgroup = self._container().cgroup
        try:
            self._oom_fd = cgroup.oom_fd()
            self._loop.watch(self._oom_fd, READ | _PRIORITY, lambda _: self._check_oom())
        except OSError as e:  # no memory controller: no news of it
            print(f"task {self.id}: OOM notification: {e}", file=sys.stderr)
            self._oom_fd = -1

    def _forget_oom(self) -> None:
        if self._oom_fd >= 0:
            self._loop.forget(self._oom_fd)
            self._oom_fd = -1

    def _check_oom(self) -> None:
        """Read the notification and tell of new kills."""
        if self.container is None:
            return
        if self._oom_fd >= 0:
            os.set_blocking(self._oom_fd, False)
            try:
                os.read(self._oom_fd, 4096)
            except OSError:
                pass
        try:
            count = self.container.cgroup.oom_count()
        except OSError:  # no memory controller
            return
        if count > self._oom_seen:
            self._oom_seen = count
            self._event("oom")


def _open_log(logging: dict[str, Any]) -> LogWriter | None:
    try:
        return open_writer(logging["driver"], logging["path"], logging["options"], logging["attrs"])
    except InvalidArgument as e:
        raise wire.TaskFailed("log", 0, f"failed to initialize logging driver: {e.message}") from e


def _made(call: Callable[[], T]) -> T:
    """Call the runtime; its refusal becomes a TaskFailed."""
    try:
        return call()
    except RuntimeFailure as e:
        raise wire.TaskFailed(e.step, e.errno, e.message) from e
