"""Makes endpoints and takes them apart: addresses out of the networks' pools, and what their drivers add.

Not here: how an endpoint comes into the kernel (fabric.py), which endpoints a sandbox has (sandboxes.py).

Invariant: an address is never in two places: it is free only when its link is gone (leases.py).
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace as replace_plan

from msgspec.structs import replace

from sampan.engine.networks import endpoints
from sampan.engine.networks.catalogue import Catalogue
from sampan.engine.networks.drivers.driver import NetworkCapabilities, NetworkDriver
from sampan.engine.networks.fabric import Fabric, bounded
from sampan.engine.networks.firewall import Publication, Reach
from sampan.engine.networks.ipam import NULL_IPAM, Address, Pool, allocate
from sampan.engine.networks.plans import InterfacePlan
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from sampan.errors import Conflict, Forbidden, Internal, SampanError
from sampan.spec.engine_api.network import EndpointSettings

log = logging.getLogger(__name__)

LINK_NAME_LENGTH = 15  # the kernel's limit
_NO_LINK = frozenset({errno.EINVAL, errno.ENODEV})  # what the kernel says of a bridge that is none


class Allocator:
    """The endpoints of one engine."""

    def __init__(self, catalogue: Catalogue, fabric: Fabric) -> None:
        self._catalogue = catalogue
        self._fabric = fabric

    def capabilities(self, endpoint: EndpointRecord) -> NetworkCapabilities:
        """Return what the driver of an endpoint's network can do; the least when network or driver is gone."""
        network = self._catalogue.table.get(endpoint.network_id)
        driver = self._catalogue.drivers.get(network.driver) if network is not None else None
        return driver.capabilities if driver is not None else NetworkCapabilities()

    async def reserve(
        self,
        network: NetworkRecord,
        settings: EndpointSettings,
        sandbox: SandboxRecord,
        mac: str = "",
        *,
        hidden: bool = False,
    ) -> EndpointRecord:
        """Return a new endpoint of a sandbox with its addresses; its driver knows nothing of it yet.

        mac: unless the settings name one. hidden: it is the container's way out.
        Raises: NotFound, InvalidArgument, Conflict, OSError; then nothing is taken.
        """
        driver = self._catalogue.driver(network)
        endpoints.sysctls(settings, "")  # what is wrong is said before anything is taken
        endpoints.link_local(settings)
        endpoint = endpoints.new(
            network, settings, container_id=sandbox.id, name=sandbox.name, hostname=sandbox.hostname
        )
        if network.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")
        if hidden:
            endpoint = replace(endpoint, hidden=True, dns_names=None)
        if not driver.capabilities.addresses:
            return endpoint
        with contextlib.ExitStack() as undo:
            taken = [e.interface for e in sandbox.endpoints if e.interface]
            macs = driver.capabilities.macs
            given = settings.mac_address or mac
            if given and not macs:
                raise Internal(f"{network.driver} interfaces do not support custom mac address assignment")
            given = endpoints.parse_mac(given) if given else ""
            address4, told = await self._take(network, 4, endpoints.requested(settings, 4), undo, given)
            address6, told = await self._take(network, 6, endpoints.requested(settings, 6), undo, given or told)
            chosen = given or told
            if not chosen and not driver.capabilities.remote:  # else the plugin may choose it
                chosen = endpoints.mac_address("", address4)
            way_out = driver.leads_out(network)
            endpoint = replace(
                endpoint,
                interface=endpoints.interface_name(network, settings, taken),
                mac=chosen if macs else "",
                mac_asked=bool(given),
                ipv4=self._prefix(network, address4),
                ipv6=self._prefix(network, address6),
                gateway4=_gateway(network, address4) if way_out else "",
                gateway6=_gateway(network, address6) if way_out else "",
            )
            undo.pop_all()
        return endpoint

    async def attach(self, reserved: EndpointRecord, sandbox: SandboxRecord) -> EndpointRecord:
        """Have the driver prepare a reserved endpoint of a sandbox; return it with what the driver adds.

        Raises: OSError, SampanError; the endpoint is still reserved then.
        """
        network = self._catalogue.find(reserved.network_id)
        made = await self._fabric.attach(self._catalogue.driver(network), network, reserved, sandbox)
        prefix = made.joined.prefix if made.joined is not None else ""
        if prefix and endpoints.IFNAME_OPTION not in (made.settings.driver_opts or {}):
            taken = [e.interface for e in sandbox.endpoints if e.id != made.id]
            made = replace(made, interface=endpoints.free_name(prefix, taken))
        return made

    async def program(self, sandbox: SandboxRecord, before: Sequence[EndpointRecord] = ()) -> None:
        """Tell the drivers by which endpoints a sandbox's ways out lead, unless they did before.

        Raises: SampanError.
        """
        old = {e.id for e in endpoints.ways_out(before)}
        for endpoint in endpoints.ways_out(sandbox.endpoints):
            if endpoint.id not in old and self.capabilities(endpoint).remote:
                network = self._catalogue.find(endpoint.network_id)
                await bounded(self._catalogue.driver(network).program(network, endpoint, sandbox), network)

    async def revoke(self, before: Sequence[EndpointRecord], after: Sequence[EndpointRecord] = ()) -> None:
        """Tell the drivers by which endpoints no way out leads any more; what cannot be told is logged."""
        kept = {e.id for e in endpoints.ways_out(after)}
        for endpoint in endpoints.ways_out(before):
            network = self._catalogue.table.get(endpoint.network_id)
            if network is None or endpoint.id in kept or not self.capabilities(endpoint).remote:
                continue
            try:
                await bounded(self._catalogue.driver(network).revoke(network, endpoint), network)
            except SampanError as error:
                log.warning("network %s: %s", network.name, error.message)

    async def _take(
        self, network: NetworkRecord, version: int, asked: Address | None, undo: contextlib.ExitStack, mac: str
    ) -> tuple[Address | None, str]:
        """Take an address; return it, and the MAC that belongs to it when the taking has settled one."""
        plugin_pools = self._catalogue.plugin_pools_of(network.id, version)
        if plugin_pools:
            if asked is not None:
                await self._fabric.leases.settle_address(network.id, asked)
            holding = [pool for pool in plugin_pools if asked is not None and asked in pool.subnet]
            given, told = await (holding or plugin_pools)[0].request(asked, mac)
            undo.callback(self._catalogue.release, network.id, given)
            return given, told
        pools = self._catalogue.pools_of(network.id, version)
        if not pools:
            return None, ""
        driver = self._catalogue.driver(network)
        if asked is not None:
            if driver.elsewhere(network, asked):
                raise Forbidden("Address already in use")
            await self._fabric.leases.settle_address(network.id, asked)
            (self._catalogue.pool_of(network.id, asked) or pools[0]).take(asked)
            address = asked
        else:
            try:
                address = self._free(driver, network, pools)
            except Conflict:
                await self._fabric.leases.settle()
                try:
                    address = self._free(driver, network, pools)
                except Conflict as error:
                    raise Internal(f"{error.message}: {network.name} ({network.id})") from error
        undo.callback(self._catalogue.release, network.id, address)
        return address, ""

    def _free(self, driver: NetworkDriver, network: NetworkRecord, pools: Sequence[Pool]) -> Address:
        """Take the lowest free address that no other host has. Raises: Conflict when there is none."""
        passed = []
        try:
            while driver.elsewhere(network, address := allocate(pools)):
                passed.append(address)
            return address
        finally:
            for other in passed:
                self._catalogue.release(network.id, other)

    def _prefix(self, network: NetworkRecord, address: Address | None) -> str:
        """Return `address/length`; empty without an address."""
        pool = self._catalogue.pool_of(network.id, address) if address is not None else None
        return f"{address}/{pool.subnet.prefixlen}" if pool is not None else ""

    def adopt(self, endpoint: EndpointRecord) -> bool:
        """Take the addresses of an endpoint that an earlier daemon made; return whether its network still has them.

        The default network may have other subnets than it had, or be gone: then nothing is taken.
        """
        network = self._catalogue.table.get(endpoint.network_id)
        if network is None:
            return False
        if network.ipam_driver == NULL_IPAM:
            return True
        held = _addresses(endpoint)
        pools = [(self._catalogue.pool_of(network_id, address), address) for network_id, address in held]
        if any(pool is None for pool, _ in pools):
            return False
        versions = {address.version for _, address in held}
        for version in {4, 6} - versions if held else ():
            if self._catalogue.pools_of(network.id, version) or self._catalogue.plugin_pools_of(network.id, version):
                return False  # it has another IP version now
        for pool, address in pools:
            if pool is not None and not pool.taken(address):
                pool.take(address)
        return True

    def interfaces(self, made: Iterable[EndpointRecord]) -> list[InterfacePlan]:
        """Return what endpoints get in their sandbox. Raises: Internal when a network could not be set up."""
        found = []
        for endpoint in made:
            network = self._catalogue.find(endpoint.network_id)
            plan = self._catalogue.driver(network).interface(network, endpoint)
            if plan is not None:
                sysctls = (*plan.sysctls, *endpoints.sysctls(endpoint.settings, plan.name))
                addresses = (*plan.addresses, *endpoints.link_local(endpoint.settings))
                found.append(replace_plan(plan, sysctls=sysctls, addresses=addresses))
        return found

    async def made_again(
        self, made: Sequence[EndpointRecord], interfaces: Sequence[InterfacePlan], error: OSError
    ) -> bool:
        """Return whether interfaces could not be made because the link of a network had gone, and is there again now.

        Raises: OSError, SampanError when it cannot be made.
        """
        if error.errno not in _NO_LINK:
            return False
        for endpoint in made:
            network = self._catalogue.find(endpoint.network_id)
            driver = self._catalogue.driver(network)
            if driver.rules(network, ip6=True) is not None:  # it has a link of its own
                await bounded(driver.setup(self._fabric.host, network), network)
        return [i.master for i in self.interfaces(made)] != [i.master for i in interfaces]

    def publication(self, endpoint: EndpointRecord) -> Publication:
        """Return how ports that lead to this endpoint are published; it says nothing when its network is gone."""
        network = self._catalogue.table.get(endpoint.network_id)
        driver = self._catalogue.drivers.get(network.driver) if network is not None else None
        return driver.publication(network) if network is not None and driver is not None else Publication()

    def publishes(self, endpoint: EndpointRecord) -> bool:
        """Return whether ports can be published that lead to this endpoint."""
        network = self._catalogue.table.get(endpoint.network_id)
        return network is not None and not network.internal and self.capabilities(endpoint).publishes

    def reach(self, endpoint: EndpointRecord, version: int) -> Reach:
        """Return where ports that lead to this endpoint are reached; on the host when its network is gone."""
        network = self._catalogue.table.get(endpoint.network_id)
        driver = self._catalogue.drivers.get(network.driver) if network is not None else None
        return driver.reach(network, version) if network is not None and driver is not None else Reach.HOST

    async def give_back(self, gone: Iterable[EndpointRecord], *, linked: bool = True) -> None:
        """Take endpoints apart.

        linked: their links may still be there, in a namespace that is dying; then the addresses are free when the
        kernel tells of the link's end, or after a while when it has no end on the host. Else they are free at once.
        """
        for endpoint in gone:
            held = _addresses(endpoint)
            dying = linked and not self.capabilities(endpoint).remote  # a plugin takes its link away itself
            if dying and held:
                self._fabric.leases.doom(endpoint.veth or endpoint.id[:LINK_NAME_LENGTH], held)
            await self._detach(endpoint)
            if not dying:
                for network_id, address in held:
                    self._catalogue.release(network_id, address)

    async def _detach(self, endpoint: EndpointRecord) -> None:
        """Tell the driver; what it cannot do now, nobody can: it is logged, and the engine goes on."""
        network = self._catalogue.table.get(endpoint.network_id)
        driver = self._catalogue.drivers.get(network.driver) if network is not None else None
        if network is None or driver is None:
            return
        try:
            await self._fabric.detach(driver, network, endpoint)
        except (OSError, SampanError) as error:
            log.error("network %s: endpoint %s is left behind: %s", network.name, endpoint.id[:12], error)


def _addresses(endpoint: EndpointRecord) -> list[tuple[str, Address]]:
    return [(endpoint.network_id, address) for address, _ in endpoint.prefixes]


def _gateway(network: NetworkRecord, address: Address | None) -> str:
    subnet = network.subnet_of(address) if address is not None else None
    if address is None or subnet is None:
        return ""
    return subnet.auxiliary.get(f"DefaultGatewayIPv{address.version}") or subnet.gateway
