"""Who reaches what: published and unpublished ports from the LAN, from the host, from containers. Real packets."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from sampan.engine.networks.plumbing import read_sysctl
from sampan.engine.networks.service import Networks, Sandbox
from sampan.errors import Internal
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.spec.engine_api.network import IPAM, EndpointSettings, IPAMConfig, NetworkCreateRequest
from tests.kernel.net_host import (
    HOST4,
    HOST6,
    LAN4,
    LAN6,
    Host,
    attach,
    container_id,
    on_fake_host,
    ports_of,
    run,
    until,
)


@on_fake_host
async def test_a_published_port_is_reached_from_everywhere(host: Host) -> None:
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        other = await attach(networks, "other")
        gateway = web.endpoints["bridge"].gateway4
        host.serve(web.netns, 80)
        assert await host.ask(host.lan, HOST4, 8080) == LAN4, "the client's address is kept"
        assert await host.ask(None, "127.0.0.1", 8080) == gateway
        assert await host.ask(None, HOST4, 8080)
        assert await host.ask(None, web.endpoints["bridge"].address4, 80) == gateway
        assert await host.ask(other.netns, HOST4, 8080) == gateway, "container to container through the host"
        assert await host.ask(other.netns, gateway, 8080) == gateway
        assert await host.ask(web.netns, HOST4, 8080) == gateway, "hairpin: a container to its own published port"
        # IPv6 on the host, IPv4 in the container: the relay
        assert await host.ask(None, "::1", 8080) == gateway
        assert await host.ask(host.lan, HOST6, 8080) == gateway
        await networks.detach(container_id("web"))
        for namespace, address in ((host.lan, HOST4), (None, "127.0.0.1"), (None, "::1"), (host.lan, HOST6)):
            with pytest.raises(ConnectionRefusedError):
                await host.ask(namespace, address, 8080)
        await networks.detach(container_id("other"))


@on_fake_host
async def test_udp(host: Host) -> None:
    async with host.networks() as networks:
        dns = await attach(networks, ports={"53/udp": "5353"})
        host.serve(dns.netns, 53, udp=True)
        assert await host.ask(host.lan, HOST4, 5353, udp=True) == LAN4
        gateway = dns.endpoints["bridge"].gateway4
        assert await host.ask(None, "127.0.0.1", 5353, udp=True) == gateway
        assert await host.ask(host.lan, HOST6, 5353, udp=True) == gateway
        await networks.detach(container_id("web"))


@on_fake_host
async def test_localhost_ports_are_for_the_host_alone(host: Host) -> None:
    """moby 45610, CVE-2025-54388: a neighbour does not reach them, not even by packets addressed to 127.0.0.1."""
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "127.0.0.1:8080"})
        host.serve(web.netns, 80)
        host.serve(None, 7777, address="127.0.0.1")
        assert await host.ask(None, "127.0.0.1", 8080)
        with pytest.raises(ConnectionRefusedError):
            await host.ask(host.lan, HOST4, 8080)
        martians_from(host, host.lan, "eth0", HOST4)
        host.sysctl("/proc/self/ns/net", "net/ipv4/conf/lan0/route_localnet", "1")
        assert await host.ask(host.lan, "127.0.0.1", 7777) == LAN4, "such packets do arrive"
        assert await host.dropped(host.lan, "127.0.0.1", 8080)
        await networks.detach(container_id("web"))


@on_fake_host
async def test_containers_do_not_reach_the_hosts_loopback(host: Host) -> None:
    """CVE-2020-8558: the bridge has route_localnet, for the host's own packets only."""
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        host.serve(web.netns, 80)
        host.serve(None, 7777, address="127.0.0.1")
        evil = await attach(networks, "evil")
        martians_from(host, evil.netns, "eth0", evil.endpoints["bridge"].gateway4)
        assert await host.dropped(evil.netns, "127.0.0.1", 7777)
        assert await host.dropped(evil.netns, "127.0.0.1", 8080)
        for name in ("web", "evil"):
            await networks.detach(container_id(name))


