"""IP address management: which subnet a network gets and which address an endpoint. Pure: no kernel, no store.

`Pool` is one subnet with what is taken in it; it hands out the lowest free address, as Docker does. `choose_subnet`
finds the first subnet of the configured pools that overlaps nothing in use. Neither depends on how large a subnet is.
An address is free again only after `release`, which the service calls when the link that carried it is gone.

Source: docs.docker.com/engine/network (default address pools), moby libnetwork/ipam (behaviour).
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any

from sampan.errors import Conflict, Forbidden, InvalidArgument

DEFAULT_IPAM, NULL_IPAM = "default", "null"
"""The IPAM drivers that are no plugins: ours, and the one that gives no addresses."""

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPool:
    """`base` cut into subnets of `size` bits."""

    base: Subnet
    size: int

    def first_free(self, taken: Iterable[Subnet]) -> Subnet | None:
        """Return the first subnet that overlaps none of those taken, which may be of both IP versions."""
        width = self.base.max_prefixlen - self.size
        candidate, last = int(self.base.network_address), int(self.base.broadcast_address)
        same = [t for t in taken if t.version == self.base.version]
        for first, end in sorted((int(t.network_address), int(t.broadcast_address)) for t in same):
            if end >= candidate and first < candidate + (1 << width):
                candidate = ((end >> width) + 1) << width  # the first subnet behind it
        if candidate > last:
            return None
        return ip_network((_address(candidate, self.base.version), self.size))


def _docker_pools() -> tuple[AddressPool, ...]:
    bases = [("172.17.0.0/16", 16), ("172.18.0.0/16", 16), ("172.19.0.0/16", 16), ("172.20.0.0/14", 16)]
    bases += [("172.24.0.0/14", 16), ("172.28.0.0/14", 16), ("192.168.0.0/16", 20)]
    return tuple(AddressPool(base=ip_network(base), size=size) for base, size in bases)


DEFAULT_POOLS = _docker_pools()


def parse_pools(configured: Iterable[dict[str, Any]]) -> tuple[AddressPool, ...]:
    """Read `default-address-pools` (`[{"base": CIDR, "size": n}]`); Docker's own when there is none."""
    pools = []
    for entry in configured:
        base, size = ip_network(entry["base"], strict=False), int(entry["size"])
        if not base.prefixlen <= size <= base.max_prefixlen:
            raise InvalidArgument(f"invalid default-address-pools entry: size {size} does not fit base {base}")
        pools.append(AddressPool(base=base, size=size))
    return tuple(pools) or DEFAULT_POOLS


def local_pool(engine_id: str) -> AddressPool:
    """Return where IPv6 subnets come from when no pool is configured: unique local ones that are this engine's own.

    Source: RFC 4193 3.2.2; a Docker Engine of the same id takes the same.
    """
    number = int.from_bytes(hashlib.sha256(engine_id.encode()).digest()[:8], "big") & ((1 << 40) - 1)
    return AddressPool(base=IPv6Network((0xFD << 120 | number << 80, 48)), size=64)


_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")


def parse_address(text: str) -> Address:
    """Read an address as Go's net.ParseIP: an IPv4 address written as IPv6 is one of IPv4. Raises: ValueError."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text}: an address with a zone")
        return address.ipv4_mapped or address
    return address


def parse_prefix(text: str) -> IPv4Interface | IPv6Interface:
    """Read `address/length` as Go's netip.ParsePrefix: no netmask, no zone, no needless zero. Raises: ValueError."""
    address, _, length = text.partition("/")
    if not _LENGTH.fullmatch(length) or "%" in address:
        raise ValueError(f"{text}: no CIDR block notation")
    return ip_interface(text)


def overlaps(subnet: Subnet, taken: Iterable[Subnet]) -> bool:
    return any(other.version == subnet.version and other.overlaps(subnet) for other in taken)


def within(inner: Subnet, outer: Subnet) -> bool:
    """Return whether a subnet lies in another one of the same IP version."""
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def choose_subnet(pools: Iterable[AddressPool], taken: Iterable[Subnet], *, version: int = 4) -> Subnet:
    """Return the first subnet of the pools that overlaps nothing taken.

    Raises: Forbidden when the pools are used up, in Docker's words.
    """
    used = list(taken)
    for pool in pools:
        if pool.base.version == version:
            subnet = pool.first_free(used)
            if subnet is not None:
                return subnet
    raise Forbidden("all predefined address pools have been fully subnetted")


class Pool:
    """One subnet and the addresses taken in it.

    Network and (IPv4) broadcast address are never handed out, but for IPv4 subnets of one or two addresses.
    """

    def __init__(self, subnet: Subnet, *, ip_range: Subnet | None = None, reserved: Iterable[Address] = ()) -> None:
        self.subnet = subnet
        self.range = ip_range or subnet
        self._taken = {int(address) for address in reserved}
        first, last = int(subnet.network_address), int(subnet.broadcast_address)
        if (
            subnet.version == 6 or subnet.num_addresses > 2
        ):  # of a point-to-point link both addresses are hosts' (RFC 3021)
            self._taken.add(first)
        if subnet.version == 4 and subnet.num_addresses > 2:
            self._taken.add(last)
        self._first, self._last = int(self.range.network_address), int(self.range.broadcast_address)
        self._fresh = self._first  # neither it nor any above it has been handed out by `allocate`
        self._returned: list[int] = []  # a heap of those below that came back; some may be taken again

    def __len__(self) -> int:
        return len(self._taken)

    def taken(self, address: Address) -> bool:
        return int(address) in self._taken

    def allocate(self) -> Address:
        """Take the lowest free address of the range. Raises: Conflict when there is none."""
        while self._returned:
            candidate = heapq.heappop(self._returned)
            if candidate not in self._taken:
                return self._hand_out(candidate)
        while self._fresh in self._taken:
            self._fresh += 1
        if self._fresh > self._last:
            said = f"no available IPv{self.subnet.version} addresses on this network's address pools"
            raise Conflict(f"{said} (all {self._last - self._first + 1} are taken)")
        self._fresh += 1
        return self._hand_out(self._fresh - 1)

    def _hand_out(self, number: int) -> Address:
        self._taken.add(number)
        return _address(number, self.subnet.version)

    def take(self, address: Address) -> None:
        """Take this very address. Raises: Forbidden when it is taken, InvalidArgument when it lies outside."""
        if address not in self.subnet:
            raise InvalidArgument(f"invalid address {address}: It does not belong to any of this network's subnets")
        if int(address) in self._taken:
            raise Forbidden("Address already in use")
        self._taken.add(int(address))

    def release(self, address: Address) -> None:
        """Give an address back; one that is free already is fine."""
        number = int(address)
        if number in self._taken:
            self._taken.remove(number)
            if self._first <= number < self._fresh:
                heapq.heappush(self._returned, number)


def allocate(pools: Sequence[Pool]) -> Address:
    """Take the lowest free address of the first pool that has one. Raises: Conflict when none has, as the last said."""
    for pool in pools[:-1]:
        with contextlib.suppress(Conflict):
            return pool.allocate()
    return pools[-1].allocate()


def _address(number: int, version: int) -> Address:
    return IPv4Address(number) if version == 4 else IPv6Address(number)


def first_host(subnet: Subnet) -> Address:
    """Return the address of the gateway when none is asked for."""
    if subnet.num_addresses <= (2 if subnet.version == 4 else 1):
        return subnet.network_address
    return ip_address(int(subnet.network_address) + 1)
