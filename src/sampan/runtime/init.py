"""The first process of a container, from the clone to the execve: one straight list of named steps.

It runs in the clone of a single-threaded parent, which has decided everything (`plan`) and imported everything: from
here on nothing is imported, and after the namespaces are joined no file of the container is read but by descriptor
(CVE-2019-14271). Each step stands where it stands because of what the steps before and after it need; the comments in
`STEPS` say so. A failure ends in one record on the channel and exit; the parent turns it into a `RuntimeFailure`.

Source: OCI runtime-spec 1.2 runtime.md "Lifecycle"; namespaces(7).
"""

from __future__ import annotations

import _socket
import encodings.ascii  # noqa: F401 - a codec that `open` would import from inside the container's root
import fcntl
import gc
import json
import os
import signal
import struct
import time
from collections.abc import Callable
from typing import NoReturn

from sampan.linux import mounts as m
from sampan.linux import namespaces, process, pty, syscalls
from sampan.linux.cgroups import groups
from sampan.linux.cgroups.interface import Cgroup
from sampan.runtime import failure, hooks, sync
from sampan.runtime.plan import OCI_VERSION, Plan, PlannedMount
from sampan.runtime.process_plan import ProcessPlan
from sampan.runtime.steps import cgroup_mounts, devices, mounts, paths, procfs, rootfs
from sampan.runtime.steps import process as who
from sampan.runtime.steps.become import Becoming, confine
from sampan.runtime.steps.become import become as become_user

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_PROC = {"type": "proc", "source": "proc", "destination": "/proc"}


class Inherited:
    """What the parent hands to init through the clone: descriptors and decisions that are no part of the spec."""

    __slots__ = (
        "cgroup",
        "channel",
        "cloned_into_cgroup",
        "death_signal",
        "devices",
        "found",
        "idmaps",
        "join_cgroup",
        "keyring",
        "listens",
        "load_seccomp",
        "make_cgroup",
        "namespace_fds",
        "preserve_fds",
        "root_source",
        "sibling",
        "sources",
        "spare",
        "staged",
        "stdio",
        "timing",
        "wait_first",
    )

    def __init__(self, channel: sync.Channel, cgroup: Cgroup | None) -> None:
        self.channel = channel
        self.cgroup = cgroup  # None: the parent makes it meanwhile, and says GO when it is there
        self.make_cgroup: Callable[[], Cgroup] | None = None  # unless init is to make it itself
        self.stdio: tuple[int, int, int] | None = None
        self.spare: sync.Channel | None = None  # the parent's end of the channel, kept for a later starter
        self.load_seccomp: Callable[[], int] | None = None
        self.listens = False  # the filter has an agent
        self.death_signal: int = signal.SIGKILL
        self.keyring = True
        self.preserve_fds = 0
        self.sibling = False  # a child of the cloning process's parent
        self.staged = False  # born outside of a pid namespace by path; to be born again inside
        self.wait_first = False
        self.join_cgroup = True
        self.cloned_into_cgroup = False
        self.namespace_fds: list[tuple[int, int]] = []
        self.root_source: int | None = None
        self.found: dict[str, int] = {}  # "mounts/<index>", "namespaces/<type>" → what the caller has found
        self.sources: dict[int, int] = {}  # index in plan.mounts → detached mount, ready to be attached
        self.idmaps: dict[int, int] = {}  # index in plan.mounts → user namespace
        self.devices: dict[str, int] = {}  # path → detached clone of the host's node
        self.timing = False

    def descriptors(self) -> list[int]:
        """Every descriptor that init needs; all others are closed at once."""
        fds = [self.channel.fd, *self.sources.values(), *self.idmaps.values(), *self.devices.values()]
        fds += [fd for fd, _ in self.namespace_fds]
        fds += range(3, 3 + self.preserve_fds)
        if self.spare is not None:
            fds.append(self.spare.fd)
        if self.root_source is not None:
            fds.append(self.root_source)
        return fds


class Init:
    """The state that steps hand to each other."""

    __slots__ = (
        "becoming",
        "cgroup_namespace",
        "inherited",
        "plan",
        "proc_contexts",
        "proc_fd",
        "process",
        "program",
        "root_fd",
        "step",
    )

    becoming: Becoming
    root_fd: int
    proc_fd: int
    program: str

    def __init__(self, plan: Plan, inherited: Inherited) -> None:
        assert plan.process is not None
        self.plan = plan
        self.process: ProcessPlan = plan.process
        self.inherited = inherited
        self.proc_fd = -1
        self.root_fd = -1
        self.step = "start"
        self.cgroup_namespace = False
        self.proc_contexts: list[int] = []  # one for each procfs, when it is to show a pid namespace by path


