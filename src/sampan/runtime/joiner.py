"""Start another process in a running container: what `exec` does.

Two clones. The first child, the *stage*, joins the container's cgroup and all its namespaces; of a pid namespace that
moves its children only, so nobody in the container ever sees it. Then it goes on as the process itself, which is a
child of the caller and has the stage's memory (`namespaces.move_on`). The kernel writes the pid where the caller sees
it before the process runs, so the caller can kill also a process that the container stops at its birth.

    caller ──clone3──▶ stage: cgroup, limits of the host's, namespaces, keyring, console
                         └──clone3──▶ process: the rest, execve

Invariants: the process that is visible in the container holds nothing of the host: root, working directory, namespaces
and cgroup are the container's, its descriptors are the channel and the standard streams, its program is a sealed copy
(shim). A container with CAP_SYS_PTRACE looks behind `PR_SET_DUMPABLE`, so that alone would not do. Nothing is imported
after the first clone.

Source: setns(2), clone3(2), pidfd_open(2), pid_namespaces(7).
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from sampan.linux import namespaces, process, pty
from sampan.linux.cgroups.interface import Cgroup
from sampan.linux.namespaces import CLONE_CLEAR_SIGHAND, TYPES
from sampan.runtime import agent, init, launch, sync
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.process_plan import ProcessPlan, build, inherit
from sampan.runtime.steps import devices
from sampan.runtime.steps import process as who
from sampan.runtime.steps.become import Becoming, become, confine


class Joining:
    """What the parent hands to the stage, and the stage to the process."""

    __slots__ = (
        "cgroup",
        "channel",
        "cloned_into_cgroup",
        "death_signal",
        "flags",
        "init_pidfd",
        "keyring",
        "line_ends",
        "listens",
        "load_seccomp",
        "personality",
        "plan",
        "preserve_fds",
        "root_fd",
        "stdio",
        "step",
        "told",
    )

    plan: ProcessPlan
    cgroup: Cgroup
    channel: sync.Channel
    cloned_into_cgroup: bool
    death_signal: int
    flags: int
    init_pidfd: int
    keyring: str  # the container's session keyring; empty: the caller's is kept
    line_ends: bool
    listens: bool
    load_seccomp: Callable[[], int] | None
    personality: str
    preserve_fds: int
    root_fd: int
    step: str
    stdio: tuple[int, int, int] | None
    told: namespaces.SharedPid

    @property
    def user_namespace(self) -> bool:
        return bool(self.flags & TYPES["user"][0])


class Joiner:
    """The caller's side of one exec: hears the stage and the process until the execve, without ever having to wait.

    `channel.fd` is readable when there is something to `hear`. The caller reaps both children.
    """

    __slots__ = ("_agent", "_failure", "_stage_pidfd", "_state", "_told", "channel", "console", "pid", "pidfd", "stage")

    def __init__(self, joining: Joining, channel: sync.Channel, listening: tuple[agent.Agent, bytes] | None) -> None:
        """Clone the stage; `listening`: the filter's agent and the container's state. Raises: OSError."""
        self.channel = channel
        self._agent = listening[0] if listening else None
        self._state = listening[1] if listening else b""
        self.console: int | None = None  # the terminal's master
        self.pid = -1
        self.pidfd = -1
        self._failure: RuntimeFailure | None = None
        self._told = joining.told
        self.stage, self._stage_pidfd = _clone(joining)

    def hear(self, *, wait: bool) -> bool:
        """Take what has been said; True once the program has been executed, False without `wait` when it has not yet.

        Raises: RuntimeFailure; then `abort` must follow.
        """
        try:
            self._look()
            while True:
                try:
                    packet, fd = self.channel.receive(wait=wait)
                except BlockingIOError:
                    return False
                except RuntimeFailure as error:
                    self._failure = self._failure or error
                    continue
                if not packet:
                    break
                self._take(packet, fd)
            self._look()
        except OSError as error:
            raise RuntimeFailure.of("exec", error) from error
        if self._failure is not None:
            raise self._failure
        if self.pid < 0:
            raise RuntimeFailure("exec", 0, "the process that joins the container was killed")
        return True

    def _take(self, packet: bytes, fd: int | None) -> None:
        if packet == sync.CONSOLE and self.console is None:
            self.console = fd
            return
        if packet[:1] == sync.LISTENER and self._agent is not None:
            self._look()
            self._agent.hand_over(self._state, self.pid, self.pidfd, packet)
            self.channel.send(sync.GO)
        if fd is not None:
            os.close(fd)

    def _look(self) -> None:
        """Take the pid when there is one. Raises: OSError when it is not, or no more, that of a child of ours."""
        if self.pid < 0 and (pid := self._told.value):
            self.pid, self.pidfd = sync.child(pid, os.getpid())

    def close(self) -> None:
        """The process has been executed, and is the caller's, as are pidfd and console; the stage has ended."""
        self.channel.close()
        os.close(self._stage_pidfd)

    def abort(self) -> None:
        """Kill what there is; nobody is waited for."""
        try:
            self._look()
        except OSError:  # it has ended, and has been reaped
            pass
        for pidfd in (self._stage_pidfd, self.pidfd):
            if pidfd >= 0:
                try:
                    process.pidfd_send_signal(pidfd, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if self.pidfd >= 0:
            os.close(self.pidfd)
        if self.console is not None:
            os.close(self.console)
        self.close()


def begin(
    spec: dict[str, Any],
    process_spec: dict[str, Any],
    *,
    init_pidfd: int,
    cgroup: Cgroup,
    stdio: tuple[int, int, int] | None,
    seccomp: Callable[[], int] | None,
    listening: tuple[agent.Agent, bytes] | None,
    keyring: str,
    detached: bool,
    preserve_fds: int,
    line_ends: bool,
) -> Joiner:
    """Begin to start the process. Raises: RuntimeFailure."""
    plan = build(inherit(spec.get("process") or {}, process_spec))
    try:
        ours, theirs = sync.pair()
    except OSError as error:
        raise RuntimeFailure.of("exec", error) from error
    joining = Joining()
    joining.plan = plan
    joining.cgroup = cgroup
    joining.channel = theirs
    joining.cloned_into_cgroup = False
    joining.death_signal = 0 if detached else signal.SIGKILL
    joining.flags = _flags(spec)
    joining.init_pidfd = init_pidfd
    joining.keyring = keyring
    joining.line_ends = line_ends
    joining.listens = listening is not None
    joining.load_seccomp = agent.announcing(seccomp, theirs) if seccomp and listening else seccomp
    joining.personality = ((spec.get("linux") or {}).get("personality") or {}).get("domain") or ""
    joining.preserve_fds = preserve_fds
    joining.root_fd = -1
    joining.step = "isolate"
    joining.told = namespaces.SharedPid()
    joining.stdio = None if plan.terminal else stdio
    try:
        return Joiner(joining, ours, listening)
    except OSError as error:
        ours.close()
        raise RuntimeFailure.of("exec", error) from error
    finally:
        theirs.close()


def _flags(spec: dict[str, Any]) -> int:
    """The namespaces that the container has of its own: those of its spec."""
    flags = 0
    for namespace in (spec.get("linux") or {}).get("namespaces") or ():
        flags |= TYPES[namespace["type"]][0]
    return flags


def _clone(joining: Joining) -> tuple[int, int]:
    cgroup_fd = joining.cgroup.directory_fd()
    try:
        stage, pidfd = namespaces.clone3(CLONE_CLEAR_SIGHAND, cgroup_fd=cgroup_fd)
        if stage == 0:
            joining.cloned_into_cgroup = cgroup_fd is not None
            _run(joining)
        return stage, pidfd
    finally:
        if cgroup_fd is not None:
            os.close(cgroup_fd)


def _run(joining: Joining) -> NoReturn:
    """The stage and then the process: from the first clone to the execve."""
    try:
        gc.disable()
        for joining.step, function in STAGE:
            function(joining)
        namespaces.move_on(CLONE_CLEAR_SIGHAND, told=joining.told)
        _become(joining)
    except BaseException as error:
        init.report(joining.channel, joining.step, error)
    finally:
        os._exit(1)


# ── the stage ─────────────────────────────────────────────────────────────────────────────────────────────


def isolate(joining: Joining) -> None:
    process.prctl(process.PR_SET_DUMPABLE, 0)
    if joining.death_signal:
        process.prctl(process.PR_SET_PDEATHSIG, joining.death_signal)
    who.reset_signals()
    os.setsid()
    os.umask(0o022)
    if joining.stdio is not None:
        who.set_stdio(joining.stdio)
    kept = range(3, 3 + joining.preserve_fds)
    who.close_others([joining.channel.fd, joining.init_pidfd, *kept])


def join_cgroup(joining: Joining) -> None:
    plan = joining.plan
    if plan.affinity[0]:
        os.sched_setaffinity(0, plan.affinity[0])
    joining.cgroup.add(0, cloned=joining.cloned_into_cgroup)
    if not any(plan.affinity):
        who.use_every_cpu()
    if plan.affinity[1]:
        os.sched_setaffinity(0, plan.affinity[1])


def set_oom_score(joining: Joining) -> None:
    if joining.plan.oom_score_adj is not None:
        launch.set_oom_score(joining.plan.oom_score_adj, int(os.readlink("/proc/self")))


def set_apparmor(joining: Joining) -> None:
    if not joining.plan.apparmor:
        return
    proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        who.set_apparmor(joining.plan.apparmor, proc_fd, os.readlink("/proc/self"))
    finally:
        os.close(proc_fd)


def join_namespaces(joining: Joining) -> None:
    try:
        namespaces.setns(joining.init_pidfd, joining.flags)
    except ProcessLookupError as error:
        raise RuntimeFailure("exec", error.errno or 0, "cannot exec in a stopped container") from error
    os.close(joining.init_pidfd)
    if joining.user_namespace:
        process.setgroups([])
        process.setresgid(0, 0, 0)
        process.setresuid(0, 0, 0)
        process.prctl(process.PR_SET_DUMPABLE, 0)
    joining.root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def join_keyring(joining: Joining) -> None:
    if joining.keyring:
        who.join_keyring(joining.keyring)


def open_console(joining: Joining) -> None:
    plan = joining.plan
    if not plan.terminal:
        return
    master, slave = devices.open_terminal(joining.root_fd)
    if plan.console_size is not None:
        pty.set_size(slave, *plan.console_size)
    if not joining.line_ends:
        pty.leave_line_ends(slave)
    joining.channel.send_fd(sync.CONSOLE, master)
    os.close(master)
    for number in (0, 1, 2):
        os.dup2(slave, number, inheritable=True)
    os.close(slave)


STAGE: tuple[tuple[str, Callable[[Joining], None]], ...] = (
    ("isolate", isolate),
    ("cgroup", join_cgroup),  # by the host's paths
    ("oom score", set_oom_score),  # by the host's procfs; inherited
    ("apparmor", set_apparmor),  # by the host's procfs; inherited until the execve
    ("namespaces", join_namespaces),
    ("keyring", join_keyring),  # keyrings are found by name in the user namespace
    ("console", open_console),
)


# ── the process ───────────────────────────────────────────────────────────────────────────────────────────


def _become(joining: Joining) -> NoReturn:
    """What only the process itself can do, and what it needs its rights for until then."""
    plan = joining.plan
    joining.step = "process"
    if joining.death_signal:
        process.prctl(process.PR_SET_PDEATHSIG, joining.death_signal)
    os.setsid()
    if plan.terminal:
        pty.make_controlling(0)
    # Here, because the filter may refuse it; what `become` opens is close-on-exec by itself.
    process.close_range(3 + joining.preserve_fds, flags=process.CLOSE_RANGE_CLOEXEC)
    becoming = Becoming(
        plan,
        plan.capabilities,
        root_fd=joining.root_fd,
        personality=joining.personality,
        death_signal=joining.death_signal,
        load_seccomp=joining.load_seccomp,
        listens=joining.listens,
        is_abandoned=joining.channel.is_abandoned,
    )
    try:
        program = become(becoming)
        confine(becoming)
    finally:
        joining.step = becoming.step
    joining.step = "exec"
    who.execute(program, plan)
