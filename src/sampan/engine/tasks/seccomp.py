"""Compiled seccomp filters: which file holds the one for these options and capabilities. See docs/adr/0004."""

from __future__ import annotations

import os

from sampan.engine.tasks import security
from sampan.engine.tasks.options import ProcessOptions
from sampan.supervisor.client import Supervisor


class Filters:
    """A cache in front of the supervisor's compiler."""

    def __init__(self) -> None:
        self._paths: dict[tuple[str, tuple[str, ...]], str] = {}

    def clear(self) -> None:
        """Forget all: the daemon's own profile may have changed."""
        self._paths.clear()

    async def path(self, supervisor: Supervisor, process: ProcessOptions) -> str:
        """Return the path of the compiled filter of a process; "" is none. Raises: Internal when a profile is not JSON."""
        key = (process.security.seccomp, process.capabilities)
        path = self._paths.get(key)
        if path is None or (path and not os.path.exists(path)):
            profile = security.profile(process.security, process.capabilities)
            path = "" if profile is None else await supervisor.compile_seccomp(profile)
            self._paths[key] = path
        return path
