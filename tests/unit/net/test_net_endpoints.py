"""What endpoints are given, and the default bridge as the configuration wants it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine.config import EngineConfig
from sampan.engine.networks import endpoints, inspect
from sampan.engine.networks.drivers import bridge_default
from sampan.engine.networks.records import BindingRecord, EndpointRecord, NetworkRecord, SubnetRecord
from sampan.errors import InvalidArgument
from sampan.spec.engine_api.network import EndpointIPAMConfig, EndpointSettings


def endpoint(network: str, gateway: str, *, priority: int = 0, interface: str = "eth0") -> EndpointRecord:
    settings = EndpointSettings(gw_priority=priority)
    return EndpointRecord(
        id=network, network_id=network, network=network, interface=interface, gateway4=gateway, settings=settings
    )


def test_the_default_route_goes_by_priority_then_name() -> None:
    b, a = endpoint("b", "10.0.1.1"), endpoint("a", "10.0.2.1", interface="eth1")
    assert endpoints.gateways([b, a]) == (("eth1", ip_address("10.0.2.1")),)
    b = replace(b, settings=EndpointSettings(gw_priority=1))
    assert endpoints.gateways([b, a]) == (("eth0", ip_address("10.0.1.1")),)
    assert endpoints.gateways([endpoint("inner", "")]) == ()


def test_a_network_with_both_gateways_has_both_routes() -> None:
    four, six = endpoint("a", "10.0.1.1", priority=9), replace(endpoint("b", "", priority=8), gateway6="fd00::1")
    both = replace(endpoint("c", "10.0.3.1", interface="eth1"), gateway6="fd00:3::1")
    assert endpoints.gateway_endpoints([four, six]) == (four, six)
    assert endpoints.gateway_endpoints([four, six, both]) == (both, both)
    other = replace(both, id="d", network="d", settings=EndpointSettings(gw_priority=1))
    assert endpoints.gateway_endpoints([both, other]) == (other, other)
    assert endpoints.ways_out([four, both]) == [both] and endpoints.gateway_endpoints([]) == (None, None)
    assert [e.network for e in endpoints.in_order([both, six, four, other])] == ["a", "b", "d", "c"]


def test_interface_names() -> None:
    own = NetworkRecord(id="2", name="own", driver="bridge", created="")
    asked = EndpointSettings(driver_opts={endpoints.IFNAME_OPTION: "lan"})
    assert endpoints.interface_name(own, EndpointSettings(), []) == "eth0"
    assert endpoints.interface_name(own, EndpointSettings(), ["eth0", "eth2"]) == "eth1"
    assert endpoints.interface_name(own, asked, ["eth0"]) == "lan"
    named = replace(own, options={endpoints.PREFIX_OPTION: "net"})
    assert endpoints.interface_name(named, EndpointSettings(), ["eth0"]) == "net0"


def test_mac_addresses() -> None:
    assert endpoints.mac_address("", ip_address("172.17.0.2")) == "02:42:ac:11:00:02"
    assert endpoints.mac_address("92-D0-C6-0A-29-33", None) == "92:d0:c6:0a:29:33"
    assert int(endpoints.mac_address("", None)[:2], 16) & 3 == 2, "unicast, locally administered"
    for bad in ("xx", "02:42", "02:42:ac:11:00:02:03"):
        with pytest.raises(InvalidArgument, match=f"^invalid MAC address {bad}$"):
            endpoints.mac_address(bad, None)


def test_what_a_container_answers_to() -> None:
    """Each name once, in Docker's order; a predefined network has no names until a rename gives it some."""
    id = "0123456789abcdef"
    asked = EndpointSettings(aliases=["al", "web"], dns_names=["kept"])
    own = NetworkRecord(id="2", name="own", driver="bridge", created="")
    default = NetworkRecord(id="1", name="bridge", driver="bridge", created="")
    made = endpoints.new(own, asked, container_id=id, name="web", hostname="0123456789ab")
    assert made.dns_names == ["web", "al", "0123456789ab"]
    assert (made.network, made.network_id, made.settings) == ("own", "2", EndpointSettings(aliases=["al", "web"]))
    for given, names in ((EndpointSettings(), None), (EndpointSettings(dns_names=["kept"]), ["kept"])):
        assert endpoints.new(default, given, container_id=id, name="web", hostname="h").dns_names == names


