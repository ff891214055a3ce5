"""Subnets and addresses that an IPAM plugin hands out, asked over Docker's plugin protocol.

    request_pools   GetDefaultAddressSpaces; for each subnet RequestPool, RequestAddress for gateway and auxiliary ones
    PluginPool      RequestAddress, ReleaseAddress; at the network's end ReleaseAddress of these, ReleasePool

When the plugin wishes so (RequiresRequestReplay), a pool is asked for again before its first use after a start of the
engine, or when the plugin has been away, with all addresses that are taken in it.

Invariants: an address that is given back has reached the plugin before the next one is asked for; what a plugin hands
out lies in its pool, and a pool that it chose overlaps nothing in use.

Source: moby libnetwork docs/ipam.md; the bodies as Docker Engine 28.5.2 sends them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import Any, TypeVar

import msgspec

from sampan.engine.background import Background
from sampan.engine.networks import ipam
from sampan.engine.networks.ipam import Address, Subnet
from sampan.engine.networks.records import NetworkRecord, SubnetRecord
from sampan.engine.plugins.client import Plugin, Refusal, UnknownCall
from sampan.errors import Forbidden, Internal, SampanError
from sampan.spec.engine_api.network import IPAMConfig

KIND = "IpamDriver"
REQUEST_TYPE, GATEWAY = "RequestAddressType", "com.docker.network.gateway"
MAC = "com.docker.network.endpoint.macaddress"
MOST_REQUESTS = 8  # for a pool that overlaps nothing

JSON = dict[str, Any]
T = TypeVar("T")

log = logging.getLogger(__name__)


class _IpamCapabilities(msgspec.Struct, frozen=True):
    mac: bool = msgspec.field(default=False, name="RequiresMACAddress")
    replay: bool = msgspec.field(default=False, name="RequiresRequestReplay")


class _Spaces(msgspec.Struct, frozen=True):
    local: str = msgspec.field(default="", name="LocalDefaultAddressSpace")


class _PoolAnswer(msgspec.Struct, frozen=True):
    id: str = msgspec.field(default="", name="PoolID")
    pool: str = msgspec.field(default="", name="Pool")
    data: dict[str, Any] = msgspec.field(default={}, name="Data")


class _AddressAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    address: str = ""


async def request_pools(
    plugin: Plugin, configs: Iterable[tuple[int, IPAMConfig | None]], options: JSON, taken: Sequence[Subnet]
) -> list[SubnetRecord]:
    """Return the subnets of a new network.

    configs: (IP version, what is asked for there). taken: what a pool that the plugin chooses must not overlap.
    Raises: SampanError; then nothing is kept.
    """
    spaces = await _ask(plugin, "GetDefaultAddressSpaces", None, _Spaces)
    made: list[SubnetRecord] = []
    try:
        for version, config in configs:
            made.append(await _request(plugin, spaces.local, version, config or IPAMConfig(), options, taken))
            taken = [*taken, ip_network(made[-1].subnet)]
    except BaseException:
        await release_pools(plugin, made)
        raise
    return made


async def _request(
    plugin: Plugin, space: str, version: int, config: IPAMConfig, options: JSON, taken: Sequence[Subnet]
) -> SubnetRecord:
    arguments = _pool_arguments(space, config.subnet, config.ip_range, options, version)
    refused: list[SubnetRecord] = []
    try:
        for _ in range(MOST_REQUESTS):
            said = await _ask(plugin, "RequestPool", arguments, _PoolAnswer)
            record = SubnetRecord(
                subnet=said.pool,
                ip_range=config.ip_range,
                asked=bool(config.subnet),
                address_space=space,
                pool_id=said.id,
            )
            try:
                subnet = _subnet(said.pool, version)
            except Internal:
                refused.append(record)
                raise
            if config.subnet or not ipam.overlaps(subnet, taken):
                break
            refused.append(record)  # kept meanwhile, so that another one comes
        else:
            raise Forbidden(f"IPAM driver {plugin.name} offers only subnets that are in use: {refused[-1].subnet}")
    finally:
        await release_pools(plugin, refused)
    try:
        await _reserve(plugin, record, subnet, config, said.data)
    except BaseException:
        await release_pools(plugin, [record])
        raise
    return record


async def _reserve(plugin: Plugin, record: SubnetRecord, subnet: Subnet, config: IPAMConfig, data: JSON) -> None:
    """Ask for the gateway's address and the auxiliary ones; they stand in the record as soon as they are had."""
    given = data.get(GATEWAY)
    if isinstance(given, str) and given:
        record.gateway = _inside(given, subnet).partition("/")[0]
    else:
        arguments: JSON = {"PoolID": record.pool_id, "Address": config.gateway, "Options": {REQUEST_TYPE: GATEWAY}}
        said = await _ask(plugin, "RequestAddress", arguments, _AddressAnswer)
        record.gateway = _inside(said.address, subnet).partition("/")[0] if said.address else ""
    record.auxiliary = {}
    for name, address in (config.auxiliary_addresses or {}).items():
        arguments = {"PoolID": record.pool_id, "Address": address, "Options": None}
        await _ask(plugin, "RequestAddress", arguments, _AddressAnswer)
        record.auxiliary[name] = address


async def release_pools(plugin: Plugin, subnets: Iterable[SubnetRecord]) -> None:
    """Give back subnets with their gateways; what cannot be told the plugin is logged."""
    for subnet in subnets:
        for address in filter(None, (subnet.gateway, *subnet.auxiliary.values())):
            await _tell(plugin, "ReleaseAddress", {"PoolID": subnet.pool_id, "Address": address})
        await _tell(plugin, "ReleasePool", {"PoolID": subnet.pool_id})


