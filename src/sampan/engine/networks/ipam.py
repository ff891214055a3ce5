"""IP address management: which subnet a network gets and which address an endpoint. Pure: no kernel, no store.

`Pool` is one subnet with what is taken in it; it hands out the lowest free address, as Docker does. `choose_subnet`
finds the first of the configured pools that overlaps nothing in use. An address is free again only after `release`,
which the service calls when the link that carried it is gone.

Source: docs.docker.com/engine/network (default address pools), moby libnetwork/ipam (behaviour).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from sampan.errors import Conflict, Forbidden, InvalidArgument

Address = IPv4Address | IPv6Address
Subnet = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPool:
    """`base` cut into subnets of `size` bits."""

    base: Subnet
    size: int

    def subnets(self) -> Iterator[Subnet]:
        yield from self.base.subnets(new_prefix=self.size)


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
    used = [other for other in taken if other.version == version]
    for pool in pools:
        if pool.base.version == version:
            for subnet in pool.subnets():
                if not overlaps(subnet, used):
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
        self._lowest = self._first  # nothing below is free

    def __len__(self) -> int:
        return len(self._taken)

    def taken(self, address: Address) -> bool:
        return int(address) in self._taken

    def allocate(self) -> Address:
        """Take the lowest free address of the range. Raises: Conflict when there is none."""
        candidate = self._lowest
        while candidate in self._taken:
            candidate += 1
        if candidate > self._last:
            self._lowest = candidate
            raise Conflict(f"no available IPv{self.subnet.version} addresses on this network's address pools")
        self._taken.add(candidate)
        self._lowest = candidate + 1
        return _address(candidate, self.subnet.version)

    def take(self, address: Address) -> None:
        """Take this very address. Raises: Conflict when it is taken, InvalidArgument when it lies outside."""
        if address not in self.subnet:
            raise InvalidArgument(f"invalid address {address}: It does not belong to any of this network's subnets")
        if int(address) in self._taken:
            raise Conflict("Address already in use")
        self._taken.add(int(address))

    def release(self, address: Address) -> None:
        """Give an address back; one that is free already is fine."""
        number = int(address)
        self._taken.discard(number)
        if self._first <= number < self._lowest:
            self._lowest = number


class Pools:
    """The subnets of one IP version that a network has; the first that has a free address gives it."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = pools

    def __len__(self) -> int:
        return sum(map(len, self._pools))

    def subnet_of(self, address: Address) -> Subnet | None:
        """Return the subnet that an address lies in; None when it lies in none."""
        return next((pool.subnet for pool in self._pools if address in pool.subnet), None)

    def taken(self, address: Address) -> bool:
        return any(address in pool.subnet and pool.taken(address) for pool in self._pools)

    def allocate(self) -> Address:
        """Take the lowest free address of the first subnet that has one. Raises: Conflict when there is none."""
        for pool in self._pools[:-1]:
            with contextlib.suppress(Conflict):
                return pool.allocate()
        return self._pools[-1].allocate()

    def take(self, address: Address) -> None:
        """Take this very address. Raises: Conflict when it is taken, InvalidArgument when it lies outside."""
        next((pool for pool in self._pools if address in pool.subnet), self._pools[0]).take(address)

    def release(self, address: Address) -> None:
        """Give an address back; one that is free already is fine."""
        for pool in self._pools:
            if address in pool.subnet:
                pool.release(address)


def _address(number: int, version: int) -> Address:
    return IPv4Address(number) if version == 4 else IPv6Address(number)


def first_host(subnet: Subnet) -> Address:
    """Return the address of the gateway when none is asked for."""
    if subnet.num_addresses <= (2 if subnet.version == 4 else 1):
        return subnet.network_address
    return ip_address(int(subnet.network_address) + 1)
