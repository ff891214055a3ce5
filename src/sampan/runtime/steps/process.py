"""What makes a process the user's process: limits, identity, capabilities, seccomp, working directory, execve.

The same for init and for exec, and in one order, because each step takes away what the one before needs:

    limits, scheduler, keyring → no_new_privs → seccomp (now, when loading it needs CAP_SYS_ADMIN) → bounding set → ids
    → the other sets → working directory → parent-death signal → lookup of argv[0] → seccomp (with no_new_privs) → execve

Source: capabilities(7) "Effect of user ID changes on capabilities"; execve(2); prctl(2); seccomp(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable
from typing import NoReturn

from sampan.linux import capabilities, process, syscalls
from sampan.linux.saferoot import mkdirs, open_in_proc
from sampan.runtime import lookup, user
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.process_plan import CapabilitySets, ProcessPlan

_RESET = [s for s in range(1, 32) if s not in (signal.SIGKILL, signal.SIGSTOP)]
_OF_THE_C_LIBRARY = (32, 33)  # ignored in whatever posix_spawn(3) has started, and so in all its children


def reset_signals() -> None:
    """Give back the default dispositions that Python has taken, and unblock everything; both survive execve."""
    for number in _RESET:
        if process.get_handler(number) == process.SIG_IGN:
            process.set_handler(number, process.SIG_DFL)
    for number in _OF_THE_C_LIBRARY:
        process.reset_signal(number)
    process.set_mask(signal.SIG_SETMASK, ())


def close_others(keep: list[int]) -> None:
    """Close every descriptor from 3 on that is not in `keep`."""
    first = 3
    for fd in sorted(set(keep)):
        if fd >= first:
            if fd > first:
                process.close_range(first, fd - 1)
            first = fd + 1
    process.close_range(first)


def set_stdio(fds: tuple[int, int, int]) -> None:
    """Make `fds` the standard streams, whatever numbers they have."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=True)
        os.close(fd)


def set_limits(plan: ProcessPlan) -> None:
    for _, resource, soft, hard in plan.rlimits:
        try:
            process.prlimit(0, resource, soft, hard)
        except OSError as error:
            number = error.errno or 0
            message = (
                f"error setting rlimits for ready process: error setting rlimit type {resource}: {strerror(number)}"
            )
            raise RuntimeFailure("rlimits", number, message) from error


def set_scheduling(plan: ProcessPlan) -> None:
    if plan.scheduler is not None:
        process.sched_setattr(0, **plan.scheduler)
    if plan.io_priority is not None:
        syscalls.ioprio_set(syscalls.IOPRIO_WHO_PROCESS, 0, plan.io_priority)


def keyring_of(id: str) -> str:
    """Return the name of a container's session keyring, the reference's."""
    return f"_ses.{id}"


def join_keyring(name: str, *, user_namespace: bool) -> None:
    """Join the container's session keyring, made when it is missing: the container does not see the daemon's keys.

    Only who may search a keyring can join it by its name, so later processes of the container get that right: the owner,
    or with a user namespace everybody in there, as in the reference.
    """
    searchable = syscalls.KEY_OTH_SEARCH if user_namespace else syscalls.KEY_USR_SEARCH
    try:
        key = syscalls.keyctl_join_session_keyring(name)
        permissions = int(syscalls.keyctl_describe(key).split(";")[3], 16)
        if not permissions & searchable:
            syscalls.keyctl(syscalls.KEYCTL_SETPERM, key, permissions | searchable)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise


def set_apparmor(profile: str, proc_fd: int, pid: str) -> None:
    """Arrange that execve changes to the profile; written through a verified procfs handle, in which we are `pid`."""
    for name in ("attr/apparmor/exec", "attr/exec"):
        try:
            fd = open_in_proc(proc_fd, f"{pid}/{name}", os.O_WRONLY)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, b"exec " + profile.encode())
            return
        except OSError as error:
            message = f"unable to apply apparmor profile: {strerror(error.errno or 0)}"
            raise RuntimeFailure("apparmor", error.errno or 0, message) from error
        finally:
            os.close(fd)
    raise RuntimeFailure("apparmor", errno.ENOENT, "apparmor: config provided but apparmor not supported")


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


