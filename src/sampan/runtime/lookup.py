"""Find the program of `args[0]` as the process would, with the reference's words when it is not there.

Runs inside the container as its user, after the capabilities are gone, so that what it finds can be executed.

Source: Go's os/exec LookPath, whose texts clients match on.
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.linux.syscalls import AT_FDCWD, O_PATH, RESOLVE_NO_MAGICLINKS, openat2
from sampan.runtime.failure import RuntimeFailure, strerror


def find(name: str, path: str) -> str:
    """Return the path to execute. `path` is the process's PATH.

    Raises: RuntimeFailure(step "exec") with errno ENOENT or EACCES (or what the kernel said).
    """
    if "/" in name:
        number, text = _check(name)
        if number:
            raise RuntimeFailure("exec", number, f'exec: "{name}": {text}')
        return name
    for directory in path.split(":") if path and name else ():
        candidate = f"{directory or '.'}/{name}"
        if not _check(candidate)[0]:
            if not directory.startswith("/"):
                reason = "cannot run executable found relative to current directory"
                raise RuntimeFailure("exec", errno.EACCES, f'exec: "{name}": {reason}')
            return candidate
    raise RuntimeFailure("exec", errno.ENOENT, f'exec: "{name}": executable file not found in $PATH')


def _check(path: str) -> tuple[int, str]:
    """Return (0, "") for a file that the caller may execute, else (errno, reason)."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        number = error.errno or 0
        return number, f"stat {path}: {strerror(number)}"
    if stat.S_ISDIR(mode):
        return errno.EACCES, "is a directory: permission denied"
    if not os.access(path, os.X_OK, effective_ids=True) or _is_magic(path):
        return errno.EACCES, "permission denied"
    return 0, ""


def _is_magic(path: str) -> bool:
    """Say whether the way leads over a magic link: /proc/self/exe would be the runtime itself (CVE-2019-5736)."""
    try:
        os.close(openat2(AT_FDCWD, path, O_PATH, 0, RESOLVE_NO_MAGICLINKS))
    except OSError as error:
        return error.errno == errno.ELOOP
    return False
