"""Containers connected, disconnected and renamed: the container service with real networks; its tasks are processes.

What a container keeps, what its sandbox keeps and what the kernel has must agree, whatever dies in between.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.containers.service import Containers
from sampan.engine.hostpaths import HostPaths
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.service import Networks
from sampan.engine.volumes.service import Volumes
from sampan.errors import Forbidden, Internal, InvalidArgument, NotFound
from sampan.linux import netlink
from sampan.linux.netlink import Netlink
from sampan.spec.engine_api.container import ContainerConfig, HostConfig, PortBinding
from sampan.spec.engine_api.network import (
    IPAM,
    EndpointIPAMConfig,
    EndpointSettings,
    IPAMConfig,
    NetworkCreateRequest,
    NetworkingConfig,
)
from sampan.supervisor.client import TaskInfo, TaskRequest
from tests.kernel.net_host import HOST4, LAN4, Host, die_at, on_fake_host, spawn, until
from tests.support.container_fakes import FakeImages, FakeRoots, FakeSupervisor


class Processes(FakeSupervisor):
    """A supervisor whose tasks are processes in the namespaces that the engine hands out."""

    async def create(self, request: TaskRequest, *, start: bool) -> TaskInfo:
        task = await super().create(request, start=start)
        spaces = json.loads(request.spec)["linux"]["namespaces"]
        path = next(s["path"] for s in spaces if s["type"] == "network")
        process = spawn("nsenter", f"--net={path}", "sleep", "1000")
        inside = os.stat(path).st_ino
        await until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == inside)
        self.tasks[request.id] = replace(task, pid=process.pid)
        return self.tasks[request.id]

    def end_all(self) -> None:
        for task in self.tasks.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(task.pid, 9)
                os.waitpid(task.pid, 0)


class Neighbours:
    """What outlives the engine: its tasks and the containers' files."""

    def __init__(self) -> None:
        self.supervisor = Processes()
        self.roots = FakeRoots()


@contextlib.asynccontextmanager
async def engine(
    host: Host, beside: Neighbours, drivers: Mapping[str, NetworkDriver] | None = None
) -> AsyncIterator[tuple[Containers, Networks]]:
    async with host.networks(restored=False, drivers=drivers) as networks:
        config, store, events = networks._config, networks._store, networks._events
        Path(config.data_root, "containers").mkdir(exist_ok=True)
        looks = HostPaths()
        volumes = Volumes(config, store, events, looks)
        await volumes.start()
        room = (FakeImages(), beside.roots, networks, volumes, beside.supervisor, looks)
        containers = Containers(config, store, events, *room)  # type: ignore[arg-type]
        await containers.run()
        try:
            yield containers, networks
        finally:
            await containers.close(stop_containers=False, timeout_s=1)
            looks.close()


async def started(containers: Containers, name: str = "web", mode: str = "bridge", **asked: Any) -> str:
    config = ContainerConfig(image="busybox", cmd=["sleep"], exposed_ports={"80/tcp": {}}, hostname="host-of-web")
    host = HostConfig(network_mode=mode, port_bindings={"80/tcp": [PortBinding(host_port="8080")]})
    networking = NetworkingConfig(endpoints_config={mode: EndpointSettings(**asked)} if asked else None)
    id, _ = await containers.create(name, config, host, networking)
    await containers.start(id)
    return id


async def blue(networks: Networks) -> None:
    ipam = IPAM(config=[IPAMConfig(subnet="10.213.0.0/24", gateway="10.213.0.1")])
    options = {"com.docker.network.bridge.name": "brblue"}
    await networks.create(NetworkCreateRequest(name="blue", ipam=ipam, options=options))


async def endpoints(containers: Containers, id: str) -> dict[str, dict[str, Any]]:
    shown: dict[str, dict[str, Any]] = (await containers.inspect(id))["NetworkSettings"]["Networks"]
    return shown


