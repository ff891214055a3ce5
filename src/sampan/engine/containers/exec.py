"""Further processes in a running container: create, start, inspect, resize, and their end.

An exec instance lives in memory only, as long as its container runs and a while after its own end; the daemon's
restart forgets it, as Docker's does.

Source: Engine API 1.51, ContainerExec, ExecStart, ExecInspect; Docker Engine 28.5's answers.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.containers import specgen
from sampan.engine.containers.attach import AttachSession, parse_detach_keys, refusal
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.publishing import publish
from sampan.engine.containers.records import Container
from sampan.engine.containers.states import State
from sampan.engine.containers.table import ContainerTable
from sampan.engine.events import Events
from sampan.engine.hostpaths import HostPaths
from sampan.engine.tasks import failures, procfs, spec
from sampan.engine.tasks.capabilities import permitted
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, SampanError, words
from sampan.linux import saferoot
from sampan.spec.engine_api.container import ExecConfig
from sampan.supervisor.client import Exit, Supervisor, TaskFailed

EVENT_PATIENCE_S = 0.1
STATUS_PATIENCE_S = 5.0
RESIZE_PATIENCE_S = 10.0
_USERS_LIMIT_BYTES = 1 << 20
KEPT = 64  # ended instances that stay inspectable, per container
WAITING = 1024  # instances that nobody has started, per container; the oldest are forgotten


@dataclass(slots=True, kw_only=True)
class Exec:
    """One instance. `exit_status` is None until it has ended."""

    id: str
    container_id: str
    config: ExecConfig
    detach_keys: bytes
    pid: int = 0
    started: bool = False
    running: bool = False
    exit_status: int | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)  # it runs, or could not be made to
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def command(self) -> list[str]:
        """The program and its arguments."""
        return self.config.cmd or []


class Execs:
    """The exec instances of an engine."""

    def __init__(
        self,
        table: ContainerTable,
        launcher: Launcher,
        supervisor: Supervisor,
        events: Events,
        engine: EngineConfig,
        looks: HostPaths,
    ) -> None:
        self._table = table
        self._launcher = launcher
        self._supervisor = supervisor
        self._events = events
        self._engine = engine
        self._looks = looks
        self._by_id: dict[str, Exec] = {}
        self._of: dict[str, dict[str, Exec]] = table.live.notes({})

    def find(self, id: str) -> Exec:
        """Return the instance with this id or unique prefix. Raises: NotFound."""
        found = self._by_id.get(id)
        if found is None and id:
            matching = [e for e in self._by_id.values() if e.id.startswith(id)]
            found = matching[0] if len(matching) == 1 else None
        if found is None:
            raise NotFound(f"No such exec instance: {id}")
        return found

    async def create(self, ref: str, config: ExecConfig) -> str:
        """Make an instance that does not run yet; returns its id."""
        if not config.cmd:
            raise InvalidArgument("No exec command specified")
        c = self._table.get(ref)
        self._check_running(c, ref)
        try:
            keys = parse_detach_keys(config.detach_keys)
        except InvalidArgument:
            raise Internal(f"Invalid escape keys ({config.detach_keys}) provided") from None
        user = config.user or c.config.user
        if _needs_files(user):
            await self._looks.run("/etc/passwd", partial(_check_user, c, user))
            self._check_running(self._table.get(c.id), ref)
        e = Exec(id=secrets.token_hex(32), container_id=c.id, config=config, detach_keys=keys)
        self._forget_old(c)
        self._by_id[e.id] = e
        self._of.setdefault(c.id, {})[e.id] = e
        publish(self._events, c, f"exec_create: {_command_line(e)}", execID=e.id)
        return e.id

    def _check_running(self, c: Container, ref: str) -> None:
        """Raises: Conflict, in the words of a client that called the container `ref`."""
        if c.status.state is State.PAUSED:
            raise Conflict(f"Container {ref} is paused, unpause the container before exec")
        if c.status.state is State.RESTARTING:
            raise Conflict(f"Container {c.id} is restarting, wait until the container is running")
        if c.status.state is not State.RUNNING:
            raise Conflict(f"container {c.id} is not running")

    def _forget_old(self, c: Container) -> None:
        execs = self._of.get(c.id, {})
        ended = [e for e in execs.values() if e.exit_status is not None]
        for e in ended[: max(0, len(ended) - KEPT + 1)]:
            del execs[e.id]
            self._by_id.pop(e.id, None)
        waiting = [e for e in execs.values() if not e.started] if len(execs) >= WAITING else []
        for e in waiting[: max(0, len(waiting) - WAITING + 1)]:
            del execs[e.id]
            self._by_id.pop(e.id, None)

    async def start(
        self, id: str, *, detach: bool, tty: bool = False, console_size: tuple[int, int] | None = None
    ) -> AttachSession | None:
        """Start an instance: detached at once (None), or as a session whose `run` starts it."""
        e = self.find(id)
        c = self._table.get(e.container_id)
        if e.exit_status is not None or e.running or e.started:
            done = "has already run" if e.exit_status is not None else "is already running"
            raise Conflict(f"exec command {e.id} {done}")
        self._check_running(c, c.id)
        e.started = True
        size = console_size or e.config.console_size
        if detach:
            await self._begin(c, e, None, size, raw=tty)
            return None
        session = AttachSession(
            c.id,
            exec_id=e.id,
            tty=tty,
            stdin=e.config.attach_stdin,
            stdout=e.config.attach_stdout,
            stderr=e.config.attach_stderr,
            detach_keys=e.detach_keys,
        )

        async def begin(joined: AttachSession) -> bytes:
            try:
                await self._begin(c, e, joined, size, raw=tty)
            except (SampanError, OSError) as error:  # the connection is the client's stream already
                text = error.message if isinstance(error, SampanError) else words(error)
                return refusal(text, raw=tty)
            return b""

        session.begin = begin
        session.settle = lambda: self._settle(e)
        session.on_detach = lambda: publish(self._events, c, "exec_detach", execID=e.id)
        return session

    async def _begin(
        self, c: Container, e: Exec, session: AttachSession | None, size: tuple[int, int] | None, *, raw: bool
    ) -> None:
        config = e.config
        publish(self._events, c, f"exec_start: {_command_line(e)}", execID=e.id)
        e.running = True
        try:
            options = specgen.exec_process(
                c, config, self._engine, permitted(), size, self._launcher.links.environment(c)
            )
            process = spec.process(options)
            seccomp = await self._launcher.seccomp_path(options)
            if session is None:
                e.pid = await self._supervisor.exec(
                    c.id, e.id, process, terminal=config.tty, stdin=False, start=True, seccomp=seccomp
                )
            else:
                e.pid, attachment = await self._supervisor.exec_attached(
                    c.id,
                    e.id,
                    process,
                    terminal=config.tty,
                    stdin=config.attach_stdin,
                    stdout=config.attach_stdout,
                    stderr=config.attach_stderr,
                    raw=raw,
                    seccomp=seccomp,
                )
                session.joined(attachment)
            e.begun.set()
        except TaskFailed as refused:
            failure = failures.of_exec(refused.step, refused.errno, refused.message)
            self._end(e, failure.exit_status)
            raise failure.error from refused
        except (NotFound, Conflict) as gone:  # of the supervisor: its record is about to say so
            self._end(e, 128)
            raise Conflict(f"container {c.id} is not running") from gone
        except BaseException:
            self._end(e, 128)
            raise

    async def _settle(self, e: Exec) -> None:
        """Return when the exit status is known: by the event, or by asking when it was lost with a supervisor."""
        with suppress(TimeoutError):
            async with asyncio.timeout(EVENT_PATIENCE_S):
                await e.ended.wait()
            return
        with suppress(TimeoutError, SampanError):
            async with asyncio.timeout(STATUS_PATIENCE_S):
                exit = await self._supervisor.wait(e.container_id, e.id)
            self.exited(e.container_id, e.id, exit)

    def exited(self, container_id: str, exec_id: str, exit: Exit) -> None:
        """Note the end of an instance."""
        e = self._by_id.get(exec_id)
        if e is None or e.exit_status is not None:
            return
        self._end(e, exit.status)
        c = self._table.find(container_id)
        if c is not None:
            publish(self._events, c, "exec_die", execID=e.id, exitCode=str(exit.status))

    @staticmethod
    def _end(e: Exec, status: int) -> None:
        e.running = False
        e.exit_status = status
        e.begun.set()
        e.ended.set()

    def container_ended(self, id: str) -> None:
        """Note that a container's processes have ended with it."""
        for e in list(self._of.get(id, {}).values()):
            if e.running:
                self.exited(id, e.id, Exit(status=137, exited_at_ns=0, oom_killed=False))

    def forget(self, id: str) -> None:
        """Drop all instances of a container that is removed."""
        for e in self._of.get(id, {}).values():
            self._by_id.pop(e.id, None)

    def inspect(self, id: str) -> dict[str, Any]:
        """Return the JSON of ExecInspect."""
        e = self.find(id)
        config = e.config
        process: dict[str, Any] = {
            "tty": config.tty,
            "entrypoint": e.command[0],
            "arguments": e.command[1:],
            "privileged": config.privileged,
        }
        if config.user:
            process["user"] = config.user
        return {
            "ID": e.id,
            "Running": e.running,
            "ExitCode": e.exit_status,
            "ProcessConfig": process,
            "OpenStdin": config.attach_stdin,
            "OpenStderr": config.attach_stderr,
            "OpenStdout": config.attach_stdout,
            "CanRemove": False,
            "ContainerID": e.container_id,
            "DetachKeys": "" if not config.detach_keys else e.detach_keys.decode("latin-1"),
            "Pid": e.pid,
        }

    async def resize(self, id: str, height: int, width: int) -> None:
        """Set the window size of an instance's terminal; clients ask for it right after `start`, so it waits for that.

        Raises: NotFound, Internal when it does not begin in time, InvalidArgument when it could not or has ended.
        """
        e = self.find(id)
        try:
            async with asyncio.timeout(RESIZE_PATIENCE_S):
                await e.begun.wait()
                if not e.running:
                    if not e.pid:
                        raise InvalidArgument("exec process is not started")
                    raise NotFound(f"NotFound: process does not exist {e.id}: not found")
                if e.config.tty:
                    await self._supervisor.resize(e.container_id, width, height, exec_id=e.id)
        except TimeoutError:
            raise Internal("timeout waiting for exec session ready") from None

    def ids(self, id: str) -> list[str] | None:
        """Return the ids that `docker inspect` shows: running instances, or None."""
        return [e.id for e in self._of.get(id, {}).values() if e.exit_status is None] or None


def _command_line(e: Exec) -> str:
    return e.command[0] + " " + " ".join(e.command[1:])


def _needs_files(user: str) -> bool:
    """Tell whether a part of `user[:group]` is a name."""
    return any(text and not text.isdecimal() for text in user.split(":", 1))


def _check_user(c: Container, user: str) -> None:
    """Find the names of `user[:group]` in the container's own files now; init finds what they stand for.

    Raises: InvalidArgument for a name that is in neither file. Numbers need no entry.
    """
    name, _, group = user.partition(":")
    for text, kind, file in ((name, "user", "passwd"), (group, "group", "group")):
        if text and not text.isdecimal() and text.encode() not in _names(c, f"/etc/{file}"):
            raise InvalidArgument(f"unable to find {kind} {text}: no matching entries in {file} file")


def _names(c: Container, path: str) -> set[bytes]:
    """Return the first field of each line of a file inside a container's root; none when it is not a regular file."""
    root = procfs.open_root(c.status.pid, c.id)
    try:
        fd = saferoot.open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return set()
    finally:
        os.close(root)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return set()
        return {line.partition(b":")[0] for line in (file.read(_USERS_LIMIT_BYTES) or b"").splitlines()}
