"""The life of a container as one table: `{(state, trigger): state}`.

Pure: no record, no lock, no clock. Invariants, checked by the tests: every state can be reached from `created`,
and every state has a way out (the last one is `removed`, after which there is no record).

    created    ─ start ──────────────────────▶ running
    created    ─ start_failed ───────────────▶ created
    created    ─ remove ─────────────────────▶ removing
    running    ─ pause ──────────────────────▶ paused
    running    ─ exit ───────────────────────▶ exited
    running    ─ back_off ───────────────────▶ restarting
    paused     ─ unpause ────────────────────▶ running
    paused     ─ exit ───────────────────────▶ exited
    paused     ─ back_off ───────────────────▶ restarting
    restarting ─ start ──────────────────────▶ running
    restarting ─ start_failed, cancel, exit ─▶ exited
    restarting ─ back_off ───────────────────▶ restarting
    exited     ─ start ──────────────────────▶ running
    exited     ─ start_failed ───────────────▶ exited
    exited     ─ remove ─────────────────────▶ removing
    removing   ─ removed ────────────────────▶ (gone)
    removing   ─ remove_failed ──────────────▶ dead
    removing   ─ remove ─────────────────────▶ removing
    dead       ─ remove ─────────────────────▶ removing

Source: Docker's words for `State.Status`, Engine API 1.51 `ContainerState`.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Docker's words for what a container does."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"
    GONE = ""  # the record is deleted; never stored


class Trigger(StrEnum):
    """What makes a container change its state."""

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


TABLE: dict[tuple[State, Trigger], State] = {
    (State.CREATED, Trigger.START): State.RUNNING,
    (State.CREATED, Trigger.START_FAILED): State.CREATED,
    (State.CREATED, Trigger.REMOVE): State.REMOVING,
    (State.RUNNING, Trigger.PAUSE): State.PAUSED,
    (State.RUNNING, Trigger.EXIT): State.EXITED,
    (State.RUNNING, Trigger.BACK_OFF): State.RESTARTING,
    (State.PAUSED, Trigger.UNPAUSE): State.RUNNING,
    (State.PAUSED, Trigger.EXIT): State.EXITED,
    (State.PAUSED, Trigger.BACK_OFF): State.RESTARTING,
    (State.RESTARTING, Trigger.START): State.RUNNING,
    (State.RESTARTING, Trigger.START_FAILED): State.EXITED,
    (State.RESTARTING, Trigger.BACK_OFF): State.RESTARTING,  # a restart that failed to start is tried again
    (State.RESTARTING, Trigger.CANCEL): State.EXITED,
    (State.RESTARTING, Trigger.EXIT): State.EXITED,  # found dead after a restart of the daemon
    (State.EXITED, Trigger.START): State.RUNNING,
    (State.EXITED, Trigger.START_FAILED): State.EXITED,
    (State.EXITED, Trigger.REMOVE): State.REMOVING,
    (State.REMOVING, Trigger.REMOVED): State.GONE,
    (State.REMOVING, Trigger.REMOVE_FAILED): State.DEAD,
    (State.REMOVING, Trigger.REMOVE): State.REMOVING,  # a removal that was interrupted is resumed
    (State.DEAD, Trigger.REMOVE): State.REMOVING,
}

# What `State.Running` says: a paused process exists, and a restarting container counts as running.
ACTIVE = frozenset({State.RUNNING, State.PAUSED, State.RESTARTING})
# States in which a task exists in the supervisor.
WITH_TASK = frozenset({State.RUNNING, State.PAUSED})


class IllegalTransition(Exception):
    """A caller asked for a transition without checking the state first: a defect, not a user's error."""

    def __init__(self, state: State, trigger: Trigger) -> None:
        super().__init__(f"no transition from {state.value!r} by {trigger.value!r}")


def after(state: State, trigger: Trigger) -> State:
    """Return the state that follows. Raises: IllegalTransition."""
    try:
        return TABLE[state, trigger]
    except KeyError:
        raise IllegalTransition(state, trigger) from None
