"""The parent's side of a start: open what init needs, clone it, talk with it until it stands at the gate.

Single-threaded and synchronous. Undo is by ownership: every descriptor that is opened for init is closed here in
`Prepared.close`; init itself is killed and reaped by the caller when anything fails.
"""

from __future__ import annotations

import errno
import json
import os
from typing import NoReturn

from sampan.linux import idmap, namespaces, process, saferoot
from sampan.linux.cgroups import groups, hierarchy
from sampan.linux.cgroups.interface import Cgroup
from sampan.linux.namespaces import CLONE_CLEAR_SIGHAND, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_PARENT, TYPES
from sampan.runtime import hooks, init, sync
from sampan.runtime.agent import Agent
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.plan import Plan
from sampan.runtime.steps import devices, mounts, rootfs


class Prepared:
    """Descriptors opened for init; closed in the parent once it has its copies."""

    __slots__ = ("fds",)

    def __init__(self) -> None:
        self.fds: list[int] = []

    def own(self, fd: int) -> int:
        self.fds.append(fd)
        return fd

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()


def prepare(plan: Plan, inherited: init.Inherited, prepared: Prepared) -> None:
    """Open what only the parent may open: namespaces by path, id maps, and for a user namespace all sources.

    What the caller has found (`inherited.found`) is used instead: namespaces, and mounts' sources as detached mounts.
    """
    found = {TYPES[place[11:]][0]: fd for place, fd in inherited.found.items() if place.startswith("namespaces/")}
    for flag, path in plan.joins:
        if flag in found:
            inherited.namespace_fds.append((prepared.own(found[flag]), flag))
            continue
        try:
            inherited.namespace_fds.append((prepared.own(os.open(path, os.O_RDONLY | os.O_CLOEXEC)), flag))
        except OSError as error:
            number = error.errno or 0
            raise RuntimeFailure("namespaces", number, f"open namespace {path}: {strerror(number)}") from error
    for index, mount in enumerate(plan.mounts):
        if mount.options.idmap or mount.uid_map:
            maps = (mount.uid_map or plan.uid_map, mount.gid_map or plan.gid_map)
            inherited.idmaps[index] = prepared.own(idmap.open_userns(*maps))
    sources = {int(place[7:]): fd for place, fd in inherited.found.items() if place.startswith("mounts/")}
    for index, fd in sources.items():
        mount = plan.mounts[index]
        try:
            mounts.detach_propagation(fd, plan.root_propagation)
            inherited.sources[index] = prepared.own(mounts.dress(mount, fd, inherited.idmaps.pop(index, None)))
        except OSError as error:
            raise mounts.failed(mount, error) from error
    if not plan.user_namespace:
        return
    inherited.root_source = prepared.own(rootfs.open_source(plan))
    for index, mount in enumerate(plan.mounts):
        if mount.options.bind and not mount.options.remount and index not in inherited.sources:
            try:
                inherited.sources[index] = prepared.own(mounts.make(mount, None, inherited.idmaps.pop(index, None)))
            except OSError as error:
                raise mounts.failed(mount, error) from error
    for device in plan.devices:
        inherited.devices[device.path] = prepared.own(devices.clone_host_node(device))


def may_defer_cgroup(plan: Plan) -> bool:
    """Say whether the cgroup can be made while init already works.

    With v1 hierarchies that takes nearly a millisecond. Not where init must be born inside (v2 alone), where the parent
    moves it (user namespaces), or where its path cannot be told later (relative ones, a mount namespace by path).
    """
    absolute = plan.cgroup_path.startswith("/")
    return absolute and not plan.user_namespace and not plan.joins_mount_namespace and groups.mode() != "unified"


def make_cgroup(plan: Plan) -> Cgroup:
    """Make the plan's cgroup with its limits. Raises: RuntimeFailure(step "cgroup")."""
    try:
        return groups.create(plan.cgroup_path, plan.resources)
    except OSError as error:
        if error.filename:
            message = f"unable to apply cgroup configuration: {error.filename}: {error.strerror}"
        else:  # a value that no kernel would take; runc finds it later than we do
            message = (
                f"error during container init: error setting cgroup config for procHooks process: {error.strerror}"
            )
        raise RuntimeFailure("cgroup", error.errno or 0, message) from error