class PluginPool:
    """The addresses of one subnet of a network. What is taken is the plugin's to know; here stands what we have.

    known: an earlier daemon made the network.
    """

    def __init__(
        self, plugin: Plugin, network: NetworkRecord, record: SubnetRecord, background: Background, *, known: bool
    ) -> None:
        self.subnet = ip_network(record.subnet, strict=False)
        self._plugin = plugin
        self._network = network
        self._record = record
        self._background = background
        self._told = 0 if known else plugin.activations
        self._capabilities: _IpamCapabilities | None = None
        self._ours: set[Address] = set()
        self._leaving: list[Address] = []
        self._lock = asyncio.Lock()

    def taken(self, address: Address) -> bool:
        """Return whether an endpoint of ours has an address."""
        return address in self._ours

    def take(self, address: Address) -> None:
        """Note an address that an endpoint of an earlier daemon has."""
        self._ours.add(address)

    async def request(self, asked: Address | None, mac: str) -> tuple[Address, str]:
        """Ask for this address, or for any; return it, and the MAC that the plugin was told (empty: none).

        Raises: SampanError; Internal for an address that lies outside or that another endpoint has.
        """
        async with self._lock:
            await self._ready()
            assert self._capabilities is not None
            if self._capabilities.mac and not mac:
                mac = (b"\x02" + os.urandom(5)).hex(":")
            told = {MAC: mac} if self._capabilities.mac else None
            arguments = {"PoolID": self._record.pool_id, "Address": str(asked or ""), "Options": told}
            said = await _ask(self._plugin, "RequestAddress", arguments, _AddressAnswer)
            address = ip_address(_inside(said.address, self.subnet).partition("/")[0])
            if address in self._ours or (asked is not None and address != asked):
                raise Internal(f"IPAM driver {self._plugin.name} gives {address}, which was not to be had")
            self._ours.add(address)
            return address, mac if self._capabilities.mac else ""

    def release(self, address: Address) -> None:
        """Give an address back: the plugin hears of it before anything else is asked of it."""
        if address in self._ours:
            self._ours.discard(address)
            self._leaving.append(address)
            self._background.spawn(self._settle(), f"addresses of {self._network.name}", finish=True)

    async def close(self) -> None:
        """Give the subnet back: the network is gone."""
        async with self._lock:
            await self._drain()
            await release_pools(self._plugin, [self._record])

    async def _settle(self) -> None:
        async with self._lock:
            await self._drain()

    async def _drain(self) -> None:
        while self._leaving:
            address = self._leaving.pop(0)
            await _tell(self._plugin, "ReleaseAddress", {"PoolID": self._record.pool_id, "Address": str(address)})

    async def _ready(self) -> None:
        """Let the plugin know what it should: addresses that were given back, and after a start all that are taken."""
        await self._plugin.require(KIND)
        if self._capabilities is None:
            try:
                self._capabilities = await _ask(self._plugin, "GetCapabilities", None, _IpamCapabilities)
            except UnknownCall:
                self._capabilities = _IpamCapabilities()
        if self._told != self._plugin.activations and self._capabilities.replay:
            await self._replay()
        self._told = self._plugin.activations
        await self._drain()

    async def _replay(self) -> None:
        record, version = self._record, self.subnet.version
        options = self._network.ipam_options or {}
        arguments = _pool_arguments(record.address_space, record.subnet, record.ip_range, options, version)
        try:
            said = await _ask(self._plugin, "RequestPool", arguments, _PoolAnswer)
            record.pool_id = said.id or record.pool_id
            given = [(record.gateway, {REQUEST_TYPE: GATEWAY})] if record.gateway else []
            for address, told in [*given, *((a, None) for a in (*record.auxiliary.values(), *map(str, self._ours)))]:
                arguments = {"PoolID": record.pool_id, "Address": address, "Options": told}
                await _ask(self._plugin, "RequestAddress", arguments, _AddressAnswer)
        except Refusal as error:  # it has them already
            log.debug("network %s: %s", self._network.name, error.message)


# ── what is said and answered ───────────────────────────────────────────────────────────────────────────────────


def _pool_arguments(space: str, subnet: str, ip_range: str, options: JSON, version: int) -> JSON:
    return {"AddressSpace": space, "Pool": subnet, "SubPool": ip_range, "Options": options, "V6": version == 6}


async def _ask(plugin: Plugin, call: str, arguments: JSON | None, kind: type[T]) -> T:
    said = await plugin.call(f"{KIND}.{call}", arguments)
    try:
        return msgspec.convert({key: value for key, value in said.items() if value is not None}, kind)
    except msgspec.ValidationError as error:
        raise Internal(f"{KIND}.{call}: the answer cannot be read: {error}") from error


async def _tell(plugin: Plugin, call: str, arguments: JSON) -> None:
    try:
        await plugin.call(f"{KIND}.{call}", arguments)
    except SampanError as error:
        log.warning("IPAM driver %s: %s", plugin.name, error.message)


def _subnet(text: str, version: int) -> Subnet:
    """Read a pool that was handed out. Raises: Internal."""
    try:
        found: Subnet | None = ipam.parse_prefix(text).network
    except ValueError:
        found = None
    if found is None or found.version != version:
        raise Internal(f"{KIND}.RequestPool: {text!r} is no IPv{version} subnet")
    return found


def _inside(text: str, subnet: Subnet) -> str:
    """Read an address that was handed out. Raises: Internal when it is none, or not of the subnet."""
    try:
        found = ipam.parse_prefix(text)
    except ValueError:
        found = None
    if found is None:
        raise Internal(f"{KIND}.RequestAddress: invalid CIDR address: {text}" if text else "no address returned")
    if found.ip not in subnet:
        raise Internal(f"{KIND}.RequestAddress: {text} does not lie in {subnet}")
    return str(found)
