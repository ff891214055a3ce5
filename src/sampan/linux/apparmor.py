"""AppArmor as far as a container engine needs it: is it there, is a profile loaded, which one comes at the next execve.

Not here: writing or loading profiles (apparmor_parser does that).

Source: apparmor(7); Documentation/admin-guide/LSM/apparmor.rst; aa_change_onexec(2).
"""

from __future__ import annotations

import os

_PARAMETER = "/sys/module/apparmor/parameters/enabled"
_PROFILES = "/sys/kernel/security/apparmor/profiles"


def enabled() -> bool:
    """Say whether the kernel enforces AppArmor."""
    try:
        with open(_PARAMETER, encoding="ascii") as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def is_loaded(profile: str) -> bool:
    """Say whether a profile of this name is loaded. False as well when the list may not be read."""
    try:
        with open(_PROFILES, encoding="utf-8") as file:
            return any(line.rpartition(" (")[0] == profile for line in file)
    except OSError:
        return False


def change_on_exec(proc_fd: int, pid: str, profile: str) -> None:
    """Ask for `profile` at the next execve of a process, through a procfs handle that the caller trusts.

    `attr/apparmor/exec` is the file of its own; kernels before 5.1 have only the one that all LSMs share.

    Raises:
        OSError: ENOENT when the profile is not loaded, EINVAL when the kernel has no AppArmor.
    """
    for name in ("attr/apparmor/exec", "attr/exec"):
        try:
            fd = os.open(f"{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=proc_fd)
        except FileNotFoundError:
            continue
        try:
            os.write(fd, f"exec {profile}".encode())
            return
        finally:
            os.close(fd)
    raise OSError(22, "the kernel has no AppArmor")
