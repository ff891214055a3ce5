"""The networks service: the engine's networks, from their configuration to their containers.

The composition of this package: `catalogue` knows which networks exist, `fabric` has them in the kernel, `sandboxes`
attaches containers to them. Here networks are created, removed and shown, and those that always exist are kept.

Source: Engine API 1.51, Network; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from sampan.engine.config import EngineConfig, engine_id
from sampan.engine.events import Events
from sampan.engine.metrics import Metrics
from sampan.engine.networks import endpoints, filters, inspect, ipam
from sampan.engine.networks.catalogue import DEFAULT_NETWORK, Catalogue
from sampan.engine.networks.collisions import Collision, CollisionWatch
from sampan.engine.networks.drivers import choice, way_out
from sampan.engine.networks.drivers.driver import NetworkDriver, RemoteEndpoint
from sampan.engine.networks.fabric import Fabric
from sampan.engine.networks.firewall import Way
from sampan.engine.networks.peer_file import FilePeers
from sampan.engine.networks.plugin_drivers import PluginDrivers
from sampan.engine.networks.records import PREDEFINED, NetworkRecord
from sampan.engine.networks.request import Sandbox
from sampan.engine.networks.sandboxes import Sandboxes
from sampan.engine.plugins.plugins import Plugins
from sampan.engine.store import Op, Store
from sampan.errors import Forbidden, Internal, InvalidArgument, NotFound, SampanError
from sampan.spec.engine_api.network import EndpointSettings, NetworkCreateRequest

__all__ = ["Networks", "Sandbox"]

log = logging.getLogger(__name__)

Filters = Mapping[str, Iterable[str]]

TABLE_PREFIX = "sampan"  # of the name of our nftables table


class _Making(contextlib.AsyncExitStack):
    """Networks that are being made, while the host is held; unless that is `done`, they are taken away again.

    choosing: holds the host. shown: until it ends nobody finds them. undo: takes them away.
    """

    def __init__(self, holding: contextlib.AbstractAsyncContextManager[object]) -> None:
        super().__init__()
        self.choosing, self.shown, self.undo = (contextlib.AsyncExitStack() for _ in range(3))
        self._holding = holding

    async def __aenter__(self) -> _Making:
        await super().__aenter__()
        for stack in (self.choosing, self.shown, self.undo):
            await self.enter_async_context(stack)
        await self.choosing.enter_async_context(self._holding)
        return self

    def done(self) -> None:
        """Keep them."""
        self.undo.pop_all()


class Networks:
    """The networks of one engine."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        drivers: Mapping[str, NetworkDriver] | None = None,
        plugins: Plugins | None = None,
    ) -> None:
        """drivers: by name; None: all that there are. plugins: drivers of other programs; None: none."""
        self._config = config
        self._store = store
        self._events = events
        pools = ipam.parse_pools(config.default_address_pools)
        if all(pool.base.version == 4 for pool in pools):
            pools = (*pools, ipam.local_pool(engine_id(config.data_root)))
        table = store.table("networks", NetworkRecord)
        source = FilePeers(config.overlay_peers) if config.overlay_peers else None
        self._catalogue = Catalogue(table, choice.drivers(source) if drivers is None else dict(drivers), pools)
        self._plugins = PluginDrivers(self._catalogue, plugins)
        self._fabric = Fabric(config, self._catalogue.release)
        self._sandboxes = Sandboxes(config, store, events, self._catalogue, self._fabric, self._gateway)
        self._fabric.rejoin = self._sandboxes.rejoin
        self._collisions = CollisionWatch(self._fabric.host, self._fabric.background, self._with_links, self._collides)
        self.attach = self._sandboxes.attach
        self.started = self._sandboxes.started
        self.detach = self._sandboxes.detach
        self.sandbox = self._sandboxes.sandbox
        self.renaming = self._sandboxes.renaming
        self.renamed = self._sandboxes.renamed
        self.relinking = self._sandboxes.relinking
        self.names = self._sandboxes.names
        self.carrier = self._fabric.carrier
        self.disconnecting = self._sandboxes.disconnecting
        self.publishing = self._sandboxes.publishing

    def measure(self, metrics: Metrics) -> None:
        """Time what is done from now on."""
        actions = metrics.network_actions
        self.attach = actions.timed("connect", actions.timed("allocate", self.attach))
        self.detach = actions.timed("release", self.detach)

    def driver_names(self) -> Sequence[str]:
        """Return the names of the drivers that networks may be made with; of plugins those that have made some."""
        return sorted({*self._plugins.own, *(network.driver for network in self._catalogue.all())})

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Create the networks that every engine has, all others, and the firewall.

        Every recorded sandbox is taken as living until `restore` says otherwise, so that ports published by an earlier
        daemon never stop working.
        """
        self._plugins.recall()
        try:
            await self._fabric.open()
            async with self._fabric.choosing():
                await self._fabric.sweep_ended([network.id for network in self._catalogue.all()])
                await self._start_networks()
            self._sandboxes.adopt_recorded()
            await self._fabric.firewall.apply()
            self._collisions.open()
            for name, driver in self._catalogue.drivers.items():
                following = driver.follow(self._fabric.host, self._announced)
                self._fabric.background.spawn(following, f"network driver {name}")
        except BaseException as error:
            await self._fabric.close()
            if isinstance(error, OSError):
                raise Internal(f"failed to start the networks: {error}") from error
            raise

    async def _announced(self, network_id: str, remote: Sequence[RemoteEndpoint]) -> None:
        """Let names and rules follow what a driver has been told of other hosts. Raises: OSError."""
        await self.names.announce(network_id, remote)
        await self._fabric.firewall.networks_changed()

    async def close(self) -> None:
        """Stop serving. With no container left, networks and rules go too; else they stay for the containers."""
        self._collisions.close()
        await self._sandboxes.drop_unstarted()
        if not self._sandboxes.remain():
            await self._fabric.leases.settle()
            await self._fabric.dismantle()
        await self._fabric.close()
        await self._plugins.close()
        self._sandboxes.close()

    async def restore(self, running: Mapping[str, int]) -> None:
        """Keep the sandboxes of these running containers (id → pid); see `Sandboxes.restore`."""
        await self._sandboxes.restore(running)
        await self._drop_gateway()

    async def _start_networks(self) -> None:
        records = {}
        former = {name: old for name in PREDEFINED if (old := self._catalogue.named(name)) is not None}
        before = self._table(former) if "host" in former else ""
        for name, driver_name in PREDEFINED.items():
            old, driver = self._catalogue.named(name), self._catalogue.drivers[driver_name]
            try:
                record = await driver.predefined(self._fabric.host, name, old, self._catalogue.choose)
            except Forbidden as error:  # no subnet is free: containers can do without this network
                log.error("network %s: it cannot be made: %s", name, error)
                record = old
            if record is not None:
                records[name] = record
                if old is not None and _link(driver, old) != _link(driver, record):
                    await driver.teardown(self._fabric.host, old)
            elif old is not None:
                await driver.teardown(self._fabric.host, old)
                self._store.apply_now(self._catalogue.forget(old))
        self._store.apply_now(*(self._catalogue.put(r) for r in records.values()))
        await self._fabric.firewall.begin(self._table(records), before=before)
        for network in self._catalogue.all():
            if network.name in PREDEFINED:
                await self._start_network(network)
        # together: a driver that waits for another program holds nobody else up
        others = [n for n in self._catalogue.all() if n.name not in PREDEFINED]
        await asyncio.gather(*(self._start_network(n) for n in others))

    async def _start_network(self, network: NetworkRecord) -> None:
        """Set up one network; another than the predefined may fail, and is then there without being usable."""
        try:
            await self._fabric.setup(self._catalogue.driver(network), network)
        except (OSError, SampanError) as error:
            if network.name in PREDEFINED:
                what = self._catalogue.driver(network).describe(network)
                raise Internal(f"failed to start the default network {network.name} ({what}): {error}") from error
            log.error("network %s: it cannot be set up: %s", network.name, error)
        self._open_pools(network, known=True)

    def _open_pools(self, network: NetworkRecord, *, known: bool) -> None:
        self._catalogue.open_pools(network, self._plugins.pools(network, known=known))

    def _table(self, records: Mapping[str, NetworkRecord]) -> str:
        """Return the name of our nftables table: the default network's interface, when that is named after us."""
        default = records.get(DEFAULT_NETWORK)
        rules = self._catalogue.driver(default).rules(default, ip6=True) if default is not None else None
        if rules is not None and rules.interface.startswith(TABLE_PREFIX):
            return rules.interface
        return f"{TABLE_PREFIX}-{records['host'].id[:12]}"

    async def protect_api(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Keep containers from these (address, port) of a TCP API; an address of "", 0.0.0.0 or :: means every one."""
        await self._fabric.firewall.protect_api(("" if a in ("", "0.0.0.0", "::") else a, p) for a, p in addresses)

    def let_through(self, ways: Callable[[], Iterable[Way]]) -> None:
        """Say what leads from container to container where these may not reach each other; asked at each change."""
        self._fabric.firewall.ways = ways

    async def ways_changed(self) -> None:
        """Open and close what has changed of these ways; what cannot be done is logged."""
        try:
            await self._fabric.firewall.ways_changed()
        except OSError as error:
            log.error("links: the firewall's rules cannot be changed: %s", error)

    # ── networks ────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, ref: str) -> NetworkRecord:
        """Resolve a name, id or unique prefix. Raises: NotFound, InvalidArgument."""
        return self._catalogue.find(ref)

    def known(self, ref: str) -> NetworkRecord | None:
        """Return the network of a name, id or unique prefix; None when there is none."""
        with contextlib.suppress(NotFound, InvalidArgument):
            return self._catalogue.find(ref)
        return None

    async def create(self, request: NetworkCreateRequest) -> NetworkRecord:
        """Create a network. Raises: what Docker answers when it cannot be; then nothing is left."""
        name = self._catalogue.check(request)
        asked = self._catalogue.configured(request)
        driver = await self._plugins.driver("null" if request.config_only else name)
        async with contextlib.AsyncExitStack() as given:
            subnets = await self._plugins.subnets(asked, driver, self._fabric.host_subnets, given)
            async with _Making(self._fabric.choosing()) as making:
                network = self._catalogue.new(request, await self._fabric.host_subnets(), self._config, subnets)
                given.pop_all()  # now they are the network's
                await self._make(driver, network, making)
                if endpoints.leads_nowhere(self._catalogue, network) and self._catalogue.named(way_out.NAME) is None:
                    await self._make_gateway(making)
                making.done()
        self._tell("create", network)
        return network

    async def _make(self, driver: NetworkDriver, network: NetworkRecord, making: _Making) -> None:
        """Make a network; the host is let go as soon as nothing of it is chosen any more."""
        making.shown.enter_context(self._catalogue.hidden(network, making=True))
        making.undo.push_async_callback(self._unmake, driver, network)
        self._open_pools(network, known=False)
        self._store.apply_now(self._catalogue.put(network))
        if driver.capabilities.remote:
            await making.choosing.aclose()  # nobody else waits for another program
        try:
            await self._fabric.setup(driver, network)
            if driver.rules(network, ip6=True) is not None:
                await self._fabric.firewall.apply()
        except OSError as error:
            raise Internal(f"failed to create network {network.name}: {error}") from error
        await self._store.flushed()

    async def _make_gateway(self, making: _Making) -> NetworkRecord:
        network = self._catalogue.new(way_out.request(), await self._fabric.host_subnets(), self._config)
        network.own = True
        await self._make(self._catalogue.driver(network), network, making)
        return network

    async def _gateway(self) -> NetworkRecord:
        """Return the network by which containers leave whose own networks do not lead out; made when it is missing."""
        async with _Making(self._fabric.choosing()) as making:
            found = self._catalogue.named(way_out.NAME) or await self._make_gateway(making)
            making.done()
        return found

    async def _drop_gateway(self) -> None:
        """Take that network away when the engine has made it, and no network needs it any more."""
        if self._catalogue.named(way_out.NAME) is None:
            return
        async with self._fabric.choosing():
            gateway = self._catalogue.named(way_out.NAME)
            if gateway is None or not gateway.own or self._sandboxes.using(gateway.id):
                return
            if not any(endpoints.leads_nowhere(self._catalogue, network) for network in self._catalogue.all()):
                with self._catalogue.hidden(gateway):
                    await self._unmake(self._catalogue.drivers.get(gateway.driver), gateway)

    async def _unmake(self, driver: NetworkDriver | None, network: NetworkRecord) -> None:
        if driver is not None:  # else nobody knows what there is to take down
            await self._fabric.teardown(driver, network)
        await self._plugins.close_pools(network, self._fabric.leases)
        await self._store.apply(self._catalogue.forget(network))

    async def remove(self, ref: str) -> None:
        """Remove a network that no container uses. Raises: Forbidden in Docker's words."""
        network = self.find(ref)
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if self._catalogue.configured_by(network):
            raise Forbidden(f'error while removing network: configuration network "{network.name}" is in use')
        if self._sandboxes.using(network.id):
            using = [(r, e) for r in self._sandboxes.on(network.id) for e in r.endpoints if e.network_id == network.id]
            found = [f'name:"{r.name}" id:"{e.id[:12]}"' for r, e in using]
            found += [f'name:"{name}" id:""' for name in self._sandboxes.joining(network.id)]
            named = ", ".join(found)
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({named})")
        await self._take_away(network)

    async def _take_away(self, network: NetworkRecord) -> None:
        """Remove a network that nobody uses; from the first moment nobody can begin to."""
        with self._catalogue.hidden(network):
            await self._unmake(self._catalogue.drivers.get(network.driver), network)
        self._tell("destroy", network)
        driver = self._catalogue.drivers.get(network.driver)
        if driver is not None and (driver.capabilities.way_out or driver.capabilities.remote):
            await self._drop_gateway()

    def inspect(self, ref: str, *, scope: str = "") -> dict[str, Any]:
        """Return a network with its containers, as the API shows it. Raises: NotFound, InvalidArgument."""
        network = self.find(ref)
        if scope and scope != network.scope:
            raise NotFound(f"network {ref} not found")
        return inspect.network(network, self._sandboxes.on(network.id))

    def list(self, given: Filters | None = None, *, containers: bool = False) -> builtins.list[dict[str, Any]]:
        """Return the networks that pass the filters, by name. containers: with those that are on each.

        Raises: InvalidArgument, Internal.
        """
        chosen = [n for n in self._catalogue.all() if filters.matches(n, given or {}, used=self._used(n))]
        return [
            inspect.network(n, self._sandboxes.on(n.id) if containers else ())
            for n in sorted(chosen, key=lambda n: n.name)
        ]

    def _used(self, network: NetworkRecord) -> bool:
        return self._sandboxes.using(network.id)

    async def prune(self, given: Filters | None = None) -> builtins.list[str] | None:
        """Remove the networks nobody uses; None when there is none, as Docker says."""
        removed = []
        before_ns = filters.until_ns(given or {})
        for network in self._catalogue.all():
            if not self._catalogue.has(network):
                continue  # somebody else was faster
            if (
                network.name in PREDEFINED
                or network.config_only
                or network.own
                or self._used(network)
                or not filters.prunable(network, given or {}, before_ns)
            ):
                continue
            await self._take_away(network)
            removed.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed or None

    def _with_links(self) -> Iterator[tuple[NetworkRecord, str]]:
        """Yield the networks that this host is a router of, each with its link."""
        for network in self._catalogue.all():
            driver = self._catalogue.drivers.get(network.driver)
            if driver is not None and driver.capabilities.gateway and (link := _link(driver, network)):
                yield network, link

    def _collides(self, collision: Collision) -> None:
        network = self._catalogue.table.get(collision.network_id)
        if network is None:
            return
        subnet, used = str(collision.subnet), str(collision.used)
        log.warning("network %s: the host uses %s, which collides with its subnet %s", network.name, used, subnet)
        told = {"name": network.name, "type": network.driver, "subnet": subnet, "host": used}
        self._events.publish("network", "collision", network.id, told)

    def _tell(self, action: str, network: NetworkRecord) -> None:
        self._events.publish("network", action, network.id, {"name": network.name, "type": network.driver})

    # ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────

    def planned(
        self, network: NetworkRecord, settings: EndpointSettings, *, container_id: str, name: str, hostname: str
    ) -> EndpointSettings:
        """Return what is to be kept of an endpoint that a container gets at its next start.

        That includes what it will answer to. Raises: InvalidArgument for what the network cannot give.
        """
        endpoints.check(network, settings)
        made = endpoints.new(network, settings, container_id=container_id, name=name, hostname=hostname)
        return replace(settings, dns_names=made.dns_names)

    @contextlib.asynccontextmanager
    async def connecting(
        self, network: NetworkRecord, container_id: str, settings: EndpointSettings
    ) -> AsyncIterator[builtins.list[Op]]:
        """Connect a running container; see `Sandboxes.connecting`. Raises: InvalidArgument for what cannot be given."""
        endpoints.check(network, settings)
        async with self._sandboxes.connecting(network, container_id, settings) as ops:
            yield ops


def _link(driver: NetworkDriver, network: NetworkRecord) -> str:
    """Return the link on the host that a network is, for what is to be taken away when it becomes another."""
    rules = driver.rules(network, ip6=True)
    return rules.interface if rules is not None else ""
