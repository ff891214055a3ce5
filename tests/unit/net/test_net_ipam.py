"""Subnets and addresses: nothing twice, nothing outside, the lowest free first."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sampan.engine.networks.ipam import DEFAULT_POOLS, Pool, choose_subnet, overlaps, parse_pools
from sampan.errors import Conflict, Forbidden, InvalidArgument


def test_the_default_pools_are_dockers() -> None:
    first = choose_subnet(DEFAULT_POOLS, [])
    assert str(first) == "172.17.0.0/16"
    taken = [ip_network("172.16.0.0/12")]
    assert str(choose_subnet(DEFAULT_POOLS, taken)) == "192.168.0.0/20"
    assert sum(1 for pool in DEFAULT_POOLS for _ in pool.subnets()) == 31


def test_used_up_pools_are_named_in_dockers_words() -> None:
    with pytest.raises(Forbidden, match=r"^all predefined address pools have been fully subnetted$"):
        choose_subnet(DEFAULT_POOLS, [ip_network("0.0.0.0/0")])


def test_a_pool_whose_size_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"size 8 does not fit base 10.0.0.0/16"):
        parse_pools([{"base": "10.0.0.0/16", "size": 8}])


networks = st.builds(
    lambda number, length: ip_network((number, length), strict=False), st.integers(0, 2**32 - 1), st.integers(8, 32)
)


@given(st.lists(networks, max_size=40))
def test_a_chosen_subnet_overlaps_nothing(taken: list[IPv4Network]) -> None:
    try:
        chosen = choose_subnet(DEFAULT_POOLS, taken)
    except Forbidden:
        assert all(overlaps(subnet, taken) for pool in DEFAULT_POOLS for subnet in pool.subnets())
    else:
        assert not any(chosen.overlaps(other) for other in taken)


class PoolMachine(RuleBasedStateMachine):
    """A small pool against a plain set."""

    def __init__(self) -> None:
        super().__init__()
        self.subnet = ip_network("10.0.0.0/28")
        self.pool = Pool(self.subnet, ip_range=ip_network("10.0.0.8/29"), reserved=[ip_address("10.0.0.9")])
        self.model: set[int] = {0, 9, 15}

    def free(self) -> list[int]:
        return [n for n in range(8, 16) if n not in self.model]

    @rule()
    def allocate(self) -> None:
        free = self.free()
        if not free:
            with pytest.raises(Conflict):
                self.pool.allocate()
            return
        got = int(self.pool.allocate()) & 0xF
        assert got == free[0]
        self.model.add(got)

    @rule(n=st.integers(0, 15))
    def take(self, n: int) -> None:
        address = IPv4Address(int(self.subnet.network_address) + n)
        if n in self.model:
            with pytest.raises(Conflict):
                self.pool.take(address)
        else:
            self.pool.take(address)
            self.model.add(n)

    @rule(n=st.integers(1, 14).filter(lambda n: n != 9))
    def release(self, n: int) -> None:
        self.pool.release(IPv4Address(int(self.subnet.network_address) + n))
        self.model.discard(n)

    @invariant()
    def agrees(self) -> None:
        assert len(self.pool) == len(self.model)


TestPool = PoolMachine.TestCase


def test_an_address_outside_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="does not belong to any of this network's subnets"):
        Pool(ip_network("10.0.0.0/24")).take(ip_address("10.0.1.1"))


def test_small_and_ipv6_subnets() -> None:
    assert str(Pool(ip_network("10.0.0.2/31")).allocate()) == "10.0.0.2"
    six = Pool(ip_network("fd00::/64"), reserved=[ip_address("fd00::1")])
    assert [str(six.allocate()) for _ in range(2)] == ["fd00::2", "fd00::3"]