def _open_cgroup(plan: Plan, inherited: init.Inherited) -> int | None:
    """Open the v2 directory that init is born in; joining that tree later would stop every fork on the machine."""
    if plan.user_namespace:
        return None
    if inherited.cgroup is not None:
        return inherited.cgroup.directory_fd()
    root = hierarchy.layout().v2_root
    if not root:
        return None
    umask = os.umask(0o022)
    os.makedirs(root + plan.cgroup_path, mode=0o755, exist_ok=True)
    os.umask(umask)
    return os.open(root + plan.cgroup_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def spawn(plan: Plan, inherited: init.Inherited) -> tuple[int, int]:
    """Clone init; return (pid, pidfd). Does not return in the child."""
    inherited.staged = plan.joins_pid_namespace
    flags = CLONE_CLEAR_SIGHAND if inherited.staged else plan.clone_flags | CLONE_CLEAR_SIGHAND
    if inherited.sibling:
        flags |= CLONE_PARENT
    restore: list[tuple[int, int]] = []
    cgroup_fd = _open_cgroup(plan, inherited)
    try:
        if plan.unshare_time:
            restore.append((os.open("/proc/self/ns/time", os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWTIME))
            namespaces.unshare(CLONE_NEWTIME)
            _write_time_offsets(plan)
        if plan.user_namespace and plan.joins and not inherited.staged:
            return _spawn_staged(plan, inherited, flags)
        pid, pidfd = namespaces.clone3(flags, cgroup_fd=cgroup_fd)
        if pid == 0:
            inherited.cloned_into_cgroup = cgroup_fd is not None
            init.run(plan, inherited)
        return pid, pidfd
    finally:
        for fd, flag in restore:
            namespaces.setns(fd, flag)
            os.close(fd)
        if cgroup_fd is not None:
            os.close(cgroup_fd)


def may_move_on(plan: Plan) -> bool:
    """Say whether the process that has planned init can become it: not where init needs somebody outside meanwhile."""
    waited_for = "prestart" in plan.hooks or "createRuntime" in plan.hooks
    return not (plan.user_namespace or plan.unshare_time or waited_for or plan.joins_pid_namespace)


def move_on(plan: Plan, inherited: init.Inherited) -> NoReturn:
    """Become init, whose parent holds the other end of the channel and hears of everything, of failures too."""
    try:
        if inherited.cgroup is None:
            inherited.make_cgroup = lambda: make_cgroup(plan)
        cgroup_fd = _open_cgroup(plan, inherited)
        pid = namespaces.move_on(plan.clone_flags | CLONE_CLEAR_SIGHAND, cgroup_fd=cgroup_fd)
        inherited.cloned_into_cgroup = cgroup_fd is not None
        inherited.channel.send(sync.PID + b"%d" % pid)
        set_oom_score(plan.process.oom_score_adj if plan.process else None, pid)
    except BaseException as error:
        init.report(inherited.channel, "create", error)
        os._exit(1)
    init.run(plan, inherited)


def _spawn_staged(plan: Plan, inherited: init.Inherited, flags: int) -> tuple[int, int]:
    """With a user namespace and namespaces by path, the order decides who may join what: a stage of its own.

    The stage joins every path while it still has the rights, then clones init as its own sibling, and ends.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    parent = CLONE_PARENT if inherited.sibling else 0
    stage, stage_pidfd = namespaces.clone3(CLONE_CLEAR_SIGHAND | parent)
    if stage == 0:
        try:
            process.prctl(process.PR_SET_DUMPABLE, 0)
            # The user namespace last: the others belong, as a rule, to the one we come from.
            for fd, flag in sorted(inherited.namespace_fds, key=lambda join: join[1] == CLONE_NEWUSER):
                namespaces.setns(fd, flag)
            inherited.namespace_fds.clear()
            pid, _ = namespaces.clone3(flags | CLONE_PARENT)
            if pid == 0:
                init.run(plan, inherited)
            os.write(writer, b"%d" % pid)
        except BaseException as error:
            init.report(inherited.channel, "namespaces", error)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        text = os.read(reader, 32)
    finally:
        os.close(reader)
        process.end(stage, stage_pidfd)
    if not text:
        raise RuntimeFailure("namespaces", errno.EPERM, "joining namespaces failed")
    pid = int(text)
    return pid, process.pidfd_open(pid)


def _write_time_offsets(plan: Plan) -> None:
    """Offsets of a new time namespace: writable only while nobody is inside."""
    lines = [
        f"{clock} {offset.get('secs') or 0} {offset.get('nanosecs') or 0}\n"
        for clock, offset in plan.time_offsets.items()
    ]
    if lines:
        with open("/proc/self/timens_offsets", "w", encoding="ascii") as file:
            file.write("".join(lines))


class Conversation:
    """What the parent has made and heard until the gate."""

    __slots__ = ("agent", "cgroup", "console_fd", "pid", "pidfd", "timing")

    def __init__(self, cgroup: Cgroup | None) -> None:
        self.agent: Agent | None = None  # of the filter
        self.cgroup = cgroup
        self.pid = -1
        self.pidfd = -1
        self.console_fd: int | None = None
        self.timing: dict[str, int] = {}


def converse(plan: Plan, inherited: init.Inherited, channel: sync.Channel, heard: Conversation) -> None:
    """Bring init to the gate: maps, cgroup, runtime hooks, console, and its last pid when it is born a second time.

    Raises: RuntimeFailure from init, from a hook, or when init has gone with no word.
    """
    if inherited.wait_first:
        assert heard.cgroup is not None
        heard.cgroup.add(heard.pid)
        if inherited.staged:
            channel.send(sync.GO)
        if plan.clone_flags & CLONE_NEWUSER:
            if inherited.staged and channel.receive()[0] != sync.UNSHARED:
                raise died(heard.cgroup)
            namespaces.write_id_maps(heard.pid, plan.uid_map, plan.gid_map)
        channel.send(sync.GO)
    elif heard.cgroup is None:
        heard.cgroup = make_cgroup(plan)
        _send(channel, sync.GO)
    set_oom_score(plan.process.oom_score_adj if plan.process else None, heard.pid)
    failure: RuntimeFailure | None = None
    listener = b""
    at_gate = False
    # A stage and the init that it has cloned speak at once: a gate or a failure may come before the pid that it is of.
    while inherited.staged or not at_gate:
        try:
            packet, fd = channel.receive()
        except RuntimeFailure as error:
            if not inherited.staged:
                raise
            failure = error
            continue
        if packet == sync.GATE:
            at_gate = True
        elif packet == sync.CONSOLE:
            heard.console_fd = fd
        elif packet[:1] == sync.PID and inherited.staged:
            inherited.staged = False
            _follow(packet, inherited, heard)
            if failure is not None:
                raise failure
        elif packet[:1] == sync.LISTENER:
            listener = packet
        elif packet == sync.NAMESPACES:
            text = init.state(plan, "creating", heard.pid)
            for kind in ("prestart", "createRuntime"):
                hooks.run(kind, plan.hooks.get(kind, []), text)
            channel.send(sync.GO)
        elif packet[:1] == sync.TIMING:
            heard.timing = json.loads(packet[1:])
        elif not packet:
            raise failure or died(heard.cgroup)
        if listener and heard.agent is not None and not inherited.staged:
            heard.agent.hand_over(init.state(plan, "creating", heard.pid), heard.pid, heard.pidfd, listener)
            listener = b""
            _send(channel, sync.GO)


def _follow(packet: bytes, inherited: init.Inherited, heard: Conversation) -> None:
    """Take the process that a PID packet names for init, and see the stage that has cloned it off."""
    stage, stage_pidfd = heard.pid, heard.pidfd
    heard.pid, heard.pidfd = sync.child(sync.said_pid(packet), os.getppid() if inherited.sibling else os.getpid())
    process.end(stage, stage_pidfd)


def died(cgroup: Cgroup) -> RuntimeFailure:
    """What to say of an init that has ended with no word."""
    try:
        killed = cgroup.oom_count() > 0
    except OSError:  # there is no such cgroup yet
        killed = False
    why = "was OOM-killed (memory limit too low?)" if killed else "exited before it was ready"
    return RuntimeFailure("init", 0, f"container init {why}")


def _send(channel: sync.Channel, packet: bytes) -> None:
    """Send to an init that may have failed already: why, stands in the packet that it has left."""
    try:
        channel.send(packet)
    except (BrokenPipeError, ConnectionResetError):
        pass


def set_oom_score(value: int | None, pid: int) -> None:
    """Set /proc/<pid>/oom_score_adj from outside: inside a user namespace the file belongs to somebody else."""
    if value is None:
        return
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = saferoot.open_in_proc(proc, f"{pid}/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, b"%d" % value)
        finally:
            os.close(fd)
    except OSError as error:
        number = error.errno or 0
        raise RuntimeFailure("oom score", number, f"can't set oom_score_adj to {value}: {strerror(number)}") from error
    finally:
        os.close(proc)
