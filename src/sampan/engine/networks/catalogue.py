"""Which networks exist and which addresses are taken in them.

The catalogue decides and remembers; it touches neither kernel nor firewall. `find` resolves names, ids and unique
prefixes. `new` turns a create request into a record or says, in Docker's words, why not. Address pools are rebuilt
from the records at start.

Source: Engine API 1.51 NetworkCreate; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network

from sampan.engine.config import EngineConfig
from sampan.engine.networks import ipam
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.ipam import Address, Pool, Pools, Subnet
from sampan.engine.networks.records import PREDEFINED, NetworkRecord, SubnetRecord, new_id
from sampan.engine.store import Op, Table
from sampan.errors import Conflict, Forbidden, Internal, InvalidArgument, NotFound, NotImplemented_
from sampan.spec import go_values, times
from sampan.spec.engine_api.network import IPAMConfig, NetworkCreateRequest

DEFAULT_DRIVER = DEFAULT_NETWORK = "bridge"


@dataclass(slots=True)
class Catalogue:
    """The networks of one engine, the drivers that make them, and the addresses taken in them."""

    table: Table[NetworkRecord]
    drivers: Mapping[str, NetworkDriver]
    pools: tuple[ipam.AddressPool, ...] = ipam.DEFAULT_POOLS
    _addresses: dict[tuple[str, int], Pools] = field(default_factory=dict)
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

    # ── creating ────────────────────────────────────────────────────────────────────────────────────────────────

    def new(self, request: NetworkCreateRequest, host_subnets: Iterable[Subnet], config: EngineConfig) -> NetworkRecord:
        """Decide what a create request becomes. Raises: what Docker answers when it cannot be."""
        name = self._validate(request)
        driver = self.drivers[name]
        options = {**config.default_network_opts.get(name, {}), **(request.options or {})}
        for key, value in driver.options(config).items():
            options.setdefault(key, value)
        record = NetworkRecord(
            id=new_id(),
            name=request.name,
            driver=name,
            created=times.now(),
            scope=driver.capabilities.scope,
            enable_ipv4=_enabled(request, 4),
            enable_ipv6=_enabled(request, 6),
            internal=request.internal,
            attachable=request.attachable,
            ipam_driver=(request.ipam and request.ipam.driver) or "default",
            # the real client sends {}; a request without IPAM has null
            ipam_options=request.ipam.options if request.ipam else None,
            options=options,
            labels=dict(request.labels or {}),
        )
        driver.validate(record, self.table.all())
        if driver.capabilities.addresses:
            configs = (request.ipam and request.ipam.config) or []
            record.user_subnets = bool(configs)
            record.subnets = self._subnets(record, configs, list(host_subnets))
        record.options |= driver.chosen(record, self.table.all())
        return record

    def _validate(self, request: NetworkCreateRequest) -> str:
        """Check what needs no driver's knowledge; return the driver's name."""
        if not request.name.strip():
            raise InvalidArgument("invalid name: name is empty")
        if request.name in PREDEFINED or request.name == "default":
            raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
        if not _enabled(request, 4) and not _enabled(request, 6):
            raise InvalidArgument("IPv4 or IPv6 must be enabled")
        name = request.driver or DEFAULT_DRIVER
        problems = [p for c in (request.ipam and request.ipam.config) or [] for p in _problems(c)]
        if problems:
            raise InvalidArgument("invalid network config:\n" + "\n".join(problems))
        if self.named(request.name) is not None:
            raise Conflict(f"network with name {request.name} already exists")
        if request.ingress:
            raise Forbidden("Ingress network can only be global scope network")
        if request.config_only or (request.config_from and request.config_from.network):
            raise NotImplemented_("config-only networks are not available yet")
        driver = self.drivers.get(name)
        if driver is None:
            raise NotFound(f'plugin "{name}" not found')
        if driver.capabilities.single:
            raise Forbidden(f'only one instance of "{name}" network is allowed')
        if request.ipam and request.ipam.driver not in ("", "default"):
            raise NotFound(f'plugin "{request.ipam.driver}" not found')
        if _enabled(request, 6) and not driver.capabilities.ipv6:
            raise InvalidArgument(f"{name} driver doesn't support IPv6")
        return name

    def _subnets(
        self, record: NetworkRecord, configs: Sequence[IPAMConfig], host: Sequence[Subnet]
    ) -> list[SubnetRecord]:
        asked: list[SubnetRecord] = []
        chosen: list[SubnetRecord] = []  # shown after those that were asked for, as in Docker
        for version, enabled in ((4, record.enable_ipv4), (6, record.enable_ipv6)):
            mine = [c for c in configs if c.subnet and (":" in c.subnet) == (version == 6)]
            if not enabled:
                continue
            if len(mine) > self.drivers[record.driver].capabilities.subnets:
                raise Forbidden(f"{record.driver} driver doesn't support multiple subnets")
            for config in mine:
                subnet = ip_network(config.subnet, strict=False)
                if ipam.overlaps(subnet, [*self.subnets(), *(ip_network(s.subnet, strict=False) for s in asked)]):
                    raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
                asked.append(_asked(config, subnet))
            if not mine:
                chosen.append(self.choose(version, host))
        return asked + chosen

    def choose(self, version: int, host: Iterable[Subnet]) -> SubnetRecord:
        """Return a subnet that nobody has: from the pools, for IPv6 a random unique local one when the pools have none.

        host: the subnets that the host uses. Raises: Forbidden when the pools are used up.
        """
        taken = [*host, *self.subnets()]
        pools = [p for p in self.pools if p.base.version == version]
        if version == 6 and not pools:
            local = ip_network((b"\xfd" + os.urandom(5) + bytes(10), 64))
            pools = [ipam.AddressPool(base=local, size=64)]
        subnet = ipam.choose_subnet(pools, taken, version=version)
        return SubnetRecord(subnet=str(subnet), gateway=str(ipam.first_host(subnet)))

    def subnets(self) -> Iterator[Subnet]:
        """Return the subnets of all our networks."""
        for network in self.table.all():
            for subnet in network.subnets:
                yield ip_network(subnet.subnet, strict=False)

    # ── keeping ─────────────────────────────────────────────────────────────────────────────────────────────────

    def open_pools(self, network: NetworkRecord) -> None:
        """Start handing out a network's addresses; its gateway and auxiliary addresses are taken."""
        pools: dict[int, list[Pool]] = {}
        for subnet in network.subnets:
            net = ip_network(subnet.subnet, strict=False)
            reserved = [ip_address(a) for a in (subnet.gateway, *subnet.auxiliary.values()) if a]
            range_ = ip_network(subnet.ip_range, strict=False) if subnet.ip_range else None
            pools.setdefault(net.version, []).append(Pool(net, ip_range=range_, reserved=reserved))
        for version, having in pools.items():
            self._addresses[(network.id, version)] = Pools(having)

    def put(self, network: NetworkRecord) -> Op:
        """Return the change that keeps a network."""
        return self.table.put(network)

    def forget(self, network: NetworkRecord) -> Op:
        """Close a network's pools and return the change that deletes it."""
        for version in (4, 6):
            self._addresses.pop((network.id, version), None)
        return self.table.delete(network.id)

    def pool(self, network_id: str, version: int) -> Pools | None:
        """Return the addresses of one IP version of a network; None when it has none."""
        return self._addresses.get((network_id, version))

    def release(self, network_id: str, address: Address) -> None:
        """Give an address back; one of a network that is gone is fine."""
        pool = self.pool(network_id, address.version)
        if pool is not None:
            pool.release(address)


