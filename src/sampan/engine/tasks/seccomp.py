"""Seccomp filters of processes: the profile, and the file that holds its compiled form. See docs/adr/0004."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from sampan.engine.hostpaths import HostPaths
from sampan.engine.tasks import security
from sampan.engine.tasks.options import ProcessOptions
from sampan.supervisor.client import Supervisor


class Filters:
    """A cache in front of the supervisor's compiler."""

    def __init__(self, host_paths: HostPaths) -> None:
        self._host_paths = host_paths
        self._paths: dict[tuple[str, tuple[str, ...]], str] = {}

    def clear(self) -> None:
        """Forget all: the daemon's own profile may have changed."""
        self._paths.clear()

    async def path(self, supervisor: Supervisor, process: ProcessOptions) -> str:
        """Return the path of the compiled filter of a process; "" is none.

        Raises: Internal for a profile that cannot be read or is not JSON.
        """
        key = (process.security.seccomp, _capabilities(process))
        path = self._paths.get(key)
        if path is None or (path and not os.path.exists(path)):
            profile = await self.profile(process)
            path = "" if profile is None else await supervisor.compile_seccomp(profile)
            self._paths[key] = path
        return path

    async def profile(self, process: ProcessOptions) -> dict[str, Any] | None:
        """Return OCI `linux.seccomp` of a process, None for no filter. Raises: Internal, as `path`."""
        work = partial(security.profile, process.security, _capabilities(process))
        if security.names_file(process.security):
            return await self._host_paths.run(process.security.seccomp, work)
        return work()


def _capabilities(process: ProcessOptions) -> tuple[str, ...]:
    return process.capabilities if process.filter_capabilities is None else process.filter_capabilities
