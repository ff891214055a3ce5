"""Networks as asked for: what they become, or what Docker Engine 28.5 says instead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from sampan.engine.config import EngineConfig
from sampan.engine.networks import creation, filters, inspect
from sampan.engine.networks.catalogue import Catalogue
from sampan.engine.networks.drivers import choice
from sampan.engine.networks.drivers.bridge_options import Bridge
from sampan.engine.networks.ipam import DEFAULT_POOLS, local_pool
from sampan.engine.networks.records import NetworkRecord
from sampan.engine.store import Store
from sampan.errors import Conflict, Forbidden, Internal, InvalidArgument, NotFound, SampanError
from sampan.spec.engine_api.network import IPAM, ConfigReference, IPAMConfig, NetworkCreateRequest

HOST = [ip_network("172.17.0.0/16"), ip_network("192.0.2.0/24")]


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with asyncio.Runner() as runner:
        store = runner.run(Store.open(str(tmp_path / "db")))
        pools = (*DEFAULT_POOLS, local_pool("engine"))
        yield Catalogue(store.table("networks", NetworkRecord), choice.drivers(), pools)
        runner.run(store.close())


def new(catalogue: Catalogue, name: str = "n", *configs: IPAMConfig, **given: object) -> NetworkRecord:
    ipam = IPAM(config=list(configs)) if configs else None
    return catalogue.new(NetworkCreateRequest(name=name, ipam=ipam, **given), HOST, EngineConfig())  # type: ignore[arg-type]


def keep(catalogue: Catalogue, record: NetworkRecord) -> NetworkRecord:
    catalogue.put(record).remember()
    catalogue.open_pools(record)
    return record


def test_a_network_gets_the_first_subnet_that_is_free(catalogue: Catalogue) -> None:
    first = keep(catalogue, new(catalogue, "one"))
    assert (first.subnets[0].subnet, first.subnets[0].gateway) == ("172.18.0.0/16", "172.18.0.1")
    assert Bridge(first).name == f"br-{first.id[:12]}"
    assert new(catalogue, "two").subnets[0].subnet == "172.19.0.0/16"


def test_what_was_asked_for_is_kept(catalogue: Catalogue) -> None:
    asked = IPAMConfig(
        subnet="10.213.0.0/24",
        ip_range="10.213.0.128/25",
        gateway="10.213.0.1",
        auxiliary_addresses={"a": "10.213.0.200"},
    )
    record = keep(catalogue, new(catalogue, "n", asked, options={"com.docker.network.bridge.name": "brn"}))
    (pool,) = catalogue.pools_of(record.id, 4)
    assert Bridge(record).name == "brn" and record.subnets[0].asked
    assert str(pool.allocate()) == "10.213.0.128"
    with pytest.raises(Forbidden):
        pool.take(ip_network("10.213.0.200/32").network_address)


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"subnet": "10.0.0.0/99"}, "invalid subnet 10.0.0.0/99: invalid CIDR block notation"),
        ({"subnet": ""}, "invalid subnet : invalid CIDR block notation"),
        ({"subnet": "10.0.0.5/24"}, "invalid subnet 10.0.0.5/24: it should be 10.0.0.0/24"),
        (
            {"subnet": "10.55.0.0/24", "gateway": "10.56.0.1"},
            "invalid gateway 10.56.0.1: parent subnet 10.55.0.0/24 doesn't contain this address",
        ),
        (
            {"subnet": "10.55.0.0/24", "ip_range": "10.56.0.0/25"},
            "invalid ip-range 10.56.0.0/25: parent subnet 10.55.0.0/24 doesn't contain ip-range",
        ),
        (
            {"subnet": "10.55.0.0/24", "auxiliary_addresses": {"a": "1.2.3.4"}},
            "invalid auxiliary address a: parent subnet 10.55.0.0/24 doesn't contain this address",
        ),
    ],
)
def test_bad_addresses(catalogue: Catalogue, config: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        new(catalogue, "n", IPAMConfig(**config))  # type: ignore[arg-type]
    assert caught.value.message == f"invalid network config:\n{problem}"


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"name": ""}, InvalidArgument, "invalid name: name is empty"),
        ({"name": "bridge"}, Forbidden, "operation is not permitted on predefined bridge network "),
        ({"enable_ipv4": False}, InvalidArgument, "IPv4 or IPv6 must be enabled"),
        ({"driver": "nope"}, NotFound, 'plugin "nope" not found'),
        ({"driver": "host"}, Forbidden, 'only one instance of "host" network is allowed'),
        (
            {"options": {"com.docker.network.bridge.enable_icc": "maybe"}},
            InvalidArgument,
            "failed to parse com.docker.network.bridge.enable_icc value: maybe"
            ' (strconv.ParseBool: parsing "maybe": invalid syntax)',
        ),
        (
            {"options": {"com.docker.network.driver.mtu": "x"}},
            InvalidArgument,
            'failed to parse com.docker.network.driver.mtu value: x (strconv.Atoi: parsing "x": invalid syntax)',
        ),
    ],
)
def test_refusals(catalogue: Catalogue, given: dict[str, object], kind: type[SampanError], message: str) -> None:
    with pytest.raises(kind) as caught:
        new(catalogue, **({"name": "n"} | given))  # type: ignore[arg-type]
    assert caught.value.message == message


def test_conflicts(catalogue: Catalogue) -> None:
    one = keep(catalogue, new(catalogue, "one", IPAMConfig(subnet="10.1.0.0/16")))
    with pytest.raises(Conflict, match=r"^network with name one already exists$"):
        new(catalogue, "one")
    with pytest.raises(Forbidden, match=r"^invalid pool request: Pool overlaps with other one on this address space$"):
        new(catalogue, "two", IPAMConfig(subnet="10.1.2.0/24"))
    with pytest.raises(Forbidden, match="multiple subnets"):
        new(catalogue, "two", IPAMConfig(subnet="10.2.0.0/24"), IPAMConfig(subnet="10.3.0.0/24"))
    assert catalogue.find(one.id[:6]) is catalogue.find("one") is catalogue.find(one.id)
    with pytest.raises(NotFound, match=r"^network nope not found$"):
        catalogue.find("nope")


def test_filters(catalogue: Catalogue) -> None:
    one = new(catalogue, "one", labels={"a": "b"})
    assert filters.matches(
        one, {"label": ["a=b"], "driver": ["bridge"], "type": ["custom"], "name": ["on"]}, used=False
    )
    assert not filters.matches(one, {"label": ["a=c"]}, used=False)
    assert filters.matches(one, {"dangling": ["true"]}, used=False)
    assert not filters.matches(one, {"dangling": ["1"]}, used=True)
    with pytest.raises(InvalidArgument, match="invalid value for filter 'dangling'"):
        filters.matches(one, {"dangling": ["x"]}, used=False)
    assert filters.prunable(one, {"label": ["a"]}, None) and not filters.prunable(one, {"label!": ["a"]}, None)
    assert not filters.prunable(one, {}, filters.until_ns({"until": ["1h30m"]}))
    assert filters.prunable(one, {}, filters.until_ns({"until": ["0s"]})) and filters.until_ns({}) is None
    with pytest.raises(InvalidArgument, match="more than one until filter specified"):
        filters.until_ns({"until": ["1", "2"]})
    with pytest.raises(InvalidArgument, match="failed to parse value as time or duration"):
        filters.until_ns({"until": ["soon"]})


@pytest.mark.parametrize(
    "subnet",
    ["fd00:0:0:1::/64", "fd00:0000:0000:0002::/64", "fd00:0:0:3:0:0:0:0/64", "FD00:0:0:4::/64", "10.231.0.0/31"],
)
def test_a_subnet_may_be_spelt_in_any_way_and_is_shown_so(catalogue: Catalogue, subnet: str) -> None:
    record = keep(catalogue, new(catalogue, "n", IPAMConfig(subnet=subnet), enable_ipv6=":" in subnet))
    shown = inspect.network(record, ())["IPAM"]["Config"]
    assert shown[0] == {"Subnet": subnet}, "first what was asked for, without the gateway that we chose"
    assert [set(c) for c in shown[1:]] == ([{"Subnet", "Gateway"}] if ":" in subnet else [])


def test_of_a_point_to_point_subnet_both_addresses_are_used(catalogue: Catalogue) -> None:
    record = keep(catalogue, new(catalogue, "n", IPAMConfig(subnet="10.231.0.0/31")))
    (pool,) = catalogue.pools_of(record.id, 4)
    assert (record.subnets[0].gateway, str(pool.allocate())) == ("10.231.0.0", "10.231.0.1")
    with pytest.raises(Conflict):
        pool.allocate()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (IPAMConfig(subnet="10.233.0.0/24", gateway="10.233.0.0"), "gateway (10.233.0.0): Address already in use"),
        (IPAMConfig(subnet="10.233.0.0/24", gateway="10.233.0.255"), "gateway (10.233.0.255): Address already in use"),
        (
            IPAMConfig(subnet="10.233.0.0/24", auxiliary_addresses={"x": "10.233.0.1"}),
            "secondary ip address (x:10.233.0.1): Address already in use",
        ),
    ],
)
def test_addresses_that_cannot_be_had(catalogue: Catalogue, config: IPAMConfig, said: str) -> None:
    with pytest.raises(Internal) as caught:
        new(catalogue, "n", config)
    assert caught.value.message == f"failed to allocate {said}"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("driver.mtu", "-1", "invalid MTU number: -1"),
        ("driver.mtu", "x", 'failed to parse KEY value: x (strconv.Atoi: parsing "x": invalid syntax)'),
        ("bridge.host_binding_ipv4", "x", "failed to parse KEY value: x (nil ip)"),
        ("host_ipv4", "x", "failed to parse KEY value: x (nil ip)"),
        ("host_ipv6", "x", "failed to parse KEY value: x (nil ip)"),
        ("bridge.gateway_mode_ipv6", "x", "failed to parse KEY value: x (unknown gateway mode x)"),
        ("enable_ipv4", "x", 'driver-opt "KEY" is not a valid bool'),
        ("enable_ipv6", "x", 'driver-opt "KEY" is not a valid bool'),
    ],
)
def test_options_are_checked_at_create(catalogue: Catalogue, option: str, value: str, message: str) -> None:
    key = f"com.docker.network.{option}"
    with pytest.raises(InvalidArgument) as caught:
        new(catalogue, options={key: value})
    assert caught.value.message == message.replace("KEY", key)


def test_ip_versions_can_be_options_and_the_fields_win(catalogue: Catalogue) -> None:
    four, six = "com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"
    assert new(catalogue, options={six: "true"}).enable_ipv6
    assert not new(catalogue, enable_ipv6=True, options={four: "false"}).enable_ipv4
    assert new(catalogue, enable_ipv6=True, enable_ipv4=True, options={four: "false"}).enable_ipv4


def test_none_is_no_driver(catalogue: Catalogue) -> None:
    with pytest.raises(NotFound, match=r'^plugin "none" not found$'):
        new(catalogue, driver="none")


@pytest.mark.parametrize(
    ("subnet", "ip_range", "gateway", "first"),
    [
        ("10.80.0.0/24", "10.80.0.64/26", "10.80.0.64", "10.80.0.65"),
        ("10.80.0.0/24", "10.80.0.0/26", "10.80.0.1", "10.80.0.2"),
        ("fd00:9::/64", "fd00:9::40/124", "fd00:9::40", "fd00:9::41"),
    ],
)
def test_the_gateway_is_the_first_address_of_the_range(
    catalogue: Catalogue, subnet: str, ip_range: str, gateway: str, first: str
) -> None:
    asked = IPAMConfig(subnet=subnet, ip_range=ip_range)
    record = keep(catalogue, new(catalogue, "n", asked, enable_ipv6=":" in subnet))
    (pool,) = catalogue.pools_of(record.id, 6 if ":" in subnet else 4)
    assert (record.subnets[0].gateway, str(pool.allocate())) == (gateway, first)


def test_a_subnet_without_room_for_a_gateway(catalogue: Catalogue) -> None:
    with pytest.raises(Internal, match=r"^failed to allocate gateway \(\): no available addresses on this pool$"):
        new(catalogue, "n", IPAMConfig(subnet="fd00:82::/128"), enable_ipv6=True)


@pytest.mark.parametrize("driver", ["bridge", "macvlan", "ipvlan"])
@pytest.mark.parametrize(
    ("subnet", "enable_ipv6", "said"),
    [
        ("", None, "ipv4 pool is empty"),
        ("10.1.0.0/24", None, "null ipam driver does not handle specific address pool requests"),
        ("", True, "null ipam driver does not handle IPv6 address pool pool requests"),
    ],
)
def test_only_a_plugin_makes_do_without_addresses(
    catalogue: Catalogue, driver: str, subnet: str, enable_ipv6: bool | None, said: str
) -> None:
    asked = IPAM(driver="null", config=[IPAMConfig(subnet=subnet)] if subnet else [])
    request = NetworkCreateRequest(name="n", driver=driver, enable_ipv6=enable_ipv6, ipam=asked)
    with pytest.raises(InvalidArgument, match=said):
        catalogue.new(request, HOST, EngineConfig())


def test_a_plugin_is_asked_for_as_many_subnets_as_the_driver_may_have(catalogue: Catalogue) -> None:
    configs = [IPAMConfig(subnet="10.1.0.0/24"), IPAMConfig(subnet="10.2.0.0/24")]
    request = NetworkCreateRequest(name="n", enable_ipv6=True, ipam=IPAM(driver="other", config=configs))
    asked = creation.asked_subnets(request, catalogue.drivers["macvlan"])
    assert asked == [(4, configs[0]), (4, configs[1]), (6, None)]
    with pytest.raises(Forbidden, match="bridge driver doesn't support multiple subnets"):
        creation.asked_subnets(request, catalogue.drivers["bridge"])


def test_a_plugin_is_asked_for_the_configuration_of_another_network(catalogue: Catalogue) -> None:
    config = IPAMConfig(subnet="10.1.0.0/24")
    carrier = NetworkCreateRequest(name="c", config_only=True, ipam=IPAM(driver="other", config=[config]))
    keep(catalogue, catalogue.new(carrier, HOST, EngineConfig()))
    request = NetworkCreateRequest(name="n", config_from=ConfigReference(network="c"))
    made = catalogue.configured(request)
    assert made.ipam is not None and made.ipam.driver == "other"
    assert creation.asked_subnets(made, catalogue.drivers["bridge"]) == [(4, config)]
