"""Network sandboxes: the namespaces of containers, from before their first process until after their last.

`attach` makes a complete network namespace before any process of the container exists and hands it out by descriptor;
`started` lets go of the descriptor once the container's own process holds the namespace; `detach` takes ports and rules
away at once and gives addresses back when the kernel has removed the link with its namespace. Records follow every
step, so that `restore` finds after a crash what runs on and sweeps up what does not.

Not here: what an endpoint gets (endpoints.py, allocator.py), how it is made (fabric.py, plumbing.py), how a
running container gets another (changes.py), which networks exist (service.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.networks import endpoints, names
from sampan.engine.networks.allocator import Allocator
from sampan.engine.networks.catalogue import Catalogue
from sampan.engine.networks.changes import Changes
from sampan.engine.networks.claims import Claims
from sampan.engine.networks.fabric import Fabric
from sampan.engine.networks.live import LiveSandbox, SandboxTable, failing
from sampan.engine.networks.names import Names
from sampan.engine.networks.plans import InterfacePlan, SandboxPlan
from sampan.engine.networks.publishing import PortPublisher
from sampan.engine.networks.records import (
    EndpointRecord,
    NetworkRecord,
    PublishedPort,
    SandboxRecord,
    new_id,
)
from sampan.engine.networks.request import Sandbox, SandboxRequest
from sampan.engine.store import Op, Store
from sampan.errors import Internal, NotFound, SampanError
from sampan.spec.engine_api.network import EndpointSettings
from sampan.supervisor.names.sockets import NameSockets

log = logging.getLogger(__name__)

Chosen = Sequence[tuple[NetworkRecord, EndpointSettings]]


class Sandboxes:
    """The sandboxes of one engine."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        catalogue: Catalogue,
        fabric: Fabric,
        gateway: Callable[[], Awaitable[NetworkRecord]],
    ) -> None:
        """gateway: the network by which containers leave whose own networks do not lead out."""
        self._gateway = gateway
        self._exec_root = config.exec_root
        self._events = events
        self._catalogue = catalogue
        self._fabric = fabric
        self._allocator = Allocator(catalogue, fabric)
        self._publisher = PortPublisher(self._allocator, fabric, config)
        self._table = SandboxTable(store)
        self.names = Names(config.exec_root, catalogue.table.get, config.host_gateway_ips, catalogue.leads_to_host)
        self._changes = Changes(self._table, fabric, self._allocator, self._publisher, self.names)
        self._live: dict[str, LiveSandbox] = {}
        self._claims = Claims()

    def all(self) -> list[SandboxRecord]:
        """Return every sandbox that exists."""
        return [live.record for live in self._live.values()]

    def on(self, network_id: str) -> list[SandboxRecord]:
        """Return those with an endpoint on this network."""
        return [r for r in self.all() if any(e.network_id == network_id for e in r.endpoints)]

    def remain(self) -> bool:
        """Return whether some container has a network of ours: then networks and rules must stay."""
        return any(r.endpoints and not self._on_host(r) for r in self.all())

    def using(self, network_id: str) -> bool:
        """Return whether an endpoint of this network is there, or comes or goes at this moment."""
        changing = (r.changing for r in self.all())
        here = bool(self.joining(network_id)) or bool(self.on(network_id))
        return here or any(e is not None and e.network_id == network_id for e in changing)

    def joining(self, network_id: str) -> list[str]:
        """Return the names of the containers that are about to join a network."""
        return self._claims.of(network_id)

    def adopt_recorded(self) -> None:
        """Take every recorded sandbox as living, until `restore` says otherwise."""
        for record in self._table.records.all():
            self._adopt(record)

    async def drop_unstarted(self) -> None:
        """Detach what was attached and never started: its namespace ends with this process."""
        for container_id, live in list(self._live.items()):
            if live.namespace >= 0:
                await self.detach(container_id)

    def close(self) -> None:
        """Close the sockets of published ports and what is held; what nftables carries goes on."""
        self.names.close()
        for live in self._live.values():
            if live.held >= 0:
                os.close(live.held)
                live.held = -1
            for grant in live.grants:
                grant.close()

    # ── attach ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def attach(self, request: SandboxRequest) -> Sandbox:
        """Make the container's network namespace, complete, before it has a process.

        That it is connected is told in `started`; that it is not, as Docker tells it, also when this fails.
        Raises: NotFound for an unknown network; Internal in Docker's words when a port cannot be had. Then nothing is
        left.
        """
        await self.detach(request.id)
        try:
            return await self._attach_claimed(request)
        except BaseException:
            for name in () if request.silent else request.endpoints or (request.mode,):
                with contextlib.suppress(NotFound):
                    self._tell("disconnect", endpoints.find(self._catalogue, name), request.id)
            raise

    async def _attach_claimed(self, request: SandboxRequest) -> Sandbox:
        with failing("failed to set up container networking"):
            chosen = endpoints.wanted(self._catalogue, request.mode, request.endpoints)
        name, networks = request.name or request.id[:12], [network for network, _ in chosen]
        with contextlib.ExitStack() as claims:
            claims.enter_context(self._claims.made(name, networks))
            return await self._attach(request, chosen, claims)

    async def _attach(self, request: SandboxRequest, chosen: Chosen, claims: contextlib.ExitStack) -> Sandbox:
        live = LiveSandbox(self._new_record(request), silent=request.silent)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._undo_attach, live)
            with failing("failed to set up container networking"):
                await self._reserve(live, request, chosen)
                await self._reserve_way_out(live, claims)
                if any(self._allocator.capabilities(e).remote for e in live.record.endpoints):
                    self._table.save(live)  # a plugin must hear of the end of what it hears of now, whatever happens
                n = 0  # one by one into the record: what a driver has added must be there when a later one fails
                while n < len(live.record.endpoints) or await self._reserve_way_out(live, claims):
                    live.record.endpoints[n] = await self._allocator.attach(live.record.endpoints[n], live.record)
                    n += 1
                if self._on_host(live.record):
                    live.record = replace(live.record, key=f"{self._exec_root}/netns/default")
                else:
                    plan, sockets = await self._create(live)
                    if sockets is not None:
                        inode = os.fstat(live.namespace).st_ino
                        live.record = replace(live.record, names_port=sockets.port, namespace=inode)
                        await self.names.put(live.record, sockets)
                    if any(i.inside for i in plan.interfaces):
                        live.held = os.dup(live.namespace)
                    undo.push_async_callback(self._allocator.revoke, live.record.endpoints)
                    await self._allocator.program(live.record)
            self._live[request.id] = live
            self._table.save(live)
            undo.pop_all()
        return self._shown(live)

    async def _create(self, live: LiveSandbox) -> tuple[SandboxPlan, NameSockets | None]:
        """Make the namespace of a sandbox; a second time when somebody had deleted the link of one of its networks."""
        while True:
            grants = self._publisher.grant(live.record)
            plan = self._plan(live.record.endpoints)
            if log.isEnabledFor(logging.DEBUG):
                log.debug("container %s: its network:\n%s", live.record.id[:12], plan.describe())
            try:
                live.namespace, sockets = await self._fabric.create_sandbox(plan, grants)
            except OSError as error:
                if not await self._allocator.made_again(live.record.endpoints, plan.interfaces, error):
                    raise
            else:
                live.grants = grants
                return plan, sockets

    async def _reserve(self, live: LiveSandbox, request: SandboxRequest, chosen: Chosen) -> None:
        """Decide all endpoints before any driver hears of one; they stand in the record as soon as they are taken."""
        for network, settings in chosen:
            first = not live.record.endpoints
            made = await self._allocator.reserve(network, settings, live.record, request.mac if first else "")
            live.record = replace(
                live.record,
                endpoints=[*live.record.endpoints, made],
                mode=network.name if first else live.record.mode,
            )

    async def _reserve_way_out(self, live: LiveSandbox, claims: contextlib.ExitStack) -> bool:
        """Decide an endpoint by which the container leaves when its own lead nowhere; False when it needs none."""
        record = live.record
        if any(e.hidden for e in record.endpoints) or not endpoints.lead_nowhere(self._catalogue, record.endpoints):
            return False
        gateway = await self._gateway()
        claims.enter_context(self._claims.made(record.name, [gateway]))
        made = await self._allocator.reserve(gateway, EndpointSettings(), record, hidden=True)
        live.record = replace(record, endpoints=[*record.endpoints, made])
        return True

    def _new_record(self, request: SandboxRequest) -> SandboxRecord:
        sandbox_id = new_id()
        return SandboxRecord(
            id=request.id,
            sandbox_id=sandbox_id,
            key=f"{self._exec_root}/netns/{sandbox_id[:12]}",
            mode=request.mode,
            name=request.name or request.id[:12],
            hostname=request.hostname,
            exposed=list(request.exposed),
            ports=list(request.ports),
            resolvers=list(request.resolvers),
        )

    def _plan(self, made: Sequence[EndpointRecord]) -> SandboxPlan:
        return SandboxPlan(
            interfaces=tuple(self._allocator.interfaces(made)),
            gateways=endpoints.gateways(made),
            names=names.wanted(made),
        )

    def _on_host(self, record: SandboxRecord) -> bool:
        """Return whether the container shares the host's network namespace."""
        return any(not self._allocator.capabilities(e).namespace for e in record.endpoints)

    async def _undo_attach(self, live: LiveSandbox) -> None:
        self._live.pop(live.record.id, None)
        await self.names.drop(live.record)
        if live.namespace >= 0:
            os.close(live.namespace)
            await self._fabric.unpublish(live.grants)
        await self._let_go(live, live.record.endpoints, linked=live.namespace >= 0)
        self._table.forget(live)

    async def _let_go(self, live: LiveSandbox, made: Sequence[EndpointRecord], *, linked: bool = True) -> None:
        """Give the endpoints of a sandbox back, whose namespace dies; links that are only inside are taken out before.

        linked: they have been in the kernel.
        """
        within: list[EndpointRecord] = []
        if live.held >= 0:
            held, live.held = live.held, -1
            try:
                within = [e for e in made if any(i.inside for i in self._allocator.interfaces([e]))]
                await self._fabric.withdraw(held, self._allocator.interfaces(within))
            except (OSError, SampanError) as error:  # they go with the namespace, a little later
                within = []
                log.warning("container %s: its links cannot be taken out: %s", live.record.id[:12], error)
            finally:
                os.close(held)
        await self._allocator.give_back(within, linked=False)
        await self._allocator.give_back([e for e in made if e not in within], linked=linked)

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def started(self, container_id: str, pid: int) -> None:
        """Let go of the namespace's descriptor: the container's process holds the namespace now.

        The SandboxKey link is left for those who look for it.
        """
        live = self._live.get(container_id)
        if live is None:
            return
        live.record = replace(live.record, pid=pid)
        if live.namespace >= 0:
            os.close(live.namespace)
            live.namespace = -1
        if not self._on_host(live.record):
            _link(live.record.key, f"/proc/{pid}/ns/net")
        self._table.save(live, changing=live.record.changing)
        if not live.told:
            self._tell_all("connect", live)
        if live.record.names_port:
            self._fabric.background.spawn(self.names.put(live.record), f"names of {container_id[:12]}")

    async def detach(self, container_id: str) -> None:
        """Take the container off its networks. Idempotent; ports are free when it returns, addresses soon after."""
        live = self._live.pop(container_id, None)
        if live is None:
            return
        # whoever asked may stop waiting; what was begun is ended
        ending = self._fabric.background.spawn(self._take_down(live), f"network of {container_id[:12]}", finish=True)
        await (self._take_down(live) if ending is None else asyncio.shield(ending))

    async def _take_down(self, live: LiveSandbox) -> None:
        record = live.record
        await self.names.drop(record)
        if live.namespace >= 0:
            os.close(live.namespace)
        try:
            await self._fabric.unpublish(live.grants)
        except OSError as error:  # the ports are free all the same; rules that are left lead to nobody
            log.error("container %s: its ports' rules cannot be removed: %s", record.id[:12], error)
        await self._allocator.revoke(record.endpoints)
        await self._let_go(live, [*record.endpoints, *([record.changing] if record.changing else [])])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(record.key)
        self._table.forget(live)
        self._tell_all("disconnect", live)

    def _adopt(self, record: SandboxRecord) -> None:
        """Take a sandbox of an earlier daemon as it is: its addresses, its ports."""
        live = LiveSandbox(record, told=True)
        live.stale = [endpoint for endpoint in record.endpoints if not self._allocator.adopt(endpoint)]
        if record.changing is not None:
            self._allocator.adopt(record.changing)
        live.grants = self._publisher.adopt(record)
        self._live[record.id] = live

    async def restore(self, running: Mapping[str, int]) -> None:
        """Keep the sandboxes of these running containers (id → pid), after a start of the engine.

        All others are dropped, stray links are swept, what a crash has interrupted is ended.
        """
        for container_id in list(self._live):
            if container_id in running:
                live, pid = self._live[container_id], running[container_id]
                await self.started(container_id, pid)
                self._changes.hold(live)
                await self._changes.mend(live)
                await self._changes.renumber(live, self._catalogue.table.get)
                await self._mind_way_out(live)
            else:
                await self.detach(container_id)
        if self._table.records.aside:
            return  # whose links and names these are is unknown
        named = [live.record.sandbox_id for live in self._live.values()]
        self.names.sweep([*named, *(names.elsewhere(network.id) for network in self._catalogue.all())])
        known = frozenset(e.veth for live in self._live.values() for e in live.record.endpoints)
        await self._fabric.sweep(self._catalogue.drivers.values(), known)
        await self.rejoin()

    async def rejoin(self) -> None:
        """Put everyone on the bridges of their networks again: those may have been made anew."""
        interfaces: list[InterfacePlan] = []
        for live in self._live.values():
            with contextlib.suppress(SampanError):  # a network that could not be set up: that has been logged
                interfaces += self._allocator.interfaces(live.record.endpoints)
        await self._fabric.host.run(self._fabric.host.plumbing.join, interfaces)

    # ── changing a running container ────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def connecting(
        self, network: NetworkRecord, container_id: str, settings: EndpointSettings
    ) -> AsyncIterator[list[Op]]:
        """Give a running container an endpoint on one more network; what it yields is to be written in the block.

        The block applies these changes in one transaction with what the caller keeps. When it fails, all is undone.
        Raises: Forbidden when the container has such an endpoint; InvalidArgument for bad settings; Internal.
        """
        live = self._live.get(container_id)
        if live is None:
            raise Internal(f"container {container_id[:12]} has no network sandbox")
        network = self._catalogue.find(network.id)  # it may have gone since it was looked up
        with self._claims.made(live.record.name, [network]):
            async with self._changes.connecting(live, network, settings) as changes:
                yield changes
        self._tell("connect", network, container_id)
        await self._mind_way_out(live)

    @contextlib.asynccontextmanager
    async def disconnecting(self, network: NetworkRecord, container_id: str) -> AsyncIterator[list[Op] | None]:
        """Take a running container off a network; what it yields is to be written in the block; None: it is not on it.

        The block applies these changes in one transaction with what the caller keeps; then the kernel follows.
        Raises: Internal when the kernel refuses; the records say then that the container is off the network.
        """
        live = self._live.get(container_id)
        endpoint = next((e for e in live.record.endpoints if e.network_id == network.id), None) if live else None
        if live is None or endpoint is None:
            yield None
            return
        async with self._changes.disconnecting(live, endpoint) as changes:
            yield changes
        self._tell("disconnect", network, container_id)
        await self._mind_way_out(live)

    async def _mind_way_out(self, live: LiveSandbox) -> None:
        """Give a running container the engine's way out when its networks do not lead out any more, or take it away.

        What cannot be done is logged: the next change, or the next start, tries again.
        """
        needed = endpoints.lead_nowhere(self._catalogue, _seen(live.record))
        there = next((e for e in live.record.endpoints if e.hidden), None)
        try:
            if needed and there is None:
                gateway = await self._gateway()
                with self._claims.made(live.record.name, [gateway]):
                    async with self._changes.connecting(live, gateway, EndpointSettings(), hidden=True) as changes:
                        self._table.apply(changes)
            elif there is not None and not needed:
                async with self._changes.disconnecting(live, there) as changes:
                    self._table.apply(changes)
        except (OSError, SampanError) as error:
            log.error("container %s: its way out cannot be changed: %s", live.record.id[:12], error)

    @contextlib.asynccontextmanager
    async def publishing(
        self, container_id: str, exposed: Sequence[str], ports: Sequence[PublishedPort]
    ) -> AsyncIterator[list[Op]]:
        """Publish these ports of a container and no others; what it yields is to be written in the block.

        Nothing for a container that has no sandbox, or shares the host's network.
        Raises: Internal in Docker's words when a port cannot be had. When it or the block fails, nothing has changed.
        """
        live = self._live.get(container_id)
        if live is None or self._on_host(live.record):
            yield []
            return
        async with self._changes.publishing(live, exposed, ports) as changes:
            yield changes

    def renaming(self, container_id: str, name: str) -> list[Op]:
        """Return the changes by which a container answers to another name; none when it has no sandbox."""
        live = self._live.get(container_id)
        return [] if live is None else self._changes.renaming(live, name)

    def relinking(self, container_id: str, asked: Mapping[str, EndpointSettings]) -> list[Op]:
        """Return the changes by which a sandbox's endpoints have the links of these settings, by network name."""
        live = self._live.get(container_id)
        if live is None:
            return []
        ends = [
            replace(e, settings=replace(e.settings, links=asked[e.network].links)) if e.network in asked else e
            for e in live.record.endpoints
        ]
        return self._table.saving(live, endpoints=ends, changing=live.record.changing)

    async def renamed(self, container_id: str) -> None:
        """Answer to the other name, when the change of `renaming` has been written."""
        live = self._live.get(container_id)
        if live is not None:
            await self.names.put(live.record)

    # ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def sandbox(self, container_id: str) -> Sandbox | None:
        """Return the container's network as it is now; None when it is not attached."""
        live = self._live.get(container_id)
        return None if live is None else self._shown(live)

    def _shown(self, live: LiveSandbox) -> Sandbox:
        record = live.record
        publishes = self._publisher.shows(record)
        return Sandbox(
            id=record.sandbox_id,
            key=record.key,
            netns=f"/proc/{os.getpid()}/fd/{live.namespace}" if live.namespace >= 0 else "",
            endpoints={e.network: e for e in _seen(record)},
            way_out=next((e for e in record.endpoints if e.hidden), None),
            exposed=tuple(record.exposed) if publishes else (),
            bindings=tuple(record.bindings) if publishes else (),
            names=record.names_port > 0,
        )

    def _tell_all(self, action: str, live: LiveSandbox) -> None:
        live.told = action == "connect"
        for endpoint in () if live.silent else _seen(live.record):
            network = self._catalogue.table.get(endpoint.network_id)
            if network is not None:
                self._tell(action, network, live.record.id)

    def _tell(self, action: str, network: NetworkRecord, container_id: str) -> None:
        attributes = {"container": container_id, "name": network.name, "type": network.driver}
        self._events.publish("network", action, network.id, attributes)


def _seen(record: SandboxRecord) -> list[EndpointRecord]:
    """Return the endpoints that a container's user knows of."""
    return [e for e in record.endpoints if not e.hidden]


def _link(path: str, target: str) -> None:
    """Make or replace a symbolic link, with its directory."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.symlink(target, path)
    except FileExistsError:
        os.unlink(path)
        os.symlink(target, path)