def test_problems_in_dockers_words() -> None:
    bridge = NetworkRecord(id="1", name="bridge", driver="bridge", created="")
    static = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.17.0.77"))
    assert len(endpoints.problems(bridge, static)) == 2
    subnets = [SubnetRecord(subnet="172.17.0.0/16", asked=True), SubnetRecord(subnet="fd00::/64")]
    own = NetworkRecord(id="2", name="own", driver="bridge", created="", subnets=subnets)
    assert endpoints.problems(own, replace(static, aliases=["a"])) == []
    outside = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.1", ipv6_address="fd00::9"))
    assert endpoints.problems(own, outside) == [
        "no configured subnet or ip-range contain the IP address 10.0.0.1",
        "user specified IP address is supported only when connecting to networks with user configured subnets",
    ]
    wrong = EndpointSettings(
        ipam_config=EndpointIPAMConfig(ipv4_address="::ffff:172.17.0.9", ipv6_address="::ffff:1.2.3.4")
    )
    assert endpoints.problems(own, wrong)[0] == "invalid IPv6 address: ::ffff:1.2.3.4"
    assert endpoints.problems(bridge, EndpointSettings(aliases=["a"])) == [
        "network-scoped alias is supported only for containers in user defined networks"
    ]


def test_ports_as_shown() -> None:
    bindings = [
        BindingRecord(proto="tcp", host_ip=ip, host_port=8080, address="172.17.0.2", port=80)
        for ip in ("0.0.0.0", "::")
    ]
    assert inspect.ports(["81/udp", "80"], bindings) == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "81/udp": None,
    }


def default_bridge(config: EngineConfig, old: NetworkRecord | None = None, *, used: str = "10.0.0.0/8") -> SubnetRecord:
    seen = bridge_default.Seen(
        name="sampan0", link_subnets=(ip_network("10.8.0.0/24"),), host_subnets=(ip_network(used),)
    )
    chosen = SubnetRecord(subnet="172.30.0.0/16", gateway="172.30.0.1")
    record = bridge_default.network(config, old, "bridge", seen, lambda version: chosen)
    return record.subnets[0]


def test_the_default_bridge_keeps_its_subnet_while_it_may() -> None:
    old = NetworkRecord(
        id="1",
        name="bridge",
        driver="bridge",
        created="",
        subnets=[SubnetRecord(subnet="172.18.0.0/16", gateway="172.18.0.1")],
    )
    assert default_bridge(EngineConfig()).subnet == "172.30.0.0/16"
    assert default_bridge(EngineConfig(), old).subnet == "172.18.0.0/16"
    assert default_bridge(EngineConfig(), old, used="172.18.4.0/24").subnet == "172.30.0.0/16"
    assert default_bridge(EngineConfig(bip="10.1.2.3/24"), old) == SubnetRecord(
        subnet="10.1.2.0/24", gateway="10.1.2.3", asked=True
    )
    other_pools = EngineConfig(default_address_pools=({"base": "10.77.0.0/16", "size": 24},))
    assert default_bridge(other_pools, old).subnet == "172.30.0.0/16"
    assert default_bridge(EngineConfig(bridge="br0"), old).subnet == "10.8.0.0/24"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bip": "10.9.1.0/24"}, "failed to allocate gateway (10.9.1.0): Address already in use"),
        ({"bip": "10.9.1.255/24"}, "failed to allocate gateway (10.9.1.255): Address already in use"),
        ({"bip": "fd00::1/64"}, "bip: fd00::1/64 is not an IPv4 address"),
        ({"ipv6": True, "bip6": "10.9.1.1/24"}, "bip6: 10.9.1.1/24 is not an IPv6 address"),
        ({"ipv6": True, "bip6": "fd00:9::/64"}, "failed to allocate gateway (fd00:9::): Address already in use"),
        (
            {"ipv6": True, "fixed_cidr_v6": "fd00:9::/128"},
            "failed to allocate gateway (): no available addresses on this pool",
        ),
        (
            {"bip": "10.9.2.1/24", "default_gateway": "10.9.3.254"},
            "auxiliary address: (DefaultGatewayIPv4:10.9.3.254) must belong to the master pool: 10.9.2.0/24",
        ),
        (
            {"ipv6": True, "bip6": "fd00:9::1/64", "default_gateway_v6": "fd00:8::fe"},
            "auxiliary address: (DefaultGatewayIPv6:fd00:8::fe) must belong to the master pool: fd00:9::/64",
        ),
    ],
)
def test_daemon_parameters_that_contradict(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        default_bridge(EngineConfig(**given))
    assert caught.value.message == message


def test_configured_subnets_of_the_default_bridge_are_shown_first() -> None:
    seen = bridge_default.Seen(name="sampan0")
    config = EngineConfig(ipv6=True, fixed_cidr_v6="fd00:9::/64", default_network_opts={"bridge": {"a": "b"}})
    chosen = SubnetRecord(subnet="172.30.0.0/16", gateway="172.30.0.1")
    record = bridge_default.network(config, None, "bridge", seen, lambda version: chosen)
    assert inspect.network(record, ())["IPAM"]["Config"] == [
        {"Subnet": "fd00:9::/64", "IPRange": "fd00:9::/64"},
        {"Subnet": "172.30.0.0/16", "Gateway": "172.30.0.1"},
    ]
    assert "a" not in record.options, "those are for networks that users make"
