"""Sandboxes from attach to detach: what a namespace holds, port conflicts, a killed daemon, many in a row, engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any

import pytest

from sampan.engine.networks import inspect
from sampan.engine.networks.service import Networks, Sandbox
from sampan.errors import Forbidden, Internal, NotFound
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.spec.engine_api.network import (
    IPAM,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAMConfig,
    NetworkCreateRequest,
)
from tests.kernel.net_host import (
    HOST4,
    HOST6,
    LAN4,
    LAN6,
    Host,
    attach,
    connect,
    container_id,
    disconnect,
    end,
    on_fake_host,
    ports_of,
    spawn,
    until,
)

STATIC = EndpointIPAMConfig(ipv4_address="10.213.0.140")


def look(host: Host, sandbox: Sandbox) -> tuple[dict[str, netlink.Link], list[netlink.Prefix], list[netlink.IpRoute]]:
    with host.inside(sandbox.netns):
        rtnl = Netlink()
    with rtnl:
        routes = [r for r in rtnl.routes() if r.table == netlink.RT_TABLE_MAIN]
        return {link.name: link for link in rtnl.links()}, rtnl.addresses(), routes


@on_fake_host
async def test_a_sandbox_is_complete(host: Host) -> None:
    async with host.networks(mtu=1400) as networks:
        web = await attach(networks, ports={"80/tcp": "8080"}, exposed=["80/tcp", "81/udp"])
        shown = inspect.endpoint(web.endpoints["bridge"])
        assert (shown["IPAddress"], shown["IPPrefixLen"], shown["Gateway"]) == ("172.17.0.2", 16, "172.17.0.1")
        assert shown["MacAddress"] == "02:42:ac:11:00:02"
        assert ports_of(web) == {
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
            "81/udp": None,
        }
        links, addresses, routes = look(host, web)
        assert links["lo"].flags & netlink.IFF_UP
        assert links["eth0"].flags & netlink.IFF_UP and links["eth0"].flags & netlink.IFF_LOWER_UP
        assert (links["eth0"].mtu, links["eth0"].address) == (1400, "02:42:ac:11:00:02")
        on_eth0 = [str(p.address) for p in addresses if p.ifindex == links["eth0"].ifindex]
        assert on_eth0 == ["172.17.0.2"], "no IPv6 link-local address where the network has no IPv6"
        assert [str(r.gateway) for r in routes if r.destination is None] == ["172.17.0.1"]
        key = web.key
        await networks.started(container_id("web"), os.getpid())
        assert os.readlink(key) == f"/proc/{os.getpid()}/ns/net"
        after = networks.sandbox(container_id("web"))
        assert after is not None and after.netns == "" and after.endpoints == web.endpoints
        assert networks.inspect("bridge")["Containers"][container_id("web")]["IPv4Address"] == "172.17.0.2/16"
        await networks.detach(container_id("web"))
        await networks.detach(container_id("web"))
        assert not os.path.lexists(key)
        assert networks.sandbox(container_id("web")) is None


@on_fake_host
async def test_modes_without_a_network(host: Host) -> None:
    async with host.networks() as networks:
        alone = await attach(networks, "alone", mode="none", exposed=["80/tcp"])
        links, _, routes = look(host, alone)
        assert set(links) & {"lo", "eth0"} == {"lo"} and links["lo"].flags & netlink.IFF_UP
        assert routes == [] and ports_of(alone) == {} and alone.endpoints["none"].id
        on_host = await attach(networks, "host", mode="host", ports={"80/tcp": "8080"})
        assert (on_host.netns, ports_of(on_host)) == ("", {})
        assert on_host.key.endswith("/netns/default") and on_host.endpoints["host"].network_id
        with pytest.raises(NotFound, match=r"^failed to set up container networking: network nope not found$"):
            await attach(networks, "x", mode="nope")
        for name in ("alone", "host"):
            await networks.detach(container_id(name))


@on_fake_host
async def test_a_port_is_given_once(host: Host) -> None:
    async with host.networks() as networks:
        await attach(networks, ports={"80/tcp": "8080"})
        failed = "failed to set up container networking: driver failed programming external connectivity on endpoint"
        prefix = failed + r" two \([0-9a-f]{64}\): "
        taken = socket.create_server(("127.0.0.1", 8090))
        for port, reason in (
            ("8080", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
            ("127.0.0.1:8080", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
            ("8090", "failed to bind host port for 0.0.0.0:8090:172.17.0.3:80/tcp: address already in use"),
            (
                "10.9.9.9:8081",
                "failed to bind host port for 10.9.9.9:8081:172.17.0.3:80/tcp: cannot assign requested address",
            ),
        ):
            with pytest.raises(Internal, match=f"^{prefix}{re.escape(reason)}$"):
                await attach(networks, "two", ports={"80/tcp": port})
        with pytest.raises(Internal, match=r"unknown protocol$"):
            await attach(networks, "two", ports={"80/foo": "8081"})
        two = await attach(networks, "two", ports={"80/tcp": "8080-8082", "80/udp": "8080", "81/tcp": "127.0.0.2:8090"})
        bound = ports_of(two)["80/tcp"]
        assert bound is not None and bound[0]["HostPort"] == "8081"
        with pytest.raises(Internal, match=r"all ports are allocated$"):
            await attach(networks, "three", ports={"80/tcp": "8080-8081"})
        taken.close()
        for name in ("web", "two"):
            await networks.detach(container_id(name))
        again = await attach(networks, "two", ports={"80/tcp": "8080"})
        assert again.endpoints["bridge"].address4.startswith("172.17.0.")
        await networks.detach(container_id("two"))


@on_fake_host
async def test_a_failed_attach_leaves_nothing(host: Host) -> None:
    async with host.networks() as networks:
        before = {link.name for link in host.netlink.links()}, len(os.listdir("/proc/self/fd"))
        taken = socket.create_server(("0.0.0.0", 8090))
        for _ in range(3):
            with pytest.raises(Internal):
                await attach(networks, ports={"80/tcp": "8070", "81/tcp": "8090"})
        taken.close()
        assert ({link.name for link in host.netlink.links()}, len(os.listdir("/proc/self/fd"))) == before
        assert (await attach(networks, ports={"80/tcp": "8070"})).endpoints["bridge"].address4 == "172.17.0.2"
        await networks.detach(container_id("web"))


@on_fake_host
async def test_a_cancelled_attach_leaves_nothing(host: Host) -> None:
    async with host.networks() as networks:
        await attach(networks, "first", ports={"80/tcp": "8070"})  # and what carries ports is there
        await networks.detach(container_id("first"))
        await drained(host)
        before = {link.name for link in host.netlink.links()}, len(os.listdir("/proc/self/fd"))
        for steps in range(8):
            attaching = asyncio.create_task(attach(networks, ports={"80/tcp": "8070"}))
            for _ in range(steps):
                await asyncio.sleep(0)  # one turn of the loop further each time
            attaching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attaching
            await drained(host)
            assert ({link.name for link in host.netlink.links()}, len(os.listdir("/proc/self/fd"))) == before
            assert "8070" not in host.nft.run("list ruleset")
        await networks._fabric.leases.settle()  # an address is free when its link is gone, or soon after
        assert (await attach(networks, ports={"80/tcp": "8070"})).endpoints["bridge"].address4 == "172.17.0.2"
        await networks.detach(container_id("web"))


@on_fake_host
async def test_random_ports(host: Host) -> None:
    async with host.networks() as networks:
        one = await attach(networks, "one", exposed=["80/tcp", "81/tcp"], publish_all=True)
        numbers = [int(b["HostPort"]) for bindings in ports_of(one).values() for b in bindings or ()]
        assert len(numbers) == 4 and len(set(numbers)) == 2
        low, high = map(int, open("/proc/sys/net/ipv4/ip_local_port_range").read().split())
        assert all(low <= n <= high for n in numbers)
        await networks.detach(container_id("one"))


@on_fake_host
async def test_ports_work_while_the_daemon_is_dead(host: Host) -> None:
    """kill -9 of the daemon: its process is a fork that attaches, starts the container and dies without a word."""
    namespaces: list[int] = []
    ready, tell = os.pipe()
    holder = spawn("sleep", "100")  # stands for the container's process, which the supervisor keeps alive
    pid = os.fork()
    if pid == 0:
        asyncio.get_event_loop_policy().set_event_loop(None)

        async def daemon() -> None:
            async with host.networks() as networks:
                for name, port in (("web", "8080"), ("gone", "8081")):
                    sandbox = await attach(networks, name, ports={"80/tcp": port})
                    os.write(tell, f"/proc/{os.getpid()}/fd/{sandbox.netns.rpartition('/')[2]}\n".encode())
                await asyncio.Event().wait()

        asyncio._set_running_loop(None)
        asyncio.run(daemon())
    lines = b""
    while lines.count(b"\n") < 2:
        lines += os.read(ready, 1000)
    namespaces = [os.open(path, os.O_RDONLY) for path in lines.decode().split()]
    os.kill(pid, 9)
    os.waitpid(pid, 0)  # noqa: ASYNC222
    host.serve(namespaces[0], 80)
    assert await host.ask(host.lan, HOST4, 8080) == LAN4, "while it is dead"
    assert await host.ask(None, "127.0.0.1", 8080)
    async with host.networks(restored=False) as networks:
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        await networks.carrier.sweep()  # the one before may have died before it had handed its sockets over
        assert await host.ask(None, "::1", 8080), "the carrier went on, or is back"
        with pytest.raises(Internal, match="port is already allocated"):
            await attach(networks, "two", ports={"80/tcp": "8080"})
        await networks.restore({container_id("web"): holder.pid})
        assert networks.sandbox(container_id("gone")) is None
        kept = networks.sandbox(container_id("web"))
        assert kept is not None and kept.endpoints["bridge"].address4 == "172.17.0.2"
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        with pytest.raises(ConnectionRefusedError):
            await host.ask(host.lan, HOST4, 8081)
        fresh = await attach(networks, "fresh", ports={"80/tcp": "8081"})
        assert fresh.endpoints["bridge"].address4 not in ("172.17.0.2", "172.17.0.1")
        for fd in namespaces:
            os.close(fd)
        for name in ("web", "fresh"):
            await networks.detach(container_id(name))
    end(holder)


@on_fake_host
async def test_stray_links_of_a_dead_daemon_are_swept(host: Host) -> None:
    async with host.networks() as networks:
        await attach(networks)
        bridge = host.netlink.link("sampan0")
        assert bridge is not None
        host.netlink.batch([netlink.add_veth("veth0123abc", "x0", master=bridge.ifindex)])
        host.netlink.batch([netlink.add_veth("uplink0", "x1", master=bridge.ifindex)])
        await networks.started(container_id("web"), os.getpid())
        await networks.restore({container_id("web"): os.getpid()})
        names = {link.name for link in host.netlink.links()}
        assert "veth0123abc" not in names and "uplink0" in names
        host.netlink.batch([netlink.delete_link("uplink0")])
        await networks.detach(container_id("web"))


@on_fake_host
async def test_a_link_goes_even_if_somebody_keeps_the_namespace(host: Host) -> None:
    async with host.networks() as networks:
        web = await attach(networks)
        keeper = os.open(web.netns, os.O_RDONLY)
        await networks.detach(container_id("web"))
        second = await attach(networks, "second")
        assert second.endpoints["bridge"].address4 == "172.17.0.3", "not free while the link lives"
        await networks.detach(container_id("second"))
        await until(lambda: len(networks._fabric.leases) == 0)
        assert not [link for link in host.netlink.links() if link.kind == "veth" and link.name != "lan0"]
        assert (await attach(networks, "third")).endpoints["bridge"].address4 == "172.17.0.2"
        os.close(keeper)
        await networks.detach(container_id("third"))


@on_fake_host
async def test_two_engines_side_by_side(host: Host) -> None:
    async with host.networks("a") as a:
        one = await attach(a, "one", ports={"80/tcp": "8080"})
        async with host.networks("b") as b:
            two = await attach(b, "two", ports={"80/tcp": "8081"})
            assert (one.endpoints["bridge"].gateway4, two.endpoints["bridge"].gateway4) == (
                "172.17.0.1",
                "172.18.0.1",
            )
            host.serve(one.netns, 80)
            host.serve(two.netns, 80)
            assert await host.ask(host.lan, HOST4, 8080) == await host.ask(host.lan, HOST4, 8081) == LAN4
            with pytest.raises(Internal, match="address already in use"):
                await attach(b, "three", ports={"80/tcp": "8080"})
            await b.detach(container_id("two"))
        assert await host.ask(host.lan, HOST4, 8080) == LAN4, "the other engine has taken only what was its own"
        await a.detach(container_id("one"))


@on_fake_host
async def test_engines_that_start_together_choose_apart(host: Host) -> None:
    async with contextlib.AsyncExitStack() as stack:
        contexts = [host.networks(name) for name in "abcd"]
        services = await asyncio.gather(*(stack.enter_async_context(c) for c in contexts))
        shown = [n.inspect("bridge") for n in services]
        assert len({s["IPAM"]["Config"][0]["Subnet"] for s in shown}) == 4
        assert len({s["Options"]["com.docker.network.bridge.name"] for s in shown}) == 4


@on_fake_host
async def test_a_stop_leaves_running_containers_their_network(host: Host) -> None:
    async with host.networks() as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        namespace = os.open(web.netns, os.O_RDONLY)
        await networks.started(container_id("web"), os.getpid())
        host.serve(namespace, 80)
    assert await host.ask(host.lan, HOST4, 8080) == LAN4
    assert await host.ask(None, "127.0.0.1", 8080)
    async with host.networks(restored=False) as networks:
        await networks.restore({container_id("web"): os.getpid()})
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        os.close(namespace)
        await networks.detach(container_id("web"))


@on_fake_host
async def test_ipv6_on_the_default_bridge(host: Host) -> None:
    async with host.networks(ipv6=True, fixed_cidr_v6="2001:db8:77::/64") as networks:
        web = await attach(networks, ports={"80/tcp": "8080"})
        endpoint = web.endpoints["bridge"]
        assert (endpoint.address6, endpoint.gateway6) == ("2001:db8:77::2", "2001:db8:77::1")
        host.serve(web.netns, 80, address="::")
        assert await host.ask(host.lan, HOST6, 8080) == LAN6
        assert web.addresses == ["172.17.0.2", "2001:db8:77::2"]
        await networks.detach(container_id("web"))


@on_fake_host
async def test_the_default_bridge_as_configured(host: Host) -> None:
    async with host.networks(
        bip="10.5.0.1/24", fixed_cidr="10.5.0.128/28", default_gateway="10.5.0.9", mtu=1300
    ) as networks:
        shown = networks.inspect("bridge")
        assert shown["IPAM"]["Config"][0] == {
            "Subnet": "10.5.0.0/24",
            "IPRange": "10.5.0.128/28",
            "Gateway": "10.5.0.1",
            "AuxiliaryAddresses": {"DefaultGatewayIPv4": "10.5.0.9"},
        }
        endpoint = (await attach(networks)).endpoints["bridge"]
        assert (endpoint.address4, endpoint.gateway4) == ("10.5.0.128", "10.5.0.9")
        await networks.detach(container_id("web"))
    async with host.networks(default_address_pools=({"base": "10.77.0.0/16", "size": 24},)) as networks:
        assert networks.inspect("bridge")["IPAM"]["Config"][0]["Subnet"] == "10.77.0.0/24"
        second = await networks.create(NetworkCreateRequest(name="second"))
        assert second.subnets[0].subnet == "10.77.1.0/24"
        await networks.remove("second")
    async with host.networks(bridge="none") as networks:
        assert list((await attach(networks)).endpoints) == ["none"]
        await networks.detach(container_id("web"))
    host.netlink.batch([netlink.add_bridge("own0")])
    host.netlink.batch([netlink.set_link("own0", up=True)])
    link = host.netlink.link("own0")
    assert link is not None
    host.netlink.batch([netlink.add_address(link.ifindex, ip_address("10.8.0.1"), 24)])
    async with host.networks(bridge="own0") as networks:
        assert (await attach(networks)).endpoints["bridge"].address4 == "10.8.0.2"
        await networks.detach(container_id("web"))
    assert host.netlink.link("own0") is not None, "an administrator's bridge is not ours to delete"
    host.netlink.batch([netlink.delete_link("own0")])


@on_fake_host
async def test_connect_and_disconnect(host: Host) -> None:
    config = IPAM(config=[IPAMConfig(subnet="10.213.0.0/24", gateway="10.213.0.1")])
    async with host.networks() as networks:
        network = await networks.create(
            NetworkCreateRequest(name="blue", ipam=config, options={"com.docker.network.bridge.name": "brblue"})
        )
        web = await attach(networks, ports={"80/tcp": "8080"})
        holder = spawn("nsenter", f"--net={web.netns}", "sleep", "100")
        await until(lambda: os.stat(f"/proc/{holder.pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino)
        id_, here = container_id("web"), f"/proc/{holder.pid}/ns/net"
        host.serve(here, 80)
        await networks.started(id_, holder.pid)
        await connect(networks, "blue", id_, EndpointSettings(ipam_config=STATIC, aliases=["al"]))
        shown = networks.sandbox(id_)
        assert shown is not None
        assert shown.endpoints["blue"].address4 == "10.213.0.140"
        assert shown.endpoints["blue"].dns_names == ["web", "al", id_[:12]]
        with pytest.raises(Forbidden, match="endpoint with name web already exists in network blue"):
            await connect(networks, "blue", id_)
        with pytest.raises(Forbidden, match=r'network blue has active endpoints \(name:"web" id:"[0-9a-f]{12}"\)'):
            await networks.remove("blue")
        with pytest.raises(Forbidden, match="Address already in use"):
            await attach(networks, "two", mode="blue", endpoints={"blue": EndpointSettings(ipam_config=STATIC)})
        assert await host.ask(None, "10.213.0.140", 80) == "10.213.0.1"
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        assert await disconnect(networks, "bridge", id_)
        assert not await disconnect(networks, "bridge", id_)
        assert await host.ask(host.lan, HOST4, 8080) == LAN4, "ports and default route moved to the other network"
        await connect(networks, "bridge", id_)
        assert await host.ask(host.lan, HOST4, 8080) == LAN4
        assert await disconnect(networks, network.id[:8], id_)
        end(holder)
        await networks.detach(id_)
        # the static address is free at once for the next start
        again = await attach(networks, mode="blue", endpoints={"blue": EndpointSettings(ipam_config=STATIC)})
        await networks.detach(id_)
        again = await attach(networks, mode="blue", endpoints={"blue": EndpointSettings(ipam_config=STATIC)})
        assert again.endpoints["blue"].address4 == "10.213.0.140"
        await networks.detach(id_)
        await networks.remove("blue")
        assert host.netlink.link("brblue") is None


@on_fake_host
async def test_a_thousand_in_a_row_leave_nothing(host: Host) -> None:
    async with host.networks() as networks:

        def count() -> tuple[int, int, int]:
            links = len([link for link in host.netlink.links() if link.kind == "veth"])
            return links, len(os.listdir("/proc/self/fd")), host.nft.run("list ruleset").count("tcp . ")

        await once(networks, 0)
        before = None
        for n in range(1000):
            await once(networks, n)
            if n == 20:
                await drained(host)
                before = count()
        await drained(host)
        assert count() == before
        assert not os.listdir(f"{host.directory}/a/run/netns")


async def once(networks: Networks, n: int) -> None:
    name = f"c{n}"
    await attach(networks, name, ports={"80/tcp": ["8080", "8081"]} | ({} if n % 50 else {"53/udp": "5353"}))
    await networks.started(container_id(name), os.getpid())
    await networks.detach(container_id(name))


async def drained(host: Host) -> None:
    await until(lambda: not any(link.kind == "veth" and link.name != "lan0" for link in host.netlink.links()))


@on_fake_host
async def test_a_running_container_is_renumbered_when_its_network_has_other_subnets(host: Host) -> None:
    """The daemon starts with whatever configuration: what cannot be kept is made anew, or said to be gone."""
    web = container_id("web")
    async with host.networks(ipv6=True, fixed_cidr_v6="fd00:1::/64") as networks:
        sandbox = await attach(networks, ports={"80/tcp": "8080"}, exposed=["80/tcp"])
        holder = in_namespace(host, sandbox)
        host.serve(sandbox.netns, 80)
        await networks.started(web, holder.pid)
    configurations: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({"ipv6": True, "fixed_cidr_v6": "fd00:2::/64"}, ("172.17.0.2", "fd00:2::2")),
        ({"ipv6": True, "bip": "10.77.0.1/24", "fixed_cidr_v6": "fd00:2::/64"}, ("10.77.0.2", "fd00:2::2")),
        ({"default_address_pools": ({"base": "10.99.0.0/16", "size": 24},)}, ("10.99.0.2", "")),
        ({"bip": "10.98.0.1/24", "iptables": False}, ("10.98.0.2", "")),
    ]
    try:
        for options, addresses in configurations:
            async with host.networks(restored=False, **options) as networks:
                await networks.restore({web: holder.pid})
                shown = networks.sandbox(web)
                assert shown is not None
                endpoint = shown.endpoints["bridge"]
                assert (endpoint.address4, endpoint.address6) == addresses
                assert await host.ask(None, "127.0.0.1", 8080), f"the port leads there: {options}"
                with host.inside(f"/proc/{holder.pid}/ns/net"), Netlink() as inside:
                    held = {
                        str(p.address)
                        for p in inside.addresses()
                        if not (p.address.is_link_local or p.address.is_loopback)
                    }
                assert held == {a for a in addresses if a}
        async with host.networks(restored=False, bridge="none") as networks:
            await networks.restore({web: holder.pid})
            shown = networks.sandbox(web)
            assert shown is not None and not shown.endpoints and not shown.bindings
            fresh = await attach(networks, "fresh")
            assert list(fresh.endpoints) == ["none"], "run works without a default network"
            await networks.detach(container_id("fresh"))
            await networks.detach(web)
    finally:
        end(holder)


def in_namespace(host: Host, sandbox: Sandbox) -> subprocess.Popen[bytes]:
    """Start a process that holds a sandbox's namespace."""
    with host.inside(sandbox.netns):
        return spawn("sleep", "300")


