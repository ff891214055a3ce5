"""Start another process in a running container: what `exec` does.

One clone. The caller lets its children be born in the container's pid namespace (`setns` of CLONE_NEWPID moves only
children), clones, and takes its own namespace back; the child joins all the others at once through init's pidfd. So the
new process is the caller's child, and no helper has to be waited for.

Invariants: non-dumpable before the clone, because in the container's pid namespace others can see it; what is needed of
the host (cgroup, procfs handle) is opened before the namespaces are joined; nothing is imported after.

Source: setns(2), pidfd_open(2), pid_namespaces(7).
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from sampan.linux import namespaces, process, pty
from sampan.linux.cgroups.interface import Cgroup
from sampan.linux.namespaces import CLONE_CLEAR_SIGHAND, CLONE_NEWPID, TYPES
from sampan.runtime import init, launch, sync
from sampan.runtime.failure import RuntimeFailure
from sampan.runtime.process_plan import CapabilitySets, ProcessPlan, build
from sampan.runtime.steps import devices
from sampan.runtime.steps import process as who


class Joining:
    """What the parent hands to the child."""

    __slots__ = (
        "caps",
        "cgroup",
        "channel",
        "death_signal",
        "flags",
        "init_pidfd",
        "load_seccomp",
        "plan",
        "preserve_fds",
        "stdio",
    )

    plan: ProcessPlan
    caps: CapabilitySets | None
    cgroup: Cgroup
    channel: sync.Channel
    death_signal: int
    flags: int
    init_pidfd: int
    load_seccomp: Callable[[], None] | None
    preserve_fds: int
    stdio: tuple[int, int, int] | None


def start(
    spec: dict[str, Any],
    process_spec: dict[str, Any],
    *,
    init_pidfd: int,
    cgroup: Cgroup,
    stdio: tuple[int, int, int] | None,
    seccomp: Callable[[], None] | None,
    detached: bool,
    preserve_fds: int,
) -> tuple[int, int, int | None]:
    """Start the process; return (pid, pidfd, console master or None) once it has been executed."""
    plan = build(process_spec)
    caps = plan.capabilities
    if caps is None:
        inherited_caps = (spec.get("process") or {}).get("capabilities")
        caps = None if inherited_caps is None else CapabilitySets(inherited_caps)
    try:
        ours, theirs = sync.pair()
    except OSError as error:
        raise RuntimeFailure.of("exec", error) from error
    joining = Joining()
    joining.plan = plan
    joining.caps = caps
    joining.cgroup = cgroup
    joining.channel = theirs
    joining.death_signal = 0 if detached else signal.SIGKILL
    joining.flags = _flags(spec)
    joining.init_pidfd = init_pidfd
    joining.load_seccomp = seccomp
    joining.preserve_fds = preserve_fds
    joining.stdio = None if plan.terminal else stdio
    console: int | None = None
    pid, pidfd = -1, -1
    try:
        pid, pidfd = _clone(joining)
        theirs.close()
        while True:
            packet, fd = ours.receive()
            if not packet:
                return pid, pidfd, console
            if packet == sync.CONSOLE:
                console = fd
    except BaseException as error:
        _undo(pid, pidfd, console)
        if isinstance(error, OSError):
            raise RuntimeFailure.of("exec", error) from error
        raise
    finally:
        ours.close()
        if theirs.fd >= 0:
            theirs.close()


def _undo(pid: int, pidfd: int, console: int | None) -> None:
    if pid > 0:
        process.end(pid, pidfd)
    if console is not None:
        os.close(console)


def _flags(spec: dict[str, Any]) -> int:
    """The namespaces that the container has of its own: those of its spec."""
    flags = 0
    for namespace in (spec.get("linux") or {}).get("namespaces") or ():
        flags |= TYPES[namespace["type"]][0]
    return flags


def _clone(joining: Joining) -> tuple[int, int]:
    own_pid_namespace = bool(joining.flags & CLONE_NEWPID)
    process.prctl(process.PR_SET_DUMPABLE, 0)
    back = -1
    cgroup_fd = joining.cgroup.directory_fd()
    try:
        if own_pid_namespace:
            back = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            try:
                namespaces.setns(joining.init_pidfd, CLONE_NEWPID)
            except ProcessLookupError as error:
                raise RuntimeFailure("exec", error.errno or 0, "cannot exec in a stopped container") from error
        pid, pidfd = namespaces.clone3(CLONE_CLEAR_SIGHAND, cgroup_fd=cgroup_fd)
        if pid == 0:
            _run(joining, cloned_into_cgroup=cgroup_fd is not None)
        return pid, pidfd
    finally:
        if back >= 0:
            namespaces.setns(back, CLONE_NEWPID)
            os.close(back)
        if cgroup_fd is not None:
            os.close(cgroup_fd)


def _run(joining: Joining, *, cloned_into_cgroup: bool) -> NoReturn:
    """The child: from the clone to the execve."""
    plan = joining.plan
    step = "isolate"
    try:
        gc.disable()
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
        step = "cgroup"
        if plan.affinity[0]:
            os.sched_setaffinity(0, plan.affinity[0])
        joining.cgroup.add(0, cloned=cloned_into_cgroup)
        if plan.affinity[1]:
            os.sched_setaffinity(0, plan.affinity[1])
        if plan.oom_score_adj is not None:
            step = "oom score"
            launch.set_oom_score(plan.oom_score_adj, int(os.readlink("/proc/self")))
        step = "namespaces"
        proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if plan.apparmor else -1
        host_pid = os.readlink("/proc/self") if plan.apparmor else ""
        _join(joining)
        root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if plan.terminal:
            step = "console"
            _open_console(joining, root_fd)
        if plan.apparmor:
            step = "apparmor"
            who.set_apparmor(plan.apparmor, proc_fd, host_pid)
            os.close(proc_fd)
        step = "process"
        who.set_limits(plan)
        who.set_scheduling(plan)
        identity = who.identify(plan, root_fd)
        who.own_stdio(identity)
        os.close(root_fd)
        program = who.become(
            plan, joining.caps, identity, death_signal=joining.death_signal, load_seccomp=joining.load_seccomp
        )
        if joining.death_signal and joining.channel.is_abandoned():
            os._exit(1)  # the parent died before its death could signal us
        step = "exec"
        process.close_range(3 + joining.preserve_fds, flags=process.CLOSE_RANGE_CLOEXEC)
        who.execute(program, plan)
    except BaseException as error:
        init.report(joining.channel, step, error)
    finally:
        os._exit(1)


def _join(joining: Joining) -> None:
    """Join everything but the pid namespace, in which this process was born."""
    flags = joining.flags & ~CLONE_NEWPID
    namespaces.setns(joining.init_pidfd, flags)
    os.close(joining.init_pidfd)
    if flags & TYPES["user"][0]:
        process.setgroups([])
        process.setresgid(0, 0, 0)
        process.setresuid(0, 0, 0)
        process.prctl(process.PR_SET_DUMPABLE, 0)


def _open_console(joining: Joining, root_fd: int) -> None:
    plan = joining.plan
    master, slave = devices.open_terminal(root_fd)
    if plan.console_size is not None:
        pty.set_size(slave, *plan.console_size)
    joining.channel.send_fd(sync.CONSOLE, master)
    os.close(master)
    pty.make_controlling(slave)
    for number in (0, 1, 2):
        os.dup2(slave, number, inheritable=True)
    os.close(slave)
