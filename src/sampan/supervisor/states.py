"""The life of a task as one table, `{(status, event): status}`, which shim and supervisor both follow. Pure.

    creating ─create─▶ created ─start─▶ running ─paused─▶ paused
       │                  │              │   ▲               │
    create_failed        exit          exit  └───resumed─────┤
       ▼                  ▼              ▼                  exit
     failed            stopped ◀─────────┴───────────────────┘

The values of events are the kinds that the shim tells (`wire.Event`), where it tells of them.
"""

from __future__ import annotations

from enum import StrEnum


class TaskStatus(StrEnum):
    CREATING = "creating"
    FAILED = "failed"  # nothing of it is left
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


class TaskChange(StrEnum):
    CREATE = "create"
    CREATE_FAILED = "create-failed"
    START = "start"
    PAUSED = "paused"
    RESUMED = "resumed"
    EXIT = "exit"


TABLE: dict[tuple[TaskStatus, TaskChange], TaskStatus] = {
    (TaskStatus.CREATING, TaskChange.CREATE): TaskStatus.CREATED,
    (TaskStatus.CREATING, TaskChange.CREATE_FAILED): TaskStatus.FAILED,
    (TaskStatus.CREATING, TaskChange.START): TaskStatus.RUNNING,  # as the supervisor hears of a create that starts
    (TaskStatus.CREATING, TaskChange.EXIT): TaskStatus.STOPPED,  # as a supervisor finds a task whose shim has died
    (TaskStatus.CREATED, TaskChange.CREATE_FAILED): TaskStatus.FAILED,  # a create that starts, and cannot
    (TaskStatus.CREATED, TaskChange.START): TaskStatus.RUNNING,
    (TaskStatus.CREATED, TaskChange.EXIT): TaskStatus.STOPPED,
    (TaskStatus.RUNNING, TaskChange.PAUSED): TaskStatus.PAUSED,
    (TaskStatus.RUNNING, TaskChange.EXIT): TaskStatus.STOPPED,
    (TaskStatus.PAUSED, TaskChange.RESUMED): TaskStatus.RUNNING,
    (TaskStatus.PAUSED, TaskChange.EXIT): TaskStatus.STOPPED,
}

# Nobody outside knows of the task: it is not there yet, or has come to nothing.
UNBORN = frozenset({TaskStatus.CREATING, TaskStatus.FAILED})
CHANGES = frozenset(TaskChange)


class IllegalChange(Exception):
    """A change that the status does not allow: a defect of whoever did not look first."""

    def __init__(self, status: TaskStatus, change: TaskChange) -> None:
        super().__init__(f"no transition from {status.value!r} by {change.value!r}")


def after(status: TaskStatus, change: TaskChange) -> TaskStatus:
    """Return the status that follows. Raises: IllegalChange."""
    try:
        return TABLE[status, change]
    except KeyError:
        raise IllegalChange(status, change) from None
