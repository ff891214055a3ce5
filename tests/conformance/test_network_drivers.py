"""One suite for every network driver: those of the table and two that exist only in the tests, on a host of their own.

Each test takes the driver through the networks service, so that what is proven is the seam with both of its sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import os
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from sampan.engine.networks import fabric
from sampan.engine.networks.drivers import bridge_options, overlay_options
from sampan.engine.networks.drivers.choice import DRIVERS
from sampan.engine.networks.records import PREDEFINED, NetworkRecord
from sampan.engine.networks.service import Networks, Sandbox
from sampan.errors import Forbidden, InvalidArgument, SampanError, Unavailable
from sampan.linux import netlink
from sampan.linux.netlink import Netlink, Outcome
from sampan.spec.engine_api.network import IPAM, EndpointSettings, IPAMConfig, NetworkCreateRequest
from tests.kernel.net_host import (
    Host,
    attach,
    connect,
    container_id,
    die_at,
    disconnect,
    needs_kind,
    on_fake_host,
    spawn,
    until,
)
from tests.support.network_drivers import LANES, HangingDriver, drivers

NAMES = sorted({*DRIVERS, "lan", "plugin", "routed"})
NEEDED: dict[str, dict[str, str]] = {"macvlan": {"parent": "lan0"}, "ipvlan": {"parent": "lan0"}}
"""What a network of a driver cannot do without, on a host without dummies."""
BAD_OPTIONS: dict[str, list[dict[str, str]]] = {
    "bridge": [
        {bridge_options.ICC: "maybe"},
        {"com.docker.network.driver.mtu": "x"},
        {bridge_options.NAME: "a name"},
        {bridge_options.GATEWAY_MODE4: "nope"},
    ],
    "macvlan": [{"macvlan_mode": "l2"}, {"parent": "lo"}, {"parent": "nope"}, {"parent": "lan0.4095"}],
    "ipvlan": [{"ipvlan_mode": "bridge"}, {"ipvlan_flag": "l2"}, {"parent": "lo"}],
    "overlay": [
        {"com.docker.network.driver.mtu": "x"},
        {"com.docker.network.driver.mtu": "9"},
        {overlay_options.VNIS: "x"},
        {overlay_options.VNIS: "0"},
        {overlay_options.VNIS: "16777216"},
        {overlay_options.VNIS: "1,2"},
    ],
    "lan": [{LANES: "x"}],
    "plugin": [],  # it decides itself, when it is asked
    "routed": [{LANES: "1"}],
}

Test = Callable[..., Awaitable[None]]


def for_every_driver(test: Test) -> Callable[[Any, str], None]:
    """Run a test once for each driver, on a host of its own."""

    @pytest.mark.parametrize("name", NAMES)
    def run(root: None, name: str) -> None:
        if name == "ipvlan":
            needs_kind("ipvlan")
        on_fake_host(partial(test, name=name))(root)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def made(networks: Networks, name: str, *, options: dict[str, str] | None = None) -> NetworkRecord:
    """A network of this driver: a new one, or the one that every engine has when there is no other."""
    if networks._catalogue.drivers[name].capabilities.single:
        return next(networks.find(n) for n, driver in PREDEFINED.items() if driver == name)
    ipam = IPAM(config=[IPAMConfig(subnet="10.213.0.0/24", gateway="10.213.0.1")])
    options = NEEDED.get(name, {}) | (options or {})
    return await networks.create(NetworkCreateRequest(name="under-test", driver=name, ipam=ipam, options=options))


async def unmade(networks: Networks, network: NetworkRecord) -> None:
    if network.name not in PREDEFINED:
        await networks.remove(network.name)


def picture(host: Host) -> tuple[object, ...]:
    """What the host's network has: links, addresses, routes, rules; and how many files are open here.

    A link's alias names its network; behind it, the run of the engine, which is another after each kill.
    """
    found = host.netlink.links()
    links = {(link.name, link.kind, ":".join(link.alias.split(":")[:2]), link.master, link.mtu) for link in found}
    indexes = {link.ifindex: link.name for link in host.netlink.links()}
    addresses = {
        (indexes.get(p.ifindex), p.address, p.length) for p in host.netlink.addresses() if not p.address.is_link_local
    }
    routes = {
        (r.destination, r.length, r.gateway, indexes.get(r.ifindex)) for r in host.netlink.routes() if r.length < 128
    }
    rules = host.nft.run("list ruleset")
    return links, addresses, routes, rules, len(os.listdir("/proc/self/fd"))


async def settled(host: Host, before: tuple[object, ...]) -> None:
    """Wait until the kernel has done what it does later (links die some milliseconds after their namespace)."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: picture(host) == before)
    assert picture(host) == before


