"""What the supervisor's client takes and returns: plain values, no behaviour."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum

from sampan.spec.oci_runtime import Mount
from sampan.supervisor.states import TaskStatus


class TaskKind(StrEnum):
    """What a task is for its caller; the supervisor treats all alike."""

    CONTAINER = "container"
    BUILD_STEP = "build-step"
    PLUGIN = "plugin"
    HOST_TASK = "host-task"  # a program of the host, confined


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSource:
    """The source of a bind mount of the spec, found already: its name is not looked up again.

    index: of the mount in the spec's `mounts`. fd: a detached mount (open_tree with OPEN_TREE_CLONE); the caller's, who
    may close it when `create` has returned.
    """

    index: int
    fd: int

    @property
    def place(self) -> str:
        return f"mounts/{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceSource:
    """A namespace of the spec that exists already: it is joined by `fd`, the caller's as above, and not by its path.

    type: as in the spec's `linux.namespaces`.
    """

    type: str
    fd: int

    @property
    def place(self) -> str:
        return f"namespaces/{self.type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRequest:
    """All that is needed to make a task. `spec` is an OCI config.json without linux.seccomp; `seccomp` the path from
    `compile_seccomp`.

    An external `runtime` (absolute path) gets the spec as it is: then seccomp belongs into the spec.
    """

    id: str
    spec: bytes
    kind: TaskKind = TaskKind.CONTAINER
    rootfs: tuple[Mount, ...] = ()
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
    sources: tuple[MountSource | NamespaceSource, ...] = ()


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
    kind: TaskKind = TaskKind.CONTAINER


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """What has happened. `kind`: connected, start, exit, exec-start, exec-exit, oom, paused, resumed.

    `task_kind`: of the task that it is about.
    """

    kind: str
    id: str = ""
    exec_id: str = ""
    pid: int = 0
    exit: Exit | None = None
    task_kind: TaskKind = TaskKind.CONTAINER


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A process's stdio.

    `reader`: stdcopy frames, raw for a terminal; its end means all output has been delivered. `writer`: stdin;
    write_eof() ends it.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    at_ns: int = 0  # when the shim let us in: what it logged before carries an earlier time and is not sent again