@on_fake_host
async def test_a_sysctl_that_is_none_is_refused_and_nothing_is_left(host: Host) -> None:
    async with host.networks() as networks:
        wanted = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}
        made = await attach(networks, endpoints={"bridge": EndpointSettings(driver_opts=wanted)})
        with host.inside(made.netns), open("/proc/thread-self/root/proc/sys/net/ipv4/conf/eth0/log_martians") as file:
            assert file.read() == "1\n"
        await networks.detach(container_id("web"))
        links = {link.name for link in host.netlink.links()}
        for text, said in (
            ("net.ipv4.nope.IFNAME.x=1", "/proc/sys/net/ipv4/nope/eth0/x is not a sysctl file"),
            ("net.ipv4.conf.IFNAME.log_martians=bad", "unable to write to '/proc/sys/net/ipv4/conf/eth0/log_martians'"),
        ):
            bad = EndpointSettings(driver_opts={"com.docker.network.endpoint.sysctls": text})
            with pytest.raises(
                Internal, match=f"^failed to set up container networking: failed to add.*{re.escape(said)}"
            ):
                await attach(networks, endpoints={"bridge": bad})
        assert {link.name for link in host.netlink.links()} <= links


@on_fake_host
async def test_a_network_goes_before_or_after_a_start_and_never_within(host: Host) -> None:
    """At every turn of the loop within a start, and within a removal, the other begins: exactly one of them wins."""
    async with host.networks() as networks:
        outcomes = set()
        for turns in [*range(12), *(-n for n in range(1, 12))]:
            made = await networks.create(NetworkCreateRequest(name="own"))

            async def later(work: Coroutine[Any, Any, object], wait: int) -> object:
                for _ in range(wait):
                    await asyncio.sleep(0)
                return await work

            started, removed = await asyncio.gather(
                later(attach(networks, mode="own"), max(-turns, 0)),
                later(networks.remove("own"), max(turns, 0)),
                return_exceptions=True,
            )
            if isinstance(started, Sandbox):
                assert isinstance(removed, Forbidden) and 'has active endpoints (name:"web"' in str(removed)
                assert started.endpoints["own"].ipv4 and networks.find(made.id) is made
                await networks.detach(container_id("web"))
                await networks.remove("own")
            else:
                assert isinstance(started, NotFound) and removed is None
            outcomes.add(isinstance(started, Sandbox))
        assert outcomes == {True, False}