@for_every_driver
async def test_bad_options_are_refused_before_anything_is_done(host: Host, name: str) -> None:
    async with host.networks(drivers=drivers()) as networks:
        before, known = picture(host), len(networks.list())
        if networks._catalogue.drivers[name].capabilities.single:
            with pytest.raises(Forbidden, match=f'only one instance of "{name}" network is allowed'):
                await networks.create(NetworkCreateRequest(name="under-test", driver=name))
        for options in BAD_OPTIONS.get(name, []):
            with pytest.raises(InvalidArgument):
                await made(networks, name, options=options)
        assert (picture(host), len(networks.list())) == (before, known)


@for_every_driver
async def test_setup_and_teardown_are_idempotent_and_exact(host: Host, name: str) -> None:
    async with host.networks(drivers=drivers()) as networks:
        before = picture(host)
        network = await made(networks, name)
        driver, fabric_host = networks._catalogue.drivers[name], networks._fabric.host
        up = picture(host)
        await driver.setup(fabric_host, network)
        assert picture(host) == up
        if network.name in PREDEFINED:
            return
        await networks.remove("under-test")
        assert picture(host) == before
        await driver.teardown(fabric_host, network)
        assert picture(host) == before


@for_every_driver
async def test_what_a_driver_says_is_stable(host: Host, name: str) -> None:
    """The same words and plans for the same records: asked twice, and from the driver of the next start."""
    said = []
    for _ in range(2):
        async with host.networks(drivers=drivers()) as networks:
            driver = networks._catalogue.drivers[name]
            network = networks._catalogue.named("under-test") or await made(networks, name)
            assert driver.describe(network) and "\n" not in driver.describe(network)
            assert driver.describe(network) == driver.describe(network)
            assert driver.rules(network, ip6=True) == driver.rules(network, ip6=True)
            sandbox = await attach(networks, mode=network.name)
            endpoint = sandbox.endpoints[network.name]
            plan = driver.interface(network, endpoint)
            assert plan == driver.interface(network, endpoint)
            assert (plan is None) == (not driver.capabilities.addresses)
            assert plan is None or endpoint.interface in plan.describe()
            said.append((driver.describe(network), driver.rules(network, ip6=True)))
            await networks.detach(container_id("web"))
    assert said[0] == said[1]
    async with host.networks(drivers=drivers()) as networks:
        await unmade(networks, networks._catalogue.named("under-test") or networks.find("none"))


@for_every_driver
async def test_an_endpoint_works_and_leaves_nothing(host: Host, name: str) -> None:
    # ip_forward_no_drop: the host forwards between containers of a network that has no rules
    async with host.networks(drivers=drivers(), ip_forward_no_drop=True) as networks:
        network = await made(networks, name)
        before = picture(host)
        for _ in range(2):  # the second has the same address, and finds nothing of the first
            web = await attach(networks, mode=network.name)
            assert web.addresses in ([], ["10.213.0.2"])
            await works(host, networks, network, web)
            if web.netns and web.endpoints[network.name].ipv4:
                await reaches_another(host, networks, network, web)
            await networks.detach(container_id("web"))
            await networks.detach(container_id("web"))
            await settled(host, before)
            await until(lambda: len(networks._fabric.leases) == 0)
        await unmade(networks, network)


async def reaches_another(host: Host, networks: Networks, network: NetworkRecord, web: Sandbox) -> None:
    """Prove that two containers of one network reach each other."""
    other = await attach(networks, "other", mode=network.name)
    host.serve(other.netns, 81)
    address = other.endpoints[network.name].address4
    assert await host.ask(web.netns, address, 81) == web.endpoints[network.name].address4
    await host.unserve()
    await networks.detach(container_id("other"))


