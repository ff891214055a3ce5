"""A container as the runtime sees it: create, start, exec, signal, pause, delete.

The caller is single-threaded (the shim, or sampan-runc). `create` returns when init stands at the gate, with only the
final execve left; `start` opens the gate. Init, and what `exec` starts, are children of the caller, who reaps them.

Not here: logs, attach, restart, and the directory a container lives in.

Source: OCI runtime-spec 1.2 runtime.md.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from signal import SIGKILL
from typing import Any

from sampan.linux import process
from sampan.linux.cgroups import groups
from sampan.linux.cgroups.interface import Cgroup
from sampan.runtime import agent, hooks, init, joiner, launch, sync
from sampan.runtime import plan as planning
from sampan.runtime.failure import InvalidSpec, RuntimeFailure
from sampan.runtime.process_plan import INHERITED
from sampan.runtime.steps.process import keyring_of
from sampan.runtime.validate import validate, validate_process

Spec = dict[str, Any]
Mounts = list[Spec] | tuple[Spec, ...]
Stdio = tuple[int, int, int]

__all__ = [
    "Container",
    "CreateOptions",
    "ExecProcess",
    "InvalidSpec",
    "RuntimeFailure",
    "create",
    "create_for_parent",
    "validate",
]


class ExecProcess:
    """A process started by `Container.exec`; a child of the caller. The descriptors are the caller's to close."""

    __slots__ = ("console_fd", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, console_fd: int | None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console_fd = console_fd


class Container:
    """One container between create and delete. `pidfd` and `console_fd` are the caller's to use, `delete` closes
    them.
    """

    def __init__(self, *, id: str, bundle: str, spec: Spec, cgroup: Cgroup, pid: int, pidfd: int) -> None:
        self.id = id
        self.bundle = bundle
        self.spec = spec
        self.cgroup = cgroup
        self.pid = pid
        self.pidfd = pidfd
        self.console_fd: int | None = None
        self.timing: dict[str, int] = {}
        self.started = False
        self.keyring = True  # it has a session keyring of its own
        self._channel: sync.Channel | None = None
        self._gate_fd = -1  # init's own copy of our end, when it waits for another process
        self._gate_inode = 0  # what tells that copy from any other descriptor of this number
        self._start_time = 0

    # ── start ─────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Let init go on: startContainer hooks, execve; then poststart hooks.

        Raises: RuntimeFailure when a hook fails (the container is killed) or init has gone already.
        """
        self.open_gate()
        self.passed_gate(wait=True)
        self.run_poststart()

    def open_gate(self) -> int:
        """Tell init to go on; return a descriptor that is readable when `passed_gate` has something to say."""
        if self._channel is None:
            gate = self._open_gate()
            if gate < 0:
                raise RuntimeFailure("start", 0, "cannot start a container that has stopped")
            self._channel = sync.adopt(gate)
        try:
            self._channel.send(sync.GO)
        except (BrokenPipeError, ConnectionResetError) as error:
            self.close_gate()
            raise RuntimeFailure("start", 0, "cannot start a container that has stopped") from error
        return self._channel.fd

    def passed_gate(self, *, wait: bool) -> bool:
        """Say whether init has executed the program; without `wait` False when that is not known yet.

        Raises: RuntimeFailure. Once there is an answer the gate's descriptor is closed.
        """
        assert self._channel is not None
        try:
            packet, _ = self._channel.receive(wait=wait)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError) as error:
            self.close_gate()
            raise RuntimeFailure("start", 0, "cannot start a container that has stopped") from error
        except RuntimeFailure:
            self.close_gate()
            raise
        self.close_gate()
        if packet:
            raise RuntimeFailure("start", 0, "container init broke the protocol")
        self.started = True
        return True

    @property
    def has_poststart(self) -> bool:
        return bool(self._hooks("poststart"))

    def run_poststart(self) -> None:
        """Run the poststart hooks. Raises: RuntimeFailure; the container is killed then."""
        wanted = self._hooks("poststart")
        if not wanted:
            return
        try:
            hooks.run("poststart", wanted, self._state_json("running"))
        except RuntimeFailure:
            self.signal(SIGKILL)
            raise

    def _hooks(self, kind: str) -> list[Spec]:
        return (self.spec.get("hooks") or {}).get(kind) or []

    def _state_json(self, status: str) -> bytes:
        plan = planning.Plan()
        plan.id = self.id
        plan.bundle = self.bundle
        plan.annotations = self.spec.get("annotations") or {}
        return init.state(plan, status, 0 if status == "stopped" else self.pid)

    # ── exec ──────────────────────────────────────────────────────────────────────────────────────────────

    def exec(
        self,
        process: Spec,
        *,
        stdio: tuple[int, int, int] | None = None,
        seccomp_bpf: bytes | None = None,
        cgroup: Cgroup | None = None,
        detached: bool = False,
        preserve_fds: int = 0,
        ignore_paused: bool = False,
        line_ends: bool = True,
    ) -> ExecProcess:
        """Start another process inside the container; returns when it has been executed.

        Without `line_ends` its terminal writes line feeds as they are, from its first one on.

        With `ignore_paused` it may join a frozen cgroup, and the call returns when somebody thaws that.

        Raises: RuntimeFailure, with nothing left behind.
        """
        joining = self.join(
            process,
            stdio=stdio,
            seccomp_bpf=seccomp_bpf,
            cgroup=cgroup,
            detached=detached,
            preserve_fds=preserve_fds,
            ignore_paused=ignore_paused,
            line_ends=line_ends,
        )
        try:
            joining.hear(wait=True)
        except BaseException:
            joining.abort()
            _reap(joining.pid)
            raise
        finally:
            _reap(joining.stage)
        joining.close()
        return ExecProcess(joining.pid, joining.pidfd, joining.console)

    def join(
        self,
        process: Spec,
        *,
        stdio: Stdio | None = None,
        seccomp_bpf: bytes | None = None,
        cgroup: Cgroup | None = None,
        detached: bool = False,
        preserve_fds: int = 0,
        ignore_paused: bool = False,
        line_ends: bool = True,
    ) -> joiner.Joiner:
        """Begin an `exec` that the caller follows itself. Raises: RuntimeFailure."""
        validate_process(process, "process")
        if not ignore_paused and self.cgroup.frozen():
            raise RuntimeFailure("exec", 0, "cannot exec in a paused container (use --ignore-paused to override)")
        seccomp_agent = agent.of((self.spec.get("linux") or {}).get("seccomp"))
        return joiner.begin(
            self.spec,
            process,
            init_pidfd=self.pidfd,
            cgroup=cgroup or self.cgroup,
            stdio=stdio,
            seccomp=_seccomp_loader(self.spec, seccomp_bpf),
            listening=(seccomp_agent, self._state_json("running")) if seccomp_agent else None,
            keyring=keyring_of(self.id) if self.keyring else "",
            detached=detached,
            preserve_fds=preserve_fds,
            line_ends=line_ends,
        )

    # ── the rest of its life ──────────────────────────────────────────────────────────────────────────────

    def signal(self, sig: int, all: bool = False) -> None:
        """Send a signal to init, or to every process of the container.

        Raises: ProcessLookupError when init has gone.
        """
        if not all:
            if self.pidfd < 0:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            process.pidfd_send_signal(self.pidfd, sig)
            return
        if sig == SIGKILL:
            self.cgroup.kill()
            return
        for pid in self.cgroup.pids():
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass

    def pause(self) -> None:
        self.cgroup.freeze()

    def try_pause(self) -> bool:
        """Ask for a pause and say whether everything stands still; to be called again until it does."""
        return self.cgroup.try_freeze()

    def resume(self) -> None:
        self.cgroup.thaw()

    def update(self, resources: Spec) -> None:
        """Change limits; keys as in the OCI `linux.resources`."""
        self.cgroup.apply(resources)

    def pids(self) -> list[int]:
        return self.cgroup.pids()

    def delete(self) -> list[str]:
        """Kill what is left, remove the cgroup, run the poststop hooks; return the hooks' failures as texts.

        The caller has reaped init, or lets it be a zombie. A container that has gone already is fine.
        """
        self.close_gate()
        self.cgroup.kill()
        self.cgroup.delete()
        failures = self.run_poststop()
        self.close()
        return failures

    def try_delete(self) -> bool:
        """Kill what is left and remove the cgroup as far as nothing is left in it; say whether it has gone."""
        self.close_gate()
        self.cgroup.kill()
        return self.cgroup.try_delete()

    @property
    def has_poststop(self) -> bool:
        return bool(self._hooks("poststop"))

    def run_poststop(self) -> list[str]:
        """Run the poststop hooks; return their failures as texts."""
        return hooks.run_all("poststop", self._hooks("poststop"), self._state_json("stopped"))

    def close_gate(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._gate_fd = -1

    def close(self) -> None:
        """Close this object's descriptors; the container goes on."""
        self.close_gate()
        for name in ("pidfd", "console_fd"):
            fd = getattr(self, name)
            if fd is not None and fd >= 0:
                os.close(fd)
        self.pidfd = -1
        self.console_fd = None

    # ── from the process that made it to the one that keeps it ────────────────────────────────────────────────

    def hand_over(self) -> tuple[Spec, list[int]]:
        """Return what the parent needs to keep a container made with `sibling`: JSON-able values, and descriptors,
        which are no longer this object's.
        """
        assert self._channel is not None
        fds = [self._channel.socket.detach(), self.pidfd, *([] if self.console_fd is None else [self.console_fd])]
        values = {"id": self.id, "bundle": self.bundle, "spec": _kept(self.spec), "cgroup": self.cgroup.path}
        return {**values, "pid": self.pid}, fds

    # ── state.json ────────────────────────────────────────────────────────────────────────────────────────

    def to_state(self) -> Spec:
        """Return what another process needs to go on, JSON-able."""
        return {
            "version": 1,
            "id": self.id,
            "bundle": self.bundle,
            "pid": self.pid,
            "start_time": start_time(self.pid) if self._start_time == 0 else self._start_time,
            "started": self.started,
            "gate_fd": self._gate_fd,
            "gate_inode": self._gate_inode,
            "cgroup": self.cgroup.path,
            "keyring": self.keyring,
            "spec": self.spec,
        }

    @classmethod
    def from_state(cls, state: Spec) -> Container:
        """Rebuild a container. With `pidfd` -1 its init has gone, or the pid has another owner by now."""
        container = cls(
            id=state["id"],
            bundle=state["bundle"],
            spec=state["spec"],
            cgroup=groups.load(state["cgroup"]),
            pid=state["pid"],
            pidfd=_open_same(state["pid"], state["start_time"]),
        )
        container.started = state["started"]
        container.keyring = state.get("keyring", True)
        container._gate_fd = state["gate_fd"]
        container._gate_inode = state["gate_inode"]
        container._start_time = state["start_time"]
        return container

    def waits_at_gate(self) -> bool:
        """Say whether init stands before its execve; for a container rebuilt from its state."""
        if self._channel is not None:
            return True
        gate = self._open_gate()
        if gate >= 0:
            os.close(gate)
        return gate >= 0

    def _open_gate(self) -> int:
        """Fetch our end of the channel from an init that keeps a copy; -1 when it has none any more."""
        if self._gate_fd < 0 or self.pidfd < 0:
            return -1
        try:
            gate = process.pidfd_getfd(self.pidfd, self._gate_fd)
        except OSError:
            return -1
        if os.fstat(gate).st_ino != self._gate_inode:  # the program's own descriptor of that number
            os.close(gate)
            return -1
        return gate


def start_time(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 when it has gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _open_same(pid: int, began: int) -> int:
    """Open a pidfd and make sure that it is the process that began then; -1 when it is not."""
    try:
        pidfd = process.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    if start_time(pid) != began:
        os.close(pidfd)
        return -1
    return pidfd


class CreateOptions:
    """How a container is to be made: what its caller decides, beside the spec."""

    __slots__ = (
        "agents",
        "cgroup",
        "detached",
        "keyring",
        "pivot",
        "preserve_fds",
        "seccomp_bpf",
        "sibling",
        "sources",
        "stdio",
        "timing",
    )

    def __init__(
        self,
        *,
        stdio: Stdio | None = None,
        seccomp_bpf: bytes | None = None,
        cgroup: Cgroup | None = None,
        detached: bool = False,
        preserve_fds: int = 0,
        keyring: bool = True,
        pivot: bool = True,
        timing: bool = False,
        sources: dict[str, int] | None = None,
        agents: bool = False,
    ) -> None:
        self.stdio = stdio  # of a process with no terminal; with one, the master comes back as `console_fd`
        self.seccomp_bpf = seccomp_bpf  # the compiled filter; else it is compiled from the spec
        self.cgroup = cgroup  # an existing one, with its limits applied; else it is made from the spec
        self.detached = detached  # init outlives the caller, and another process may start it
        self.preserve_fds = preserve_fds  # how many descriptors from 3 on init keeps
        self.keyring = keyring  # a session keyring of its own
        self.pivot = pivot  # False: move the root over "/" instead
        self.timing = timing  # measure init's steps
        self.sources = sources or {}  # place in the spec → descriptor instead of a name: see launch.prepare
        self.agents = agents  # a profile may name an agent (listenerPath), which this process then connects to
        self.sibling = False  # init is a child of the caller's parent, which keeps the container (`hand_over`)


class Draft:
    """A container that is planned, with the channel to its init to be, and nothing of which exists yet."""

    __slots__ = ("agent", "id", "inherited", "options", "ours", "plan", "spec")

    def __init__(self, spec: Spec, id: str, bundle: str, rootfs: Mounts, options: CreateOptions) -> None:
        """Raises: InvalidSpec, RuntimeFailure."""
        self.id = id
        self.spec = spec
        self.options = options
        self.plan = plan = planning.build(spec, id=id, bundle=os.path.abspath(bundle), rootfs=rootfs)
        if plan.process is None:
            raise InvalidSpec("process", "required to create a container")
        plan.pivot_root = options.pivot
        profile = (spec.get("linux") or {}).get("seccomp") or {}
        self.agent = agent.of(profile)
        if self.agent and not options.agents:
            raise InvalidSpec("linux.seccomp", "SCMP_ACT_NOTIFY and listenerPath are not supported")
        load_seccomp = _seccomp_loader(spec, options.seccomp_bpf)
        try:
            self.ours, theirs = sync.pair()
        except OSError as error:
            raise RuntimeFailure.of("create", error) from error
        self.inherited = inherited = init.Inherited(theirs, options.cgroup)
        inherited.stdio = None if plan.process.terminal else options.stdio
        inherited.listens = self.agent is not None
        inherited.load_seccomp = agent.announcing(load_seccomp, theirs) if self.agent else load_seccomp
        inherited.wait_first = plan.user_namespace
        inherited.join_cgroup = not plan.user_namespace
        inherited.death_signal = 0 if options.detached else SIGKILL
        inherited.spare = self.ours if options.detached else None
        inherited.keyring = options.keyring
        inherited.preserve_fds = options.preserve_fds
        inherited.sibling = options.sibling
        inherited.timing = options.timing
        inherited.found = options.sources

    def close(self) -> None:
        self.ours.close()
        self.inherited.channel.close()

    def container(self, heard: launch.Conversation) -> Container:
        """Return the container that has come of it."""
        assert heard.cgroup is not None
        container = Container(
            id=self.id,
            bundle=self.plan.bundle,
            spec=self.spec,
            cgroup=heard.cgroup,
            pid=heard.pid,
            pidfd=heard.pidfd,
        )
        container.console_fd = heard.console_fd
        container.timing = heard.timing
        container.keyring = self.options.keyring
        container._channel = self.ours
        if self.options.detached:
            container._gate_fd = self.ours.fd
            container._gate_inode = os.fstat(self.ours.fd).st_ino
        return container


def create(spec: Spec, *, id: str, bundle: str, rootfs: Mounts = (), options: CreateOptions | None = None) -> Container:
    """Make a container whose init waits at the gate.

    `rootfs` are mounts made in order at root.path inside the container's mount namespace.

    Raises: InvalidSpec before any side effect; RuntimeFailure with everything undone.
    """
    validate(spec)
    return _make(Draft(spec, id, bundle, rootfs, options or CreateOptions()))


def _make(draft: Draft) -> Container:
    plan, inherited, own_cgroup = draft.plan, draft.inherited, draft.options.cgroup is None
    prepared = launch.Prepared()
    heard = launch.Conversation(draft.options.cgroup)
    heard.agent = draft.agent
    try:
        if own_cgroup and not launch.may_defer_cgroup(plan):
            heard.cgroup = inherited.cgroup = launch.make_cgroup(plan)
        launch.prepare(plan, inherited, prepared)
        heard.pid, heard.pidfd = launch.spawn(plan, inherited)
        inherited.channel.close()
        launch.converse(plan, inherited, draft.ours, heard)
    except BaseException as error:
        draft.close()
        _undo(heard.pid, heard.pidfd, heard.console_fd, plan.cgroup_path if own_cgroup else None)
        if isinstance(error, OSError):
            raise RuntimeFailure.of("create", error) from error
        raise
    finally:
        prepared.close()
    return draft.container(heard)


def create_for_parent(
    spec: Spec,
    *,
    id: str,
    bundle: str,
    rootfs: Mounts,
    options: CreateOptions,
    hand_over: Callable[[Spec, list[int]], None],
) -> None:
    """Make a container that is the parent's from the start; `hand_over` gets what `Handover` takes.

    The spec has been validated. The calling process becomes init, if it can: then this does not return. Otherwise init
    is its sibling, and it returns once init stands at the gate.

    Raises: RuntimeFailure, before anything has been handed over, with everything undone.
    """
    options.sibling = True
    draft = Draft(spec, id, bundle, rootfs, options)
    plan, inherited = draft.plan, draft.inherited
    if not launch.may_move_on(plan):
        hand_over(*_make(draft).hand_over())
        return
    try:
        launch.prepare(plan, inherited, launch.Prepared())
        if not launch.may_defer_cgroup(plan):
            inherited.cgroup = launch.make_cgroup(plan)
    except OSError as error:
        raise RuntimeFailure.of("create", error) from error
    hand_over({"id": id, "bundle": plan.bundle, "spec": _kept(spec), "cgroup": plan.cgroup_path}, [draft.ours.fd])
    launch.move_on(plan, inherited)


def _kept(spec: Spec) -> Spec:
    """What a container needs of its spec once it has been made; the rest would be memory for nothing in every shim."""
    kept: Spec = {key: spec[key] for key in ("annotations", "hooks") if key in spec}
    process = spec.get("process") or {}
    kept["process"] = {key: process[key] for key in INHERITED if key in process}
    if (umask := (process.get("user") or {}).get("umask")) is not None:
        kept["process"]["user"] = {"umask": umask}
    linux = spec.get("linux") or {}
    kept["linux"] = {key: linux[key] for key in ("namespaces", "personality", "seccomp") if key in linux}
    return kept


class Handover:
    """The parent's side of `create_for_parent`: hears init until it stands at the gate, and becomes the owner of it
    all.

    `channel.fd` is readable when there is something to `hear`.
    """

    __slots__ = ("_bundle", "_console", "_gone", "_pidfd", "_spec", "cgroup", "channel", "id", "pid")

    def __init__(self, values: Spec, fds: list[int]) -> None:
        """Take what `hand_over` was given."""
        self.id: str = values["id"]
        self._bundle: str = values["bundle"]
        self._spec: Spec = values["spec"]
        self.cgroup: str = values["cgroup"]
        self.channel = sync.adopt(fds[0])
        self.pid: int = values.get("pid", -1)
        self._pidfd = fds[1] if len(fds) > 1 else -1
        self._console = fds[2] if len(fds) > 2 else None
        self._gone = "pid" in values  # made by a sibling of init's, which has heard it all

    def hear(self, *, wait: bool) -> Container | None:
        """Take what has been said; return the container once init stands at the gate, None without `wait` before that.

        Raises: RuntimeFailure; then `undo` must follow.
        """
        try:
            while not self._gone:
                try:
                    packet, fd = self.channel.receive(wait=wait)
                except BlockingIOError:
                    return None
                if packet == sync.GATE:
                    break
                if packet[:1] == sync.PID and self.pid < 0:
                    self.pid, self._pidfd = sync.child(sync.said_pid(packet), os.getpid())
                elif packet == sync.CONSOLE:
                    self._console = fd
                elif not packet:
                    raise launch.died(groups.load(self.cgroup))
        except OSError as error:
            raise RuntimeFailure.of("create", error) from error
        cgroup = groups.load(self.cgroup)
        container = Container(
            id=self.id, bundle=self._bundle, spec=self._spec, cgroup=cgroup, pid=self.pid, pidfd=self._pidfd
        )
        container._channel = self.channel
        container.console_fd = self._console
        return container

    def undo(self) -> None:
        """Take everything back."""
        self.channel.close()
        _undo(self.pid, self._pidfd, self._console, self.cgroup)


def _reap(pid: int) -> None:
    if pid > 0:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


def _undo(pid: int, pidfd: int, console_fd: int | None, cgroup_path: str | None) -> None:
    """Take back a create that failed: init dies and is reaped, the cgroup goes."""
    if pid > 0:
        process.end(pid, pidfd)
    if console_fd is not None:
        os.close(console_fd)
    if cgroup_path is not None:
        cgroup = groups.load(cgroup_path)
        cgroup.kill()
        cgroup.delete()


def _seccomp_loader(spec: Spec, program: bytes | None) -> Any:
    """Return the call that loads the filter in the child, compiled and imported now; None without one."""
    profile = (spec.get("linux") or {}).get("seccomp")
    if program is None and not profile:
        return None
    from sampan.linux import seccomp

    try:
        code = seccomp.compile(profile) if program is None and profile is not None else program
    except OSError as error:
        raise RuntimeFailure("seccomp", error.errno or 0, str(error.strerror)) from error
    assert code is not None
    return lambda: seccomp.load(code)
