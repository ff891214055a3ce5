"""Network sandboxes: the namespaces of containers, from before their first process until after their last.

`attach` makes a complete network namespace before any process of the container exists and hands it out by descriptor;
`started` lets go of the descriptor once the container's own process holds the namespace; `detach` takes ports and rules
away at once and gives addresses back when the kernel has removed the link with its namespace. Records follow every step, so
that `restore` finds after a crash what runs on and sweeps up what does not.

Not here: what an endpoint gets (endpoints.py), how it is made (fabric.py, plumbing.py), which networks exist (service.py).

Invariant: an address is never in two places: it is free only when its link is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.events import Events
from sampan.engine.networks import endpoints, inspect, ports
from sampan.engine.networks.fabric import Fabric
from sampan.engine.networks.firewall import Published
from sampan.engine.networks.plumbing import Address, InterfacePlan, SandboxPlan
from sampan.engine.networks.ports import Grant
from sampan.engine.networks.records import BindingRecord, EndpointRecord, NetworkRecord, SandboxRecord
from sampan.engine.networks.registry import Registry
from sampan.engine.store import Store
from sampan.errors import Conflict, Forbidden, Internal, SampanError

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A container's network as the engine uses and shows it. `netns` is a path while `attach` holds the namespace, and
    empty for network mode host; `endpoints` are NetworkSettings.Networks, `ports` NetworkSettings.Ports."""

    id: str
    key: str
    netns: str = ""
    endpoints: dict[str, dict[str, Any]] = field(default_factory=dict)
    ports: dict[str, list[dict[str, str]] | None] = field(default_factory=dict)

    @property
    def addresses(self) -> list[str]:
        """The container's addresses, for its /etc/hosts."""
        shown = [(e["IPAddress"], e["GlobalIPv6Address"]) for e in self.endpoints.values()]
        return [address for pair in shown for address in pair if address]


@dataclass(slots=True)
class _Live:
    """A sandbox that exists: its record, its ports, and the namespace's descriptor until the container runs."""

    record: SandboxRecord
    grants: list[Grant] = field(default_factory=list)
    namespace: int = -1
    silent: bool = False  # no container's: its coming and going is no event