def run(plan: Plan, inherited: Inherited) -> NoReturn:
    """Do every step, wait at the gate, become the user's program. Never returns, whatever happens."""
    gc.disable()
    init = Init(plan, inherited)
    try:
        walk(init)
        wait_at_gate(init)
        start_hooks(init)
        init.step = "seccomp"
        confine(init.becoming)
        who.execute(init.program, init.process)
    except BaseException as error:
        report(inherited.channel, init.step, error)
    finally:
        os._exit(1)


def walk(init: Init) -> None:
    """The steps, one after the other; with `timing`, a table {step: nanoseconds} goes to the parent."""
    timing = init.inherited.timing
    table: dict[str, int] = {}
    for name, function in STEPS:
        init.step = name
        begin = time.perf_counter_ns() if timing else 0
        function(init)
        if timing:
            table[name] = time.perf_counter_ns() - begin
    if timing:
        init.inherited.channel.send(sync.TIMING + json.dumps(table).encode())


def report(channel: sync.Channel, step: str, error: BaseException) -> None:
    try:
        channel.send(failure.encode(step, error))
    except BaseException:
        os._exit(1)


def state(plan: Plan, status: str, pid: int) -> bytes:
    """Return the OCI state as hooks get it on stdin."""
    value: dict[str, object] = {"ociVersion": OCI_VERSION, "id": plan.id, "status": status}
    value |= {"pid": pid, "bundle": plan.bundle} if pid else {"bundle": plan.bundle}
    if plan.annotations:
        value["annotations"] = plan.annotations
    return json.dumps(value).encode()


# ── the steps ─────────────────────────────────────────────────────────────────────────────────────────────


def isolate(init: Init) -> None:
    inherited = init.inherited
    process.prctl(process.PR_SET_DUMPABLE, 0)
    process.set_name("sampan-init")
    if inherited.death_signal:
        process.prctl(process.PR_SET_PDEATHSIG, inherited.death_signal)
    who.reset_signals()
    os.setsid()
    os.umask(0o022)
    if inherited.stdio is not None:
        who.set_stdio(inherited.stdio)
    who.close_others(inherited.descriptors())


def enter_stage(init: Init) -> None:
    """With a pid namespace by path: join and unshare everything here, where nobody in there sees this process."""
    inherited, plan = init.inherited, init.plan
    if not inherited.staged:
        return
    if inherited.join_cgroup:
        _enter_cgroup(init)
    elif not inherited.channel.receive()[0]:  # the parent has moved us there
        os._exit(1)
    (pid_namespace,) = [fd for fd, flag in inherited.namespace_fds if flag == namespaces.CLONE_NEWPID]
    init.proc_contexts = [procfs.context(pid_namespace) for mount in plan.mounts if mount.fstype == "proc"]
    # The user namespace last: the others belong, as a rule, to the one we come from.
    for fd, flag in sorted(inherited.namespace_fds, key=lambda join: join[1] == namespaces.CLONE_NEWUSER):
        namespaces.setns(fd, flag)
        os.close(fd)
    inherited.namespace_fds.clear()
    namespaces.unshare(plan.clone_flags)
    if plan.clone_flags & namespaces.CLONE_NEWUSER:
        inherited.channel.send(sync.UNSHARED)


def wait_for_maps(init: Init) -> None:
    if not init.inherited.wait_first:
        return
    if not init.inherited.channel.receive()[0]:
        os._exit(1)
    if init.plan.user_namespace:
        process.setgroups([])
        process.setresgid(0, 0, 0)
        process.setresuid(0, 0, 0)
        process.prctl(process.PR_SET_DUMPABLE, 0)


def join_namespaces(init: Init) -> None:
    if init.plan.joins_mount_namespace:  # behind it the host's cgroup paths may not be there
        join_cgroup(init)
    for fd, flag in init.inherited.namespace_fds:
        namespaces.setns(fd, flag)
        os.close(fd)


def _enter_cgroup(init: Init) -> None:
    inherited = init.inherited
    if inherited.cgroup is None:
        if inherited.make_cgroup:
            inherited.cgroup = inherited.make_cgroup()
        else:
            if not inherited.channel.receive()[0]:
                os._exit(1)
            inherited.cgroup = groups.load(init.plan.cgroup_path)
    inherited.cgroup.add(0, cloned=inherited.cloned_into_cgroup)
    who.use_every_cpu()
    inherited.join_cgroup = False


def join_cgroup(init: Init) -> None:
    if init.inherited.join_cgroup:
        _enter_cgroup(init)
    if init.plan.unshare_cgroup and not init.cgroup_namespace:
        namespaces.unshare(namespaces.CLONE_NEWCGROUP)
        init.cgroup_namespace = True