def own_stdio(identity: user.Identity) -> None:
    """Give the standard streams to the user, so that /dev/stdout can be opened again; never the host's null device."""
    for fd in (0, 1, 2):
        try:
            status = os.fstat(fd)
            if status.st_uid == identity.uid or (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)):
                continue
            os.fchown(fd, identity.uid, -1)
        except OSError as error:
            if error.errno not in (errno.EBADF, errno.EINVAL, errno.EPERM, errno.EROFS, errno.EACCES):
                raise


def make_cwd(plan: ProcessPlan, root_fd: int) -> None:
    """Make the working directory inside the root when it is missing."""
    if plan.cwd == "/":
        return
    try:
        fd, _ = mkdirs(root_fd, plan.cwd)
        os.close(fd)
    except OSError as error:
        number = error.errno or 0
        if number in (errno.EROFS, errno.EPERM):
            return
        if number in (errno.ENOENT, errno.ELOOP):  # no parent to make it in: procfs, a magic link
            number = errno.ENOTDIR
        raise RuntimeFailure("cwd", number, f"mkdir {plan.cwd}: {strerror(number)}") from error


def _enter_cwd(plan: ProcessPlan) -> bool:
    try:
        os.chdir(plan.cwd)
        return True
    except PermissionError:
        return False
    except OSError as error:
        raise _cwd_failed(plan, error) from error


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
        message = "current working directory is outside of container mount namespace root -- possible container breakout detected"
        raise RuntimeFailure("cwd", errno.EPERM, message)


def become(
    plan: ProcessPlan,
    caps: CapabilitySets | None,
    identity: user.Identity,
    *,
    death_signal: int,
    load_seccomp: Callable[[], None] | None,
) -> str:
    """Take the identity and give up everything else; return the program to execute.

    After this the process may do what the container's process may do, and nothing more.
    """
    if plan.no_new_privileges:
        process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    elif load_seccomp is not None:
        load_seccomp()
    if caps is not None:
        capabilities.drop_bounding(caps.bounding)
    else:
        capabilities.drop_bounding(0)
    entered = _enter_cwd(plan)
    process.prctl(process.PR_SET_KEEPCAPS, 1)
    process.setgroups(identity.groups)
    process.setresgid(identity.gid, identity.gid, identity.gid)
    process.setresuid(identity.uid, identity.uid, identity.uid)
    process.prctl(process.PR_SET_KEEPCAPS, 0)
    _set_capabilities(caps)
    if not entered:
        try:
            os.chdir(plan.cwd)
        except OSError as error:
            raise _cwd_failed(plan, error) from error
    check_cwd()
    if plan.umask is not None:
        os.umask(plan.umask)
    if death_signal:
        process.prctl(process.PR_SET_PDEATHSIG, death_signal)  # a change of ids has cleared it
    program = lookup.find(plan.args[0], plan.env.get("PATH", ""))
    if plan.no_new_privileges and load_seccomp is not None:
        load_seccomp()
    return program


def _set_capabilities(caps: CapabilitySets | None) -> None:
    if caps is None:
        capabilities.capset(0, 0, 0)
        return
    # What this process lacks itself (a runtime inside a container) cannot be given.
    _, own, _ = capabilities.capget()
    permitted = caps.permitted & own
    inheritable = caps.inheritable & own
    ambient = (
        caps.ambient & permitted & inheritable
    )  # the rest is left out, as in the reference: nothing becomes inheritable
    capabilities.capset(caps.effective & permitted, permitted, inheritable)
    if ambient:
        capabilities.set_ambient(ambient)


def execute(program: str, plan: ProcessPlan) -> NoReturn:
    """Replace this process by the user's program.

    A file that the kernel refuses (no such interpreter, no known format) is reported where the reference reports it: on
    the container's stderr, with exit status 255.
    """
    try:
        os.execve(program, plan.args, plan.env)
    except OSError as error:
        try:
            os.write(2, f"exec {program}: {strerror(error.errno or 0)}\n".encode())
        finally:
            os._exit(255)