class Sandboxes:
    """The sandboxes of one engine."""

    def __init__(self, config: EngineConfig, store: Store, events: Events, registry: Registry, fabric: Fabric) -> None:
        self._exec_root = config.exec_root
        self._default_ip = config.ip
        self._store = store
        self._events = events
        self._registry = registry
        self._fabric = fabric
        self._table = store.table("sandboxes", SandboxRecord)
        self._live: dict[str, _Live] = {}

    def all(self) -> list[SandboxRecord]:
        return [live.record for live in self._live.values()]

    def on(self, network_id: str) -> list[SandboxRecord]:
        """Those with an endpoint on this network."""
        return [r for r in self.all() if any(e.network_id == network_id for e in r.endpoints)]

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
        """Close the sockets of published ports; what nftables carries goes on."""
        for live in self._live.values():
            for grant in live.grants:
                grant.close()

    # ── attach ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def attach(
        self,
        container_id: str,
        *,
        mode: str,
        hostname: str,
        endpoints: Mapping[str, Settings | None],
        ports: Mapping[str, list[dict[str, str]] | None],
        publish_all: bool,
        exposed: Sequence[str],
        mac: str = "",
        name: str = "",
        sysctls: Mapping[str, str] | None = None,
        silent: bool = False,
    ) -> Sandbox:
        """Make the container's network namespace, complete, before it has a process.

        mode: NetworkMode (bridge, default, host, none, a network's name or id). endpoints: network → EndpointSettings as
        JSON. ports: HostConfig.PortBindings; as in Docker only exposed ports are published. mac: for mode's network.
        silent: no events, for what is no container.
        Raises: NotFound for an unknown network; Internal in Docker's words when a port cannot be had. Then nothing is left.
        """
        await self.detach(container_id)
        record = SandboxRecord(
            id=container_id, sandbox_id=os.urandom(32).hex(), key="", mode=mode, name=name or container_id[:12], hostname=hostname,
            exposed=list(exposed), requested=dict(ports), publish_all=publish_all,
        )  # fmt: skip
        record.key = f"{self._exec_root}/netns/{record.sandbox_id[:12]}"
        live = _Live(record, silent=silent)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._undo_attach, live)
            try:
                plan = await self._plan(live, endpoints, mac)
                if record.mode == "host":
                    record.key = f"{self._exec_root}/netns/default"
                else:
                    grants = self._grant(live)
                    plan.sysctls.update(sysctls or {})
                    live.namespace = await self._fabric.create_sandbox(plan, grants)
                    live.grants = grants
            except SampanError as error:
                raise type(error)(f"failed to set up container networking: {error.message}") from error
            except OSError as error:
                raise Internal(f"failed to set up container networking: {error}") from error
            self._live[container_id] = live
            self._save(live)
            undo.pop_all()
        if not silent:
            for endpoint in record.endpoints:
                self._tell("connect", endpoint, container_id)
        return self._shown(live)

    async def _plan(self, live: _Live, asked: Mapping[str, Settings | None], mac: str) -> SandboxPlan:
        """Decide endpoints and addresses; they stand in the record from the first that is taken."""
        record, interfaces = live.record, []
        for n, (network, settings) in enumerate(endpoints.wanted(self._registry, record.mode, asked)):
            endpoint = endpoints.new(network, settings, record)
            record.endpoints.append(endpoint)
            if n == 0:
                record.mode = network.name
            if network.driver == "bridge":
                interfaces.append(
                    await self._give_addresses(record, endpoint, network, settings, mac if n == 0 else "")
                )
        return endpoints.plan(interfaces, record.endpoints)

    async def _give_addresses(
        self, record: SandboxRecord, endpoint: EndpointRecord, network: NetworkRecord, settings: Settings, mac: str
    ) -> InterfacePlan:
        bridge, index = self._fabric.bridge(network.id)
        taken = [e.interface for e in record.endpoints if e.interface]
        endpoint.interface = endpoints.interface_name(bridge.interface_prefix, settings, taken)
        address4 = await self._take_address(network, 4, endpoints.requested(settings, 4))
        if address4 is not None:
            endpoint.ipv4 = f"{address4}/{_length(network, 4)}"
        endpoint.mac = endpoints.mac_address(settings.get("MacAddress") or mac, address4)
        address6 = await self._take_address(network, 6, endpoints.requested(settings, 6))
        if address6 is not None:
            endpoint.ipv6 = f"{address6}/{_length(network, 6)}"
        if not network.internal:
            endpoint.gateway4, endpoint.gateway6 = _gateway(network, 4), _gateway(network, 6)
        return endpoints.interface(endpoint, bridge, index, bridged_filter=self._fabric.bridged_filter)

    async def _take_address(self, network: NetworkRecord, version: int, asked: Address | None) -> Address | None:
        pool = self._registry.pool(network.id, version)
        if pool is None:
            return None
        if asked is not None:
            await self._fabric.leases.settle_address(network.id, asked)
            pool.take(asked)
            return asked
        try:
            return pool.allocate()
        except Conflict:
            await self._fabric.leases.settle()
            return pool.allocate()

    def _grant(self, live: _Live) -> list[Grant]:
        """Reserve the host ports of a sandbox: they lead to the endpoint that has the default route."""
        record = live.record
        wanted = ports.requests(record.requested, exposed=record.exposed, publish_all=record.publish_all)
        endpoint = endpoints.gateway_endpoint(record.endpoints, 4) or endpoints.gateway_endpoint(record.endpoints, 6)
        if endpoint is None or not wanted:
            return []
        granted: list[Grant] = []
        default_ip = self._fabric.bridge(endpoint.network_id)[0].host_binding or self._default_ip
        address4, address6 = endpoint.ipv4.partition("/")[0], endpoint.ipv6.partition("/")[0]
        try:
            for request in wanted:
                granted += self._fabric.ports.grant(request, address4, address6, default_ip=default_ip)
        except SampanError as error:
            for grant in granted:
                self._fabric.ports.release(grant)
            what = f"driver failed programming external connectivity on endpoint {record.name} ({endpoint.id})"
            raise Internal(f"{what}: {error.message}") from error
        return granted

    async def _undo_attach(self, live: _Live) -> None:
        self._live.pop(live.record.id, None)
        if live.namespace >= 0:
            os.close(live.namespace)
            await self._fabric.unpublish(live.grants)
        self._give_back(live.record.endpoints, linked=live.namespace >= 0)

    def _give_back(self, gone: Iterable[EndpointRecord], *, linked: bool = True) -> None:
        """Return the addresses of endpoints: when their links are gone, at once when they never had any."""
        for endpoint in gone:
            held = [(endpoint.network_id, ip_interface(text).ip) for text in (endpoint.ipv4, endpoint.ipv6) if text]
            if linked and endpoint.veth:
                self._fabric.leases.doom(endpoint.veth, held)
            else:
                for network_id, address in held:
                    self._registry.release(network_id, address)

    # ── running ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def started(self, container_id: str, pid: int) -> None:
        """The container's process holds the namespace now: let go of the descriptor, leave the SandboxKey link."""
        live = self._live.get(container_id)
        if live is None:
            return
        record = live.record
        record.pid = pid
        if live.namespace >= 0:
            os.close(live.namespace)
            live.namespace = -1
        if record.mode != "host":
            _link(record.key, f"/proc/{pid}/ns/net")
        self._store.apply_now(self._table.put(record))

    async def detach(self, container_id: str) -> None:
        """Take the container off its networks. Idempotent; ports are free when it returns, addresses soon after."""
        live = self._live.pop(container_id, None)
        if live is not None:
            # whoever asked may stop waiting; what was begun is ended
            await asyncio.shield(asyncio.create_task(self._take_down(live)))

    async def _take_down(self, live: _Live) -> None:
        record = live.record
        if live.namespace >= 0:
            os.close(live.namespace)
        try:
            await self._fabric.unpublish(live.grants)
        except OSError as error:  # the ports are free all the same; rules that are left lead to nobody
            log.error("container %s: its ports' rules cannot be removed: %s", record.id[:12], error)
        self._give_back(record.endpoints)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(record.key)
        self._store.apply_now(self._table.delete(record.id))
        for endpoint in () if live.silent else reversed(record.endpoints):
            self._tell("disconnect", endpoint, record.id)

    def _adopt(self, record: SandboxRecord) -> None:
        """Take a sandbox of an earlier daemon as it is: its addresses, its ports."""
        live = _Live(record)
        for endpoint in record.endpoints:
            for text in (endpoint.ipv4, endpoint.ipv6):
                pool = self._registry.pool(endpoint.network_id, 6 if ":" in text else 4)
                if text and pool is not None and not pool.taken(ip_interface(text).ip):
                    pool.take(ip_interface(text).ip)
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
                await self.started(container_id, running[container_id])
            else:
                await self.detach(container_id)
        known = {e.veth for live in self._live.values() for e in live.record.endpoints}
        await self._fabric.sweep(known)

    # ── changing a running container ────────────────────────────────────────────────────────────────────────────

    async def connect(self, network: NetworkRecord, container_id: str, pid: int, settings: Settings) -> None:
        """Give a running container an endpoint on one more network.

        Raises: Forbidden when it has one; InvalidArgument for bad settings; Internal when the kernel refuses.
        """
        live = self._live[container_id]
        record = live.record
        if any(e.network_id == network.id for e in record.endpoints):
            raise Forbidden(f"endpoint with name {record.name} already exists in network {network.name}")
        before = endpoints.gateways(record.endpoints)
        endpoint = endpoints.new(network, settings, record)
        try:
            interface = await self._give_addresses(record, endpoint, network, settings, "")
            record.endpoints.append(endpoint)
            await self._fabric.extend_sandbox(pid, interface)
            await self._reroute(live, pid, before)
        except BaseException as error:
            if endpoint in record.endpoints:
                record.endpoints.remove(endpoint)
            self._give_back([endpoint])
            if isinstance(error, OSError):
                raise Internal(f"failed to connect container to network {network.name}: {error}") from error
            raise
        self._save(live)
        self._tell("connect", endpoint, container_id)

    async def disconnect(self, network: NetworkRecord, container_id: str, pid: int) -> bool:
        """Take a running container off a network; False when it is not on it."""
        live = self._live.get(container_id)
        endpoint = next((e for e in live.record.endpoints if e.network_id == network.id), None) if live else None
        if live is None or endpoint is None:
            return False
        before = endpoints.gateways(live.record.endpoints)
        live.record.endpoints.remove(endpoint)
        self._give_back([endpoint])
        await self._fabric.leases.settle([endpoint.veth])
        try:
            await self._reroute(live, pid, before)
        except OSError as error:
            raise Internal(f"failed to move the default route of container {container_id[:12]}: {error}") from error
        finally:
            self._save(live)
        self._tell("disconnect", endpoint, container_id)
        return True

    async def _reroute(self, live: _Live, pid: int, before: Sequence[tuple[str, Address]]) -> None:
        """Move default routes, and the published ports after them, to the endpoint that has them now."""
        after = endpoints.gateways(live.record.endpoints)
        if after == before:
            return
        old = [gateway for name, gateway in before if (name, gateway) not in after]
        new = [pair for pair in after if pair not in before]
        await self._fabric.reroute(pid, old, new)
        await self._fabric.unpublish(live.grants)
        live.grants = []
        grants = self._grant(live)
        await self._fabric.publish(grants)
        live.grants = grants

    def _save(self, live: _Live) -> None:
        live.record.bindings = _bindings(live)
        self._store.apply_now(self._table.put(live.record))

    # ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────

    def sandbox(self, container_id: str) -> Sandbox | None:
        """The container's network as it is now; None when it is not attached."""
        live = self._live.get(container_id)
        return None if live is None else self._shown(live)

    def _shown(self, live: _Live) -> Sandbox:
        record = live.record
        netns = f"/proc/{os.getpid()}/fd/{live.namespace}" if live.namespace >= 0 else ""
        return Sandbox(
            id=record.sandbox_id,
            key=record.key,
            netns=netns,
            endpoints={e.network: inspect.endpoint(e) for e in record.endpoints},
            ports=inspect.ports(record.exposed, record.bindings) if _publishes(record) else {},
        )

    def _tell(self, action: str, endpoint: EndpointRecord, container_id: str) -> None:
        network = self._registry.table.get(endpoint.network_id)
        driver = network.driver if network is not None else "bridge"
        attributes = {"container": container_id, "name": endpoint.network, "type": driver}
        self._events.publish("network", action, endpoint.network_id, attributes)


def _length(network: NetworkRecord, version: int) -> int:
    subnet = network.subnet(version)
    return ip_network(subnet.subnet, strict=False).prefixlen if subnet else 0


def _gateway(network: NetworkRecord, version: int) -> str:
    subnet = network.subnet(version)
    if subnet is None:
        return ""
    return subnet.auxiliary.get(f"DefaultGatewayIPv{version}") or subnet.gateway


def _publishes(record: SandboxRecord) -> bool:
    return record.mode not in ("host", "none")


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
