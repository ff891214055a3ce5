"""What the supervisor's client takes and returns: plain values, no behaviour."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from sampan.supervisor.states import TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSource:
    """The source of a bind mount of the spec, found already: its name is not looked up again.

    index: of the mount in the spec's `mounts`. fd: a detached mount (open_tree with OPEN_TREE_CLONE); the caller's, who
    may close it when `create` has returned.
    """

    index: int
    fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """All that is needed to make a task. `spec` is an OCI config.json without linux.seccomp; `seccomp` the path from
    `compile_seccomp`.

    An external `runtime` (absolute path) gets the spec as it is: then seccomp belongs into the spec.
    """

    id: str
    spec: bytes
    rootfs: list[dict[str, Any]] = field(default_factory=list)
    seccomp: str = ""
    terminal: bool = False
    stdin: bool = False
    stdin_once: bool = False
    log_driver: str = "json-file"
    log_path: str = ""
    log_options: dict[str, str] = field(default_factory=dict)
    log_attrs: dict[str, str] = field(default_factory=dict)
    runtime: str = ""
    runtime_args: tuple[str, ...] = ()
    sources: tuple[MountSource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    status: int
    exited_at_ns: int
    oom_killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecInfo:
    exec_id: str
    pid: int
    exit: Exit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """`status` is created, running, paused or stopped. `shim_pid` is 0 when the shim has died."""

    id: str
    pid: int
    status: TaskStatus
    started_at_ns: int
    exit: Exit | None
    execs: tuple[ExecInfo, ...] = ()
    shim_pid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """`kind`: connected, start, exit, exec-start, exec-exit, oom, paused, resumed."""

    kind: str
    id: str = ""
    exec_id: str = ""
    pid: int = 0
    exit: Exit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A process's stdio.

    `reader`: stdcopy frames, raw for a terminal; its end means all output has been delivered. `writer`: stdin;
    write_eof() ends it.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    at_ns: int = 0  # when the shim let us in: what it logged before carries an earlier time and is not sent again
