"""Ports that a running container begins or ceases to publish: the container service with real networks and packets."""

from __future__ import annotations

import asyncio
import itertools
import socket

import pytest

from sampan.engine.containers.service import Containers
from sampan.errors import Internal, InvalidArgument
from sampan.spec.engine_api.container import ContainerConfig, HostConfig, PortBinding, UpdateConfig
from sampan.spec.engine_api.network import NetworkingConfig
from tests.kernel.net_host import HOST4, LAN4, Host, die_at, on_fake_host
from tests.kernel.test_net_connections import Neighbours, engine, started

Wanted = dict[str, list[str]]


async def publish(containers: Containers, id: str, wanted: Wanted) -> None:
    """Publish {"80/tcp": ["8080", "127.0.0.1:81"]}, and no more."""
    bindings: dict[str, list[PortBinding] | None] = {}
    for port, given in wanted.items():
        split = [one.rpartition(":") for one in given]
        bindings[port] = [PortBinding(host_ip=ip, host_port=number) for ip, _, number in split]
    await containers.update(id, UpdateConfig(port_bindings=bindings))


async def shown(containers: Containers, id: str) -> Wanted:
    """What inspect says is published on IPv4, with the host's address where it is not all of them."""
    ports = (await containers.inspect(id))["NetworkSettings"]["Ports"]
    return {
        port: [
            b["HostPort"] if b["HostIp"] == "0.0.0.0" else f"{b['HostIp']}:{b['HostPort']}"
            for b in found
            if ":" not in b["HostIp"]
        ]
        for port, found in ports.items()
        if found
    }


@on_fake_host
async def test_ports_come_and_go_while_flows_last(host: Host) -> None:
    beside = Neighbours()
    async with engine(host, beside) as (containers, _):
        id = await started(containers)  # 80/tcp on 8080
        inside = f"/proc/{beside.supervisor.tasks[id].pid}/ns/net"
        for port in (80, 81, 82):
            host.serve(inside, port)
        await publish(containers, id, {"80/tcp": ["8080"], "82/tcp": ["8090"]})
        with host.inside(host.lan):
            held = socket.socket()
        held.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(held, (HOST4, 8090))

        wanted = {"80/tcp": ["8080", "127.0.0.1:8082"], "81/tcp": ["8081"], "82/tcp": ["8090"]}
        await publish(containers, id, wanted)
        assert await shown(containers, id) == wanted
        assert await host.ask(host.lan, HOST4, 8081) == LAN4
        assert await host.ask(None, "127.0.0.1", 8082)
        await publish(
            containers, id, {"80/tcp": ["8080"], "81/tcp": ["8082"], "82/tcp": ["8090"]}
        )  # 8082 leads to another port now
        assert await host.ask(host.lan, HOST4, 8082) == LAN4
        with pytest.raises(ConnectionRefusedError):
            await host.ask(host.lan, HOST4, 8081)
        await loop.sock_sendall(held, b"who am I?")
        assert await asyncio.wait_for(loop.sock_recv(held, 100), 5) == LAN4.encode(), "the flow has lasted"
        held.close()

        many = {f"{n}/udp": [str(n)] for n in range(5000, 6000)}
        await publish(containers, id, {"80/tcp": ["8080"], **many})
        assert "udp . 5000-5999 :" in host.nft.run("list map inet sampan0 published_rows4"), "a row is one element"
        assert "udp" not in host.nft.run("list map inet sampan0 published4").partition("elements")[2]
        host.serve(inside, 5678, udp=True)
        assert await host.ask(host.lan, HOST4, 5678, udp=True) == LAN4
        del many["5500/udp"]
        await publish(containers, id, {"80/tcp": ["8080"], **many})
        assert await host.ask(host.lan, HOST4, 5678, udp=True) == LAN4
        listed = host.nft.run("list map inet sampan0 published_rows4")
        assert "udp . 5000-5499 :" in listed and "udp . 5501-5999 :" in listed
        await publish(containers, id, {})
        assert not await shown(containers, id)
        assert "elements" not in host.nft.run("list map inet sampan0 published_rows4")
        with pytest.raises(ConnectionRefusedError):
            await host.ask(host.lan, HOST4, 8080)
        await containers.remove(id, force=True)
    beside.supervisor.end_all()


@on_fake_host
async def test_a_port_that_cannot_be_had_changes_nothing(host: Host) -> None:
    beside = Neighbours()
    async with engine(host, beside) as (containers, _):
        id = await started(containers)
        host.serve(f"/proc/{beside.supervisor.tasks[id].pid}/ns/net", 80)
        host_config = HostConfig(port_bindings={"99/tcp": [PortBinding(host_port="9999")]})
        config = ContainerConfig(image="busybox", exposed_ports={"99/tcp": {}})
        other, _ = await containers.create("other", config, host_config, NetworkingConfig())
        await containers.start(other)
        for wanted, words in (
            ({"80/tcp": ["8080", "8081", "9999"]}, "Bind for 0.0.0.0:9999 failed: port is already allocated"),
            ({"81/tcp": ["8080"], "80/tcp": ["9999"]}, "Bind for 0.0.0.0:9999 failed: port is already allocated"),
        ):
            with pytest.raises(Internal, match=f"Cannot update container {id}: driver failed programming .*{words}"):
                await publish(containers, id, wanted)
            assert await shown(containers, id) == {"80/tcp": ["8080"]}
            assert await host.ask(host.lan, HOST4, 8080) == LAN4
            with pytest.raises(ConnectionRefusedError):
                await host.ask(host.lan, HOST4, 8081)
            assert list(containers.get(id).host_config.port_bindings or {}) == ["80/tcp"]
        with pytest.raises(InvalidArgument, match='invalid port specification: "x"'):
            await publish(containers, id, {"80/tcp": ["x"]})
        for one in (id, other):
            await containers.remove(one, force=True)
    beside.supervisor.end_all()


@on_fake_host
async def test_kill_9_at_every_step_publishes_the_old_or_the_new(host: Host) -> None:
    beside = Neighbours()
    sets: list[Wanted] = [{"80/tcp": ["8080"]}, {"80/tcp": ["8081", "8082"]}, {"80/tcp": ["8082"], "81/tcp": ["8081"]}]
    async with engine(host, beside) as (containers, _):
        id = await started(containers)
    begun = False

    async def changes() -> None:
        nonlocal begun
        async with engine(host, beside) as (containers, _):
            begun = True
            for wanted in (*sets[1:], sets[0]):
                await publish(containers, id, wanted)
            begun = False

    host.serve(f"/proc/{beside.supervisor.tasks[id].pid}/ns/net", 80)
    seen = set()
    for step in itertools.count(1):
        died = die_at(step, lambda: begun, changes)
        async with engine(host, beside) as (containers, _):
            now = await shown(containers, id)
            bound = {
                port: [b.host_port for b in found or ()]
                for port, found in (containers.get(id).host_config.port_bindings or {}).items()
            }
            assert now in sets and now == bound, (step, now, bound)
            seen.add(sets.index(now))
            numbers = sorted(number for found in now.values() for number in found)
            listed = host.nft.run("list map inet sampan0 published4").partition("elements")[2]
            assert [n for n in ("8080", "8081", "8082") if f"tcp . {n} :" in listed] == numbers, (step, listed)
            assert await host.ask(host.lan, HOST4, int(now["80/tcp"][0])) == LAN4
            await publish(containers, id, sets[0])
        if not died:
            break
    assert step > 6 and seen == {0, 1, 2}, (step, seen)
    async with engine(host, beside) as (containers, _):
        await containers.remove(id, force=True)
    beside.supervisor.end_all()
