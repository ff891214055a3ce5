"""Which networks exist and which addresses are taken in them.

The catalogue decides and remembers; it touches neither kernel nor firewall. `find` resolves names, ids and unique
prefixes. `new` turns a create request into a record or says, in Docker's words, why not. Address pools are rebuilt
from the records at start.

Source: Engine API 1.51 NetworkCreate; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network, ip_network

from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.networks import ipam
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.ipam import Address, Pool, Subnet
from sampan.engine.networks.records import PREDEFINED, NetworkRecord, SubnetRecord, new_id
from sampan.engine.store import Op, Table
from sampan.errors import Conflict, Forbidden, Internal, InvalidArgument, NotFound
from sampan.spec import go_values, times
from sampan.spec.engine_api.network import IPAM, IPAMConfig, NetworkCreateRequest

DEFAULT_DRIVER = DEFAULT_NETWORK = "bridge"


@dataclass(slots=True)
class Catalogue:
    """The networks of one engine, the drivers that make them, and the addresses taken in them."""

    table: Table[NetworkRecord]
    drivers: Mapping[str, NetworkDriver]
    pools: tuple[ipam.AddressPool, ...] = ipam.DEFAULT_POOLS
    _addresses: dict[str, list[Pool]] = field(default_factory=dict)
    _hidden: set[str] = field(default_factory=set)

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
    def hidden(self, network: NetworkRecord) -> Iterator[None]:
        """Let nobody find a network that is being made or removed; should a removal fail, it is there as before."""
        self._hidden.add(network.id)
        try:
            yield
        finally:
            self._hidden.discard(network.id)

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
        """Return whether the gateways of a network are the host's."""
        driver = self.drivers.get(network.driver)
        return driver is not None and not driver.capabilities.outside

    # ── creating ────────────────────────────────────────────────────────────────────────────────────────────────

    def new(self, request: NetworkCreateRequest, host_subnets: Iterable[Subnet], config: EngineConfig) -> NetworkRecord:
        """Decide what a create request becomes. Raises: what Docker answers when it cannot be."""
        name = self._validate(request)
        if request.config_only:
            return _configuration(request, config.default_network_opts.get(request.driver or DEFAULT_DRIVER, {}))
        source = self._configuration_of(request)
        if source is not None:
            request = _configured(request, source)
        driver = self._driver(name, request)
        options = dict(request.options or {})
        if source is None:
            options = {**config.default_network_opts.get(name, {}), **options}
        for key, value in driver.options(config).items():
            options.setdefault(key, value)
        record = NetworkRecord(
            id=new_id(),
            name=request.name,
            driver=name,
            created=times.now(),
            scope=request.scope or driver.capabilities.scope,
            enable_ipv4=_enabled(request, 4),
            enable_ipv6=_enabled(request, 6),
            internal=request.internal,
            attachable=request.attachable,
            config_from=source.name if source is not None else "",
            ipam_driver=(request.ipam and request.ipam.driver) or "default",
            # the real client sends {}; a request without IPAM has null
            ipam_options=request.ipam.options if request.ipam else None,
            options=options,
            labels=dict(request.labels or {}),
        )
        driver.validate(record, self.table.all())
        if driver.capabilities.addresses:
            configs = (request.ipam and request.ipam.config) or []
            record.subnets = self._subnets(record, driver, configs, list(host_subnets))
            asked = {c.subnet for c in configs if c.gateway}
            for subnet in record.subnets:  # an address that the host does not need is a container's
                if subnet.subnet not in asked and not driver.has_gateway(record, 6 if ":" in subnet.subnet else 4):
                    subnet.gateway, subnet.gateway_chosen = "", False
        record.options |= driver.chosen(record, self.table.all())
        return record

    def _validate(self, request: NetworkCreateRequest) -> str:
        """Check what needs no driver's knowledge and no configuration of another's; return the driver's name."""
        if not request.name.strip():
            raise InvalidArgument("invalid name: name is empty")
        if request.name in PREDEFINED or request.name == "default":
            raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
        name = request.driver or DEFAULT_DRIVER
        problems = [p for c in (request.ipam and request.ipam.config) or [] for p in _problems(c)]
        if problems:
            listed = problems[0] if len(problems) == 1 else "* " + "\n* ".join(problems)
            raise InvalidArgument(f"invalid network config:\n{listed}")
        if self.named(request.name) is not None:
            raise Conflict(f"network with name {request.name} already exists")
        _check_configuration(request)
        return name

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
        if request.ipam and request.ipam.driver not in ("", "default"):
            raise NotFound(f'plugin "{request.ipam.driver}" not found')
        if _enabled(request, 6) and not driver.capabilities.ipv6:
            raise InvalidArgument(f"{name} driver doesn't support IPv6")
        for config in (request.ipam and request.ipam.config) or []:
            _check_kind(config)
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
            if len(mine) > 1 and not driver.capabilities.several:
                raise Forbidden(f"{record.driver} driver doesn't support multiple subnets")
            for config in mine:
                subnet = ip_network(config.subnet, strict=False)
                own = [ip_network(s.subnet, strict=False) for s in asked]
                if ipam.overlaps(subnet, [*self.subnets(), *own]):
                    raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
                asked.append(_asked(config, subnet, needs_gateway=needs_gateway))
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
            for subnet in network.subnets if not network.config_only else ():
                yield ip_network(subnet.subnet, strict=False)

    # ── keeping ─────────────────────────────────────────────────────────────────────────────────────────────────

    def open_pools(self, network: NetworkRecord) -> None:
        """Start handing out a network's addresses; its gateways and auxiliary addresses are taken."""
        pools = self._addresses[network.id] = []
        for subnet in network.subnets if not network.config_only else ():
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
        return self.table.delete(network.id)

    def pools_of(self, network_id: str, version: int) -> list[Pool]:
        """Return the addresses of one IP version of a network, subnet by subnet."""
        return [pool for pool in self._addresses.get(network_id, ()) if pool.subnet.version == version]

    def pool_of(self, network_id: str, address: Address) -> Pool | None:
        """Return the subnet of a network that an address lies in, None when there is none such."""
        return next((p for p in self._addresses.get(network_id, ()) if address in p.subnet), None)

    def release(self, network_id: str, address: Address) -> None:
        """Give an address back; one of a network that is gone is fine."""
        pool = self.pool_of(network_id, address)
        if pool is not None:
            pool.release(address)