@on_fake_host
async def test_a_renamed_container_keeps_its_aliases(host: Host) -> None:
    """As Docker Engine 28.5: the new name for the old, at once; on the default network a rename gives names too."""
    beside = Neighbours()
    async with engine(host, beside) as (containers, networks):
        await blue(networks)
        id = await started(containers, mode="blue", aliases=["al", "al2"])
        others = ["al", "al2", id[:12], "host-of-web"]
        assert (await endpoints(containers, id))["blue"]["DNSNames"] == ["web", *others]
        await containers.connect("web", "bridge", EndpointSettings())
        assert (await endpoints(containers, id))["bridge"]["DNSNames"] is None
        await containers.rename(id, "site")
        shown = await endpoints(containers, id)
        assert shown["blue"]["DNSNames"] == ["site", *others]
        assert shown["bridge"]["DNSNames"] == ["site", id[:12], "host-of-web"]
        assert shown["blue"]["Aliases"] == ["al", "al2"]
        assert networks.inspect("blue")["Containers"][id]["Name"] == "site"
    async with engine(host, beside) as (containers, networks):
        assert (await endpoints(containers, id))["blue"]["DNSNames"] == ["site", *others], "also for the next engine"
        with pytest.raises(Forbidden, match='active endpoints \\(name:"site"'):
            await networks.remove("blue")
        await containers.kill(id, "KILL")
        await containers.wait(id)
        assert (await endpoints(containers, id))["blue"]["DNSNames"] == ["site", *others], "remembered"
        await containers.rename(id, "third")
        assert (await endpoints(containers, id))["blue"]["DNSNames"] == ["site", *others], "until it starts again"
        await containers.start(id)
        shown = await endpoints(containers, id)
        assert shown["blue"]["DNSNames"] == ["third", *others]
        assert shown["bridge"]["DNSNames"] == ["site", id[:12], "host-of-web"]
        await containers.remove(id, force=True)
        await networks.remove("blue")
    beside.supervisor.end_all()


@on_fake_host
async def test_a_stopped_container_is_connected_at_its_start(host: Host) -> None:
    beside = Neighbours()
    async with engine(host, beside) as (containers, networks):
        await blue(networks)
        id, _ = await containers.create("web", ContainerConfig(image="busybox", hostname="h"), None, None)
        await containers.connect(id, "blue", EndpointSettings(aliases=["al"]))
        assert (await endpoints(containers, id))["blue"]["DNSNames"] == ["web", "al", id[:12], "h"]
        static = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.17.0.9"))
        with pytest.raises(InvalidArgument, match="supported on user defined networks only"):
            await containers.connect(id, "bridge", static)
        await containers.start(id)
        shown = await endpoints(containers, id)
        assert shown["blue"]["IPAddress"] == "10.213.0.2" and shown["bridge"]["IPAddress"] == "172.17.0.2"
        with pytest.raises(Forbidden, match="endpoint with name web already exists in network blue"):
            await containers.connect(id, "blue", EndpointSettings())
        await containers.disconnect(id, "blue")
        with pytest.raises(Internal, match=f"container {id} is not connected to network blue"):
            await containers.disconnect(id, "blue")
        assert list(await endpoints(containers, id)) == ["bridge"]
        with pytest.raises(NotFound, match=r"^network nope not found$"):
            await containers.connect(id, "nope", EndpointSettings())
        with pytest.raises(NotFound, match=r"^endpoint nope not found$"):
            await containers.disconnect("nope", "blue", force=True)
        with pytest.raises(InvalidArgument, match="cannot connect container to host network"):
            await containers.connect(id, "host", EndpointSettings())
        await containers.remove(id, force=True)
        await networks.remove("blue")
    beside.supervisor.end_all()