@on_fake_host
async def test_a_network_that_is_going_cannot_be_connected_to(host: Host) -> None:
    async with host.networks() as networks:
        await attach(networks)
        holder = spawn("sleep", "300")
        await networks.started(container_id("web"), holder.pid)
        own = await networks.create(NetworkCreateRequest(name="own"))
        removing = asyncio.ensure_future(networks.remove("own"))
        await asyncio.sleep(0)
        with pytest.raises(NotFound, match=r"^network \w+ not found$"):
            async with networks.connecting(own, container_id("web"), EndpointSettings()):
                pass
        await removing
        await networks.detach(container_id("web"))
        end(holder)


@on_fake_host
async def test_an_engine_starts_on_a_host_without_a_free_subnet(host: Host) -> None:
    host.netlink.batch([netlink.add_bridge("full0"), netlink.set_link("full0", up=True)])
    link = host.netlink.link("full0")
    assert link is not None
    host.netlink.batch([netlink.add_address(link.ifindex, ip_address("10.99.0.1"), 16)])
    async with host.networks(default_address_pools=({"base": "10.99.0.0/16", "size": 24},)) as networks:
        assert list((await attach(networks)).endpoints) == ["none"]
        await networks.detach(container_id("web"))
    host.netlink.batch([netlink.delete_link("full0")])