def _problems(config: IPAMConfig) -> Iterator[str]:
    """Return what Docker says of one IPAM configuration, a line each."""
    try:
        given = ipam.parse_prefix(config.subnet)
    except ValueError:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    subnet: Subnet = given.network
    if given.ip != subnet.network_address:  # however the same address is spelt
        yield f"invalid subnet {config.subnet}: it should be {subnet}"
    if config.ip_range:
        try:
            inside = ipam.parse_prefix(config.ip_range)
        except ValueError:
            yield f"invalid ip-range {config.ip_range}: invalid CIDR block notation"
        else:
            if inside.version != subnet.version:
                yield f"invalid ip-range {config.ip_range}: parent subnet is an IPv{subnet.version} block"
            elif inside.ip != inside.network.network_address:
                yield f"invalid ip-range {config.ip_range}: it should be {inside.network}"
            elif inside.network.prefixlen < subnet.prefixlen:
                yield f"invalid ip-range {config.ip_range}: CIDR block is bigger than its parent subnet {subnet}"
            elif not ipam.within(inside.network, subnet):
                yield f"invalid ip-range {config.ip_range}: parent subnet {subnet} doesn't contain ip-range"
    named = [(f"gateway {config.gateway}", config.gateway)] if config.gateway else []
    named += [(f"auxiliary address {name}", a) for name, a in (config.auxiliary_addresses or {}).items()]
    for what, text in named:
        try:
            address = ipam.parse_address(text)
        except ValueError:
            yield f"invalid {what}: invalid address"
            continue
        if address.version != subnet.version:
            yield f"invalid {what}: parent subnet is an IPv{subnet.version} block"
        elif address not in subnet:
            yield f"invalid {what}: parent subnet {subnet} doesn't contain this address"


_LINK_LOCAL = ip_network("fe80::/64")


def _check_kind(config: IPAMConfig) -> None:
    """Refuse subnets that no network can have, in Docker's words. Raises: InvalidArgument."""
    subnet = ip_network(config.subnet)
    if not isinstance(subnet, IPv6Network):
        return
    shown = f"'{config.gateway or ipam.first_host(subnet)}/{subnet.prefixlen}'"
    if subnet.network_address.ipv4_mapped is not None:
        raise InvalidArgument(f"{shown} is not a valid IPv6 subnet")
    if subnet.prefixlen == 0:
        raise InvalidArgument("ipv6 pool is empty")
    if subnet.is_multicast:
        raise InvalidArgument(f"multicast subnet {shown} is not allowed")
    if subnet != _LINK_LOCAL and subnet.overlaps(_LINK_LOCAL):
        raise InvalidArgument(f"{shown} clashes with the Link-Local prefix '{_LINK_LOCAL}'")


