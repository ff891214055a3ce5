"""start: let a created container's init go on to the user's process."""

from __future__ import annotations

from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.create import load, reason
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.container import RuntimeFailure


def start(call: Invocation) -> int:
    entry = load(call)
    status = entry.status()
    if status == "stopped":
        raise CommandFailure("cannot start a container that has stopped")
    if status == "running":
        raise CommandFailure("cannot start an already running container")
    if status == "paused":
        raise CommandFailure("cannot start a container in the paused state")
    try:
        entry.container.start()
    except RuntimeFailure as error:
        raise CommandFailure(reason(error)) from error
    finally:
        entry.save()
    return 0
