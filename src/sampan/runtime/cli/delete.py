"""delete: remove what a container holds, once it has stopped; with --force, stop it first."""

from __future__ import annotations

import os
import select
import signal

from sampan.runtime.__main__ import Invocation
from sampan.runtime.cli.output import CommandFailure
from sampan.runtime.cli.store import NOT_THERE, ContainerStore, StoredContainer

_PATIENCE_S = 10


def delete(call: Invocation) -> int:
    store = ContainerStore(call.root)
    (id,) = call.arguments
    force = bool(call.flags.get("force"))
    try:
        entry = store.load(id)
    except CommandFailure as error:
        if force and error.message == NOT_THERE:
            store.forget(id)  # a create that was killed half-way leaves an empty directory
            return 0
        raise
    status = entry.status()
    if status not in ("stopped", "created") and not force:
        raise CommandFailure(f"cannot delete container {id} that is not stopped: {status}")
    if status != "stopped":
        _end(entry)
    failures = entry.container.delete()
    store.forget(id)
    for failure in failures:
        call.log.write("warning", failure)
    return 0


def _end(entry: StoredContainer) -> None:
    """Kill everything inside and wait until init has gone."""
    container = entry.container
    container.close_gate()
    container.signal(signal.SIGKILL, all=True)
    try:
        container.signal(signal.SIGKILL)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(container.pidfd, select.POLLIN)
    if not poll.poll(_PATIENCE_S * 1000):
        raise CommandFailure("container init still running")
    try:
        os.waitpid(container.pid, os.WNOHANG)
    except ChildProcessError:
        pass