def _check_configuration(request: NetworkCreateRequest) -> None:
    """Check that a network does not carry and take a configuration at a time. Raises: Forbidden in Docker's words."""
    takes = bool(request.config_from and request.config_from.network)
    if request.config_only and (request.ingress or request.internal or request.attachable or request.scope):
        fields = "Network operator fields like [ ingress | internal | attachable | scope ] are not supported."
        raise Forbidden(f"configuration network can only contain network specific fields. {fields}")
    if request.config_only and takes:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    asked = request.ipam or IPAM()
    own = asked.driver not in ("", "default") or asked.options or asked.config or request.labels
    if takes and (own or _enabled(request, 6) or not _enabled(request, 4)):
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if takes and request.options:
        raise Forbidden("network driver options are not supported if the network depends on a configuration network")


def _configuration(request: NetworkCreateRequest, defaults: Mapping[str, str]) -> NetworkRecord:
    """Return the network that only carries what a request says; as in Docker its driver is not kept."""
    asked = request.ipam or IPAM()
    return NetworkRecord(
        id=new_id(),
        name=request.name,
        driver="null",
        created=times.now(),
        enable_ipv4=_enabled(request, 4),
        enable_ipv6=_enabled(request, 6),
        config_only=True,
        ipam_driver=asked.driver or "default",
        ipam_options=request.ipam.options if request.ipam else None,
        options={**defaults, **(request.options or {})},
        labels=dict(request.labels or {}),
        subnets=[
            SubnetRecord(
                subnet=c.subnet, gateway=c.gateway, ip_range=c.ip_range, auxiliary=dict(c.auxiliary_addresses or {})
            )
            for c in asked.config or []
        ],
    )


def _configured(request: NetworkCreateRequest, source: NetworkRecord) -> NetworkCreateRequest:
    """Return a request with the configuration of another network."""
    configs = [
        IPAMConfig(
            subnet=s.subnet, gateway=s.gateway, ip_range=s.ip_range, auxiliary_addresses=dict(s.auxiliary) or None
        )
        for s in source.subnets
    ]
    return replace(
        request,
        enable_ipv4=source.enable_ipv4,
        enable_ipv6=source.enable_ipv6,
        ipam=IPAM(driver=source.ipam_driver, options=source.ipam_options, config=configs),
        options=dict(source.options),
        labels=dict(source.labels),
    )


def _asked(config: IPAMConfig, subnet: Subnet, *, needs_gateway: bool) -> SubnetRecord:
    """Return the subnet that was asked for. Raises: Internal, in Docker's words, for an address that cannot be had."""
    own_range = ip_network(config.ip_range, strict=False) if config.ip_range else None
    auxiliary = dict(config.auxiliary_addresses or {})
    pool = Pool(subnet, ip_range=own_range)
    named = []
    chosen = ""
    if config.gateway:
        named = [(f"gateway ({config.gateway})", ipam.parse_address(config.gateway))]
    elif needs_gateway:
        try:
            chosen = str(pool.allocate())
        except Conflict as error:
            raise Internal("failed to allocate gateway (): no available addresses on this pool") from error
    # the default gateway may be the network's own
    given = [(f"secondary ip address ({n}:{a})", a) for n, a in auxiliary.items() if not _is_gateway(n)]
    named += [(what, ipam.parse_address(text)) for what, text in given]
    for what, address in named:
        try:
            pool.take(address)
        except Forbidden as error:
            raise Internal(f"failed to allocate {what}: {error.message}") from error
    return SubnetRecord(
        subnet=config.subnet,
        asked=True,
        gateway=config.gateway or chosen,
        ip_range=config.ip_range,
        auxiliary=auxiliary,
        gateway_chosen=not config.gateway,
    )


def _is_gateway(name: str) -> bool:
    return name in ("DefaultGatewayIPv4", "DefaultGatewayIPv6")


ENABLE = {4: "com.docker.network.enable_ipv4", 6: "com.docker.network.enable_ipv6"}
"""Options that say, as EnableIPv4 and EnableIPv6 do, which IP versions a network has."""


def _enabled(request: NetworkCreateRequest, version: int) -> bool:
    """Return whether a network has an IP version: as its field says, else its option, else IPv4 alone.

    Raises: InvalidArgument for an option that is no boolean.
    """
    given = request.enable_ipv4 if version == 4 else request.enable_ipv6
    text = (request.options or {}).get(ENABLE[version])
    option = None
    if text is not None:
        try:
            option = go_values.boolean(text)
        except ValueError as error:
            raise InvalidArgument(f'driver-opt "{ENABLE[version]}" is not a valid bool') from error
    if given is not None:
        return given
    return option if option is not None else version == 4
