"""What makes a process the user's process: limits, identity, capabilities, seccomp, working directory, program.

One list of steps for init and for exec, `STEPS`, in one order, because each step takes away what later ones would need.
Which step is under way stands in `Becoming.step`.

The system calls of these steps are the runtime's, not the container's: the filter comes last. Without no_new_privs the
kernel takes a filter only from a process with CAP_SYS_ADMIN, so that one capability is kept until then, permitted but
not effective. Behind the filter come one capset (only then), one packet each way at the gate, and the execve. With
no_new_privs the filter is loaded by `confine`, after the gate, and only the execve comes behind it.

Source: capabilities(7) "Effect of user ID changes on capabilities"; prctl(2); seccomp(2); personality(2).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from sampan.linux import capabilities, process, syscalls
from sampan.runtime import lookup, user
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.process_plan import CapabilitySets, ProcessPlan

_ADMIN = 1 << capabilities.NUMBERS["CAP_SYS_ADMIN"]

PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}


class Becoming:
    """What the steps need, and what they hand to each other."""

    __slots__ = (
        "caps",
        "death_signal",
        "effective",
        "entered_cwd",
        "identity",
        "inheritable",
        "is_abandoned",
        "listens",
        "load_seccomp",
        "permitted",
        "personality",
        "plan",
        "program",
        "root_fd",
        "step",
    )

    identity: user.Identity
    program: str

    def __init__(
        self,
        plan: ProcessPlan,
        caps: CapabilitySets | None,
        *,
        root_fd: int,
        personality: str,
        death_signal: int,
        load_seccomp: Callable[[], int] | None,
        listens: bool,
        is_abandoned: Callable[[], bool] | None = None,
    ) -> None:
        self.plan = plan
        self.caps = caps  # None: no capability at all
        self.root_fd = root_fd  # the container's root; closed when the last file of it has been read
        self.personality = personality  # "LINUX", "LINUX32", empty: as it is
        self.death_signal = death_signal
        self.load_seccomp = load_seccomp
        self.listens = listens  # the filter has an agent: it is loaded before the gate (runtime/agent.py)
        self.is_abandoned = is_abandoned  # None: the gate will tell
        self.entered_cwd = False
        self.effective = self.permitted = self.inheritable = 0  # what is left of `caps`: see set_capabilities
        self.step = ""


def become(becoming: Becoming) -> str:
    """Take the identity and give up everything else; return the program to execute.

    After this the process may do what the container's process may do, and nothing more. Raises: RuntimeFailure,
    OSError.
    """
    for becoming.step, function in STEPS:
        function(becoming)
    return becoming.program


def set_limits(becoming: Becoming) -> None:
    for _, resource, soft, hard in becoming.plan.rlimits:
        try:
            process.prlimit(0, resource, soft, hard)
        except OSError as error:
            number = error.errno or 0
            message = (
                f"error setting rlimits for ready process: error setting rlimit type {resource}: {strerror(number)}"
            )
            raise RuntimeFailure("rlimits", number, message) from error


def set_scheduler(becoming: Becoming) -> None:
    if becoming.plan.scheduler is not None:
        process.sched_setattr(0, **becoming.plan.scheduler)


def set_io_priority(becoming: Becoming) -> None:
    if becoming.plan.io_priority is not None:
        syscalls.ioprio_set(syscalls.IOPRIO_WHO_PROCESS, 0, becoming.plan.io_priority)


def set_personality(becoming: Becoming) -> None:
    if becoming.personality:
        syscalls.personality(PERSONALITIES[becoming.personality])


def find_user(becoming: Becoming) -> None:
    becoming.identity = identify(becoming.plan, becoming.root_fd)
    os.close(becoming.root_fd)


def identify(plan: ProcessPlan, root_fd: int) -> user.Identity:
    """Decide who the process will be: the extension's names, or OCI's numbers; and HOME, when the env has none."""
    home = plan.env.get("HOME", "")
    passwd = ""
    if plan.username is not None or not home:
        passwd = user.read_file(root_fd, "/etc/passwd")
    if plan.username is not None:
        identity = user.resolve(plan.username, plan.group_names, passwd, user.read_file(root_fd, "/etc/group"))
    else:
        identity = user.Identity(plan.uid, plan.gid, plan.additional_gids, "")
        if not home:
            identity.home = user.home_of(plan.uid, passwd)
    if not home:
        plan.env["HOME"] = identity.home or "/"
    return identity


def own_stdio(becoming: Becoming) -> None:
    """Give the standard streams to the user, so that /dev/stdout can be opened again; never the host's null device."""
    uid = becoming.identity.uid
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
            if status.st_uid == uid or (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)):
                continue
            os.fchown(fd, uid, -1)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL, errno.EPERM, errno.EROFS, errno.EACCES):
                raise


def set_no_new_privileges(becoming: Becoming) -> None:
    if becoming.plan.no_new_privileges:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding(becoming: Becoming) -> None:
    capabilities.drop_bounding(0 if becoming.caps is None else becoming.caps.bounding)