async def works(host: Host, networks: Networks, network: NetworkRecord, web: Sandbox) -> None:
    """Prove that what the endpoint's record says is what the sandbox has, and that packets come and go."""
    capabilities = networks._catalogue.drivers[network.driver].capabilities
    endpoint = web.endpoints[network.name]
    if not capabilities.namespace:
        assert web.netns == "" and not endpoint.ipv4
        return
    with host.inside(web.netns):
        inside = Netlink()
    with inside:
        links = {link.name: link for link in inside.links()}
        addresses = {(p.ifindex, f"{p.address}/{p.length}") for p in inside.addresses() if not p.address.is_loopback}
        routes = {(r.gateway, r.ifindex) for r in inside.routes() if r.destination is None and r.table == 254}
    assert links["lo"].flags & netlink.IFF_UP
    if not capabilities.addresses:
        assert addresses == set() and endpoint.ipv4 == ""
        return
    link = links[endpoint.interface]
    assert link.flags & netlink.IFF_UP and (not capabilities.macs or link.address == endpoint.mac)
    expected = {(link.ifindex, endpoint.ipv4)}
    leads_out = {(endpoint.gateway4, link.ifindex)} if capabilities.gateway else set()
    if capabilities.way_out:
        assert web.way_out is not None
        other = links[web.way_out.interface]
        expected.add((other.ifindex, web.way_out.ipv4))
        leads_out = {(web.way_out.gateway4, other.ifindex)}
    assert addresses == expected
    assert {(str(gateway), index) for gateway, index in routes} == leads_out
    host.serve(web.netns, 80, address=endpoint.address4)
    assert await host.ask(web.netns, endpoint.address4, 80) == endpoint.address4
    if capabilities.gateway:
        station = host.lan if capabilities.outside else None
        if capabilities.outside:
            host.address(host.lan, "eth0", endpoint.gateway4, 24)
        assert await host.ask(station, endpoint.address4, 80) == endpoint.gateway4
        host.serve(station, 7777, address=endpoint.gateway4)
        assert await host.ask(web.netns, endpoint.gateway4, 7777) == endpoint.address4
    await host.unserve()


@for_every_driver
async def test_a_running_container_gets_and_loses_an_endpoint(host: Host, name: str) -> None:
    async with host.networks(drivers=drivers()) as networks:
        network = await made(networks, name)
        if network.name in PREDEFINED:
            return  # the containers service lets nobody ask for it
        web = await attach(networks)
        holder = await held(web)
        id = container_id("web")
        await networks.started(id, holder)
        before = picture(host)
        for _ in range(2):
            await connect(networks, "under-test", id, EndpointSettings(gw_priority=1))
            now = networks.sandbox(id)
            assert now is not None and now.endpoints["under-test"].interface == "eth1"
            here = Sandbox(id=now.id, key=now.key, netns=f"/proc/{holder}/ns/net", endpoints=now.endpoints)
            with host.inside(here.netns):
                inside = Netlink()
            with inside:
                added = inside.link("eth1")
                assert added is not None and added.flags & netlink.IFF_UP
                macs = networks._catalogue.drivers[name].capabilities.macs
            assert not macs or added.address == now.endpoints["under-test"].mac
            assert await disconnect(networks, "under-test", id)
            with host.inside(here.netns):
                inside = Netlink()
            with inside:
                assert inside.link("eth1") is None
                assert [str(r.gateway) for r in inside.routes() if r.destination is None and r.gateway] == [
                    "172.17.0.1"
                ]
            await settled(host, before)
        end_held(holder)
        await networks.detach(id)
        await unmade(networks, network)


@contextlib.contextmanager
def failing_at(step: int) -> Iterator[list[int]]:
    """Let the `step`th batch of netlink requests fail, from any socket; the list has the number that were made."""
    real, made = Netlink.attempt, [0]

    def attempt(self: Netlink, requests: Any) -> Outcome:
        made[0] += 1
        if made[0] == step:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "netlink")
        return real(self, requests)

    Netlink.attempt = attempt  # type: ignore[method-assign]
    try:
        yield made
    finally:
        Netlink.attempt = real  # type: ignore[method-assign]


@for_every_driver
async def test_a_failure_in_the_middle_is_undone(host: Host, name: str) -> None:
    """Every batch of requests fails once, of the creation and of an attach; then there is nothing, and it works."""
    async with host.networks(drivers=drivers()) as networks:
        before = picture(host)
        for step in itertools.count(1):
            with failing_at(step) as taken:
                try:
                    network = await made(networks, name)
                    break
                except SampanError as error:
                    said = error.message
            assert "Input/output error" in said
            assert taken[0] >= step
            await settled(host, before)
            assert networks._catalogue.named("under-test") is None
        before = picture(host)
        for step in itertools.count(1):
            with failing_at(step) as taken:
                try:
                    web = await attach(networks, mode=network.name)
                    break
                except SampanError as error:
                    said = error.message
            assert said.startswith("failed to set up container networking: ")
            await settled(host, before)
            assert networks.sandbox(container_id("web")) is None
        assert taken[0] < step, "the last attempt met no failure"
        await works(host, networks, network, web)
        await networks.detach(container_id("web"))
        await settled(host, before)
        await unmade(networks, network)


