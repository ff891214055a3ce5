"""The shim's one task: what the supervisor may ask for, and what it is told.

Its life is the table of `states.py`. Each operation is a method that returns its answer, or takes a `Reply` that is
called once, when the operation has ended: in the loop's one thread nothing waits for a process. What the container
itself can hold up (an exec, a start) has a limit, what is slow by nature is a worker's.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from sampan.errors import Conflict, InvalidArgument, NotFound, SampanError
from sampan.linux import pty
from sampan.linux.loop import READ, Loop, Timer
from sampan.runtime import container as runtime
from sampan.runtime.failure import RuntimeFailure
from sampan.supervisor import layout, wire
from sampan.supervisor.notes import note
from sampan.supervisor.shim import descendants, memory, network_counters
from sampan.supervisor.shim.creation import Creation
from sampan.supervisor.shim.creator import Creator
from sampan.supervisor.shim.execution import Execution
from sampan.supervisor.shim.external import External
from sampan.supervisor.shim.process import Process
from sampan.supervisor.shim.worker import LIMIT_S, Worker, alone
from sampan.supervisor.states import TaskChange, TaskStatus, after

T = TypeVar("T")
Notify = Callable[[wire.Event], None]
Reply = Callable[[Any, BaseException | None], None]
_LOOK_AGAIN_S = 1.0
_FREEZE_STEP_S = 0.005
_FREEZE_LIMIT_S = 10.0
_REMOVE_STEP_S = 0.005
_REMOVE_LIMIT_S = 2.0
_OOM_LOOKS_S = (0.01, 0.1, 1.0)  # after the kernel's notification, which comes before the kill is counted
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
        self.status = TaskStatus.CREATING
        self.started_at_ns = 0
        self.exit: wire.ExitRecord | None = None
        self._specs: dict[str, wire.ProcessArguments] = {}  # exec_id → what a prepared exec will run
        self._executions: list[Execution] = []  # under way
        self._unsettled = 0  # operations under way that may yet name a child of ours, which must be reaped by its name
        self._starting = False
        self._freezing = False
        self._removing = False
        self._oom_fd = -1
        self._oom_seen = 0
        self._on_stopped: list[Callable[[], None]] = []

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def create(
        self, request: wire.TaskCreateRequest, sources: dict[str, int], open_door: Callable[[], None], reply: Reply
    ) -> None:
        """Make the container, and start it if the request says so. On failure nothing of it is left.

        `sources`: place in the spec (wire.py) → descriptor, which stays the caller's.
        `open_door`: what else there is to do before the answer; it is done while the creator works.
        """
        self.stdin_once = request["stdin_once"]

        def failed(error: BaseException) -> None:
            self._unsettled -= 1
            self._change(TaskChange.CREATE_FAILED)
            reply(None, error)

        self._unsettled += 1
        creation: Creation | None = None
        try:
            creation = Creation(
                self._loop,
                self._directory,
                self._creator,
                request,
                made=lambda creation, container: self._made(creation, container, reply),
                failed=failed,
            )
            creation.begin(sources, open_door)
        except BaseException as e:
            failed(e)

    def _made(self, creation: Creation, container: runtime.Container | External, reply: Reply) -> None:
        self._unsettled -= 1
        self.container = container
        self.init = init = creation.init
        init.pid = container.pid
        console, container.console_fd = container.console_fd, None  # ours from here on
        init.open_stdio(creation.pipes, console, creation.log, self._init_ended)
        self._change(TaskChange.CREATE)
        self._loop.after(0, self.reap)
        if creation.request["start"]:
            self.start(lambda value, error: self._started_at_once(error, reply))
        else:
            self._loop.after(0, self._settle)  # the answer need not wait for it
            reply(None, None)

    def _started_at_once(self, error: BaseException | None, reply: Reply) -> None:
        if error is not None and self.status is TaskStatus.CREATED:
            self._roll_back()
        self._loop.after(0, self._settle)
        reply(None, error)

    def _settle(self) -> None:
        """Write down what is needed later: the runtime's state, and the watch for OOM kills (those before are counted
        at the exit).
        """
        if self.container:
            state = {k: v for k, v in self.container.to_state().items() if k != "spec"}  # config.json has it
            self._watch_oom()
            layout.write_down(f"{self._directory}/state.json", state, self._loop.after)
        memory.give_back()

    def _roll_back(self) -> None:
        if self.container:
            try:
                self.container.delete()
            except (OSError, RuntimeFailure) as e:
                note(f"task {self.id}: roll back: {e}")
            self.container = None
        self._change(TaskChange.CREATE_FAILED)

    def start(self, reply: Reply) -> None:
        container = self._container()
        if self.status is not TaskStatus.CREATED or self._starting:
            raise Conflict(f"task {self.id} is {self.status}, not created")
        self._starting = True
        self._unsettled += 1
        try:
            if isinstance(container, External):
                Worker(self._loop, alone(container.start), lambda *answer: self._started(answer[2], reply))
                return
            gate = _made(container.open_gate)
        except BaseException as e:
            self._started(e, reply)
            return
        timer = self._loop.after(LIMIT_S, lambda: self._start_too_late(gate, reply))
        self._loop.watch(gate, READ, lambda _: self._on_gate(gate, timer, reply))

    def _on_gate(self, gate: int, timer: Timer, reply: Reply) -> None:
        container = self._container()
        assert isinstance(container, runtime.Container)
        self._loop.forget(gate)
        timer.cancel()
        try:
            _made(lambda: container.passed_gate(wait=True))  # it is readable
            if container.has_poststart:
                Worker(self._loop, alone(container.run_poststart), lambda *answer: self._started(answer[2], reply))
                return
        except BaseException as e:
            self._started(e, reply)
            return
        self._started(None, reply)

    def _start_too_late(self, gate: int, reply: Reply) -> None:
        container = self._container()
        assert isinstance(container, runtime.Container)
        self._loop.forget(gate)
        container.close_gate()
        container.cgroup.kill()
        text = f"the container's process was not executed after {LIMIT_S:.0f} seconds"
        self._started(wire.TaskFailed("start", errno.ETIMEDOUT, text), reply)

    def _started(self, error: BaseException | None, reply: Reply) -> None:
        self._starting = False
        self._unsettled -= 1
        self._loop.after(0, self.reap)
        if error is None:
            self.started_at_ns = time.time_ns()
            self._change(TaskChange.START)
            self._event({"kind": "start", "pid": self._container().pid})
        reply(None, error)

    def _init_ended(self, init: Process) -> None:
        self._check_oom()
        self.exit = {"status": init.status, "exited_at_ns": init.exited_at_ns, "oom_killed": self._oom_seen > 0}
        init.exit = self.exit
        if self.status is TaskStatus.FAILED:  # nobody has heard of it
            return
        self._change(TaskChange.EXIT)
        layout.write_down(f"{self._directory}/exit.json", self.exit, self._loop.after, durable=True)
        self._event({"kind": "exit", "pid": init.pid, "exit": self.exit})
        for callback in self._on_stopped:
            self._loop.after(0, callback)

    def delete(self, reply: Reply) -> None:
        """Kill what is left, wait for init's end, remove the cgroup; then the answer is {"exit"}."""
        container = self._container()
        if self.init and self.init.exit is None:
            if self.init.running:
                container.cgroup.kill()
            self._on_stopped.append(lambda: self._delete_stopped(reply))
            return
        self._delete_stopped(reply)

    def _delete_stopped(self, reply: Reply) -> None:
        container = self.container
        if container is None or self._removing:
            self._loop.after(_REMOVE_STEP_S, lambda: self._delete_stopped(reply)) if self._removing else self._gone(
                reply
            )
            return
        self._removing = True
        self._forget_oom()
        if isinstance(container, External):
            self._in_worker(container.delete, lambda failures: self._deleted(failures, reply), reply)
        else:
            self._remove(container, time.monotonic() + _REMOVE_LIMIT_S, reply)

    def _remove(self, container: runtime.Container, deadline: float, reply: Reply) -> None:
        """Remove the cgroup as soon as the last process in it is dead."""
        try:
            if not container.try_delete():
                if time.monotonic() < deadline:
                    self._loop.after(_REMOVE_STEP_S, lambda: self._remove(container, deadline, reply))
                    return
                raise OSError(errno.EBUSY, "unable to remove cgroup", container.cgroup.path)
        except OSError as e:
            self._removing = False
            reply(None, e)
            return
        if container.has_poststop:
            self._in_worker(container.run_poststop, lambda failures: self._deleted(failures, reply), reply)
        else:
            self._deleted([], reply)

    def _deleted(self, failures: list[str], reply: Reply) -> None:
        for failure in failures:
            note(f"task {self.id}: {failure}")
        if isinstance(self.container, runtime.Container):
            self.container.close()
        self.container = None
        self._removing = False
        self._gone(reply)

    def _gone(self, reply: Reply) -> None:
        answer: wire.DeleteAnswer = {"exit": self.exit}
        reply(answer, None)

    def _in_worker(self, work: Callable[[], T], then: Callable[[Any], None], reply: Reply) -> None:
        """Have a worker do something that is part of a delete."""

        def done(value: Any, fds: list[int], error: SampanError | None) -> None:
            if error is not None:
                self._removing = False
                reply(None, error)
            else:
                then(value)

        try:
            Worker(self._loop, alone(work), done)
        except OSError as e:
            self._removing = False
            reply(None, e)

    # ── children ────────────────────────────────────────────────────────────────────────────────────────────────────

    def reap(self) -> None:
        """Collect the children that have ended: init, exec'd processes, workers, and orphans that came to us as
        subreaper.

        While an operation is under way that has not told its process's pid yet, only known ones: else the exit of a
        process that ends at once would be collected before anybody knows whose it is.
        """
        for execution in [*self._executions]:
            execution.hear()
        if self._unsettled == 0:
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                if pid == 0:
                    return
                self.reaped(pid, status)
        for process in (self.init, *self.execs.values()):
            if process and process.running and not (process is self.init and self._starting):
                try:
                    pid, status = os.waitpid(process.pid, os.WNOHANG)
                except ChildProcessError:
                    continue
                if pid:
                    self.reaped(pid, status)

    def reaped(self, pid: int, wait_status: int) -> None:
        """A child has ended."""
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

    def prepare_exec(self, request: wire.ProcessArguments) -> None:
        """Prepare another process."""
        exec_id = request["exec_id"]
        self._running()
        if exec_id in self.execs and self.execs[exec_id].exit is None:
            raise Conflict(f"exec {exec_id} exists already")
        self.execs[exec_id] = Process(self._loop, exec_id, terminal=request["terminal"], stdin=request["stdin"])
        self._specs[exec_id] = request

    def exec(self, request: wire.ExecRequest, reply: Reply) -> None:
        """Prepare another process, and start it if the request says so. The answer is a PidAnswer."""
        self.prepare_exec(request)
        if request["start"]:
            self.exec_start({"exec_id": request["exec_id"]}, reply)
        else:
            answer: wire.PidAnswer = {"pid": 0}
            reply(answer, None)

    def exec_start(self, request: wire.ExecStartRequest, reply: Reply) -> None:
        """Run a prepared exec. Who attached meanwhile gets every byte."""
        exec_id = request["exec_id"]
        spec = self._specs.pop(exec_id, None)
        if spec is None:
            raise NotFound(f"No such exec instance: {exec_id}")
        process = self.execs[exec_id]

        def ended(execution: Execution, error: BaseException | None) -> None:
            if execution in self._executions:
                self._executions.remove(execution)
            self._unsettled -= 1
            self._loop.after(0, self.reap)
            if error is not None:
                self._refuse_exec(process)
                reply(None, error)
                return
            process.open_stdio(execution.pipes, execution.console, None, self._exec_ended)
            self._event({"kind": "exec-start", "exec_id": exec_id, "pid": process.pid})
            answer: wire.PidAnswer = {"pid": process.pid}
            reply(answer, None)

        try:
            container = self._running()
            execution = Execution(self._loop, process, spec, ended)
            execution.begin(container)
        except BaseException:
            self._refuse_exec(process)
            raise
        self._unsettled += 1
        self._executions.append(execution)

    def _refuse_exec(self, process: Process) -> None:
        if self.execs.get(process.exec_id) is process:
            del self.execs[process.exec_id]
        process.refuse()

    def _exec_ended(self, process: Process) -> None:
        process.exit = {"status": process.status, "exited_at_ns": process.exited_at_ns, "oom_killed": False}
        self._event({"kind": "exec-exit", "exec_id": process.exec_id, "pid": process.pid, "exit": process.exit})

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

    def kill(self, request: wire.KillRequest, reply: Reply) -> None:
        number, exec_id = request["signal"], request["exec_id"]
        if not 0 <= number <= signal.SIGRTMAX:
            raise InvalidArgument(f"invalid signal: {number}")
        container = self._container()
        if not exec_id and not request["all"] and not (self.init and self.init.running):
            raise NotFound(f"task {self.id} is not running")
        try:
            if exec_id:
                process = self.execs.get(exec_id)
                if not process or not process.running:
                    raise NotFound(f"process {exec_id} of task {self.id} is not running")
                if request["all"]:
                    descendants.signal_all(process.pid, number)
                else:
                    signal.pidfd_send_signal(process.pidfd, number)
            elif isinstance(container, External):
                send = partial(container.signal, number, all=request["all"])
                Worker(self._loop, alone(send), lambda *answer: reply(None, answer[2]))
                return
            else:
                container.signal(number, all=request["all"])
        except ProcessLookupError as e:
            raise NotFound(f"task {self.id}: process not found") from e
        if number == signal.SIGKILL and not exec_id:
            self._let_die(container)
            if self.status is TaskStatus.PAUSED:
                self.resume(reply)
                return
        reply(None, None)

    def _let_die(self, container: runtime.Container | External) -> None:
        """See to it that a SIGKILL has its effect on a container that has frozen itself, or goes on doing so."""

        def tried(work: Callable[[], None]) -> None:
            try:
                work()
            except OSError as e:
                note(f"task {self.id}: kill: {e}")

        def look() -> None:
            if self.container is container and self.init and self.init.running:
                tried(container.cgroup.kill)

        tried(container.cgroup.let_die)
        self._loop.after(_LOOK_AGAIN_S, look)

    def pause(self, reply: Reply) -> None:
        """Freeze every process; a repeated call, of a caller that lost the answer, has nothing left to do."""
        if self.status is TaskStatus.PAUSED:
            reply(None, None)
            return
        container = self._running()
        if self._freezing:
            raise Conflict(f"task {self.id} is being paused")
        self._freezing = True
        if isinstance(container, External):
            Worker(self._loop, alone(container.pause), lambda *answer: self._paused(answer[2], reply))
        else:
            self._freeze(container, time.monotonic() + _FREEZE_LIMIT_S, 1, reply)

    def _freeze(self, container: runtime.Container, deadline: float, attempt: int, reply: Reply) -> None:
        """Ask for it again and again: with cgroup v1 a fork can slip out, and is let run now and then for that."""
        try:
            if self.status is not TaskStatus.RUNNING:
                raise Conflict(f"task {self.id} is {self.status}, not running")
            if container.try_pause():
                self._paused(None, reply)
                return
            if time.monotonic() > deadline:
                raise wire.TaskFailed("pause", errno.EBUSY, "unable to freeze")
            if attempt % 50 == 0:
                container.resume()
        except (OSError, SampanError) as e:
            try:
                container.resume()
            except OSError as again:
                note(f"task {self.id}: thaw: {again}")
            self._paused(e, reply)
            return
        self._loop.after(_FREEZE_STEP_S, lambda: self._freeze(container, deadline, attempt + 1, reply))

    def _paused(self, error: BaseException | None, reply: Reply) -> None:
        self._freezing = False
        if error is None and self.status is TaskStatus.RUNNING:
            self._change(TaskChange.PAUSED)
            self._event({"kind": "paused"})
        reply(None, error)

    def resume(self, reply: Reply) -> None:
        """Let frozen processes go on; a repeated call has nothing left to do."""
        if self.status is TaskStatus.RUNNING:
            reply(None, None)
            return
        if self.status is not TaskStatus.PAUSED:
            raise Conflict(f"task {self.id} is {self.status}, not paused")
        container = self._container()
        if isinstance(container, External):
            Worker(self._loop, alone(container.resume), lambda *answer: self._resumed(answer[2], reply))
        else:
            _made(container.resume)
            self._resumed(None, reply)

    def _resumed(self, error: BaseException | None, reply: Reply) -> None:
        if error is None and self.status is TaskStatus.PAUSED:
            self._change(TaskChange.RESUMED)
            self._event({"kind": "resumed"})
        reply(None, error)

    def update(self, request: wire.UpdateRequest, reply: Reply) -> None:
        """In a worker, because the kernel may first have to take memory away from the container."""
        container = self._container()
        resources = request["resources"]
        Worker(self._loop, alone(lambda: container.update(resources)), lambda *answer: reply(None, answer[2]))

    def resize(self, request: wire.ResizeRequest) -> None:
        """Without a terminal there is nothing to do, which is no error (as in Docker)."""
        process = self.process(request["exec_id"])
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

    def report(self) -> wire.TaskReport:
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
        if self.status is not TaskStatus.RUNNING:
            raise Conflict(f"task {self.id} is {self.status}, not running")
        return container

    def _change(self, change: TaskChange) -> None:
        self.status = after(self.status, change)

    def _event(self, event: wire.Event) -> None:
        self._notify(event)

    def _watch_oom(self) -> None:
        cgroup = self._container().cgroup
        try:
            self._oom_fd = cgroup.oom_fd()
            self._loop.watch(self._oom_fd, READ | _PRIORITY, lambda _: self._on_oom())
        except OSError as e:  # no memory controller: no news of it
            note(f"task {self.id}: OOM notification: {e}")
            self._oom_fd = -1

    def _forget_oom(self) -> None:
        if self._oom_fd >= 0:
            self._loop.forget(self._oom_fd)
            self._oom_fd = -1

    def _on_oom(self, looks: tuple[float, ...] = _OOM_LOOKS_S) -> None:
        """Tell of a kill, or that processes wait for memory; look again for a kill that is not counted yet."""
        if self._check_oom() or self.container is None or self._oom_fd < 0:
            return
        try:
            if self.container.cgroup.under_oom():
                self._event({"kind": "oom"})
                return
        except OSError:  # it is being removed
            return
        if looks:
            self._loop.after(looks[0], lambda: self._on_oom(looks[1:]))

    def _check_oom(self) -> bool:
        """Read the notification and tell of new kills; whether there were any."""
        if self.container is None:
            return False
        if self._oom_fd >= 0:
            os.set_blocking(self._oom_fd, False)
            try:
                os.read(self._oom_fd, 4096)
            except OSError:
                pass
        try:
            count = self.container.cgroup.oom_count()
        except OSError:  # no memory controller
            return False
        if count <= self._oom_seen:
            return False
        self._oom_seen = count
        self._event({"kind": "oom"})
        return True


def _made(call: Callable[[], T]) -> T:
    """Call the runtime; its refusal becomes a TaskFailed."""
    try:
        return call()
    except RuntimeFailure as e:
        raise wire.TaskFailed(e.step, e.errno, e.message) from e
