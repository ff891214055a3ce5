"""Run OCI hooks: a program each, the container's state on its stdin, one after the other.

A hook is started with posix_spawn, so no code of ours runs between fork and exec. It gets the state JSON on stdin and
its own environment, or that of the process that runs it when it names none, as in runc; what it prints on stderr is
part of the failure's message.

Source: OCI runtime-spec 1.2 config.md "POSIX-platform Hooks", runtime.md "Lifecycle".
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping
from typing import Any

from sampan.linux.process import pidfd_open, pidfd_send_signal
from sampan.runtime.failure import RuntimeFailure, strerror

_OUTPUT_LIMIT = 16384


def run(kind: str, hooks: list[dict[str, Any]], state: bytes, env: Mapping[str, str] = os.environ) -> None:
    """Run the hooks of one kind in order. env: the environment of those that name none.

    Raises: RuntimeFailure(step "<kind> hook") for the first that cannot start, does not exit with 0, or takes longer
    than its timeout (seconds); the rest is not run.
    """
    for index, hook in enumerate(hooks):
        reason = _run_one(hook, state, env)
        if reason:
            raise RuntimeFailure(f"{kind} hook", 0, f"error running {kind} hook #{index}: {reason}")


def run_in(directory: int, kind: str, hooks: dict[str, list[dict[str, Any]]], state: bytes) -> None:
    """Run the hooks of one kind in a directory by its descriptor, with an empty environment. Raises: as `run`."""
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fchdir(directory)
        run(kind, hooks[kind], state, {})
    finally:
        os.fchdir(before)
        os.close(before)


def run_all(kind: str, hooks: list[dict[str, Any]], state: bytes) -> list[str]:
    """Run every hook of one kind whatever the others do; return the failures as texts."""
    failures = []
    for index, hook in enumerate(hooks):
        reason = _run_one(hook, state, os.environ)
        if reason:
            failures.append(f"error running {kind} hook #{index}: {reason}")
    return failures


def _run_one(hook: dict[str, Any], state: bytes, inherited: Mapping[str, str]) -> str:
    """Run one hook; return "" or the reason of its failure."""
    path: str = hook["path"]
    args: list[str] = hook.get("args") or [path]
    given = hook.get("env")
    env = inherited if given is None else dict(entry.partition("=")[::2] for entry in given)
    stdin = os.memfd_create("state", os.MFD_CLOEXEC)
    os.write(stdin, state)
    os.lseek(stdin, 0, os.SEEK_SET)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out_read, False)
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, out_write, 1),
        (os.POSIX_SPAWN_DUP2, out_write, 2),
    ]
    try:
        pid = os.posix_spawn(path, args, env, file_actions=actions, setsigmask=(), setsigdef=_RESET)
    except OSError as error:
        os.close(out_read)
        return f"fork/exec {path}: {strerror(error.errno or 0)}"
    finally:
        os.close(stdin)
        os.close(out_write)
    try:
        return _await(pid, out_read, hook.get("timeout"))
    finally:
        os.close(out_read)


_RESET = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP)


def _await(pid: int, out: int, timeout_s: int | None) -> str:
    pidfd = pidfd_open(pid)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    text = b""
    timed_out = False
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(out, select.POLLIN)
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = dict(poll.poll(None if left is None else int(left * 1000)))
            if out in ready:
                chunk = _read(out)
                text = (text + chunk)[-_OUTPUT_LIMIT:]
                if not chunk:
                    poll.unregister(out)
            if pidfd in ready:
                text = (text + _read(out))[-_OUTPUT_LIMIT:]
                break
            if not ready:
                timed_out = True
                pidfd_send_signal(pidfd, signal.SIGKILL)
                deadline = None
    finally:
        os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    if timed_out:
        return f"hook ran past specified timeout of {timeout_s:.1f}s"
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return ""
    how = f"exit status {code}" if code > 0 else f"signal: {-code}"
    return f"{how}, stdout: , stderr: {text.decode('utf-8', 'replace').strip()}"


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except BlockingIOError:
        return b""
