"""Network sandboxes: the namespaces of containers, from before their first process until after their last.

`attach` makes a complete network namespace before any process of the container exists and hands it out by descriptor;
`started` lets go of the descriptor once the container's own process holds the namespace; `detach` takes ports and rules
away at once and gives addresses back when the kernel has removed the link with its namespace. Records follow every step, so
that `restore` finds after a crash what runs on and sweeps up what does not.

A running container gets and loses endpoints in three steps, and a crash between any two of them is mended by `restore`:

    connecting      note the endpoint in `changing` │ kernel │ one transaction: endpoint, and what the caller keeps of it
    disconnecting   one transaction: no endpoint, `changing`, and what the caller keeps │ kernel │ `changing` is cleared

So whatever stands in `changing` is what the namespace may have and must not have.

Not here: what an endpoint gets (endpoints.py, allocator.py), how it is made (fabric.py, plumbing.py), which networks exist
(service.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.networks import endpoints
from sampan.engine.networks.allocator import Allocator
from sampan.engine.networks.catalogue import Catalogue
from sampan.engine.networks.fabric import Fabric, namespace_of
from sampan.engine.networks.firewall import Published
from sampan.engine.networks.ipam import Address
from sampan.engine.networks.plans import SandboxPlan
from sampan.engine.networks.ports import Grant
from sampan.engine.networks.records import BindingRecord, EndpointRecord, NetworkRecord, SandboxRecord, new_id
from sampan.engine.networks.request import SandboxRequest
from sampan.engine.store import Op, Store
from sampan.errors import Forbidden, Internal, SampanError
from sampan.spec.engine_api.network import EndpointSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A container's network as the engine uses and shows it.

    netns: a path while `attach` holds the namespace; empty when the container runs, or shares the host's. endpoints: by
    network name. exposed, bindings: its ports, and where they are published; both empty when its network publishes none.
    """

    id: str
    key: str
    netns: str = ""
    endpoints: Mapping[str, EndpointRecord] = field(default_factory=dict)
    exposed: tuple[str, ...] = ()
    bindings: tuple[BindingRecord, ...] = ()

    @property
    def addresses(self) -> list[str]:
        """The container's addresses, for its /etc/hosts."""
        shown = [(e.address4, e.address6) for e in self.endpoints.values()]
        return [address for pair in shown for address in pair if address]


@dataclass(slots=True)
class _Live:
    """A sandbox that exists: its record, its ports, and the namespace's descriptor until the container runs.

    held: the namespace once more, of a sandbox with links that are only inside. A namespace dies some time after its last
    process, and its links with it; of these nobody would hear, so they are taken out before it is let go.
    """

    record: SandboxRecord
    grants: list[Grant] = field(default_factory=list)
    namespace: int = -1
    held: int = -1
    silent: bool = False  # no container's: its coming and going is no event


