"""Endpoints that a running container gets and loses, and what it is called, in steps that a crash may part.

    connecting      note the endpoint in `changing` │ kernel │ one transaction: endpoint, and what the caller keeps
    disconnecting   one transaction: no endpoint, `changing`, what the caller keeps │ kernel │ clear `changing`

So whatever stands in a record's `changing` is what the namespace may have and must not have: `mend` takes it away. When
the container's process ends meanwhile, what is still in `changing` goes with the sandbox.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import replace

from sampan.engine.networks import endpoints, names
from sampan.engine.networks.allocator import Allocator
from sampan.engine.networks.fabric import Fabric, SandboxEnded, namespace_of
from sampan.engine.networks.ipam import Address
from sampan.engine.networks.live import LiveSandbox, SandboxTable, failing
from sampan.engine.networks.names import Names
from sampan.engine.networks.ports import Grant
from sampan.engine.networks.publishing import PortPublisher
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, PublishedPort, SandboxRecord
from sampan.engine.store import Op
from sampan.errors import Forbidden, SampanError
from sampan.spec.engine_api.network import EndpointSettings

log = logging.getLogger(__name__)


class Changes:
    """Changes of running sandboxes. Of one sandbox one at a time: the caller sees to that."""

    def __init__(
        self, table: SandboxTable, fabric: Fabric, allocator: Allocator, publisher: PortPublisher, names: Names
    ) -> None:
        self._table = table
        self._fabric = fabric
        self._allocator = allocator
        self._publisher = publisher
        self._names = names

    @contextlib.asynccontextmanager
    async def connecting(
        self, live: LiveSandbox, network: NetworkRecord, settings: EndpointSettings, *, hidden: bool = False
    ) -> AsyncIterator[list[Op]]:
        """Add an endpoint; yield the change that the block has to write. When the block fails, all is undone.

        hidden: it is the container's way out.
        Raises: Forbidden when there is an endpoint on this network; InvalidArgument for bad settings; Internal;
        SandboxEnded.
        """
        before = live.record
        if any(e.network_id == network.id for e in before.endpoints):
            raise Forbidden(f"endpoint with name {before.name} already exists in network {network.name}")
        async with contextlib.AsyncExitStack() as undo:
            with failing(f"failed to connect container to network {network.name}", also_ours=False):
                made = await self._make(live, network, settings, hidden=hidden)
                undo.push_async_callback(self._take_away, live, made)
                self._table.save(live, changing=made)
                await self._extend(before.pid, made)
                undo.callback(_restore, live, before.endpoints)
                live.record = replace(live.record, endpoints=[*before.endpoints, made])
                self.hold(live)
                await self._allocator.revoke(before.endpoints, live.record.endpoints)
                await self._reroute(live, endpoints.gateways(before.endpoints))
                undo.push_async_callback(self._programmed_again, live.record.endpoints, before)
                await self._allocator.program(live.record, before.endpoints)
                await self._serve_names(live)
                undo.push_async_callback(self._told_again, live)
            yield self._table.saving(live)
            undo.pop_all()

    async def _extend(self, pid: int, made: EndpointRecord) -> None:
        """Add an endpoint's interface to a namespace; a second time when somebody had deleted the network's link."""
        while True:
            interfaces = self._allocator.interfaces([made])
            try:
                await self._fabric.extend_sandbox(pid, interfaces)
                return
            except OSError as error:
                if not await self._allocator.made_again([made], interfaces, error):
                    raise

    async def _make(
        self, live: LiveSandbox, network: NetworkRecord, settings: EndpointSettings, *, hidden: bool
    ) -> EndpointRecord:
        """Make an endpoint; it is noted before a plugin hears of it. Raises: OSError, SampanError: nothing is left."""
        reserved = await self._allocator.reserve(network, settings, live.record, hidden=hidden)
        remote = self._allocator.capabilities(reserved).remote
        try:
            if remote:
                self._table.save(live, changing=reserved)
            return await self._allocator.attach(reserved, live.record)
        except BaseException:
            await self._allocator.give_back([reserved], linked=False)
            if remote:
                self._table.save(live)
            raise

    @contextlib.asynccontextmanager
    async def disconnecting(self, live: LiveSandbox, endpoint: EndpointRecord) -> AsyncIterator[list[Op]]:
        """Yield the change that takes an endpoint away, for the block to write; then make the kernel follow.

        Raises: Internal when the kernel refuses; the records say then that the container is off the network.
        """
        former = live.record.endpoints
        left = [e for e in live.record.endpoints if e is not endpoint]
        yield self._table.saving(live, endpoints=left, changing=endpoint)
        await self._names.put(live.record)
        with failing(f"failed to disconnect container from network {endpoint.network}", also_ours=False):
            with contextlib.suppress(SandboxEnded):
                await self._allocator.revoke(former, left)
                await self._withdraw(live, endpoint)
                try:
                    self.hold(live)
                    await self._reroute(live, endpoints.gateways(former))
                    await self._allocator.program(live.record, former)
                finally:
                    self._table.save(live)  # it has been given back, and is not to be so again

    @contextlib.asynccontextmanager
    async def publishing(
        self, live: LiveSandbox, exposed: Sequence[str], ports: Sequence[PublishedPort]
    ) -> AsyncIterator[list[Op]]:
        """Publish these ports instead of those before; yield the change that the block has to write.

        What stays published is not touched: its flows go on. Raises: Internal in Docker's words when a port cannot be
        had. When the block fails, all is undone.
        """
        before, wanted = live.grants, replace(live.record, ports=list(ports))
        kept = self._publisher.kept(live.record, wanted.ports, before)
        stays = [grant for grants in kept.values() for grant in grants]
        gone = [grant for grant in before if grant not in stays]
        # a host port that leads to another port from now on must be free first
        numbers = {(p.proto, n) for p in ports for n in range(p.first, p.last + 1) if p.first}
        moved = [g for g in gone if (g.published.proto, g.published.host_port) in numbers]
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._publish_back, live, before, moved)
            await self._fabric.unpublish(moved)
            live.grants = self._publisher.grant(wanted, kept)
            await self._fabric.publish([grant for grant in live.grants if grant not in stays])
            yield self._table.saving(live, exposed=exposed, ports=ports)
            undo.pop_all()
        await self._fabric.unpublish([grant for grant in gone if grant not in moved])

    async def _publish_back(self, live: LiveSandbox, before: list[Grant], moved: Sequence[Grant]) -> None:
        """Have the ports published that were."""
        fresh = [grant for grant in live.grants if grant not in before]
        live.grants = [grant for grant in before if grant not in moved]
        with contextlib.suppress(OSError):  # they are free, and no longer among those that are to be in the kernel
            await self._fabric.unpublish(fresh)
        back = self._fabric.adopt(grant.published for grant in moved)
        live.grants = [*live.grants, *back]
        with contextlib.suppress(OSError, SampanError):
            await self._fabric.publish(back)

    async def _serve_names(self, live: LiveSandbox) -> None:
        """Let the names follow the endpoints; a sandbox that had no name service gets one when it needs it."""
        sockets = None
        if not live.record.names_port and names.wanted(live.record.endpoints):
            host = self._fabric.host
            with namespace_of(live.record.pid) as namespace:
                inode = os.fstat(namespace).st_ino
                sockets = await host.run(host.plumbing.serve_names, namespace)
            live.record = replace(live.record, names_port=sockets.port, namespace=inode)
        await self._names.put(live.record, sockets)

    async def _programmed_again(self, made: list[EndpointRecord], before: SandboxRecord) -> None:
        await self._allocator.revoke(made, before.endpoints)
        with contextlib.suppress(SampanError):  # what led to the undoing is told
            await self._allocator.program(before, made)

    async def _told_again(self, live: LiveSandbox) -> None:
        await self._names.put(live.record)

    def renaming(self, live: LiveSandbox, name: str) -> list[Op]:
        """Return the change by which a container answers to another name.

        As in Docker, it has names on the predefined networks from then on.
        """
        record = live.record
        renamed = [
            replace(
                e,
                dns_names=endpoints.dns_names(
                    name, e.settings.aliases, container_id=record.id, hostname=record.hostname
                ),
            )
            for e in record.endpoints
        ]
        return self._table.saving(live, name=name, endpoints=renamed, changing=record.changing)

    async def mend(self, live: LiveSandbox) -> None:
        """End what a crash has interrupted: the endpoint in `changing` goes."""
        if live.record.changing is not None:
            await self._take_away(live, live.record.changing)

    async def renumber(self, live: LiveSandbox, network_of: Callable[[str], NetworkRecord | None]) -> None:
        """Give a running container new endpoints for those whose addresses their network does not have any more.

        What cannot be done is logged: the container is off that network then, and the engine goes on.
        """
        stale, live.stale = live.stale, []
        if not stale:
            return
        container = live.record.id[:12]
        try:
            await self._fabric.delete_links([e.veth for e in stale if e.veth])  # the other ends go with them
        except OSError as error:
            log.error("container %s: its old links cannot be taken away: %s", container, error)
        live.record = replace(live.record, endpoints=[e for e in live.record.endpoints if e not in stale])
        self._table.save(live)
        for old in stale:
            network = network_of(old.network_id)
            if network is None:
                log.warning("container %s: network %s is gone, and so is its connection", container, old.network)
                continue
            log.warning("container %s: network %s has other subnets now: new addresses", container, old.network)
            try:
                async with self.connecting(live, network, replace(old.settings, ipam_config=None)) as changes:
                    self._table.apply(changes)
            except (OSError, SampanError) as error:
                log.error("container %s: it is off network %s: %s", container, old.network, error)
        if not self._publisher.fits(live.record, live.grants):
            with contextlib.suppress(OSError, SampanError):  # the ports lead nowhere then
                await self._publish_again(live)
            self._table.save(live)

    def hold(self, live: LiveSandbox) -> None:
        """Hold the namespace of a running container while it has links that are only inside."""
        try:
            needed = any(i.inside for i in self._allocator.interfaces(live.record.endpoints))
            if needed and live.held < 0:
                live.held = os.open(f"/proc/{live.record.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            elif not needed and live.held >= 0:
                os.close(live.held)
                live.held = -1
        except (OSError, SampanError) as error:
            log.warning("container %s: its network cannot be looked at: %s", live.record.id[:12], error)

    async def _take_away(self, live: LiveSandbox, endpoint: EndpointRecord) -> None:
        """Take an endpoint that is not in the record out of the namespace.

        Then make routes and ports as the record says. What cannot be done is logged. An endpoint that cannot be taken
        out stays in `changing`, for the next start or the sandbox's end.
        """
        try:
            await self._withdraw(live, endpoint)
            try:
                await self._fabric.mend_routes(live.record.pid, endpoints.gateways(live.record.endpoints))
                if not self._publisher.fits(live.record, live.grants):
                    await self._publish_again(live)
            finally:
                self._table.save(live)  # it has been given back, and is not to be so again
        except SandboxEnded:
            pass
        except (OSError, SampanError) as error:
            log.error("container %s: its network cannot be mended: %s", live.record.id[:12], error)

    async def _withdraw(self, live: LiveSandbox, endpoint: EndpointRecord) -> None:
        """Take an endpoint out of a running container's namespace, and give it back."""
        interfaces = self._allocator.interfaces([endpoint])
        with namespace_of(live.record.pid) as namespace:
            await self._fabric.withdraw(namespace, interfaces)
        await self._allocator.give_back([endpoint], linked=False)

    async def _reroute(self, live: LiveSandbox, before: Sequence[tuple[str, Address]]) -> None:
        """Move default routes, and the published ports after them, to the endpoint that has them now."""
        after = endpoints.gateways(live.record.endpoints)
        if after == before:
            return
        old = [gateway for name, gateway in before if (name, gateway) not in after]
        new = [pair for pair in after if pair not in before]
        await self._fabric.reroute(live.record.pid, old, new)
        await self._publish_again(live)

    async def _publish_again(self, live: LiveSandbox) -> None:
        """Publish the ports of a sandbox to the endpoint that has the default route now."""
        await self._fabric.unpublish(live.grants)
        live.grants = []
        grants = self._publisher.grant(live.record)
        await self._fabric.publish(grants)
        live.grants = grants


def _restore(live: LiveSandbox, before: list[EndpointRecord]) -> None:
    live.record = replace(live.record, endpoints=before)