def _problems(config: IPAMConfig) -> Iterator[str]:
    """Return what Docker says of one IPAM configuration, a line each."""
    try:
        subnet = ip_network(config.subnet, strict=False)
    except ValueError:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    if "/" not in config.subnet:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    if ip_interface(config.subnet).ip != subnet.network_address:  # however the same address is spelt
        yield f"invalid subnet {config.subnet}: it should be {subnet}"
    if config.ip_range:
        try:
            inside = ip_network(config.ip_range, strict=False)
        except ValueError:
            yield f"invalid ip-range {config.ip_range}: invalid CIDR block notation"
        else:
            if ip_interface(config.ip_range).ip != inside.network_address:
                yield f"invalid ip-range {config.ip_range}: it should be {inside}"
            elif inside.prefixlen < subnet.prefixlen:
                yield f"invalid ip-range {config.ip_range}: CIDR block is bigger than its parent subnet {subnet}"
            elif not ipam.within(inside, subnet):
                yield f"invalid ip-range {config.ip_range}: parent subnet {subnet} doesn't contain ip-range"
    named = [(f"gateway {config.gateway}", config.gateway)] if config.gateway else []
    named += [(f"auxiliary address {name}", a) for name, a in (config.auxiliary_addresses or {}).items()]
    for what, address in named:
        try:
            fits = ip_address(address) in subnet
        except ValueError:
            yield f"invalid {what}: invalid address"
            continue
        if not fits:
            yield f"invalid {what}: parent subnet {subnet} doesn't contain this address"


def _asked(config: IPAMConfig, subnet: Subnet) -> SubnetRecord:
    """Return the subnet that was asked for. Raises: Internal, in Docker's words, for an address that cannot be had."""
    own_range = ip_network(config.ip_range, strict=False) if config.ip_range else None
    auxiliary = dict(config.auxiliary_addresses or {})
    pool = Pool(subnet, ip_range=own_range)
    named = []
    if config.gateway:
        gateway = ip_address(config.gateway)
        named = [(f"gateway ({config.gateway})", gateway)]
    else:
        try:
            gateway = pool.allocate()
        except Conflict as error:
            raise Internal("failed to allocate gateway (): no available addresses on this pool") from error
    # the default gateway may be the network's own
    named += [(f"secondary ip address ({n}:{a})", ip_address(a)) for n, a in auxiliary.items() if not _is_gateway(n)]
    for what, address in named:
        try:
            pool.take(address)
        except Conflict as error:
            raise Internal(f"failed to allocate {what}: {error.message}") from error
    return SubnetRecord(
        subnet=config.subnet,
        gateway=config.gateway or str(gateway),
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