def martians_from(host: Host, namespace: str | int, device: str, gateway: str) -> None:
    """Make a namespace send packets for 127.0.0.1 out to a gateway."""
    with host.inside(namespace):
        rtnl = Netlink()
    with rtnl:
        rtnl.batch([netlink.set_link(1, up=False)])  # takes its own 127.0.0.0/8 away
    host.sysctl(namespace, f"net/ipv4/conf/{device}/route_localnet", "1")
    host.route(namespace, "127.0.0.1", 32, gateway, device)


@on_fake_host
async def test_unpublished_ports_are_not_reached_by_a_direct_route(host: Host) -> None:
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        address = web.endpoints["bridge"].address4
        host.serve(web.netns, 80)
        host.serve(web.netns, 81)
        host.serve(None, 7777)
        host.route(host.lan, "172.16.0.0", 12, HOST4, "eth0")
        gateway = web.endpoints["bridge"].gateway4
        assert await host.ask(host.lan, gateway, 7777), "the route itself works"
        assert await host.dropped(host.lan, address, 80)
        assert await host.dropped(host.lan, address, 81)
        assert await host.ask(None, address, 81), "the host may"
        await networks.detach(container_id("web"))


@on_fake_host
async def test_allow_direct_routing_opens_published_ports_only(host: Host) -> None:
    async with host.networks(allow_direct_routing=True) as networks:
        web = await attach(networks, ports={"80/tcp": "8080", "81/tcp": "127.0.0.1:8081"})
        address = web.endpoints["bridge"].address4
        for port in (80, 81, 82):
            host.serve(web.netns, port)
        host.route(host.lan, "172.16.0.0", 12, HOST4, "eth0")
        assert await host.ask(host.lan, address, 80) == LAN4
        assert await host.ask(host.lan, address, 81) == LAN4, "published, be it for this host only, as in Docker"
        assert await host.dropped(host.lan, address, 82)
        assert address in host.nft.run("list set inet sampan0 direct4")
        other = await attach(networks, "other")
        assert await host.ask(other.netns, address, 82), "its neighbours on the network do without"
        await networks.detach(container_id("web"))
        assert address not in host.nft.run("list set inet sampan0 direct4"), "who gets the address next is not open"
        await networks.detach(container_id("other"))


@on_fake_host
async def test_forward_policy_drop_of_another_program(host: Host) -> None:
    """Docker and ufw leave FORWARD at DROP: our accept there is tagged, and gone with the engine."""
    host.nft.run(
        "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; };"
        "add chain ip filter DOCKER-USER; add rule ip filter FORWARD counter jump DOCKER-USER"
    )
    async with host.networks() as networks:
        assert host.nft.run("list chain ip filter DOCKER-USER").count("sampan:sampan0") == 2
        web = await attach(networks, ports={"80/tcp": "8080"})
        host.serve(web.netns, 80)
        host.serve(host.lan, 9000)
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        assert await host.ask(web.netns, LAN4, 9000) == HOST4, "masqueraded"
        await networks.detach(container_id("web"))
    assert "sampan" not in host.nft.run("list chain ip filter DOCKER-USER")


@on_fake_host
async def test_outgoing_is_masqueraded(host: Host) -> None:
    async with host.networks() as networks:
        web = await attach(networks)
        host.serve(host.lan, 9000)
        host.serve(host.lan, 9000, udp=True)
        assert await host.ask(web.netns, LAN4, 9000) == HOST4
        assert await host.ask(web.netns, LAN4, 9000, udp=True) == HOST4
        await networks.detach(container_id("web"))


@on_fake_host
async def test_flushed_rules_come_back(host: Host) -> None:
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        host.serve(web.netns, 80)
        run("nft", "flush", "ruleset")  # another process, as it would be
        await until(lambda: "tcp . 8080" in host.nft.run("list ruleset"))
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        run("nft", "flush", "chain", "inet", "sampan0", "raw")
        await until(lambda: "127.0.0.0/8" in host.nft.run("list chain inet sampan0 raw"))
        await networks.detach(container_id("web"))