def enter_cwd(becoming: Becoming) -> None:
    """Enter it with the rights of root; where those do not reach (a network file system), the user's may."""
    try:
        os.chdir(becoming.plan.cwd)
        becoming.entered_cwd = True
    except PermissionError:
        pass
    except OSError as error:
        raise _cwd_failed(becoming.plan, error) from error


def set_ids(becoming: Becoming) -> None:
    identity = becoming.identity
    process.prctl(process.PR_SET_KEEPCAPS, 1)
    process.setgroups(identity.groups)
    process.setresgid(identity.gid, identity.gid, identity.gid)
    process.setresuid(identity.uid, identity.uid, identity.uid)
    process.prctl(process.PR_SET_KEEPCAPS, 0)


def set_capabilities(becoming: Becoming) -> None:
    caps = becoming.caps
    ambient = 0
    # What this process lacks itself (a runtime inside a container) cannot be given.
    _, own, _ = capabilities.capget()
    if caps is not None:
        becoming.permitted = caps.permitted & own
        becoming.inheritable = caps.inheritable & own
        becoming.effective = caps.effective & becoming.permitted
        # The rest is left out, as in the reference: nothing becomes inheritable by it.
        ambient = caps.ambient & becoming.permitted & becoming.inheritable
    kept = _ADMIN & own if _filters_with_rights(becoming) else 0
    capabilities.capset(becoming.effective, becoming.permitted | kept, becoming.inheritable)
    if ambient:
        capabilities.set_ambient(ambient)


def enter_cwd_as_user(becoming: Becoming) -> None:
    if not becoming.entered_cwd:
        try:
            os.chdir(becoming.plan.cwd)
        except OSError as error:
            raise _cwd_failed(becoming.plan, error) from error
    check_cwd()


def _cwd_failed(plan: ProcessPlan, error: OSError) -> RuntimeFailure:
    number = error.errno or 0
    message = f'chdir to cwd ("{plan.cwd}") set in config.json failed: {strerror(number)}'
    return RuntimeFailure("cwd", number, message)


def check_cwd() -> None:
    """The working directory must lie inside the root: the kernel cannot name one that does not (CVE-2024-21626)."""
    try:
        inside = os.getcwd().startswith("/")
    except FileNotFoundError:
        inside = False
    if not inside:
        message = (
            "current working directory is outside of container mount namespace root"
            " -- possible container breakout detected"
        )
        raise RuntimeFailure("cwd", errno.EPERM, message)


def set_umask(becoming: Becoming) -> None:
    if becoming.plan.umask is not None:
        os.umask(becoming.plan.umask)


def set_death_signal(becoming: Becoming) -> None:
    if becoming.death_signal:
        process.prctl(process.PR_SET_PDEATHSIG, becoming.death_signal)
        if becoming.is_abandoned is not None and becoming.is_abandoned():
            os._exit(1)  # the parent died before its death could signal us


def find_program(becoming: Becoming) -> None:
    plan = becoming.plan
    becoming.program = lookup.find(plan.args[0], plan.env.get("PATH", ""))


def load_seccomp(becoming: Becoming) -> None:
    """Load the filter while the process may, and give up what it kept for it."""
    if not _filters_with_rights(becoming):
        return
    assert becoming.load_seccomp is not None
    if becoming.effective & _ADMIN:
        becoming.load_seccomp()
        return
    _, permitted, _ = capabilities.capget()
    capabilities.capset(becoming.effective | _ADMIN & permitted, permitted, becoming.inheritable)
    becoming.load_seccomp()
    capabilities.capset(becoming.effective, becoming.permitted, becoming.inheritable)


def _filters_with_rights(becoming: Becoming) -> bool:
    return becoming.load_seccomp is not None and (becoming.listens or not becoming.plan.no_new_privileges)


def confine(becoming: Becoming) -> None:
    """Load the filter of a process with no_new_privs. Nothing comes after it but the execve. Raises: OSError."""
    if becoming.load_seccomp is not None and not _filters_with_rights(becoming):
        becoming.step = "seccomp"
        becoming.load_seccomp()


STEPS: tuple[tuple[str, Callable[[Becoming], None]], ...] = (
    ("rlimits", set_limits),
    ("scheduler", set_scheduler),
    ("io priority", set_io_priority),
    ("personality", set_personality),
    ("user", find_user),
    ("standard streams", own_stdio),  # while root may still give them away
    ("no new privileges", set_no_new_privileges),
    ("bounding set", drop_bounding),  # needs CAP_SETPCAP
    ("cwd", enter_cwd),
    ("ids", set_ids),
    ("capabilities", set_capabilities),
    ("cwd", enter_cwd_as_user),
    ("umask", set_umask),
    ("parent death signal", set_death_signal),  # a change of ids has cleared it
    ("program", find_program),  # as the user, who may not see it
    ("seccomp", load_seccomp),  # last: it is the user's, and may refuse what any step needs
)
