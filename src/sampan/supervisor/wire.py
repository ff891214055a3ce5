"""What shim and supervisor say to each other, and what a client says to a shim.

Control (one connection; the supervisor asks, the shim answers, and tells what happens on its own): frames of u32be
length + JSON.

    supervisor → shim    {"seq": 7, "op": "kill", …arguments}
                         {"seq": 1, "op": "create", …, "sources": [place, …]} + a descriptor each
                         {"seq": -1, "op": "told", "exec_id"}: an exec's end has been heard; no answer
    shim → supervisor    {"seq": 7, "ok": …}  |  {"seq": 7, "error": {"kind", "message", "step", "errno"}}
                         {"event": {"kind": "exit", "exec_id": "", …}}: an Event
                         {"hello": true, "report": …}, first on every connection
                         an answer that changes the task's state carries "report" too, a TaskReport: it is applied in
                         order with the events. Answers come in the order in which the operations end, not in that of
                         the questions

A place says whose name in the spec a descriptor replaces: "mounts/<index>", its source as a detached mount, or
"namespaces/<type>".

shim.sock: one line of JSON says what the connection is to be; attach and exec are answered with one line, then bytes
flow.

    {"op": "control"}
    {"op": "attach", "exec_id": "", "stdin": true, "stdout": true, "stderr": true}
    {"op": "exec", "exec_id": …, "process": {…}, "terminal", "stdin", "stdout", "stderr", "seccomp"}
                                       prepared, attached and started in one step
    → {"ok": {"pid": 0}} | {"error": …}

Bytes after that: from the shim stdcopy frames (raw for a terminal), towards it raw stdin; a half-close is the end of
input.
"""

from __future__ import annotations

import _socket
import array
import errno
import json
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from sampan import errors
from sampan.supervisor.states import TaskStatus

_LENGTH = struct.Struct(">I")
MAX_FRAME_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_RIGHTS = 253  # SCM_MAX_FD: descriptors beside one piece of data

_RIGHTS_BYTES = _socket.CMSG_SPACE(MAX_RIGHTS * 4)

decode = json.loads


class ExitRecord(TypedDict):
    """How a process ended; what exit.json holds too."""

    status: int
    exited_at_ns: int
    oom_killed: bool


class ExecRecord(TypedDict):
    exec_id: str
    pid: int
    exit: ExitRecord | None


class TaskReport(TypedDict):
    """What the supervisor keeps of a task."""

    id: str
    shim_pid: int
    pid: int
    status: TaskStatus
    started_at_ns: int
    exit: ExitRecord | None
    execs: list[ExecRecord]


EventKind = Literal["start", "exit", "exec-start", "exec-exit", "oom", "paused", "resumed"]


class Event(TypedDict):
    kind: EventKind
    exec_id: NotRequired[str]
    pid: NotRequired[int]
    exit: NotRequired[ExitRecord | None]


class Logging(TypedDict):
    driver: str
    path: str
    options: dict[str, str]
    attrs: dict[str, str]


class CreateArguments(TypedDict):
    """What the supervisor is asked for; the spec itself goes as a file, config.json."""

    rootfs: list[dict[str, Any]]
    sources: list[str]  # places in the spec, one for each descriptor beside the message
    seccomp: str  # path of a compiled filter
    terminal: bool
    stdin: bool
    stdin_once: bool
    logging: Logging
    runtime: str  # another runtime's binary, absolute; empty: our own
    runtime_args: list[str]
    start: bool


class TaskCreateRequest(CreateArguments):
    id: str


class ProcessArguments(TypedDict):
    """A process that is to be run by `exec`."""

    exec_id: str
    process: dict[str, Any]
    terminal: bool
    stdin: bool
    seccomp: str


class ExecRequest(ProcessArguments):
    start: bool


class ExecStartRequest(TypedDict):
    exec_id: str


class KillRequest(TypedDict):
    signal: int
    exec_id: str
    all: bool