@on_fake_host
async def test_without_inter_container_communication(host: Host) -> None:
    async with host.networks(icc=False) as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        other = await attach(networks, "other")
        host.serve(web.netns, 80)
        assert await host.dropped(other.netns, web.endpoints["bridge"].address4, 80) or await unreachable(
            host, other, web
        )
        assert await host.ask(other.netns, HOST4, 8080), "published ports stay reachable"
        assert await host.ask(None, web.endpoints["bridge"].address4, 80)
        for name in ("web", "other"):
            await networks.detach(container_id(name))


async def unreachable(host: Host, one: Sandbox, other: Sandbox) -> bool:
    try:
        await host.ask(one.netns, other.endpoints["bridge"].address4, 80)
    except OSError:
        return True
    return False


@on_fake_host
async def test_containers_do_not_reach_the_api(host: Host) -> None:
    """CVE-2025-9074."""
    async with host.networks() as networks:
        web = await attach(networks)
        host.serve(None, 2375)
        gateway = web.endpoints["bridge"].gateway4
        assert await host.ask(web.netns, gateway, 2375), "open before it is protected"
        await networks.protect_api([("0.0.0.0", 2375)])
        assert await host.dropped(web.netns, gateway, 2375)
        assert await host.dropped(web.netns, HOST4, 2375)
        assert await host.ask(host.lan, HOST4, 2375)
        await networks.detach(container_id("web"))


@on_fake_host
async def test_without_iptables_the_relay_serves(host: Host) -> None:
    async with host.networks(iptables=False) as networks:
        web = await attach(networks, ports={"80/tcp": "8080", "53/udp": "5353"})
        host.serve(web.netns, 80)
        host.serve(web.netns, 53, udp=True)
        gateway = web.endpoints["bridge"].gateway4
        assert await host.ask(host.lan, HOST4, 8080) == gateway
        assert await host.ask(None, "127.0.0.1", 5353, udp=True) == gateway
        assert "sampan" not in host.nft.run("list ruleset")
        await networks.detach(container_id("web"))


@on_fake_host
async def test_bridges_are_isolated_from_each_other(host: Host) -> None:
    async with host.networks() as networks:
        await networks.create(NetworkCreateRequest(name="blue"))
        web = await attach(networks, mode="blue", ports={"80/tcp": "8080"})
        other = await attach(networks, "other")
        host.serve(web.netns, 80)
        assert await host.dropped(other.netns, web.endpoints["blue"].address4, 80)
        assert await host.ask(other.netns, HOST4, 8080) == web.endpoints["blue"].gateway4
        for name in ("web", "other"):
            await networks.detach(container_id(name))
        await networks.remove("blue")


@on_fake_host
async def test_an_internal_network_has_no_way_out(host: Host) -> None:
    async with host.networks() as networks:
        await networks.create(NetworkCreateRequest(name="inner", internal=True))
        one = await attach(networks, "one", mode="inner", ports={"80/tcp": "8080"})
        two = await attach(networks, "two", mode="inner")
        host.serve(one.netns, 80)
        host.serve(host.lan, 9000)
        assert ports_of(one) == {}
        assert await host.ask(two.netns, one.endpoints["inner"].address4, 80)
        with pytest.raises(OSError, match="unreachable"):
            await host.ask(one.netns, LAN4, 9000)
        host.route(one.netns, "192.0.2.0", 24, one_gateway(networks), "eth0")
        assert await host.dropped(one.netns, LAN4, 9000)
        for name in ("one", "two"):
            await networks.detach(container_id(name))
        await networks.remove("inner")


def one_gateway(networks: Networks) -> str:
    return str(networks.inspect("inner")["IPAM"]["Config"][0]["Gateway"])


