"""One process at its beginning and its end: signals, descriptors, keyring, AppArmor profile, execve.

What it becomes between the two is become.py's.

Source: execve(2), keyctl(2), apparmor(7), close_range(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from typing import NoReturn

from sampan.linux import process, syscalls
from sampan.linux.saferoot import mkdirs, open_in_proc
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.process_plan import ProcessPlan

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


def use_every_cpu() -> None:
    """Give up the affinity of whoever called the runtime; what the cgroup allows is the limit."""
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    except OSError:
        pass


def keyring_of(id: str) -> str:
    """Return the name of a container's session keyring, the reference's."""
    return f"_ses.{id}"


def start_keyring(name: str, *, user_namespace: bool) -> None:
    """Start the container's session keyring, so that it does not see the daemon's keys.

    Only who may search a keyring can join it by its name, so later processes of the container get that right: the
    owner, or with a user namespace everybody in there, as in the reference.
    """
    searchable = syscalls.KEY_OTH_SEARCH if user_namespace else syscalls.KEY_USR_SEARCH
    key = join_keyring(name)
    if key >= 0:
        syscalls.keyctl(syscalls.KEYCTL_SETPERM, key, syscalls.KEY_OF_A_NEW_SESSION | searchable)


def join_keyring(name: str) -> int:
    """Join the session keyring of this name, a new one when there is none; -1 where the kernel does not let us."""
    try:
        return syscalls.keyctl_join_session_keyring(name)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise
        return -1


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
