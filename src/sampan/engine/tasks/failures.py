"""A task that would not start, told to the client: message, HTTP status and exit status as Docker has them.

126: found but not executable; 127: not found; 128: anything else.

Source: Docker Engine 28.5's answers to start and exec.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from sampan.errors import Internal, InvalidArgument, SampanError

_TASK = "failed to create task for container: "
_CREATE = "failed to create shim task: OCI runtime create failed: runc create failed: "
_PROCESS = "unable to start container process: "
_INIT = "error during container init: "
EXEC = "OCI runtime exec failed: exec failed: unable to start container process: "
_NOT_A_DIRECTORY = re.compile(r"mkdir (.+): not a directory")
_DIRECTORY_ON_FILE = (
    "Are you trying to mount a directory onto a file (or vice-versa)?"
    " Check if the specified host path exists and is the expected type"
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What the client is told, and what the container's state keeps."""

    error: SampanError
    exit_status: int


def of_start(step: str, number: int, message: str) -> Failure:
    """Translate what the runtime refused. step: the runtime's name for where it happened; number: errno or 0."""
    if step == "user":
        return Failure(Internal(message), 128)
    if step == "cwd" and (found := _NOT_A_DIRECTORY.fullmatch(message)):
        return Failure(Internal(f"Cannot mkdir: {found[1]} is not a directory"), 128)
    if message.startswith("invalid config.json: linux.sysctl."):
        message = message.partition(": sysctl ")[1].removeprefix(": ") + message.partition(": sysctl ")[2]
    if step in ("validate", "spec"):
        return _judge(_TASK + _CREATE + message, message, number)
    if step == "log":
        return Failure(Internal(_TASK + "failed to initialize logging driver: " + message), 128)
    if step == "task":  # the supervisor's own files
        return Failure(Internal(_TASK + message), 128)
    if step == "rootfs":  # the engine's own directories, nothing that the request names
        return Failure(Internal(_TASK + _CREATE + _PROCESS + _INIT + message), 128)
    if step == "cgroup":
        return _judge(_TASK + _CREATE + _PROCESS + message, message, number)
    return _judge(_TASK + _CREATE + _PROCESS + _INIT + message, message, number)


def of_exec(step: str, number: int, message: str) -> Failure:
    """Translate a refusal to start a further process in a running container; the arguments are those of `of_start`."""
    if step == "user":
        return Failure(InvalidArgument(message), 126)
    return _judge(EXEC + message, message, number)


def _judge(text: str, message: str, number: int) -> Failure:
    not_found = ("executable file not found", "no such file or directory")
    if any(words in message for words in not_found) or number == errno.ENOENT:
        return Failure(InvalidArgument(text), 127)
    if "permission denied" in message or number == errno.EACCES:
        return Failure(InvalidArgument(text), 126)
    if "not a directory" in message or number == errno.ENOTDIR:
        return Failure(InvalidArgument(f"{text}: {_DIRECTORY_ON_FILE}"), 127)
    return Failure(Internal(text), 128)
