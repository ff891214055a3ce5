"""Network namespaces for RUN steps, one ahead: while a step runs, the next one's network is made.

A namespace is never used twice: what a step left in it (routes, addresses, sockets that linger) is nobody else's.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass

from sampan.engine.networks.request import SandboxRequest
from sampan.engine.networks.service import Networks, Sandbox
from sampan.errors import SampanError

log = logging.getLogger("sampan.builder")


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A namespace and the id of the task that it was made for."""

    id: str
    sandbox: Sandbox


class SandboxPool:
    """The namespaces of one engine's build steps. `take` and later `give_back`; `drop` when no build is under way."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._spare: asyncio.Task[Net] | None = None

    async def take(self, mode: str, *, ahead: bool) -> Net:
        """Return a namespace on a network (mode as a container's), its id a task's.

        ahead: more steps like this may follow.
        """
        spare = self._spare if mode == "bridge" else None
        if spare is not None:
            self._spare = None
        try:
            net = await spare if spare is not None else await self._make(mode)
        except SampanError:
            if spare is None:
                raise
            net = await self._make(mode)
        if ahead and mode == "bridge" and self._spare is None:
            self._spare = asyncio.create_task(self._make(mode))
        return net

    async def _make(self, mode: str) -> Net:
        id = secrets.token_hex(16)
        sandbox = await self._networks.attach(SandboxRequest(id=id, mode=mode, hostname=id[:12], silent=True))
        return Net(id=id, sandbox=sandbox)

    async def give_back(self, net: Net) -> None:
        await self._networks.detach(net.id)

    async def drop(self) -> None:
        """Give the spare one back, when no step is to come."""
        if self._spare is None:
            return
        spare, self._spare = self._spare, None
        try:
            await self.give_back(await spare)
        except SampanError as e:
            log.debug("a spare network for build steps: %s", e.message)
