"""The networks service: the engine's networks, from their configuration to their containers.

The composition of this package: `registry` knows which networks exist, `fabric` has them in the kernel, `sandboxes` attaches
containers to them. Here networks are created, removed and shown, and the three that always exist are kept.

Source: Engine API 1.51, Network; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.networks import defaults, endpoints, filters, inspect, ipam
from sampan.engine.networks.drivers import bridge as bridge_driver
from sampan.engine.networks.fabric import Fabric
from sampan.engine.networks.records import NetworkRecord
from sampan.engine.networks.registry import PREDEFINED, Registry
from sampan.engine.networks.sandboxes import Sandbox, Sandboxes
from sampan.engine.store import Ref, Store
from sampan.errors import Forbidden, Internal, InvalidArgument, NotFound, SampanError
from sampan.spec.engine_api.network import NetworkCreateRequest

__all__ = ["Networks", "Sandbox"]

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]
Filters = Mapping[str, Iterable[str]]


class Networks:
    """The networks of one engine."""

    def __init__(self, config: EngineConfig, store: Store, events: Events) -> None:
        self._config = config
        self._store = store
        self._events = events
        pools = ipam.parse_pools(config.default_address_pools)
        self._registry = Registry(store.table("networks", NetworkRecord), pools)
        self._fabric = Fabric(config, self._registry.release)
        self._sandboxes = Sandboxes(config, store, events, self._registry, self._fabric)
        self.attach = self._sandboxes.attach
        self.started = self._sandboxes.started
        self.detach = self._sandboxes.detach
        self.restore = self._sandboxes.restore
        self.sandbox = self._sandboxes.sandbox

    # ── life ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Create bridge, host and none, all bridges and the firewall; take every recorded sandbox as living until
        `restore` says otherwise, so that ports published by an earlier daemon never stop working."""
        try:
            await self._fabric.open()
            async with self._fabric.choosing():
                await self._start_networks()
            self._sandboxes.adopt_recorded()
            await self._fabric.apply()
        except BaseException as error:
            await self._fabric.close()
            if isinstance(error, OSError):
                raise Internal(f"failed to start the networks: {error}") from error
            raise

    async def close(self) -> None:
        """Stop serving. With no container left, bridges and rules go too; else they stay for the containers."""
        await self._sandboxes.drop_unstarted()
        if not any(record.endpoints and record.mode != "host" for record in self._sandboxes.all()):
            await self._fabric.leases.settle()
            await self._fabric.dismantle()
        await self._fabric.close()
        self._sandboxes.close()

    async def _start_networks(self) -> None:
        old = self._registry.named("bridge")
        records = [defaults.plain(n, d, self._registry.named(n)) for n, d in (("host", "host"), ("none", "null"))]
        if self._config.bridge != defaults.NO_BRIDGE:
            records.append(await self._default_bridge(old))
        elif old is not None:
            await self._store.apply(self._registry.forget(old))
        await self._store.apply(*(self._registry.put(r) for r in records))
        table = next((r.bridge for r in records if r.bridge), "")
        await self._fabric.guard(table if table.startswith(defaults.BRIDGE_PREFIX) else f"sampan-{records[0].id[:12]}")
        for network in self._registry.bridges():
            try:
                await self._fabric.ensure_bridge(network, ours=not self._foreign(network))
            except (OSError, SampanError) as error:
                if network.name == "bridge":
                    raise Internal(f"failed to start the default bridge network {network.bridge}: {error}") from error
                log.error("network %s: its bridge %s cannot be made: %s", network.name, network.bridge, error)
            self._registry.open_pools(network)

    def _foreign(self, network: NetworkRecord) -> bool:
        """Whether the network's bridge is an administrator's (daemon option `bridge`)."""
        return network.name == "bridge" and bool(self._config.bridge)

    async def _default_bridge(self, old: NetworkRecord | None) -> NetworkRecord:
        host = self._fabric.plumbing.host
        links = {link.name: link for link in await self._fabric.run(host.links)}
        name = self._config.bridge
        if not name:
            kept = links.get(old.bridge) if old else None
            mine = old is not None and (kept is None or kept.alias == f"sampan:{old.id}")
            name = old.bridge if old and mine and old.bridge.startswith(defaults.BRIDGE_PREFIX) else ""
            name = name or await self._fabric.run(bridge_driver.free_name, host, defaults.BRIDGE_PREFIX)
        own = [links[name].ifindex] if name in links else []
        subnets = await self._fabric.run(bridge_driver.host_subnets, host, but=own)
        on_link = [p for p in await self._fabric.run(host.addresses) if p.ifindex in own]
        return defaults.bridge(
            self._config,
            old,
            link_subnets=[
                ip_network((p.address, p.length), strict=False) for p in on_link if not p.address.is_link_local
            ],
            host_subnets=subnets,
            choose=lambda version: self._registry.choose(version, subnets),
            name=name,
        )

    async def protect_api(self, addresses: Iterable[tuple[str, int]]) -> None:
        """Keep containers from these (address, port) of a TCP API; an address of "", 0.0.0.0 or :: means every one."""
        await self._fabric.protect_api(("" if a in ("", "0.0.0.0", "::") else a, p) for a, p in addresses)

    # ── networks ────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, ref: str) -> NetworkRecord:
        """Resolve a name, id or unique prefix. Raises: NotFound, InvalidArgument."""
        return self._registry.find(ref)

    async def create(self, request: NetworkCreateRequest) -> NetworkRecord:
        """Create a network. Raises: what Docker answers when it cannot be; then nothing is left."""
        async with self._fabric.choosing(), contextlib.AsyncExitStack() as undo:
            subnets = await self._fabric.run(bridge_driver.host_subnets, self._fabric.plumbing.host)
            network = self._registry.new(request, subnets, self._config.default_network_opts, self._config.mtu)
            undo.push_async_callback(self._unmake, network)
            self._registry.open_pools(network)
            self._store.apply_now(self._registry.put(network))
            try:
                if network.driver == "bridge":
                    await self._fabric.ensure_bridge(network)
                    await self._fabric.apply()
            except OSError as error:
                raise Internal(f"failed to create network {network.name}: {error}") from error
            await self._store.flushed()
            undo.pop_all()
        self._tell("create", network)
        return network

    async def _unmake(self, network: NetworkRecord) -> None:
        if network.bridge:
            await self._fabric.delete_bridge(network)
        await self._store.apply(self._registry.forget(network))

    async def remove(self, ref: str) -> None:
        """Remove a network that no container uses. Raises: Forbidden in Docker's words."""
        network = self.find(ref)
        if network.name in PREDEFINED:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        using = self._sandboxes.on(network.id)
        if using:
            named = ", ".join(
                f'name:"{r.name}" id:"{e.id[:12]}"' for r in using for e in r.endpoints if e.network_id == network.id
            )
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({named})")
        await self._unmake(network)
        self._tell("destroy", network)

    def inspect(self, ref: str, *, scope: str = "") -> dict[str, Any]:
        """A network with its containers, as the API shows it."""
        network = self.find(ref)
        if scope and scope != network.scope:
            raise NotFound(f"network {ref} not found")
        return inspect.network(network, self._sandboxes.on(network.id))

    def list(self, given: Filters | None = None) -> builtins.list[dict[str, Any]]:
        """The networks that pass the filters, newest first, without containers."""
        chosen = [n for n in self._registry.all() if filters.matches(n, given or {}, used=self._used(n))]
        return [inspect.network(n, ()) for n in sorted(chosen, key=lambda n: n.name)]

    def _used(self, network: NetworkRecord) -> bool:
        return bool(self._sandboxes.on(network.id)) or bool(self._store.holders(Ref("network", network.id)))

    async def prune(self, given: Filters | None = None) -> builtins.list[str] | None:
        """Remove the networks nobody uses; None when there is none, as Docker says."""
        removed = []
        for network in self._registry.all():
            if network.name in PREDEFINED or self._used(network) or not filters.prunable(network, given or {}):
                continue
            await self._unmake(network)
            self._tell("destroy", network)
            removed.append(network.name)
        self._events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed or None

    def _tell(self, action: str, network: NetworkRecord) -> None:
        self._events.publish("network", action, network.id, {"name": network.name, "type": network.driver})

    # ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────

    def check_endpoint(self, network: NetworkRecord, settings: Settings) -> None:
        """Raises: InvalidArgument when the network cannot give what is asked for."""
        problems = endpoints.problems(network, settings)
        if problems:
            listed = problems[0] if len(problems) == 1 else "* " + "\n* ".join(problems)
            raise InvalidArgument(f"invalid endpoint settings:\n{listed}")

    async def connect(self, ref: str, container_id: str, pid: int | None, settings: Settings) -> None:
        """Connect a container. One that does not run (pid None) has its settings checked only: its start connects it."""
        network = self.find(ref)
        self.check_endpoint(network, settings)
        if pid:
            await self._sandboxes.connect(network, container_id, pid, settings)

    async def disconnect(self, ref: str, container_id: str, pid: int | None) -> bool:
        """Disconnect a container; False when it was not connected (or does not run)."""
        network = self.find(ref)
        return await self._sandboxes.disconnect(network, container_id, pid) if pid else False
