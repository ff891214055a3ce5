"""pause and resume: freeze and thaw a container's cgroup."""

from __future__ import annotations

from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.create import load
from sampan.runtime.cli.output import CommandFailure


def pause(call: Invocation) -> int:
    entry = load(call)
    if entry.status() not in ("running", "created"):
        raise CommandFailure("container not running")
    _do(entry.container.pause)
    return 0


def resume(call: Invocation) -> int:
    entry = load(call)
    if entry.status() != "paused":
        raise CommandFailure("container not paused")
    _do(entry.container.resume)
    return 0


def _do(operation: object) -> None:
    assert callable(operation)
    try:
        operation()
    except OSError as error:
        raise CommandFailure(str(error)) from error