class Sandboxes:
    """The sandboxes of one engine."""

    def __init__(
        self, config: EngineConfig, store: Store, events: Events, catalogue: Catalogue, fabric: Fabric
    ) -> None:
        self._exec_root = config.exec_root
        self._default_ip = config.ip
        self._store = store
        self._events = events
        self._catalogue = catalogue
        self._fabric = fabric
        self._allocator = Allocator(catalogue, fabric)
        self._table = store.table("sandboxes", SandboxRecord)
        self._live: dict[str, _Live] = {}

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
        return bool(self.on(network_id)) or any(e is not None and e.network_id == network_id for e in changing)

    def adopt_recorded(self) -> None:
        """Take every recorded sandbox as living, until `restore` says otherwise."""
        for record in self._table.all():
            self._adopt(record)

    async def drop_unstarted(self) -> None:
        """Detach what was attached and never started: its namespace ends with this process."""
        for container_id, live in list(self._live.items()):
            if live.namespace >= 0:
                await self.detach(container_id)

    def close(self) -> None:
        """Close the sockets of published ports and what is held; what nftables carries goes on."""
        for live in self._live.values():
            if live.held >= 0:
                os.close(live.held)
                live.held = -1
            for grant in live.grants:
                grant.close()

    # ── attach ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def attach(self, request: SandboxRequest) -> Sandbox:
        """Make the container's network namespace, complete, before it has a process.

        Raises: NotFound for an unknown network; Internal in Docker's words when a port cannot be had. Then nothing is left.
        """
        await self.detach(request.id)
        live = _Live(self._new_record(request), silent=request.silent)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._undo_attach, live)
            with _failing("failed to set up container networking"):
                for network, settings in endpoints.wanted(self._catalogue, request.mode, request.endpoints):
                    first = not live.record.endpoints
                    made = await self._allocator.make(network, settings, live.record, request.mac if first else "")
                    live.record = replace(
                        live.record,
                        endpoints=[*live.record.endpoints, made],
                        mode=network.name if first else live.record.mode,
                    )
                if self._on_host(live.record):
                    live.record = replace(live.record, key=f"{self._exec_root}/netns/default")
                else:
                    grants = self._grant(live.record)
                    plan = self._plan(live.record.endpoints, request.sysctls)
                    if log.isEnabledFor(logging.DEBUG):
                        log.debug("container %s: its network:\n%s", request.id[:12], plan.describe())
                    live.namespace = await self._fabric.create_sandbox(plan, grants)
                    live.grants = grants
                    if any(i.inside for i in plan.interfaces):
                        live.held = os.dup(live.namespace)
            self._live[request.id] = live
            self._save(live)
            undo.pop_all()
        if not live.silent:
            for endpoint in live.record.endpoints:
                self._tell("connect", endpoint, request.id)
        return self._shown(live)

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
        )

    def _plan(self, made: Sequence[EndpointRecord], sysctls: Mapping[str, str]) -> SandboxPlan:
        return SandboxPlan(
            interfaces=tuple(self._allocator.interfaces(made)),
            gateways=endpoints.gateways(made),
            sysctls=dict(sysctls),
        )

    def _on_host(self, record: SandboxRecord) -> bool:
        """Whether the container shares the host's network namespace."""
        return any(not self._allocator.capabilities(e).namespace for e in record.endpoints)

    def _grant(self, record: SandboxRecord) -> list[Grant]:
        """Reserve the host ports of a sandbox: they lead to the endpoint that has the default route.

        Raises: Internal in Docker's words when one cannot be had; then none is taken.
        """
        endpoint = self._publishing(record)
        if endpoint is None or not record.ports:
            return []
        granted: list[Grant] = []
        default_ip = self._allocator.host_binding(endpoint) or self._default_ip
        try:
            for asked in record.ports:
                granted += self._fabric.ports.grant(asked, endpoint.address4, endpoint.address6, default_ip=default_ip)
        except SampanError as error:
            for grant in granted:
                self._fabric.ports.release(grant)
            what = f"driver failed programming external connectivity on endpoint {record.name} ({endpoint.id})"
            raise Internal(f"{what}: {error.message}") from error
        return granted

    def _publishing(self, record: SandboxRecord) -> EndpointRecord | None:
        """Return the endpoint that published ports lead to: the one with the default route, of those that can."""
        able = [e for e in record.endpoints if self._allocator.capabilities(e).publishes]
        return endpoints.gateway_endpoint(able, 4) or endpoints.gateway_endpoint(able, 6)

    async def _undo_attach(self, live: _Live) -> None:
        self._live.pop(live.record.id, None)
        if live.namespace >= 0:
            os.close(live.namespace)
            await self._fabric.unpublish(live.grants)
        await self._let_go(live, live.record.endpoints, linked=live.namespace >= 0)

    async def _let_go(self, live: _Live, made: Sequence[EndpointRecord], *, linked: bool = True) -> None:
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
        """Let go of the namespace's descriptor, leave the SandboxKey link: the container's process holds the namespace."""
        live = self._live.get(container_id)
        if live is None:
            return
        live.record = replace(live.record, pid=pid)
        if live.namespace >= 0:
            os.close(live.namespace)
            live.namespace = -1
        if not self._on_host(live.record):
            _link(live.record.key, f"/proc/{pid}/ns/net")
        self._store.apply_now(self._table.put(live.record))

    async def detach(self, container_id: str) -> None:
        """Take the container off its networks. Idempotent; ports are free when it returns, addresses soon after."""
        live = self._live.pop(container_id, None)
        if live is None:
            return
        # whoever asked may stop waiting; what was begun is ended
        ending = self._fabric.background.spawn(self._take_down(live), f"network of {container_id[:12]}", finish=True)
        await (self._take_down(live) if ending is None else asyncio.shield(ending))

    async def _take_down(self, live: _Live) -> None:
        record = live.record
        if live.namespace >= 0:
            os.close(live.namespace)
        try:
            await self._fabric.unpublish(live.grants)
        except OSError as error:  # the ports are free all the same; rules that are left lead to nobody
            log.error("container %s: its ports' rules cannot be removed: %s", record.id[:12], error)
        await self._let_go(live, [*record.endpoints, *([record.changing] if record.changing else [])])
        with contextlib.suppress(FileNotFoundError):
            os.unlink(record.key)
        self._store.apply_now(self._table.delete(record.id))
        for endpoint in () if live.silent else reversed(record.endpoints):
            self._tell("disconnect", endpoint, record.id)

    def _adopt(self, record: SandboxRecord) -> None:
        """Take a sandbox of an earlier daemon as it is: its addresses, its ports."""
        live = _Live(record)
        for endpoint in [*record.endpoints, *([record.changing] if record.changing else [])]:
            self._allocator.adopt(endpoint)
        for b in record.bindings:
            published = Published(
                proto=b.proto, host_ip=b.host_ip, host_port=b.host_port, address=b.address, port=b.port
            )
            live.grants.append(self._fabric.ports.adopt(published))
        self._fabric.adopt(live.grants)
        self._live[record.id] = live

    async def restore(self, running: Mapping[str, int]) -> None:
        """After a start: keep the sandboxes of these running containers (id → pid), drop all others, sweep stray links."""
        for container_id in list(self._live):
            if container_id in running:
                live, pid = self._live[container_id], running[container_id]
                await self.started(container_id, pid)
                self._hold(live, pid)
                await self._mend(live)
            else:
                await self.detach(container_id)
        known = frozenset(e.veth for live in self._live.values() for e in live.record.endpoints)
        await self._fabric.sweep(self._catalogue.drivers.values(), known)

    def _hold(self, live: _Live, pid: int) -> None:
        """Hold the namespace of a running container while it has links that are only inside."""
        try:
            needed = any(i.inside for i in self._allocator.interfaces(live.record.endpoints))
            if needed and live.held < 0:
                live.held = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            elif not needed and live.held >= 0:
                os.close(live.held)
                live.held = -1
        except (OSError, SampanError) as error:
            log.warning("container %s: its network cannot be looked at: %s", live.record.id[:12], error)

    async def _mend(self, live: _Live) -> None:
        """End what a crash has interrupted: the endpoint in `changing` goes."""
        if live.record.changing is not None:
            await self._take_away(live, live.record.changing)

    async def _take_away(self, live: _Live, endpoint: EndpointRecord) -> None:
        """Take an endpoint that is not in the record out of the namespace, then make routes and ports as the record says.

        What cannot be done is logged; the endpoint stays in `changing` for the next start.
        """
        try:
            await self._withdraw(live, endpoint)
            await self._fabric.mend_routes(live.record.pid, endpoints.gateways(live.record.endpoints))
            way_out = self._publishing(live.record)
            if way_out is None or any(
                g.published.address not in (way_out.address4, way_out.address6) for g in live.grants
            ):
                await self._publish_again(live)
        except (OSError, SampanError) as error:
            log.error("container %s: its network cannot be mended: %s", live.record.id[:12], error)
        else:
            self._save(live)

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
        before = live.record
        if any(e.network_id == network.id for e in before.endpoints):
            raise Forbidden(f"endpoint with name {before.name} already exists in network {network.name}")
        async with contextlib.AsyncExitStack() as undo:
            with _failing(f"failed to connect container to network {network.name}", also_ours=False):
                made = await self._allocator.make(network, settings, before)
                undo.push_async_callback(self._take_away, live, made)
                self._save(live, changing=made)
                await self._fabric.extend_sandbox(before.pid, self._allocator.interfaces([made]))
                undo.callback(_restore, live, endpoints=before.endpoints)
                live.record = replace(live.record, endpoints=[*before.endpoints, made])
                self._hold(live, before.pid)
                await self._reroute(live, endpoints.gateways(before.endpoints))
            yield self._saving(live)
            undo.pop_all()
        self._tell("connect", made, container_id)

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
        before = endpoints.gateways(live.record.endpoints)
        left = [e for e in live.record.endpoints if e is not endpoint]
        yield self._saving(live, endpoints=left, changing=endpoint)
        with _failing(f"failed to disconnect container from network {network.name}", also_ours=False):
            await self._withdraw(live, endpoint)
            self._hold(live, live.record.pid)
            await self._reroute(live, before)
        self._save(live)
        self._tell("disconnect", endpoint, container_id)

    def renaming(self, container_id: str, name: str) -> list[Op]:
        """Return the changes by which a container answers to another name on its networks; none when it has no sandbox.

        As in Docker, this gives names on the predefined networks too.
        """
        live = self._live.get(container_id)
        if live is None:
            return []
        hostname = live.record.hostname
        renamed = [
            replace(
                e,
                dns_names=endpoints.dns_names(name, e.settings.aliases, container_id=container_id, hostname=hostname),
            )
            for e in live.record.endpoints
        ]
        return self._saving(live, name=name, endpoints=renamed, changing=live.record.changing)

    async def _withdraw(self, live: _Live, endpoint: EndpointRecord) -> None:
        """Take an endpoint out of a running container's namespace, and give it back."""
        interfaces = self._allocator.interfaces([endpoint])
        with namespace_of(live.record.pid) as namespace:
            await self._fabric.withdraw(namespace, interfaces)
        await self._allocator.give_back([endpoint], linked=False)

    async def _reroute(self, live: _Live, before: Sequence[tuple[str, Address]]) -> None:
        """Move default routes, and the published ports after them, to the endpoint that has them now."""
        after = endpoints.gateways(live.record.endpoints)
        if after == before:
            return
        old = [gateway for name, gateway in before if (name, gateway) not in after]
        new = [pair for pair in after if pair not in before]
        await self._fabric.reroute(live.record.pid, old, new)
        await self._publish_again(live)

    async def _publish_again(self, live: _Live) -> None:
        """Publish the ports of a sandbox to the endpoint that has the default route now."""
        await self._fabric.unpublish(live.grants)
        live.grants = []
        grants = self._grant(live.record)
        await self._fabric.publish(grants)
        live.grants = grants

    # ── keeping ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _saving(
        self,
        live: _Live,
        *,
        name: str = "",
        endpoints: list[EndpointRecord] | None = None,
        changing: EndpointRecord | None = None,
    ) -> list[Op]:
        """Return the change that keeps a sandbox as it is, but for what is given; `live` follows when it is applied."""
        old = live.record
        record = replace(
            old,
            name=name or old.name,
            endpoints=old.endpoints if endpoints is None else endpoints,
            changing=changing,
            bindings=_bindings(live),
        )
        put = self._table.put(record)

        def remember() -> None:
            put.remember()
            live.record = record

        return [dataclasses.replace(put, remember=remember)]

    def _save(self, live: _Live, *, changing: EndpointRecord | None = None) -> None:
        self._store.apply_now(*self._saving(live, changing=changing))

    # ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def sandbox(self, container_id: str) -> Sandbox | None:
        """Return the container's network as it is now; None when it is not attached."""
        live = self._live.get(container_id)
        return None if live is None else self._shown(live)

    def _shown(self, live: _Live) -> Sandbox:
        record = live.record
        publishes = not record.endpoints or any(self._allocator.capabilities(e).publishes for e in record.endpoints)
        return Sandbox(
            id=record.sandbox_id,
            key=record.key,
            netns=f"/proc/{os.getpid()}/fd/{live.namespace}" if live.namespace >= 0 else "",
            endpoints={e.network: e for e in record.endpoints},
            exposed=tuple(record.exposed) if publishes else (),
            bindings=tuple(record.bindings) if publishes else (),
        )

    def _tell(self, action: str, endpoint: EndpointRecord, container_id: str) -> None:
        network = self._catalogue.table.get(endpoint.network_id)
        attributes = {"container": container_id, "name": endpoint.network}
        if network is not None:
            attributes["type"] = network.driver
        self._events.publish("network", action, endpoint.network_id, attributes)


def _restore(live: _Live, *, endpoints: list[EndpointRecord]) -> None:
    live.record = replace(live.record, endpoints=endpoints)


@contextlib.contextmanager
def _failing(what: str, *, also_ours: bool = True) -> Iterator[None]:
    """Put before a failure's message what failed. also_ours: before those that have words for the user already, too."""
    try:
        yield
    except SampanError as error:
        if not also_ours:
            raise
        raise type(error)(f"{what}: {error.message}") from error
    except OSError as error:
        raise Internal(f"{what}: {error}") from error


def _bindings(live: _Live) -> list[BindingRecord]:
    return [
        BindingRecord(proto=p.proto, host_ip=p.host_ip, host_port=p.host_port, address=p.address, port=p.port)
        for p in (grant.published for grant in live.grants)
    ]


def _link(path: str, target: str) -> None:
    """Make or replace a symbolic link, with its directory."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.symlink(target, path)
    except FileExistsError:
        os.unlink(path)
        os.symlink(target, path)
