"""The agent that answers system calls of a container: a profile's `listenerPath` with SCMP_ACT_NOTIFY.

The process that loads the filter opens the listener, and says its number; whoever started the process fetches the
descriptor from it and sends it to the agent's socket, with the container process state. Only then the process goes on.

    process: filter ── LISTENER number ──▶ starter ── state + descriptor ──▶ agent
                    ◀──────── GO ─────────

Between the two the process only writes and reads its channel, so `write` is not to be asked about. A filter with a
listener is loaded before the gate, with no_new_privs too: behind it nobody would be there to fetch the descriptor.

Source: OCI runtime-spec 1.2 config-linux.md "The Container Process State"; seccomp_unotify(2).
"""

from __future__ import annotations

import _socket
import array
import errno
import json
import os
from collections.abc import Callable
from typing import Any

from sampan.linux import process
from sampan.runtime import sync
from sampan.runtime.failure import RuntimeFailure, strerror
from sampan.runtime.plan import OCI_VERSION

NOTIFY = "SCMP_ACT_NOTIFY"


class Agent:
    """Where the agent listens, and what is to be said to it."""

    __slots__ = ("metadata", "path")

    def __init__(self, path: str, metadata: str) -> None:
        self.path = path
        self.metadata = metadata

    def hand_over(self, state: bytes, pid: int, pidfd: int, packet: bytes) -> None:
        """Send the listener that a LISTENER packet of process `pid` names. Raises: RuntimeFailure."""
        try:
            listener = process.pidfd_getfd(pidfd, int(packet[len(sync.LISTENER) :]))
        except (OSError, ValueError) as error:
            raise RuntimeFailure("seccomp agent", 0, f"unable to get the seccomp listener: {error}") from error
        said: dict[str, Any] = {"ociVersion": OCI_VERSION, "fds": ["seccompFd"], "pid": pid, "metadata": self.metadata}
        text = json.dumps({**said, "state": json.loads(state)}, separators=(",", ":")).encode()
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        try:
            connection.connect(self.path)
            rights = array.array("i", [listener])
            connection.sendmsg([text], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        except OSError as error:
            number = error.errno or errno.EINVAL  # a path that is too long has none
            why = f"dial unix {self.path}: connect: {strerror(number)}"
            message = f"failed to connect with seccomp agent specified in the seccomp profile: {why}"
            raise RuntimeFailure("seccomp agent", number, message) from error
        finally:
            os.close(listener)
            connection.close()


def of(profile: dict[str, Any] | None) -> Agent | None:
    """Return the agent of `linux.seccomp`; None when no call is to be asked about.

    Raises: RuntimeFailure when the profile asks for what cannot be.
    """
    if not profile:
        return None
    rules = [rule for rule in profile.get("syscalls") or () if rule.get("action") == NOTIFY]
    if profile.get("defaultAction") == NOTIFY:
        raise _impossible("unable to init seccomp: SCMP_ACT_NOTIFY cannot be used as default action")
    if any("write" in (rule.get("names") or ()) for rule in rules):
        raise _impossible("unable to init seccomp: SCMP_ACT_NOTIFY cannot be used for the write syscall")
    if not rules:
        return None
    if not profile.get("listenerPath"):
        raise _impossible("seccomp listenerPath is not set")
    return Agent(profile["listenerPath"], profile.get("listenerMetadata") or "")


def _impossible(message: str) -> RuntimeFailure:
    return RuntimeFailure("seccomp agent", errno.EINVAL, message)


def announcing(load: Callable[[], int], channel: sync.Channel) -> Callable[[], int]:
    """Return a loader that has the listener of its filter fetched before it returns."""

    def load_and_wait() -> int:
        listener = load()
        os.write(channel.fd, sync.LISTENER + b"%d" % listener)
        if os.read(channel.fd, len(sync.GO)) != sync.GO:
            os._exit(1)
        os.close(listener)
        return listener

    return load_and_wait
