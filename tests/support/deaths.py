"""What kill -9 leaves at every step of some work, without doing the work again for each step.

The work runs once, in a forked child that is stopped before each step, all its threads with it. What is on the disk
then is what a kill at that moment would leave, for a process's death takes nothing away from files. A copy of it is
looked at, and the child goes on. A step that changed nothing since the last one leaves what that one left.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import traceback
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any


def deaths(
    work: Coroutine[Any, Any, None], watched: Sequence[tuple[Any, str]], root: Path, copy: Path
) -> Iterator[int]:
    """Yield the number of each step before which something had changed below `root`; `copy` is a copy of it then.

    watched: the functions whose calls are the steps, each as (module or class, name). Of `apply_now` the moment behind
    it is one too. The copy is removed when the next one is asked for.
    """
    pid = os.fork()
    if pid == 0:
        _live(work, watched)
    work.close()
    step, last = 0, b""
    try:
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                pid = 0
                assert status == 0, status
                return
            step += 1
            now = _state(root)
            if now != last:
                last = now
                if root.exists():
                    subprocess.run(["cp", "-a", "--one-file-system", str(root), str(copy)], check=True)
                yield step
                shutil.rmtree(copy, ignore_errors=True)
            os.kill(pid, signal.SIGCONT)
    finally:
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _live(work: Coroutine[Any, Any, None], watched: Sequence[tuple[Any, str]]) -> None:
    """Do the work in this process, which ends with it."""

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGSTOP)
            result = real(*args, **options)
            if name == "apply_now":
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        setattr(owner, name, call)

    try:
        for owner, name in watched:
            counted(owner, name)
        asyncio.run(work)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _state(root: Path) -> bytes:
    """A digest of everything below a directory that a program can see there."""
    seen = hashlib.sha256()
    for directory, names, files in os.walk(root, followlinks=False):
        names.sort()
        for path in [directory, *(os.path.join(directory, name) for name in sorted([*names, *files]))]:
            with suppress(FileNotFoundError):
                found = os.lstat(path)
                seen.update(repr((path, found.st_mode, found.st_uid, found.st_gid, found.st_rdev)).encode())
                seen.update(repr((found.st_nlink, found.st_mtime_ns)).encode())
                for name in os.listxattr(path, follow_symlinks=False):
                    seen.update(name.encode() + os.getxattr(path, name, follow_symlinks=False))
                if stat.S_ISLNK(found.st_mode):
                    seen.update(os.readlink(path).encode())
                elif stat.S_ISREG(found.st_mode):
                    with open(path, "rb") as file:
                        seen.update(hashlib.file_digest(file, "sha256").digest())
    return seen.digest()
