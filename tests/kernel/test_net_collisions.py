"""A host that comes to use a subnet of ours is told of, once; no network is put where the host is; static addresses."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import Any

import pytest

from sampan.errors import Forbidden, Internal, InvalidArgument
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.spec.engine_api.network import IPAM, EndpointIPAMConfig, EndpointSettings, IPAMConfig, NetworkCreateRequest
from tests.kernel.net_host import Host, attach, container_id, on_fake_host

pytestmark = [pytest.mark.root]


def asked(name: str, *subnets: str, **given: Any) -> NetworkCreateRequest:
    ipam = IPAM(config=[IPAMConfig(subnet=s) for s in subnets]) if subnets else None
    return NetworkCreateRequest(name=name, ipam=ipam, **given)


def use(host: Host, destination: str, length: int) -> None:
    """Give the host a route."""
    lan = host.netlink.link("lan0")
    assert lan is not None
    host.netlink.batch([netlink.add_route(ip_address(destination), length, index=lan.ifindex)])


@on_fake_host
async def test_a_route_that_comes_later_is_told_of_once(host: Host) -> None:
    async with host.networks() as networks:
        await networks.create(asked("blue", "10.77.0.0/24"))
        await networks.create(asked("six", "fd00:77::/64", enable_ipv4=False, enable_ipv6=True))
        async with networks._events.subscribe(filters={"event": ("collision",)}) as told:
            for destination, length, name in (("10.64.0.0", 10, "blue"), ("fd00:77::5", 128, "six")):
                use(host, destination, length)
                seen = (await asyncio.wait_for(anext(told), 5))["Actor"]["Attributes"]
                assert (seen["name"], seen["host"]) == (name, f"{destination}/{length}")
            use(host, "10.178.0.0", 25)  # nobody's
            use(host, "10.77.0.128", 25)  # what is known already is not told again
            assert (await asyncio.wait_for(anext(told), 5))["Actor"]["Attributes"]["host"] == "10.77.0.128/25"


@on_fake_host
async def test_a_subnet_is_chosen_where_the_host_is_not(host: Host) -> None:
    pools = ({"base": "10.88.0.0/22", "size": 24}, {"base": "fd00:88::/62", "size": 64})
    for destination, length in (("10.88.0.128", 25), ("10.88.2.1", 32), ("fd00:88::", 63)):
        use(host, destination, length)
    async with host.networks(default_address_pools=pools) as networks:
        assert networks.find("bridge").subnets[0].subnet == "10.88.1.0/24"
        blue = await networks.create(asked("blue", enable_ipv6=True))
        assert [s.subnet for s in blue.subnets] == ["10.88.3.0/24", "fd00:88:0:2::/64"]
        with pytest.raises(Forbidden, match=r"^all predefined address pools have been fully subnetted$"):
            await networks.create(asked("red"))


@on_fake_host
async def test_static_and_link_local_addresses(host: Host) -> None:
    async with host.networks() as networks:
        await networks.create(asked("blue", "10.77.0.0/29", "fd00:77::/125", enable_ipv6=True))
        config = EndpointIPAMConfig(
            ipv4_address="10.77.0.5", ipv6_address="fd00:77::5", link_local_ips=["169.254.3.4", "fe80::99"]
        )
        web = await attach(networks, mode="blue", endpoints={"blue": EndpointSettings(ipam_config=config)})
        with host.inside(web.netns), Netlink() as rtnl:
            have = {f"{p.address}/{p.length}" for p in rtnl.addresses()}
        assert {"10.77.0.5/29", "fd00:77::5/125", "169.254.3.4/16", "fe80::99/64"} <= have
        static = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.77.0.5"))
        with pytest.raises(Forbidden, match="Address already in use"):
            await attach(networks, "two", mode="blue", endpoints={"blue": static})
        wrong = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["10.1.2.3"]))
        with pytest.raises(InvalidArgument, match=r"invalid link local IP address: 10\.1\.2\.3"):
            await attach(networks, "two", mode="blue", endpoints={"blue": wrong})
        for n in range(4):
            await attach(networks, f"c{n}", mode="blue")
        with pytest.raises(Internal, match=r"no available IPv4 addresses on this network's address pools \(all 8"):
            await attach(networks, "c5", mode="blue")
        await networks.detach(container_id("web"))
        again = await attach(networks, "c5", mode="blue")
        assert again.endpoints["blue"].address4 == "10.77.0.5"