@for_every_driver
async def test_a_container_keeps_its_network_over_a_restart(host: Host, name: str) -> None:
    id = container_id("web")
    async with host.networks(drivers=drivers()) as networks:
        network = await made(networks, name)
        before = {(link.name, link.kind) for link in host.netlink.links()}
        web = await attach(networks, mode=network.name)
        shares = not networks._catalogue.drivers[name].capabilities.namespace
        holder = spawn("sleep", "1000").pid if shares else await held(web)
        await networks.started(id, holder)
    async with host.networks(restored=False, drivers=drivers()) as networks:
        await networks.restore({id: holder})
        kept = networks.sandbox(id)
        assert kept is not None and kept.endpoints == web.endpoints
        if not shares:
            here = dataclasses.replace(kept, netns=f"/proc/{holder}/ns/net")
            await works(host, networks, network, here)
        end_held(holder)
        await networks.detach(id)
        await until(lambda: {(link.name, link.kind) for link in host.netlink.links()} == before)
        await unmade(networks, network)


@for_every_driver
async def test_kill_9_at_every_step_leaves_the_network_or_nothing(host: Host, name: str) -> None:
    """Creation, attach, detach and removal are killed before every change; the next start has all of it or none."""
    begun = False

    async def life() -> None:
        nonlocal begun
        async with host.networks(drivers=drivers()) as networks:
            begun = True
            network = await made(networks, name)
            await attach(networks, mode=network.name)
            await networks.detach(container_id("web"))
            await unmade(networks, network)
            begun = False

    async with host.networks(drivers=drivers()) as networks:
        clean = picture(host)
    twice = drivers()[name].capabilities.outside and not os.environ.get("SAMPAN_EVERY_STEP")
    for step in itertools.count(1, 2 if twice else 1):  # such a network has a second one with it: every other step
        died = die_at(step, lambda: begun, life)
        async with host.networks(drivers=drivers()) as networks:
            try:
                assert networks.sandbox(container_id("web")) is None
                left = networks._catalogue.named("under-test")
                if left is not None:
                    await works(host, networks, left, await attach(networks, mode="under-test"))
                    await networks.detach(container_id("web"))
                    await unmade(networks, left)
                await settled(host, clean)
            except BaseException as e:
                e.add_note(f"killed before step {step}")
                raise
        if not died:
            break
    assert step > 2, step


async def held(sandbox: Sandbox) -> int:
    """A process in the sandbox's namespace, as a container's would be."""
    process = spawn("nsenter", f"--net={sandbox.netns}", "sleep", "1000")
    inside = os.stat(sandbox.netns).st_ino
    await until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == inside)
    return process.pid


def end_held(pid: int) -> None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)


@on_fake_host
async def test_a_driver_that_hangs_stops_nobody_else(host: Host) -> None:
    limit, fabric.DRIVER_TIMEOUT_S = fabric.DRIVER_TIMEOUT_S, 2.0
    async with host.networks(drivers=drivers()) as networks:
        network = await made(networks, "hanging")
        before = picture(host)
        waiting = asyncio.create_task(attach(networks, "stuck", mode=network.name))
        web = await attach(networks)
        host.serve(web.netns, 80)
        assert await host.ask(None, web.endpoints["bridge"].address4, 80)
        assert not waiting.done()
        with pytest.raises(Unavailable, match="network driver hanging did not answer within"):
            await waiting
        both = {"bridge": EndpointSettings(), network.name: EndpointSettings()}
        with pytest.raises(Unavailable, match="failed to set up container networking: network under-test: "):
            await attach(networks, "stuck", endpoints=both)
        await networks.detach(container_id("web"))
        await host.unserve()
        await settled(host, before)
    deaf = HangingDriver()
    deaf.deaf = True
    async with host.networks(drivers=drivers() | {"hanging": deaf}) as networks:
        with pytest.raises(Unavailable, match="network driver hanging did not answer within"):
            await attach(networks, "stuck", mode=network.name)
        assert (await attach(networks)).addresses == ["172.17.0.2"], "the engine has started all the same"
        await networks.detach(container_id("web"))
        await unmade(networks, network)
    fabric.DRIVER_TIMEOUT_S = limit
