"""Which networks exist and which addresses are taken in them. Decides and remembers; touches neither kernel nor firewall.

`find` resolves names, ids and unique prefixes. `new` turns a create request into a record or says, in Docker's words, why
not. Address pools are rebuilt from the records at start.

Source: Engine API 1.51 NetworkCreate; messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from sampan.engine.networks import ipam
from sampan.engine.networks.drivers import bridge as bridge_driver
from sampan.engine.networks.ipam import Address, Pool, Subnet
from sampan.engine.networks.records import NetworkRecord, SubnetRecord
from sampan.engine.store import Op, Table
from sampan.errors import Conflict, Forbidden, InvalidArgument, NotFound, NotImplemented_
from sampan.spec import times
from sampan.spec.engine_api.network import IPAMConfig, NetworkCreateRequest

PREDEFINED = ("bridge", "host", "none")
DRIVERS = ("bridge", "host", "null")


@dataclass(slots=True)
class Registry:
    """The networks of one engine and the addresses taken in them."""

    table: Table[NetworkRecord]
    pools: tuple[ipam.AddressPool, ...] = ipam.DEFAULT_POOLS
    _addresses: dict[tuple[str, int], Pool] = field(default_factory=dict)

    # ── finding ─────────────────────────────────────────────────────────────────────────────────────────────────

    def all(self) -> list[NetworkRecord]:
        return self.table.all()

    def bridges(self) -> list[NetworkRecord]:
        return [n for n in self.table.all() if n.driver == "bridge" and n.bridge]

    def named(self, name: str) -> NetworkRecord | None:
        return next((n for n in self.table.all() if n.name == name), None)

    def find(self, ref: str) -> NetworkRecord:
        """Resolve an id, a name or a unique prefix of an id. Raises: NotFound, InvalidArgument when ambiguous."""
        found = self.table.get(ref) or self.named(ref)
        if found is not None:
            return found
        matching = [n for n in self.table.all() if n.id.startswith(ref)] if ref else []
        if len(matching) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(matching)} matches found based on ID prefix)")
        if not matching:
            raise NotFound(f"network {ref} not found")
        return matching[0]

    # ── creating ────────────────────────────────────────────────────────────────────────────────────────────────

    def new(
        self,
        request: NetworkCreateRequest,
        host_subnets: Iterable[Subnet],
        defaults: Mapping[str, Mapping[str, str]],
        mtu: int,
    ) -> NetworkRecord:
        """Decide what a create request becomes. `defaults`: daemon option default-network-opts, by driver.

        Raises: what Docker answers when it cannot be.
        """
        driver = self._validate(request)
        host = list(host_subnets)
        options = {**defaults.get(driver, {}), **(request.options or {})}
        id_ = os.urandom(32).hex()
        record = NetworkRecord(
            id=id_,
            name=request.name,
            driver=driver,
            created=times.now(),
            enable_ipv4=request.enable_ipv4 is not False,
            enable_ipv6=bool(request.enable_ipv6),
            internal=request.internal,
            attachable=request.attachable,
            ipam_driver=(request.ipam and request.ipam.driver) or "default",
            # the real client sends {}; a request without IPAM has null
            ipam_options=request.ipam.options if request.ipam else None,
            options=options,
            labels=dict(request.labels or {}),
        )
        if driver == "bridge":
            bridge_driver.validate(options)
            if mtu != 1500:
                options.setdefault(bridge_driver.MTU, str(mtu))
            record.bridge = options.get(bridge_driver.NAME) or f"br-{id_[:12]}"
            if any(n.bridge == record.bridge for n in self.table.all()):
                other = next(n for n in self.table.all() if n.bridge == record.bridge)
                raise Forbidden(f"conflicts with network {other.id} ({other.name}): networks have same bridge name")
            configs = (request.ipam and request.ipam.config) or []
            record.user_subnets = bool(configs)
            record.subnets = self._subnets(record, configs, host)
        return record

    def _validate(self, request: NetworkCreateRequest) -> str:
        if not request.name.strip():
            raise InvalidArgument("invalid name: name is empty")
        if request.name in PREDEFINED or request.name == "default":
            raise Forbidden(f"operation is not permitted on predefined {request.name} network ")
        if request.enable_ipv4 is False and not request.enable_ipv6:
            raise InvalidArgument("IPv4 or IPv6 must be enabled")
        if self.named(request.name) is not None:
            raise Conflict(f"network with name {request.name} already exists")
        if request.config_only or (request.config_from and request.config_from.network):
            raise NotImplemented_("config-only networks are not available yet")
        driver = {"": "bridge", "none": "null"}.get(request.driver, request.driver)
        problems = [p for c in (request.ipam and request.ipam.config) or [] for p in _problems(c)]
        if problems:
            raise InvalidArgument("invalid network config:\n" + "\n".join(problems))
        if driver not in DRIVERS:
            raise NotFound(f'plugin "{driver}" not found')
        if driver in ("host", "null"):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if request.ipam and request.ipam.driver not in ("", "default"):
            raise NotFound(f'plugin "{request.ipam.driver}" not found')
        return driver

    def _subnets(self, record: NetworkRecord, configs: list[IPAMConfig], host: list[Subnet]) -> list[SubnetRecord]:
        found: list[SubnetRecord] = []
        for version, enabled in ((4, record.enable_ipv4), (6, record.enable_ipv6)):
            mine = [c for c in configs if c.subnet and (":" in c.subnet) == (version == 6)]
            if not enabled:
                continue
            if len(mine) > 1:
                raise Forbidden("bridge driver doesn't support multiple subnets")
            for config in mine:
                subnet = ip_network(config.subnet, strict=False)
                if ipam.overlaps(subnet, self.subnets()):
                    raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
                found.append(_asked(config, subnet))
            if not mine:
                found.append(self.choose(version, host, internal=record.internal))
        return found

    def choose(self, version: int, host: Iterable[Subnet], *, internal: bool = False) -> SubnetRecord:
        """A subnet that nobody has: from the pools, for IPv6 a random unique local one when the pools have none."""
        taken = [*host, *self.subnets()]
        pools = [p for p in self.pools if p.base.version == version]
        if version == 6 and not pools:
            local = ip_network((b"\xfd" + os.urandom(5) + bytes(10), 64))
            pools = [ipam.AddressPool(base=local, size=64)]
        subnet = ipam.choose_subnet(pools, taken, version=version)
        return SubnetRecord(subnet=str(subnet), gateway=str(ipam.first_host(subnet)))

    def subnets(self) -> Iterator[Subnet]:
        """The subnets of all our networks."""
        for network in self.table.all():
            for subnet in network.subnets:
                yield ip_network(subnet.subnet, strict=False)

    # ── keeping ─────────────────────────────────────────────────────────────────────────────────────────────────

    def open_pools(self, network: NetworkRecord) -> None:
        """Start handing out a network's addresses; its gateway and auxiliary addresses are taken."""
        for subnet in network.subnets:
            net = ip_network(subnet.subnet, strict=False)
            reserved = [ip_address(a) for a in (subnet.gateway, *subnet.auxiliary.values()) if a]
            range_ = ip_network(subnet.ip_range, strict=False) if subnet.ip_range else None
            self._addresses[(network.id, net.version)] = Pool(net, ip_range=range_, reserved=reserved)

    def put(self, network: NetworkRecord) -> Op:
        return self.table.put(network)

    def forget(self, network: NetworkRecord) -> Op:
        for version in (4, 6):
            self._addresses.pop((network.id, version), None)
        return self.table.delete(network.id)

    def pool(self, network_id: str, version: int) -> Pool | None:
        return self._addresses.get((network_id, version))

    def release(self, network_id: str, address: Address) -> None:
        pool = self.pool(network_id, address.version)
        if pool is not None:
            pool.release(address)


def _problems(config: IPAMConfig) -> Iterator[str]:
    """What Docker says of one IPAM configuration, a line each."""
    try:
        subnet = ip_network(config.subnet, strict=False)
    except ValueError:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    if "/" not in config.subnet:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    if config.subnet != str(subnet):
        yield f"invalid subnet {config.subnet}: it should be {subnet}"
    if config.ip_range:
        try:
            inside = ip_network(config.ip_range, strict=False)
        except ValueError:
            yield f"invalid ip-range {config.ip_range}: invalid CIDR block notation"
        else:
            if inside.version != subnet.version or not inside.subnet_of(subnet):  # type: ignore[arg-type]
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
    first = ip_network(config.ip_range, strict=False) if config.ip_range else subnet
    gateway = config.gateway or str(ipam.first_host(first))
    auxiliary = dict(config.auxiliary_addresses or {})
    return SubnetRecord(subnet=config.subnet, gateway=gateway, ip_range=config.ip_range, auxiliary=auxiliary)
