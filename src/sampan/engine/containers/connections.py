"""A container's networks after its creation: connected and disconnected, whether it runs or not.

What the container is to have at its next start (its record) and what it has now (its sandbox's record) change in one
transaction, so that a crash leaves both or neither; the kernel is made to follow (networks/changes.py).

Source: Engine API 1.51, NetworkConnect and NetworkDisconnect; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.containers import specgen
from sampan.engine.containers.records import Container
from sampan.engine.containers.table import ContainerTable
from sampan.engine.networks.fabric import SandboxEnded
from sampan.engine.networks.records import NetworkRecord
from sampan.engine.networks.service import Networks, Sandbox
from sampan.engine.tasks import etcfiles
from sampan.engine.tasks.capabilities import permitted
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec.engine_api.network import EndpointSettings


class Connections:
    """Connects containers to networks."""

    def __init__(
        self, config: EngineConfig, table: ContainerTable, networks: Networks, directory: Callable[[str], str]
    ) -> None:
        """directory: where a container's own files are, by its id."""
        self._config = config
        self._table = table
        self._networks = networks
        self._directory = directory

    async def connect(self, ref: str, network_ref: str, settings: EndpointSettings) -> None:
        """Connect a container to a network: now if it runs, and at every later start.

        Raises: NotFound; InvalidArgument; Forbidden when it is connected; Internal when the kernel refuses. Then
        nothing has changed.
        """
        id = self._get(ref).id
        self._networks.find(network_ref)
        async with self._table.live.lock(id):
            c = self._table.get(id)
            network = self._networks.find(network_ref)
            _check(c, network)
            if _runs(c):
                before = self._networks.sandbox(c.id)
                with contextlib.suppress(SandboxEnded):  # it is just ending, which waits for us to be recorded
                    async with self._networks.connecting(network, c.id, settings) as changes:
                        await self._table.save(_with(c, network.name, settings), *changes)
                    self._follow(c, before)
                    return
            planned = self._networks.planned(
                network, settings, container_id=c.id, name=c.name, hostname=c.config.hostname
            )
            await self._table.save(_with(c, network.name, planned))

    async def disconnect(self, ref: str, network_ref: str, *, force: bool = False) -> None:
        """Disconnect a container from a network: now if it runs, and for every later start.

        force: the message for an unknown container is another one. Raises: NotFound; InvalidArgument; Internal when
        it is not connected, or when the kernel refuses.
        """
        if force:  # then an unknown network is named before an unknown container
            self._networks.find(network_ref)
        try:
            id = self._get(ref).id
        except NotFound:
            if force:
                raise NotFound(f"endpoint {ref} not found") from None
            raise
        self._networks.find(network_ref)
        async with self._table.live.lock(id):
            c = self._table.get(id)
            network = self._networks.find(network_ref)
            if network.name == "host" and c.host_config.network_mode == "host":
                raise InvalidArgument(
                    "cannot disconnect container from host network - container was created in host network mode"
                )
            without = replace(c, endpoints={n: e for n, e in c.endpoints.items() if n != network.name})
            if _runs(c):
                before = self._networks.sandbox(c.id)
                async with self._networks.disconnecting(network, c.id) as changes:
                    if changes is None:
                        raise Internal(f"container {c.id} is not connected to network {network.name}")
                    await self._table.save(without, *changes)
                self._follow(c, before)
                return
            if network.name not in c.endpoints:
                raise Internal(f"container {c.id} is not connected to the network {network.name}")
            await self._table.save(without)

    def _follow(self, c: Container, before: Sandbox | None) -> None:
        """Bring a running container's files after the networks that it has now. before: what it had."""
        after = self._networks.sandbox(c.id)
        if before is not None and after is not None:
            options = specgen.task_options(c, self._config, permitted())
            etcfiles.follow(self._directory(c.id), options, before, after, self._config)

    def _get(self, ref: str) -> Container:
        if not ref:
            raise InvalidArgument('invalid name or ID supplied: ""')
        return self._table.get(ref)


def _check(c: Container, network: NetworkRecord) -> None:
    """Check that the kinds of network go together. Raises: InvalidArgument."""
    mode = c.host_config.network_mode
    if mode == "host" or mode.startswith("container:"):
        raise InvalidArgument(
            "container sharing network namespace with another container or host"
            " cannot be connected to any other network"
        )
    if network.name == "host":
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if mode == "none" or network.name == "none":
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )


def _runs(c: Container) -> bool:
    return c.active and bool(c.status.pid)


def _with(c: Container, network: str, settings: EndpointSettings) -> Container:
    return replace(c, endpoints={n: e for n, e in c.endpoints.items() if n != network} | {network: settings})
