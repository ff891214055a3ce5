"""Which networks exist and which addresses are taken in them.

The catalogue decides and remembers; it touches neither kernel nor firewall. `find` resolves names, ids and unique
prefixes. `new` turns a create request into a record or says, in Docker's words, why not. Address pools are rebuilt
from the records at start.

Source: Engine API 1.51 NetworkCreate; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

from sampan.engine.config import EngineConfig
from sampan.engine.networks import creation, ipam
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.ipam import DEFAULT_IPAM, NULL_IPAM, Address, Pool, Subnet
from sampan.engine.networks.plugin_ipam import PluginPool
from sampan.engine.networks.records import PREDEFINED, NetworkRecord, SubnetRecord, new_id
from sampan.engine.store import Op, Table
from sampan.errors import Conflict, Forbidden, InvalidArgument, NotFound
from sampan.spec import times
from sampan.spec.engine_api.network import IPAMConfig, NetworkCreateRequest

DEFAULT_NETWORK = "bridge"


@dataclass(slots=True)
class Catalogue:
    """The networks of one engine, the drivers that make them, and the addresses taken in them."""

    table: Table[NetworkRecord]
    drivers: dict[str, NetworkDriver]
    pools: tuple[ipam.AddressPool, ...] = ipam.DEFAULT_POOLS
    _addresses: dict[str, list[Pool]] = field(default_factory=dict)
    _plugin_addresses: dict[str, list[PluginPool]] = field(default_factory=dict)
    _hidden: set[str] = field(default_factory=set)
    _making: set[str] = field(default_factory=set)

    # ── finding ─────────────────────────────────────────────────────────────────────────────────────────────────

    def all(self) -> list[NetworkRecord]:
        """Return every network, oldest first."""
        return [n for n in self.table.all() if n.id not in self._hidden]

    def named(self, name: str) -> NetworkRecord | None:
        """Return the network of this name."""
        return next((n for n in self.all() if n.name == name), None)

    def find(self, ref: str) -> NetworkRecord:
        """Resolve an id, a name or a unique prefix of an id. Raises: NotFound, InvalidArgument when ambiguous."""
        found = self.table.get(ref) or self.named(ref)
        if found is not None and found.id not in self._hidden:
            return found
        matching = [n for n in self.all() if n.id.startswith(ref)] if ref else []
        if len(matching) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(matching)} matches found based on ID prefix)")
        if not matching:
            raise NotFound(f"network {ref} not found")
        return matching[0]

    @contextlib.contextmanager
    def hidden(self, network: NetworkRecord, *, making: bool = False) -> Iterator[None]:
        """Let nobody find a network that is being made or removed; should a removal fail, it is there as before.

        making: its name is taken already.
        """
        self._hidden.add(network.id)
        if making:
            self._making.add(network.id)
        try:
            yield
        finally:
            self._hidden.discard(network.id)
            self._making.discard(network.id)

    def has(self, network: NetworkRecord) -> bool:
        """Return whether a network is still there, to be found."""
        return self.table.get(network.id) is network and network.id not in self._hidden

    def driver(self, network: NetworkRecord) -> NetworkDriver:
        """Return the driver of a network. Raises: NotFound when this engine has it no more."""
        driver = self.drivers.get(network.driver)
        if driver is None:
            raise NotFound(f'plugin "{network.driver}" not found')
        return driver

    def leads_to_host(self, network: NetworkRecord) -> bool:
        """Return whether the gateways of a network are the host's; whose a plugin's are is the plugin's to know."""
        driver = self.drivers.get(network.driver)
        return driver is not None and not driver.capabilities.outside and not driver.capabilities.remote

    # ── creating ────────────────────────────────────────────────────────────────────────────────────────────────

    def new(
        self,
        request: NetworkCreateRequest,
        host_subnets: Iterable[Subnet],
        config: EngineConfig,
        subnets: Sequence[SubnetRecord] | None = None,
    ) -> NetworkRecord:
        """Decide what a create request becomes. subnets: what an IPAM plugin gave for it.

        Raises: what Docker answers when it cannot be.
        """
        name = self.check(request)
        if request.config_only:
            return creation.configuration(request, config.default_network_opts.get(name, {}))
        source = self._configuration_of(request)
        if source is not None:
            request = creation.configured(request, source)
        driver = self._driver(name, request)
        options = dict(request.options or {})
        if source is None:
            options = {**config.default_network_opts.get(name, {}), **options}
        record = NetworkRecord(
            id=new_id(),
            name=request.name,
            driver=name,
            created=times.now(),
            scope=request.scope or driver.capabilities.scope,
            enable_ipv4=creation.enabled(request, 4),
            enable_ipv6=creation.enabled(request, 6),
            internal=request.internal,
            attachable=request.attachable,
            config_from=source.name if source is not None else "",
            ipam_driver=(request.ipam and request.ipam.driver) or DEFAULT_IPAM,
            # the real client sends {}; a request without IPAM has null
            ipam_options=request.ipam.options if request.ipam else None,
            options=options,
            labels=dict(request.labels or {}),
        )
        configs = (request.ipam and request.ipam.config) or []
        if driver.capabilities.addresses and record.ipam_driver == NULL_IPAM:
            record.subnets = creation.null_subnets(record, configs)
        driver.validate(record, self.table.all())
        if record.subnets and not driver.capabilities.remote:  # only a plugin makes do without addresses
            raise InvalidArgument("ipv4 pool is empty")
        if subnets is not None:
            record.subnets = list(subnets)
        elif driver.capabilities.addresses and record.ipam_driver != NULL_IPAM:
            record.subnets = self._subnets(record, driver, configs, list(host_subnets))
            asked = {c.subnet for c in configs if c.gateway}
            for subnet in record.subnets:  # an address that the host does not need is a container's
                if subnet.subnet not in asked and not driver.has_gateway(record, 6 if ":" in subnet.subnet else 4):
                    subnet.gateway, subnet.gateway_chosen = "", False
        record.options |= driver.chosen(record, self.table.all())
        return record

    def check(self, request: NetworkCreateRequest) -> str:
        """Check what needs no driver's knowledge and no configuration of another's; return the driver's name.

        Raises: what Docker answers when the network cannot be.
        """
        if not request.name.strip():
            raise InvalidArgument("invalid name: name is empty")
        if request.name in PREDEFINED or request.name == "default":
            raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
        name = request.driver or creation.DEFAULT_DRIVER
        problems = [p for c in (request.ipam and request.ipam.config) or [] for p in creation.problems(c)]
        if problems:
            listed = problems[0] if len(problems) == 1 else "* " + "\n* ".join(problems)
            raise InvalidArgument(f"invalid network config:\n{listed}")
        if any(n.name == request.name for n in [*self.all(), *map(self.table.get, self._making)] if n is not None):
            raise Conflict(f"network with name {request.name} already exists")
        creation.check_configuration(request)
        return name

    def configured(self, request: NetworkCreateRequest) -> NetworkCreateRequest:
        """Return a request with the configuration that it takes from another network. Raises: NotFound."""
        source = self._configuration_of(request)
        return request if source is None else creation.configured(request, source)

    def _driver(self, name: str, request: NetworkCreateRequest) -> NetworkDriver:
        """Return the driver of a network that is to be made. Raises: what Docker says when it makes none such."""
        driver = self.drivers.get(name)
        if driver is None:
            raise NotFound(f'plugin "{name}" not found')
        if request.ingress:
            raise Forbidden("Ingress network can only be global scope network")
        if request.scope == "swarm":
            raise Forbidden("cannot create a swarm scoped network when swarm is not active")
        if request.scope == "local" and driver.capabilities.scope == "global":
            raise Forbidden(f"cannot downgrade network scope for {name} networks")
        if driver.capabilities.single:
            raise Forbidden(f'only one instance of "{name}" network is allowed')
        if creation.enabled(request, 6) and not driver.capabilities.ipv6:
            raise InvalidArgument(f"{name} driver doesn't support IPv6")
        for config in (request.ipam and request.ipam.config) or []:
            creation.check_kind(config)
        return driver

    def _configuration_of(self, request: NetworkCreateRequest) -> NetworkRecord | None:
        """Return the network that a request takes its configuration from. Raises: NotFound."""
        ref = request.config_from.network if request.config_from else ""
        if not ref:
            return None
        found = next((n for n in self.all() if n.config_only and ref in (n.name, n.id)), None)
        if found is None:
            raise NotFound(f'configuration network "{ref}" does not exist')
        return found

    def configured_by(self, network: NetworkRecord) -> bool:
        """Return whether another network, made or being made, has this one's configuration."""
        return network.config_only and any(n.config_from == network.name for n in self.table.all())

    def _subnets(
        self, record: NetworkRecord, driver: NetworkDriver, configs: Sequence[IPAMConfig], host: Sequence[Subnet]
    ) -> list[SubnetRecord]:
        needs_gateway = driver.leads_out(record) or not driver.capabilities.outside
        asked: list[SubnetRecord] = []
        chosen: list[SubnetRecord] = []  # shown after those that were asked for, as in Docker
        for version, enabled in ((4, record.enable_ipv4), (6, record.enable_ipv6)):
            mine = [c for c in configs if c.subnet and (":" in c.subnet) == (version == 6)]
            if not enabled:
                continue
            for config in mine:
                subnet = ip_network(config.subnet, strict=False)
                own = [ip_network(s.subnet, strict=False) for s in asked]
                if ipam.overlaps(subnet, [*self.subnets(), *own]):
                    raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
                asked.append(creation.asked_subnet(config, subnet, needs_gateway=needs_gateway))
            creation.check_number(len(mine), record.driver, driver)
            if not mine:
                free = self.choose(version, host)
                chosen.append(free if needs_gateway else SubnetRecord(subnet=free.subnet))
        return asked + chosen

    def choose(self, version: int, host: Iterable[Subnet]) -> SubnetRecord:
        """Return a subnet of the pools that nobody has.

        host: the subnets that the host uses. Raises: Forbidden when the pools are used up.
        """
        subnet = ipam.choose_subnet(self.pools, [*host, *self.subnets()], version=version)
        return SubnetRecord(subnet=str(subnet), gateway=str(ipam.first_host(subnet)))

    def subnets(self) -> Iterator[Subnet]:
        """Return the subnets of all our networks."""
        for network in self.table.all():
            for subnet in network.subnets if not network.config_only and network.ipam_driver != NULL_IPAM else ():
                yield ip_network(subnet.subnet, strict=False)

    # ── keeping ─────────────────────────────────────────────────────────────────────────────────────────────────

    def open_pools(self, network: NetworkRecord, of_plugin: Iterable[PluginPool] = ()) -> None:
        """Start handing out a network's addresses; its gateways and auxiliary addresses are taken.

        of_plugin: its subnets, when their addresses are a plugin's.
        """
        self._plugin_addresses[network.id] = list(of_plugin)
        pools = self._addresses[network.id] = []
        for subnet in network.subnets if not network.config_only and network.ipam_driver == DEFAULT_IPAM else ():
            net = ip_network(subnet.subnet, strict=False)
            reserved = [ipam.parse_address(a) for a in (subnet.gateway, *subnet.auxiliary.values()) if a]
            range_ = ip_network(subnet.ip_range, strict=False) if subnet.ip_range else None
            pools.append(Pool(net, ip_range=range_, reserved=reserved))

    def put(self, network: NetworkRecord) -> Op:
        """Return the change that keeps a network."""
        return self.table.put(network)

    def forget(self, network: NetworkRecord) -> Op:
        """Close a network's pools and return the change that deletes it."""
        self._addresses.pop(network.id, None)
        self._plugin_addresses.pop(network.id, None)
        return self.table.delete(network.id)

    def pools_of(self, network_id: str, version: int) -> list[Pool]:
        """Return the addresses of one IP version of a network, subnet by subnet; none that are a plugin's."""
        return [pool for pool in self._addresses.get(network_id, ()) if pool.subnet.version == version]

    def plugin_pools_of(self, network_id: str, version: int) -> list[PluginPool]:
        """Return the addresses of one IP version of a network that are a plugin's, subnet by subnet."""
        return [pool for pool in self._plugin_addresses.get(network_id, ()) if pool.subnet.version == version]

    def pool_of(self, network_id: str, address: Address) -> Pool | PluginPool | None:
        """Return the subnet of a network that an address lies in, None when there is none such."""
        pools = [*self._addresses.get(network_id, ()), *self._plugin_addresses.get(network_id, ())]
        return next((p for p in pools if address in p.subnet), None)

    def release(self, network_id: str, address: Address) -> None:
        """Give an address back; one of a network that is gone is fine."""
        pool = self.pool_of(network_id, address)
        if pool is not None:
            pool.release(address)
