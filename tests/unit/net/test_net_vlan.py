"""What macvlan and ipvlan networks ask of the kernel, and which options they refuse. Pure."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine.networks.drivers import choice, vlan_options
from sampan.engine.networks.drivers.vlan_options import Ipvlan, Macvlan
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SubnetRecord
from sampan.errors import Forbidden, InvalidArgument, SampanError

ENDPOINT = EndpointRecord(
    id="e",
    network_id="n",
    network="net",
    interface="eth0",
    mac="02:42:0a:00:00:02",
    ipv4="10.0.0.2/24",
    ipv6="fd::2/64",
)


def network(driver: str, id: str = "0123456789abcdef", *, internal: bool = False, **options: Any) -> NetworkRecord:
    return NetworkRecord(
        id=id,
        name=id,
        driver=driver,
        created="",
        internal=internal,
        options=options,
        subnets=[SubnetRecord(subnet="10.0.0.0/24"), SubnetRecord(subnet="fd::/64")],
    )


@pytest.mark.parametrize(
    ("driver", "options", "attributes"),
    [
        ("macvlan", {}, "0800010004000000"),
        ("macvlan", {"macvlan_mode": "private"}, "0800010001000000"),
        ("macvlan", {"macvlan_mode": "vepa"}, "0800010002000000"),
        ("macvlan", {"macvlan_mode": "passthru"}, "0800010008000000"),
        ("ipvlan", {}, "06000100000000000600020000000000"),
        ("ipvlan", {"ipvlan_mode": "l3", "ipvlan_flag": "private"}, "06000100010000000600020001000000"),
        ("ipvlan", {"ipvlan_mode": "l3s", "ipvlan_flag": "vepa"}, "06000100020000000600020002000000"),
    ],
)
def test_the_kernel_is_told_mode_and_flag(driver: str, options: dict[str, Any], attributes: str) -> None:
    record = network(driver, **options)
    plan = choice.drivers()[driver].interface(record, ENDPOINT)
    assert plan is not None and (plan.kind, plan.attributes.hex()) == (driver, attributes)
    assert plan.inside and plan.addresses == ENDPOINT.prefixes
    assert plan.sysctls == (("net/ipv4/conf/eth0/arp_notify", "1"), ("net/ipv6/conf/eth0/ndisc_notify", "1"))


@pytest.mark.parametrize("internal", [False, True])
@pytest.mark.parametrize(("mode", "routed"), [("l2", False), ("l3", True), ("l3s", True)])
def test_a_routed_ipvlan_has_its_link_as_default_route(mode: str, routed: bool, internal: bool) -> None:
    driver, record = choice.drivers()["ipvlan"], network("ipvlan", internal=internal, ipvlan_mode=mode)
    plan = driver.interface(record, ENDPOINT)
    assert plan is not None
    assert [str(r.destination) for r in plan.routes] == (["0.0.0.0/0", "::/0"] if routed and not internal else [])
    assert all(r.gateway is None and r.metric for r in plan.routes)
    assert driver.leads_out(record) == (not routed and not internal)


def test_a_network_without_a_parent_has_one_of_its_own() -> None:
    assert Macvlan(network("macvlan")).parent == "dm-0123456789ab"
    assert Ipvlan(network("ipvlan", parent="")).parent == "di-0123456789ab"
    assert Macvlan(network("macvlan", parent="eth0")).parent == "eth0"


@pytest.mark.parametrize(
    ("mine", "other", "said"),
    [
        ({}, {}, ""),
        ({"macvlan_mode": "private"}, {"macvlan_mode": "vepa"}, ""),
        (
            {"macvlan_mode": "passthru"},
            {},
            "cannot use mode passthru, macvlan network b is already using parent interface eth0",
        ),
        ({}, {"macvlan_mode": "passthru"}, "macvlan network b is already using parent interface eth0 in mode passthru"),
        ({"macvlan_mode": "passthru"}, {"parent": "eth1"}, ""),
    ],
)
def test_who_may_share_a_parent(mine: dict[str, Any], other: dict[str, Any], said: str) -> None:
    driver = choice.drivers()["macvlan"]
    others = [network("macvlan", "b", **{"parent": "eth0"} | other), network("ipvlan", "c", parent="eth0")]
    refused = ""
    try:
        driver.validate(network("macvlan", "a", parent="eth0", **mine), others)
    except Forbidden as error:
        refused = error.message
    assert refused == said


@pytest.mark.parametrize("name", ["eth0", "a" * 15, "eth0.10", "ünï"])
def test_names_of_links(name: str) -> None:
    assert vlan_options.is_link_name(name)


@pytest.mark.parametrize("name", ["", "a" * 16, "a b", "a/b", "a\0b", "a\n", "ü" * 8])
def test_what_no_link_is_called(name: str) -> None:
    assert not vlan_options.is_link_name(name)


@pytest.mark.parametrize("name", ["eth0", "eth0.", "eth0.x", "eth0.1.2", "eth0. 1", "eth0.1_0", "eth0.١"])
def test_what_is_no_sub_interface(name: str) -> None:
    with pytest.raises(InvalidArgument):
        vlan_options.parse_sub_interface(name)


@pytest.mark.parametrize(("name", "id"), [("eth0.1", 1), ("eth0.4094", 4094), ("bond0.007", 7)])
def test_sub_interfaces(name: str, id: int) -> None:
    parent, found = vlan_options.parse_sub_interface(name)
    vlan_options.check_vlan_id(found)
    assert (parent, found) == (name.partition(".")[0], id)
    assert vlan_options.sub_interface(id) == bytes([6, 0, 1, 0, id & 255, id >> 8, 0, 0])


@pytest.mark.parametrize("id", [-1, 0, 4095, 1 << 40])
def test_vlan_ids_have_twelve_bits(id: int) -> None:
    with pytest.raises(SampanError, match=f"vlan id must be between 1-4094, received: {id}"):
        vlan_options.check_vlan_id(id)