@on_fake_host
async def test_a_failed_connect_leaves_nothing(host: Host) -> None:
    """The interface cannot be made (its name is taken in the container); the address cannot be had."""
    beside = Neighbours()
    async with engine(host, beside) as (containers, networks):
        await blue(networks)
        id = await started(containers)
        before = picture(host, networks, id)
        taken = EndpointSettings(driver_opts={"com.docker.network.endpoint.ifname": "eth0"})
        with pytest.raises(Internal, match=r"failed to connect container to network blue: .*File exists"):
            await containers.connect(id, "blue", taken)
        assert picture(host, networks, id) == before
        gateway = EndpointIPAMConfig(ipv4_address="10.213.0.1")
        with pytest.raises(Forbidden, match="Address already in use"):
            await containers.connect(id, "blue", EndpointSettings(ipam_config=gateway))
        assert picture(host, networks, id) == before
        await containers.connect(id, "blue", EndpointSettings())
        assert (await endpoints(containers, id))["blue"]["IPAddress"] == "10.213.0.2", "the first address is free again"
        await containers.disconnect(id, "blue")
        assert picture(host, networks, id) == before
        await containers.remove(id, force=True)
        await networks.remove("blue")
    beside.supervisor.end_all()


@on_fake_host
async def test_flows_last_while_the_default_route_moves(host: Host) -> None:
    """Flows of both directions that are there already: none is cut when another network leads out."""
    beside = Neighbours()
    async with engine(host, beside) as (containers, networks):
        await blue(networks)
        id = await started(containers)  # 80/tcp on 8080
        inside = f"/proc/{beside.supervisor.tasks[id].pid}/ns/net"
        host.serve(inside, 80)
        host.serve(host.lan, 9090)
        own_inside, own_lan = os.open(inside, os.O_RDONLY), host.lan
        held = [(await host.begin(own_inside, LAN4, 9090), HOST4) for _ in range(2)]
        held += [(await host.begin(own_lan, HOST4, 8080), LAN4) for _ in range(2)]
        changes = (
            containers.connect(id, "blue", EndpointSettings(gw_priority=7)),
            containers.disconnect(id, "blue"),
        )
        for n, change in enumerate(changes):
            await change
            for flow, seen in held[n::2]:
                assert await host.finish(flow) == seen
        os.close(own_inside)
        await containers.remove(id, force=True)
        await networks.remove("blue")
    beside.supervisor.end_all()


def picture(host: Host, networks: Networks, id: str) -> tuple[object, ...]:
    """What the kernel has of a container: interfaces, addresses, default routes; the host's ends; its ports."""
    record = next(r for r in networks._sandboxes.all() if r.id == id)
    with host.inside(f"/proc/{record.pid}/ns/net"):
        inside = Netlink()
    with inside:
        names = {link.ifindex: link.name for link in inside.links()}
        addresses = {(names[p.ifindex], str(p.address)) for p in inside.addresses() if not p.address.is_loopback}
        main = [r for r in inside.routes() if r.table == netlink.RT_TABLE_MAIN and r.destination is None]
        routes = {(names[r.ifindex], str(r.gateway)) for r in main}
    ends = {link.name for link in host.netlink.links() if link.kind == "veth" and link.name != "lan0"}
    ports = host.nft.run("list map inet sampan0 published4").count("tcp . 8080")
    made = {name for name in names.values() if name.startswith("eth")}
    return made, addresses, routes, ends, ports


