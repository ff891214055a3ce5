"""macvlan and ipvlan networks on a host of their own: who reaches whom, and what becomes of parents.

The stations behind the parent are the LAN of the fake host (lan0 is the host's end of it). What a kernel lacks is
named by a skip; all of it is run in the test machine (test_vm.py).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from sampan.engine.networks import names
from sampan.engine.networks.records import PREDEFINED, NetworkRecord
from sampan.engine.networks.service import Networks, Sandbox
from sampan.errors import Forbidden, Internal, InvalidArgument, NotImplemented_, SampanError
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.spec.engine_api.network import (
    IPAM,
    ConfigReference,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAMConfig,
    NetworkCreateRequest,
)
from tests.kernel.net_host import (
    Host,
    attach,
    container_id,
    die_at,
    has_kind,
    needs_kind,
    on_fake_host,
    until,
)

STATION4, STATION6 = "10.213.0.1", "fd00:213::1"


async def made(
    networks: Networks,
    name: str = "n",
    driver: str = "macvlan",
    *,
    subnets: Sequence[str] = ("10.213.0.0/24",),
    gateways: Sequence[str] = (STATION4,),
    **options: str,
) -> NetworkRecord:
    configs = [
        IPAMConfig(subnet=s, gateway=g) for s, g in zip(subnets, [*gateways, *[""] * len(subnets)], strict=False)
    ]
    return await networks.create(
        NetworkCreateRequest(
            name=name,
            driver=driver,
            ipam=IPAM(config=configs),
            options={"parent": "lan0"} | options,
            enable_ipv6=any(":" in s for s in subnets),
        )
    )


@contextlib.asynccontextmanager
async def pair(host: Host, networks: Networks, **network: Any) -> AsyncIterator[tuple[NetworkRecord, Sandbox, Sandbox]]:
    """A network with two containers that serve, and a station behind the parent."""
    record = await made(networks, **network)
    host.address(host.lan, "eth0", STATION4, 24)
    one, two = await attach(networks, "one", mode="n"), await attach(networks, "two", mode="n")
    for sandbox in (one, two):
        host.serve(sandbox.netns, 80)
    yield record, one, two
    await host.unserve()
    for name in ("one", "two"):
        await networks.detach(container_id(name))
    await networks.remove("n")


async def unreached(host: Host, one: Sandbox, two: Sandbox) -> bool:
    """Whether nothing of one container reaches the other, not even a neighbour request."""
    try:
        return await host.dropped(one.netns, two.endpoints["n"].address4, 80)
    except OSError as error:
        return error.errno == errno.EHOSTUNREACH


@on_fake_host
async def test_bridge_mode_connects_containers_and_stations_and_not_the_host(host: Host) -> None:
    async with host.networks() as networks:
        async with pair(host, networks, macvlan_mode="bridge") as (_, one, two):
            first, second = one.endpoints["n"].address4, two.endpoints["n"].address4
            assert (first, second) == ("10.213.0.2", "10.213.0.3")
            assert await host.ask(one.netns, second, 80) == first
            assert await host.ask(host.lan, first, 80) == STATION4
            host.serve(host.lan, 81, address=STATION4)
            assert await host.ask(two.netns, STATION4, 81) == second
            host.address(host.lan, "eth0", "10.214.0.1", 24)  # behind the gateway
            host.serve(host.lan, 82, address="10.214.0.1")
            assert await host.ask(two.netns, "10.214.0.1", 82) == second
            with pytest.raises((OSError, TimeoutError)):
                await host.ask(None, first, 80)


@pytest.mark.parametrize("mode", ["private", "vepa"])
def test_other_modes_keep_containers_apart(root: None, mode: str) -> None:
    async def test(host: Host) -> None:
        async with host.networks() as networks:
            async with pair(host, networks, macvlan_mode=mode) as (_, one, two):
                assert await host.ask(host.lan, one.endpoints["n"].address4, 80) == STATION4
                assert await unreached(host, one, two)

    on_fake_host(test)(root)


@on_fake_host
async def test_passthru_is_alone_on_its_parent_and_gives_it_back(host: Host) -> None:
    async with host.networks() as networks:
        before = {link.name: link for link in host.netlink.links()}
        network = await made(networks, macvlan_mode="passthru")
        web = await attach(networks, mode="n")
        host.address(host.lan, "eth0", STATION4, 24)
        host.serve(web.netns, 80)
        assert await host.ask(host.lan, "10.213.0.2", 80) == STATION4
        with pytest.raises(SampanError, match="failed to set up container networking: "):
            await attach(networks, "second", mode="n")
        used = f"macvlan network {network.id} is already using parent interface lan0"
        for mode, said in (("passthru", f"cannot use mode passthru, {used}"), ("bridge", f"{used} in mode passthru")):
            with pytest.raises(Forbidden, match=f"^{said}$"):
                await made(networks, "m", subnets=["10.215.0.0/24"], gateways=[], macvlan_mode=mode)
        await host.unserve()
        await networks.detach(container_id("web"))
        await networks.remove("n")
        assert {link.name: link for link in host.netlink.links()} == before


@on_fake_host
async def test_both_ip_versions_and_several_subnets(host: Host) -> None:
    async with host.networks() as networks:
        subnets = ["10.213.0.0/24", "fd00:213::/64", "10.216.0.0/30"]
        network = await made(networks, subnets=subnets, gateways=[STATION4, STATION6, "10.216.0.1"])
        host.address(host.lan, "eth0", STATION4, 24)
        host.address(host.lan, "eth0", STATION6, 64)
        web = await attach(networks, mode="n")
        endpoint = web.endpoints["n"]
        assert (endpoint.gateway4, endpoint.gateway6, endpoint.ipv6) == (STATION4, STATION6, "fd00:213::2/64")
        host.serve(web.netns, 80, address="::")
        assert await host.ask(host.lan, endpoint.address6, 80) == STATION6
        # an address of the other subnet, with that subnet's gateway, and the subnet's end
        asked = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.216.0.2"))
        other = (await attach(networks, "other", endpoints={"n": asked}, mode="n")).endpoints["n"]
        assert (other.ipv4, other.gateway4) == ("10.216.0.2/30", "10.216.0.1")
        await host.unserve()
        await networks.detach(container_id("other"))
        again = (await attach(networks, "other", endpoints={"n": asked}, mode="n")).endpoints["n"]
        assert again.ipv4 == other.ipv4
        for name in ("web", "other"):
            await networks.detach(container_id(name))
        assert all(len(p) == 3 for p in networks._catalogue.pools_of(network.id, 4))
        await networks.remove("n")


@on_fake_host
async def test_the_next_free_subnet_is_taken_when_one_is_full(host: Host) -> None:
    async with host.networks() as networks:
        await made(networks, subnets=["10.216.0.0/30", "10.216.1.0/30"], gateways=["10.216.0.1", "10.216.1.1"])
        given = [(await attach(networks, str(n), mode="n")).endpoints["n"] for n in range(2)]
        assert [(e.ipv4, e.gateway4) for e in given] == [
            ("10.216.0.2/30", "10.216.0.1"),
            ("10.216.1.2/30", "10.216.1.1"),
        ]
        with pytest.raises(Internal, match=r"address pools \(all 4 are taken\): n "):
            await attach(networks, "3", mode="n")
        for n in range(2):
            await networks.detach(container_id(str(n)))
        await networks.remove("n")


@on_fake_host
async def test_who_takes_over_an_address_is_known_to_the_neighbours_at_once(host: Host) -> None:
    async with host.networks() as networks:
        await made(networks)
        host.address(host.lan, "eth0", STATION4, 24)
        for mac in ("02:00:00:00:00:01", "02:00:00:00:00:02"):
            web = await attach(networks, mode="n", endpoints={"n": EndpointSettings(mac_address=mac)})
            host.serve(web.netns, 80)
            assert await host.ask(host.lan, "10.213.0.2", 80) == STATION4  # at once: no cache is out of date
            await host.unserve()
            await networks.detach(container_id("web"))
        await networks.remove("n")


@on_fake_host
async def test_a_parent_that_goes_is_named_and_may_come_back(host: Host) -> None:
    async with host.networks() as networks:
        host.netlink.batch([netlink.add_veth("par0", "par1")])
        await made(networks, parent="par0")
        await attach(networks, mode="n")
        host.netlink.batch([netlink.delete_link("par0")])
        said = "error occurred looking up the macvlan parent iface par0 error: Link not found"
        with pytest.raises(Internal, match=said):
            await attach(networks, "second", mode="n")
        await networks.detach(container_id("web"))
    async with host.networks() as networks:  # the engine starts all the same
        assert networks.find("n").driver == "macvlan"
        with pytest.raises(Internal, match=said):
            await attach(networks, mode="n")
        host.netlink.batch([netlink.add_veth("par0", "par1")])
        assert (await attach(networks, mode="n")).addresses == ["10.213.0.2"]
        await networks.detach(container_id("web"))
        await networks.remove("n")
        assert host.netlink.link("par0") is not None, "an administrator's link is left alone"
        host.netlink.batch([netlink.delete_link("par0")])


@on_fake_host
async def test_the_gateway_is_not_the_host(host: Host) -> None:
    """So host.docker.internal is not its name."""
    async with host.networks() as networks:
        await made(networks)
        web = await attach(networks, mode="n")
        assert web.names and web.endpoints["n"].gateway4 == STATION4
        (record,) = networks._sandboxes.all()
        catalogue = networks._catalogue
        described = names.describe(record, catalogue.table.get, (), catalogue.leads_to_host)
        assert described.host == () and described.forwards
        await networks.detach(container_id("web"))
        await networks.remove("n")


@on_fake_host
async def test_published_ports_have_no_meaning(host: Host) -> None:
    async with host.networks() as networks:
        await made(networks)
        web = await attach(networks, mode="n", ports={"80/tcp": "8080"})
        assert (web.exposed, web.bindings) == ((), ())
        with pytest.raises(ConnectionRefusedError):
            await host.ask(None, "127.0.0.1", 8080)
        await networks.detach(container_id("web"))
        await networks.remove("n")


@on_fake_host
async def test_a_configuration_is_kept_over_restarts_and_never_made(host: Host) -> None:
    async with host.networks() as networks:
        before = {link.name for link in host.netlink.links()}
        ipam = IPAM(config=[IPAMConfig(subnet="10.213.0.0/24")])
        configuration = NetworkCreateRequest(name="c", config_only=True, ipam=ipam, options={"parent": "lan0"})
        await networks.create(configuration)
        assert {link.name for link in host.netlink.links()} == before
        using = NetworkCreateRequest(name="n", driver="macvlan", config_from=ConfigReference(network="c"))
        await networks.create(using)
    async with host.networks() as networks:
        web = await attach(networks, mode="n")
        assert web.endpoints["n"].ipv4 == "10.213.0.2/24"
        with pytest.raises(Forbidden, match='configuration network "c" is in use'):
            await networks.remove("c")
        assert networks.find("c").config_only and await networks.prune() is None
        await networks.detach(container_id("web"))
        await networks.remove("n")
        await networks.remove("c")


# ── what not every kernel has ───────────────────────────────────────────────────────────────────────────────────


@on_fake_host
async def test_what_the_kernel_lacks_is_named_and_nothing_is_left(host: Host) -> None:
    async with host.networks() as networks:
        before = {link.name for link in host.netlink.links()}
        for driver, parent, module in (
            ("macvlan", "", "dummy"),
            ("macvlan", "lan0.7", "8021q"),
            ("ipvlan", "lan0", "ipvlan"),
        ):
            said = ""
            try:
                await made(networks, driver=driver, parent=parent)
                await networks.remove("n")
            except NotImplemented_ as error:
                said = error.message
            named = "operation not supported: this kernel has no " in said and f"(module {module})" in said
            assert named != has_kind({"8021q": "vlan"}.get(module, module))
            assert {link.name for link in host.netlink.links()} == before
            assert networks._catalogue.named("n") is None


@pytest.mark.parametrize(("parent", "kind"), [("", "dummy"), ("lan0.7", "vlan")])
def test_kill_9_leaves_no_parent(root: None, parent: str, kind: str) -> None:
    """Creation and removal are killed before every change; what the next start has not, has left no link either."""
    needs_kind(kind)

    async def test(host: Host) -> None:
        begun = False

        async def life() -> None:
            nonlocal begun
            async with host.networks() as networks:
                begun = True
                await made(networks, parent=parent)
                await made(networks, "m", parent=parent, subnets=["10.217.0.0/24"], gateways=[])
                await networks.remove("n")
                await networks.remove("m")
                begun = False

        async with host.networks():
            clean = {link.name for link in host.netlink.links()}
        for step in itertools.count(1):
            died = die_at(step, lambda: begun, life)
            async with host.networks() as networks:
                for network in networks._catalogue.all():
                    if network.name not in PREDEFINED:
                        await attach(networks, mode=network.name)
                        await networks.detach(container_id("web"))
                        await networks.remove(network.name)
                assert {link.name for link in host.netlink.links()} == clean, step
            if not died:
                break
        assert step > 4

    on_fake_host(test)(root)


def test_a_network_without_a_parent_has_a_dummy(root: None) -> None:
    needs_kind("dummy")

    async def test(host: Host) -> None:
        async with host.networks() as networks:
            network = await made(networks, parent="")
            name = f"dm-{network.id[:12]}"
            one, two = await attach(networks, "one", mode="n"), await attach(networks, "two", mode="n")
            host.serve(one.netns, 80)
            assert await host.ask(two.netns, one.endpoints["n"].address4, 80) == two.endpoints["n"].address4
            await host.unserve()
            for which in ("one", "two"):
                await networks.detach(container_id(which))
        assert host.netlink.link(name) is None, "an engine without containers leaves nothing"
        async with host.networks() as networks:
            link = host.netlink.link(name)
            assert link is not None and link.kind == "dummy" and link.flags & netlink.IFF_UP
            host.netlink.batch([netlink.delete_link(name)])
            await attach(networks, mode="n")  # it is ours: made again
            await networks.detach(container_id("web"))
            await networks.remove("n")
            assert host.netlink.link(name) is None

    on_fake_host(test)(root)


def test_a_sub_interface_goes_with_the_last_network_on_it(root: None) -> None:
    needs_kind("vlan")

    async def test(host: Host) -> None:
        with host.inside(host.lan):
            lan = Netlink()
        with lan:  # a station on the same VLAN
            eth0 = lan.link("eth0")
            assert eth0 is not None
            tag = netlink.attribute(1, (7).to_bytes(2, "little"))
            lan.batch([netlink.add_link("eth0.7", "vlan", parent=eth0.ifindex, data=tag)])
        host.address(host.lan, "eth0.7", STATION4, 24)
        with host.inside(host.lan):
            lan = Netlink()
        with lan:
            lan.batch([netlink.set_link("eth0.7", up=True)])
        async with host.networks() as networks:
            with pytest.raises(InvalidArgument, match="-o parent interface was not found on the host: nope"):
                await made(networks, parent="nope.7")
            await made(networks, parent="lan0.7")
            await made(networks, "m", parent="lan0.7", subnets=["10.217.0.0/24"], gateways=[])
            web = await attach(networks, mode="n")
            host.serve(web.netns, 80)
            assert await host.ask(host.lan, web.endpoints["n"].address4, 80) == STATION4
            await host.unserve()
            await networks.detach(container_id("web"))
            await networks.remove("n")
            assert host.netlink.link("lan0.7") is not None
        async with host.networks() as networks:
            assert host.netlink.link("lan0.7") is not None
            await networks.remove("m")
            assert host.netlink.link("lan0.7") is None
            # a link that is there already is somebody else's
            lan0 = host.netlink.link("lan0")
            assert lan0 is not None
            host.netlink.batch([netlink.add_link("lan0.8", "vlan", parent=lan0.ifindex, data=tag)])
            await made(networks, parent="lan0.8")
            await networks.remove("n")
            assert host.netlink.link("lan0.8") is not None
            host.netlink.batch([netlink.delete_link("lan0.8")])

    on_fake_host(test)(root)


@pytest.mark.parametrize(("mode", "flag"), [("l2", "bridge"), ("l2", "private"), ("l3", "bridge"), ("l3s", "bridge")])
def test_ipvlan_modes(root: None, mode: str, flag: str) -> None:
    needs_kind("ipvlan")

    async def test(host: Host) -> None:
        async with host.networks() as networks:
            given = {"gateways": [] if mode != "l2" else [STATION4]}
            options = {"driver": "ipvlan", "ipvlan_mode": mode, "ipvlan_flag": flag}
            async with pair(host, networks, **given, **options) as (network, one, two):
                first, second = one.endpoints["n"], two.endpoints["n"]
                with host.inside(one.netns):
                    inside = Netlink()
                with inside:
                    defaults = {r.gateway for r in inside.routes() if r.destination is None or r.length == 0}
                assert first.mac == "" and (first.gateway4 == STATION4) == (mode == "l2")
                assert bool(defaults) and (None in defaults) == (mode != "l2")
                if flag == "bridge":
                    assert await host.ask(one.netns, second.address4, 80) == first.address4
                else:
                    assert await unreached(host, one, two)
                if mode == "l2":
                    assert await host.ask(host.lan, first.address4, 80) == STATION4
                asked = EndpointSettings(mac_address="02:00:00:00:00:01")
                with pytest.raises(Internal, match="ipvlan interfaces do not support custom mac address assignment"):
                    await attach(networks, "third", mode="n", endpoints={"n": asked})
                with pytest.raises(
                    Forbidden, match=f"network di-{network.id[:12]} is already using parent interface lan0"
                ):
                    await made(networks, "m", "ipvlan", subnets=["10.218.0.0/24"], gateways=[])
            await until(lambda: len(networks._fabric.leases) == 0)

    on_fake_host(test)(root)