@on_fake_host
async def test_ipv6_networks(host: Host) -> None:
    config = IPAM(config=[IPAMConfig(subnet="2001:db8:9::/64"), IPAMConfig(subnet="10.9.0.0/24")])
    async with host.networks() as networks:
        await networks.create(NetworkCreateRequest(name="six", enable_ipv6=True, ipam=config))
        web = await attach(networks, mode="six", ports={"80/tcp": "8080"})
        host.serve(web.netns, 80, address="::")
        host.serve(host.lan, 9000, address="::")
        assert await host.ask(host.lan, HOST6, 8080) == LAN6, "translated, not relayed"
        assert await host.ask(None, "::1", 8080)
        assert await host.ask(web.netns, LAN6, 9000) == HOST6
        with host.inside(web.netns):
            assert read_sysctl("net/ipv6/conf/eth0/accept_ra") == "0"
        await networks.detach(container_id("web"))
        await networks.remove("six")


@on_fake_host
async def test_a_udp_client_that_keeps_sending_meets_the_new_container(host: Host) -> None:
    """Without forgetting its flow, its packets would go on to where the first one went."""
    async with host.networks() as networks:
        with host.inside(host.lan):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.setblocking(False)
        client.connect((HOST4, 5353))
        with client:
            for name in ("one", "two"):
                with contextlib.suppress(ConnectionRefusedError):
                    client.send(b"nobody there")
                sandbox = await attach(networks, name, ports={"53/udp": "5353"})
                host.serve(sandbox.netns, 53, udp=True)
                await until_answered(client)
                await networks.detach(container_id(name))


async def until_answered(client: socket.socket) -> None:
    """Send on and on, as a DNS client would: a pause would let the flow expire by itself (30 s)."""
    async with asyncio.timeout(5):
        while True:
            try:
                client.send(b"hello")
                async with asyncio.timeout(0.05):
                    if await asyncio.get_running_loop().sock_recv(client, 100) == LAN4.encode():
                        return  # translated; what came through the relay meanwhile has another address
            except (ConnectionRefusedError, TimeoutError):
                pass


@on_fake_host
async def test_without_userland_proxy_only_the_rules_carry_ports(host: Host) -> None:
    async with host.networks(userland_proxy=False) as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        host.serve(web.netns, 80)
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        assert await host.ask(None, "127.0.0.1", 8080)
        with pytest.raises(ConnectionRefusedError):
            await host.ask(None, "::1", 8080)
        with pytest.raises(Internal, match="port is already allocated"):
            await attach(networks, "two", ports={"80/tcp": "8080"})
        await networks.detach(container_id("web"))


@on_fake_host
async def test_default_options_of_networks_and_gateways_of_the_default_network(host: Host) -> None:
    mtu = {"bridge": {"com.docker.network.driver.mtu": "1300"}}
    async with host.networks(
        default_network_opts=mtu, ipv6=True, fixed_cidr_v6="fd00:5::/64", default_gateway_v6="fd00:5::9"
    ) as networks:
        made = await networks.create(NetworkCreateRequest(name="own"))
        assert made.options["com.docker.network.driver.mtu"] == "1300"
        link = host.netlink.link(f"br-{made.id[:12]}")
        assert link is not None and link.mtu == 1300
        web = await attach(networks)
        assert web.endpoints["bridge"].gateway6 == "fd00:5::9"
        await networks.detach(container_id("web"))
        await networks.remove("own")


@on_fake_host
async def test_each_ip_version_leads_to_the_network_of_its_default_route(host: Host) -> None:
    """Two networks of one IP version each: no port needs the relay, and who asks is seen."""
    async with host.networks() as networks:
        for name, config, six in (("only4", "10.213.0.0/24", False), ("only6", "fd00:213::/64", True)):
            ipam = IPAM(config=[IPAMConfig(subnet=config)])
            await networks.create(NetworkCreateRequest(name=name, ipam=ipam, enable_ipv6=six, enable_ipv4=not six))
        both = {"only4": EndpointSettings(), "only6": EndpointSettings()}
        sandbox = await attach(networks, mode="only4", endpoints=both, ports={"80/tcp": "8080"})
        host.serve(sandbox.netns, 80)
        host.serve(sandbox.netns, 80, address="::")
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        assert await host.ask(host.lan, HOST6, 8080) == LAN6
        await networks.detach(container_id("web"))
        for name in ("only4", "only6"):
            await networks.remove(name)
