"""Subnets and addresses: nothing twice, nothing outside, the lowest free first."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sampan.engine.networks.ipam import (
    DEFAULT_POOLS,
    Pool,
    Subnet,
    choose_subnet,
    local_pool,
    overlaps,
    parse_address,
    parse_pools,
    parse_prefix,
)
from sampan.errors import Conflict, Forbidden, InvalidArgument


def test_the_default_pools_are_dockers() -> None:
    first = choose_subnet(DEFAULT_POOLS, [])
    assert str(first) == "172.17.0.0/16"
    taken = [ip_network("172.16.0.0/12")]
    assert str(choose_subnet(DEFAULT_POOLS, taken)) == "192.168.0.0/20"
    chosen: list[Subnet] = []
    for _ in range(31):
        chosen.append(choose_subnet(DEFAULT_POOLS, chosen))
    shown = [str(subnet) for subnet in chosen]
    assert shown == [f"172.{n}.0.0/16" for n in range(17, 32)] + [f"192.168.{n}.0/20" for n in range(0, 256, 16)]
    with pytest.raises(Forbidden):
        choose_subnet(DEFAULT_POOLS, chosen)


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
        assert all(overlaps(s, taken) for pool in DEFAULT_POOLS for s in pool.base.subnets(new_prefix=pool.size))
    else:
        assert not any(chosen.overlaps(other) for other in taken)
        earlier = (s for pool in DEFAULT_POOLS for s in pool.base.subnets(new_prefix=pool.size))
        assert chosen == next(s for s in earlier if not overlaps(s, taken)), "the first that is free"


def test_the_size_of_a_pool_costs_nothing() -> None:
    """2**56 subnets, of which the first half is one route of the host's; 2**64 addresses, of which ten are taken."""
    pools = parse_pools([{"base": "fd00::/8", "size": 64}])
    assert str(choose_subnet(pools, [ip_network("fd00::/9")], version=6)) == "fd80::/64"
    assert (
        choose_subnet(pools, [ip_network("fd00::/9"), ip_network("fd80::/65")], version=6).compressed
        == "fd80:0:0:1::/64"
    )
    pool = Pool(ip_network("fd00::/64"), reserved=[IPv6Address(f"fd00::{n:x}") for n in range(1, 11)])
    assert str(pool.allocate()) == "fd00::b"
    with pytest.raises(Forbidden, match=r"^Address already in use$"):
        pool.take(ip_address("fd00::b"))
    last = ip_address("fd00::ffff:ffff:ffff:ffff")
    pool.take(last)
    pool.release(last)
    assert str(pool.allocate()) == "fd00::c", "what lies far above does not move the next one"


@pytest.mark.parametrize(
    ("subnet", "first", "count"),
    [
        ("10.0.0.0/32", ["10.0.0.0"], 1),
        ("10.0.0.2/31", ["10.0.0.2", "10.0.0.3"], 2),
        ("10.0.0.0/30", ["10.0.0.1", "10.0.0.2"], 4),
        ("fd00::/128", [], 1),
        ("fd00::/127", ["fd00::1"], 2),
        ("fd00::/126", ["fd00::1", "fd00::2", "fd00::3"], 4),
    ],
)
def test_small_subnets_to_the_last_address(subnet: str, first: list[str], count: int) -> None:
    pool = Pool(ip_network(subnet))
    assert [str(pool.allocate()) for _ in first] == first
    with pytest.raises(Conflict, match=rf"address pools \(all {count} are taken\)$"):
        pool.allocate()


def test_the_local_pool_is_dockers_for_the_same_engine_id() -> None:
    pool = local_pool("ecbab97e-1f75-4250-b9fc-6ced4e003d4c")
    assert (str(pool.base), pool.size) == ("fdb5:4142:363d::/48", 64)
    assert str(choose_subnet([pool], [ip_network("fdb5:4142:363d::/64")], version=6)) == "fdb5:4142:363d:1::/64"


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/024",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/-1",
        "/8",
        "10.0.0.0/33",
        "10.0.00.0/8",
        " 10.0.0.0/8",
        "fe80::%1/64",
        "fd00::/129",
        "x/8",
    ],
)
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_prefix(text)


def test_an_ipv4_address_written_as_ipv6_is_one_of_ipv4() -> None:
    assert parse_address("::ffff:10.0.0.1") == ip_address("10.0.0.1")
    with pytest.raises(ValueError, match="zone"):
        parse_address("fe80::1%eth0")


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
            with pytest.raises(Forbidden):
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
