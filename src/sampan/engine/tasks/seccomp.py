"""Compiled seccomp filters: which file holds the one for these options and capabilities. See docs/adr/0004."""

from __future__ import annotations

import os

from sampan.engine.tasks import security
from sampan.engine.tasks.security import SecurityOptions
from sampan.supervisor.client import Supervisor


class Filters:
    """A cache in front of the supervisor's compiler."""

    def __init__(self) -> None:
        self._paths: dict[tuple[str, tuple[str, ...]], str] = {}

    def clear(self) -> None:
        self._paths.clear()

    async def path(self, supervisor: Supervisor, options: SecurityOptions, caps: list[str]) -> str:
        """The path of the compiled filter; "" is none. Raises: Internal when a profile is not JSON."""
        key = (options.seccomp, tuple(caps))
        path = self._paths.get(key)
        if path is None or (path and not os.path.exists(path)):
            profile = security.profile(options, caps)
            path = "" if profile is None else await supervisor.compile_seccomp(profile)
            self._paths[key] = path
        return path