def start_keyring(init: Init) -> None:
    if init.inherited.keyring:
        who.start_keyring(who.keyring_of(init.plan.id), user_namespace=init.plan.user_namespace)


def loopback_up(init: Init) -> None:
    if not init.plan.new_network:
        return
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC, 0)
    request = struct.pack("16sh22x", b"lo", 0)
    (flags,) = struct.unpack_from("h", fcntl.ioctl(control.fileno(), _SIOCGIFFLAGS, request), 16)
    fcntl.ioctl(control.fileno(), _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    control.close()


def mount_root(init: Init) -> None:
    rootfs.cut_propagation(init.plan)
    source = init.inherited.root_source
    init.root_fd = rootfs.open_source(init.plan) if source is None else source
    rootfs.attach(init.plan, init.root_fd)


def mount_all(init: Init) -> None:
    inherited = init.inherited
    for index, mount in enumerate(init.plan.mounts):
        if mount.fstype in ("cgroup", "cgroup2"):
            _mount_cgroup(init, mount)
            continue
        if mount.options.remount:
            _remount(init, mount)
            continue
        try:
            context = init.proc_contexts.pop() if mount.fstype == "proc" and init.proc_contexts else None
            fd = mounts.make(mount, inherited.sources.get(index), inherited.idmaps.get(index), context)
        except OSError as error:
            fd = _instead(init, mount, error)
        if mount.fstype == "tmpfs":
            mounts.keep_mode(init.root_fd, mount, fd)
        if mount.options.copy_up:
            mounts.copy_up(init.root_fd, mount, fd)
        mounts.attach(mount, fd, init.root_fd)
        if mount.destination == "/proc" and mount.fstype == "proc":
            init.proc_fd = fd  # the handle that everything below /proc is written through
        else:
            os.close(fd)


def _mount_cgroup(init: Init, mount: PlannedMount) -> None:
    try:
        assert init.inherited.cgroup is not None
        cgroup_mounts.mount(mount, init.root_fd, init.inherited.cgroup, namespace=init.cgroup_namespace)
    except OSError as error:
        raise mounts.failed(mount, error) from error


def _instead(init: Init, mount: PlannedMount, error: OSError) -> int:
    """sysfs of a network namespace that is not ours to administer: the host's, read-only, as the reference does."""
    if mount.fstype != "sysfs" or not init.plan.user_namespace:
        raise mounts.failed(mount, error) from error
    fd = m.open_tree(syscalls.AT_FDCWD, "/sys", m.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
    m.mount_setattr(fd, b"", syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE, attr_set=m.MOUNT_ATTR_RDONLY)
    return fd


def _remount(init: Init, mount: PlannedMount) -> None:
    try:
        place = mounts.target(init.root_fd, mount, directory=True)
        try:
            mounts.reconfigure(mount, place)
        finally:
            os.close(place)
    except OSError as error:
        raise mounts.failed(mount, error) from error


def make_devices(init: Init) -> None:
    plan = init.plan
    devices.make_all(init.root_fd, plan.devices, plan.links, init.inherited.devices)


def run_hooks(init: Init) -> None:
    plan = init.plan
    if "prestart" in plan.hooks or "createRuntime" in plan.hooks:
        init.inherited.channel.send(sync.NAMESPACES)
        if not init.inherited.channel.receive()[0]:
            os._exit(1)
    if "createContainer" in plan.hooks:
        hooks.run_in(init.root_fd, "createContainer", plan.hooks, state(plan, "creating", os.getpid()))


def open_console(init: Init) -> None:
    if not init.process.terminal:
        return
    master, slave = devices.open_terminal(init.root_fd)
    if init.process.console_size is not None:
        pty.set_size(slave, *init.process.console_size)
    devices.bind_console(init.root_fd, slave)
    init.inherited.channel.send_fd(sync.CONSOLE, master)
    os.close(master)
    if not init.inherited.staged:  # its end would hang the terminal up
        pty.make_controlling(slave)
    for number in (0, 1, 2):
        os.dup2(slave, number, inheritable=True)
    os.close(slave)


def finish_mounts(init: Init) -> None:
    """What had to stay writable until now."""
    for mount in init.plan.mounts:
        if mounts.is_late_readonly(mount):
            place = mounts.target(init.root_fd, mount, directory=True)
            try:
                m.mount_setattr(place, b"", syscalls.AT_EMPTY_PATH, attr_set=m.MOUNT_ATTR_RDONLY)
            finally:
                os.close(place)


def make_cwd(init: Init) -> None:
    who.make_cwd(init.process, init.root_fd)


def pivot(init: Init) -> None:
    rootfs.pivot(init.plan, init.root_fd)


def write_kernel_settings(init: Init) -> None:
    plan = init.plan
    if plan.hostname:
        syscalls.sethostname(plan.hostname)
    if plan.domainname:
        syscalls.setdomainname(plan.domainname)
    needs_proc = plan.sysctl or init.process.apparmor
    if needs_proc and (init.proc_fd < 0 or init.inherited.staged):
        if init.proc_fd >= 0:
            os.close(init.proc_fd)
        init.proc_fd = mounts.make(PlannedMount(_PROC))  # one in which this process is, for apparmor
    if plan.sysctl:
        paths.write_sysctls(init.proc_fd, plan.sysctl)
    if init.process.apparmor:
        who.set_apparmor(init.process.apparmor, init.proc_fd, str(os.getpid()))


def restrict_paths(init: Init) -> None:
    paths.make_readonly(init.root_fd, init.plan.readonly_paths)
    paths.mask(init.root_fd, init.plan.masked_paths)


def make_root_readonly(init: Init) -> None:
    if init.plan.readonly_root:
        rootfs.make_readonly(init.root_fd)


def enter_pid_namespace(init: Init) -> None:
    """Be born again in the pid namespace by path, with nothing of the host left; who made all this ends."""
    inherited = init.inherited
    if not inherited.staged:
        return
    if init.proc_fd >= 0:  # writable
        os.close(init.proc_fd)
        init.proc_fd = -1
    kept = [init.root_fd, inherited.channel.fd, *range(3, 3 + inherited.preserve_fds)]
    if inherited.spare is not None:
        kept.append(inherited.spare.fd)
    who.close_others(kept)
    pid, _ = namespaces.clone3(namespaces.CLONE_CLEAR_SIGHAND | namespaces.CLONE_PARENT)
    if pid:
        inherited.channel.send(sync.PID + b"%d" % pid)
        os._exit(0)
    if inherited.death_signal:
        process.prctl(process.PR_SET_PDEATHSIG, inherited.death_signal)
    os.setsid()
    if init.process.terminal:
        pty.make_controlling(0)


def become(init: Init) -> None:
    if init.proc_fd >= 0:
        os.close(init.proc_fd)
    # Now, because the filter may refuse it; what `become` opens is close-on-exec by itself.
    process.close_range(3 + init.inherited.preserve_fds, flags=process.CLOSE_RANGE_CLOEXEC)
    init.becoming = becoming = Becoming(
        init.process,
        init.process.capabilities,
        root_fd=init.root_fd,
        personality=init.plan.personality,
        death_signal=init.inherited.death_signal,
        load_seccomp=init.inherited.load_seccomp,
        listens=init.inherited.listens,
    )
    try:
        init.program = become_user(becoming)
    finally:
        init.step = becoming.step


STEPS: tuple[tuple[str, Callable[[Init], None]], ...] = (
    ("isolate", isolate),  # non-dumpable and alone before anything of the container can see this process
    ("namespaces", enter_stage),
    ("user namespace", wait_for_maps),  # ids mean nothing before the maps are there
    ("namespaces", join_namespaces),
    ("keyring", start_keyring),
    ("network", loopback_up),
    ("rootfs", mount_root),
    ("cgroup", join_cgroup),  # late, the parent makes it meanwhile; by the host's paths; before mounts of type cgroup
    ("mounts", mount_all),
    ("devices", make_devices),  # after /dev is mounted
    ("hooks", run_hooks),  # createRuntime and createContainer see the mounts, and still the host's tree
    ("console", open_console),  # after /dev/pts is mounted
    ("working directory", make_cwd),  # while the root can be written
    ("late read-only mounts", finish_mounts),
    ("pivot_root", pivot),
    ("kernel settings", write_kernel_settings),  # before /proc/sys becomes read-only
    ("restricted paths", restrict_paths),
    ("read-only root", make_root_readonly),
    ("pid namespace", enter_pid_namespace),  # when root, mounts and descriptors are the container's alone
    ("process", become),  # the list of steps/become.py, which exec does as well
)


def wait_at_gate(init: Init) -> None:
    """Say that only the execve is left, and wait for `start`. With nobody left to say it, exit."""
    init.step = "gate"
    channel = init.inherited.channel.fd
    os.write(channel, sync.GATE)  # write and read: the calls that a filter is least likely to refuse
    if os.read(channel, len(sync.GO)) != sync.GO:
        os._exit(1)


def start_hooks(init: Init) -> None:
    init.step = "startContainer hook"
    wanted = init.plan.hooks.get("startContainer")
    if wanted:
        hooks.run("startContainer", wanted, state(init.plan, "created", os.getpid()), init.process.env)
