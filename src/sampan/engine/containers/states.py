"""The life of a container as one table: `{(state, event): state}`.

Pure: no record, no lock, no clock. Invariants, checked by the tests: every state can be reached from `created`,
and every state has a way out (the last one is `removed`, after which there is no record).

    created ─start─▶ running ─pause─▶ paused
       │               │  ▲              │
       │             exit └───unpause────┘
       │               ▼
       │             exited ◀─cancel─ restarting ─start─▶ running
       ▼               ▼
     removing ─removed─▶ (gone)        removing ─remove_failed─▶ dead ─remove─▶ removing

Source: Docker's words for `State.Status`, Engine API 1.51 `ContainerState`.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"
    GONE = ""  # the record is deleted; never stored


class Event(StrEnum):
    START = "start"  # a task runs
    START_FAILED = "start_failed"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    EXIT = "exit"  # the task ended and the restart policy does not want another one
    BACK_OFF = "back_off"  # the task ended and another one starts after a delay
    CANCEL = "cancel"  # the pending restart is called off
    REMOVE = "remove"
    REMOVE_FAILED = "remove_failed"
    REMOVED = "removed"


TABLE: dict[tuple[State, Event], State] = {
    (State.CREATED, Event.START): State.RUNNING,
    (State.CREATED, Event.START_FAILED): State.CREATED,
    (State.CREATED, Event.REMOVE): State.REMOVING,
    (State.RUNNING, Event.PAUSE): State.PAUSED,
    (State.RUNNING, Event.EXIT): State.EXITED,
    (State.RUNNING, Event.BACK_OFF): State.RESTARTING,
    (State.PAUSED, Event.UNPAUSE): State.RUNNING,
    (State.PAUSED, Event.EXIT): State.EXITED,
    (State.PAUSED, Event.BACK_OFF): State.RESTARTING,
    (State.RESTARTING, Event.START): State.RUNNING,
    (State.RESTARTING, Event.START_FAILED): State.EXITED,
    (State.RESTARTING, Event.BACK_OFF): State.RESTARTING,  # a restart that failed to start is tried again
    (State.RESTARTING, Event.CANCEL): State.EXITED,
    (State.RESTARTING, Event.EXIT): State.EXITED,  # found dead after a restart of the daemon
    (State.EXITED, Event.START): State.RUNNING,
    (State.EXITED, Event.START_FAILED): State.EXITED,
    (State.EXITED, Event.REMOVE): State.REMOVING,
    (State.REMOVING, Event.REMOVED): State.GONE,
    (State.REMOVING, Event.REMOVE_FAILED): State.DEAD,
    (State.REMOVING, Event.REMOVE): State.REMOVING,  # a removal that was interrupted is resumed
    (State.DEAD, Event.REMOVE): State.REMOVING,
}

# What `State.Running` says: a paused process exists, and a restarting container counts as running.
ACTIVE = frozenset({State.RUNNING, State.PAUSED, State.RESTARTING})
# States in which a task exists in the supervisor.
WITH_TASK = frozenset({State.RUNNING, State.PAUSED})


class IllegalTransition(Exception):
    """A caller asked for a transition without checking the state first: a defect, not a user's error."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"no transition from {state.value!r} by {event.value!r}")


def after(state: State, event: Event) -> State:
    """Return the state that follows. Raises: IllegalTransition."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise IllegalTransition(state, event) from None