class UpdateRequest(TypedDict):
    resources: dict[str, Any]


class ResizeRequest(TypedDict):
    exec_id: str
    width: int
    height: int


class PidAnswer(TypedDict):
    pid: int  # 0: only prepared


class DeleteAnswer(TypedDict):
    exit: ExitRecord | None


class AttachRequest(TypedDict):
    """The first line on shim.sock, of `attach` and, with a ProcessArguments, of `exec`."""

    op: Literal["attach", "exec"]
    exec_id: str
    stdin: bool
    stdout: bool
    stderr: bool
    raw: NotRequired[bool]  # output without frames; without the key, as the process's terminal says


class ErrorRecord(TypedDict):
    kind: str
    message: str
    step: NotRequired[str]
    errno: NotRequired[int]


def _encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


_KINDS: dict[str, type[errors.SampanError]] = {
    "not-found": errors.NotFound,
    "conflict": errors.Conflict,
    "invalid": errors.InvalidArgument,
    "unavailable": errors.Unavailable,
    "not-implemented": errors.NotImplemented_,
    "internal": errors.Internal,
}


class TaskFailed(errors.SampanError):
    """The runtime refused: `step` names what it was doing, `message` is in the words a Docker user knows."""

    status = 400

    def __init__(self, step: str, errno: int, message: str) -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno


def frame(message: Mapping[str, Any]) -> bytes:
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


def line(message: Mapping[str, Any]) -> bytes:
    return _encode(message) + b"\n"


def send(peer: _socket.socket, data: bytes, fds: Sequence[int]) -> int:
    """Send a message with descriptors beside it; return how many of its bytes are on their way. Raises: OSError."""
    sent = 0
    while len(fds) > MAX_RIGHTS:
        sent += peer.sendmsg([data[sent : sent + 1]], _rights(fds[:MAX_RIGHTS]))
        fds = fds[MAX_RIGHTS:]
    return sent + peer.sendmsg([data[sent:]], _rights(fds))


def _rights(fds: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


def receive(peer: _socket.socket, size: int, *, wait: bool = True) -> tuple[bytes, list[int]]:
    """Receive bytes and the descriptors beside them, which are the caller's.

    Raises: OSError, EMFILE for lost descriptors; BlockingIOError without `wait`, or of a socket that does not block.
    """
    waiting = 0 if wait else _socket.MSG_DONTWAIT
    data, ancillary, flags, _ = peer.recvmsg(size, _RIGHTS_BYTES, _socket.MSG_CMSG_CLOEXEC | waiting)
    fds = array.array("i")
    for _, _, rights in ancillary:
        fds.frombytes(rights)
    if flags & _socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return data, list(fds)


class Unframer:
    """Collects bytes and yields whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Raises ValueError when the peer does not speak this protocol."""
        self._buffer += data
        messages: list[dict[str, Any]] = []
        at = 0
        while len(self._buffer) - at >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            if len(self._buffer) - at - 4 < length:
                break
            messages.append(decode(bytes(self._buffer[at + 4 : at + 4 + length])))
            at += 4 + length
        del self._buffer[:at]
        return messages


def error_to_wire(error: BaseException) -> ErrorRecord:
    """An exception as {"kind", "message"[, "step", "errno"]}."""
    if isinstance(error, TaskFailed):
        return {"kind": "failed", "message": error.message, "step": error.step, "errno": error.errno}
    for kind, class_ in _KINDS.items():
        if isinstance(error, class_):
            return {"kind": kind, "message": error.message}
    if isinstance(error, OSError):
        return {
            "kind": "internal",
            "message": f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror),
        }
    return {"kind": "internal", "message": f"{type(error).__name__}: {error}"}


def error_from_wire(error: ErrorRecord) -> errors.SampanError:
    if error["kind"] == "failed":
        return TaskFailed(error["step"], error["errno"], error["message"])
    return _KINDS.get(error["kind"], errors.Internal)(error["message"])
