"""Somebody deletes by hand what is the engine's: a bridge is made again, with everyone on it; a container's link comes
with its next connection; an end leaves nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from sampan.engine.networks.service import Networks, Sandbox
from sampan.errors import Internal
from sampan.spec.engine_api.network import IPAM, EndpointSettings, IPAMConfig, NetworkCreateRequest
from tests.kernel.net_host import (
    HOST4,
    LAN4,
    Host,
    attach,
    connect,
    container_id,
    disconnect,
    end,
    on_fake_host,
    run,
    spawn,
)

BRIDGE = "brown"


async def own(networks: Networks) -> None:
    ipam = IPAM(config=[IPAMConfig(subnet="10.213.0.0/24", gateway="10.213.0.1")])
    options = {"com.docker.network.bridge.name": BRIDGE}
    await networks.create(NetworkCreateRequest(name="own", ipam=ipam, options=options))


async def running(
    host: Host, networks: Networks, name: str = "web", mode: str = "own"
) -> tuple[Sandbox, subprocess.Popen[bytes]]:
    sandbox = await attach(networks, name, mode=mode, ports={"80/tcp": "8080"} if name == "web" else None)
    with host.inside(sandbox.netns):
        process = spawn("sleep", "300")
    host.serve(sandbox.netns, 80)
    await networks.started(container_id(name), process.pid)
    return sandbox, process


async def seen(host: Host, address: str) -> bool:
    """Whether the container answers the host and, by its port, the LAN."""
    try:
        return bool(await host.ask(None, address, 80)) and await host.ask(host.lan, HOST4, 8080) == LAN4
    except OSError:
        return False


async def until_seen(host: Host, address: str) -> None:
    async with asyncio.timeout(20):
        while not await seen(host, address):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


@on_fake_host
async def test_a_bridge_that_was_deleted_is_made_again(host: Host) -> None:
    async with host.networks() as networks:
        await own(networks)
        web, process = await running(host, networks)
        run("ip", "link", "delete", BRIDGE)
        late = await attach(networks, "late", mode="own")
        host.serve(late.netns, 80)
        assert await host.ask(None, late.endpoints["own"].address4, 80) == "10.213.0.1"
        await until_seen(host, web.endpoints["own"].address4)  # who was on it is on it again
        await networks.detach(container_id("late"))
        _, beside = await running(host, networks, "other", "default")
        run("ip", "link", "delete", BRIDGE)
        await connect(networks, "own", container_id("other"), EndpointSettings())
        shown = networks.sandbox(container_id("other"))
        assert shown is not None and await host.ask(None, shown.endpoints["own"].address4, 80)
        await until_seen(host, web.endpoints["own"].address4)
        for name in ("other", "web"):
            await networks.detach(container_id(name))
        end(process)
        end(beside)
        await networks.remove("own")
        assert host.netlink.link(BRIDGE) is None, "the engine deletes it itself, for good"


@on_fake_host
async def test_a_bridge_that_was_deleted_is_made_by_the_next_engine(host: Host) -> None:
    async with host.networks() as networks:
        await own(networks)
        web, process = await running(host, networks)
    run("ip", "link", "delete", BRIDGE)  # while there is none
    async with host.networks(restored=False) as networks:
        await networks.restore({container_id("web"): process.pid})
        assert await seen(host, web.endpoints["own"].address4)
        await networks.detach(container_id("web"))
        end(process)
        await networks.remove("own")


@on_fake_host
async def test_an_end_on_a_bridge_that_was_deleted_leaves_nothing(host: Host) -> None:
    async with host.networks() as networks:
        await own(networks)
        _, process = await running(host, networks)
        run("ip", "link", "delete", BRIDGE)
        await networks.detach(container_id("web"))
        end(process)
        await networks.remove("own")


@on_fake_host
async def test_a_link_that_was_deleted_comes_with_the_next_connection(host: Host) -> None:
    async with host.networks() as networks:
        await own(networks)
        web, process = await running(host, networks)
        id, address = container_id("web"), web.endpoints["own"].address4
        run("ip", "link", "delete", web.endpoints["own"].veth)
        assert not await seen(host, address)
        assert await disconnect(networks, "own", id)
        await connect(networks, "own", id, EndpointSettings())
        shown = networks.sandbox(id)
        assert shown is not None and await seen(host, shown.endpoints["own"].address4)
        run("ip", "link", "delete", shown.endpoints["own"].veth)
        await networks.detach(id)
        end(process)
        await networks.remove("own")


@on_fake_host
async def test_a_full_pool_refuses_and_gives_back(host: Host) -> None:
    ipam = IPAM(config=[IPAMConfig(subnet="10.213.0.0/29", gateway="10.213.0.1")])
    async with host.networks() as networks:
        await networks.create(NetworkCreateRequest(name="own", ipam=ipam))
        names = [f"c{n}" for n in range(5)]
        for name in names:
            await attach(networks, name, mode="own")
        before = {link.name for link in host.netlink.links()}, len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(Internal, match="no available IPv4 addresses on this network's address pools"):
                await attach(networks, "late", mode="own")
        assert ({link.name for link in host.netlink.links()}, len(os.listdir("/proc/self/fd"))) == before
        await networks.detach(container_id(names[2]))
        late = await attach(networks, "late", mode="own")
        assert late.endpoints["own"].address4 == "10.213.0.4"
        for name in {*names, "late"} - {names[2]}:
            await networks.detach(container_id(name))
        await networks.remove("own")