@on_fake_host
async def test_kill_9_at_every_step_leaves_the_container_connected_or_not(host: Host) -> None:
    beside = Neighbours()
    async with engine(host, beside) as (containers, networks):
        await blue(networks)
        id = await started(containers)
    begun = False

    async def changes() -> None:
        nonlocal begun
        async with engine(host, beside) as (containers, _):
            begun = True
            await containers.connect(id, "blue", EndpointSettings(gw_priority=7))
            await containers.disconnect(id, "bridge")
            await containers.connect(id, "bridge", EndpointSettings())
            await containers.rename(id, "other")
            await containers.rename(id, "web")
            await containers.disconnect(id, "blue")
            begun = False

    host.serve(f"/proc/{beside.supervisor.tasks[id].pid}/ns/net", 80)
    seen = set()
    for step in itertools.count(1):
        died = die_at(step, lambda: begun, changes)
        async with engine(host, beside) as (containers, networks):
            try:
                seen.add(await agreeing(host, containers, networks, id))
            except BaseException as e:
                e.add_note(f"killed before step {step}")
                raise
            for name in {"bridge"} - set(await endpoints(containers, id)):
                await containers.connect(id, name, EndpointSettings())
            for name in set(await endpoints(containers, id)) - {"bridge"}:
                await containers.disconnect(id, name)
            assert await agreeing(host, containers, networks, id) == ("bridge",)
            if containers.get(id).name != "web":
                await containers.rename(id, "web")
        if not died:
            break
    assert step > 25 and seen == {("bridge",), ("blue", "bridge"), ("blue",)}, (step, seen)
    async with engine(host, beside) as (containers, networks):
        await containers.remove(id, force=True)
        await networks.remove("blue")
    beside.supervisor.end_all()


@on_fake_host
async def test_kill_9_while_a_crash_is_mended(host: Host) -> None:
    """The next start is killed as well, at every step; the one after it ends what the first has begun."""
    beside = Neighbours()
    async with engine(host, beside) as (containers, networks):
        await blue(networks)
        id = await started(containers)
    host.serve(f"/proc/{beside.supervisor.tasks[id].pid}/ns/net", 80)
    begun = False

    async def connects() -> None:
        nonlocal begun
        async with engine(host, beside) as (containers, _):
            begun = True
            await containers.connect(id, "blue", EndpointSettings(gw_priority=7))

    async def mends() -> None:
        nonlocal begun
        async with host.networks(restored=False) as networks:
            begun = True
            await networks.restore({id: beside.supervisor.tasks[id].pid})
            begun = False

    for step in itertools.count(1):
        assert die_at(8, lambda: begun, connects), (
            "the route has moved, the ports are on their way, the records say neither"
        )
        died = die_at(step, lambda: begun, mends)
        async with engine(host, beside) as (containers, networks):
            try:
                assert await agreeing(host, containers, networks, id) == ("bridge",)
            except BaseException as e:
                e.add_note(f"killed before step {step}")
                raise
        if not died:
            break
    assert step > 6, step
    async with engine(host, beside) as (containers, networks):
        await containers.remove(id, force=True)
        await networks.remove("blue")
    beside.supervisor.end_all()


async def agreeing(host: Host, containers: Containers, networks: Networks, id: str) -> tuple[str, ...]:
    """Prove that records and kernel agree on a container; return its networks."""
    kept, record = containers.get(id), next(r for r in networks._sandboxes.all() if r.id == id)
    mine = {e.network: e for e in record.endpoints}
    assert set(kept.endpoints) == set(mine), "what it has now is what it gets at its next start"
    assert record.changing is None and record.name == kept.name
    for endpoint in mine.values():
        assert endpoint.dns_names is None or endpoint.dns_names[0] == kept.name
    made, addresses, routes, ends, ports = picture(host, networks, id)
    assert made == {e.interface for e in mine.values()}
    assert addresses == {(e.interface, e.address4) for e in mine.values()}
    assert ends == {e.veth for e in mine.values()}
    way_out = mine.get("blue", mine.get("bridge"))
    assert way_out is not None and routes == {(way_out.interface, way_out.gateway4)}
    assert ports == 1 and await host.ask(host.lan, HOST4, 8080) == LAN4
    for network, version in ((networks.find("bridge"), 4), (networks.find("blue"), 4)):
        (pool,) = networks._catalogue.pools_of(network.id, version)
        assert len(pool) == 3 + (network.name in mine), "no address is lost"
    return tuple(sorted(mine))
