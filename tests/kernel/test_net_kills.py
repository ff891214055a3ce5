"""kill -9 of the engine between any two steps of a network's life, with each driver: what is left converges to nothing.

The steps are those of tests.kernel.net_host.die_at, each write of a sandbox's names and each call of a plugin. Changes
of a bridge network's connections and ports have loops of their own (test_net_connections.py, test_net_live_ports.py).

SAMPAN_KILLS: how many steps are tried of each life, 0 for all of them; SAMPAN_SEED chooses which.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.engine.networks.drivers import choice
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.names import Names
from sampan.engine.networks.records import PREDEFINED
from sampan.engine.networks.service import Networks
from sampan.engine.plugins.client import Plugin
from sampan.linux.netlink import Netlink
from sampan.spec.engine_api.network import IPAM, EndpointSettings, IPAMConfig, NetworkCreateRequest
from tests.kernel.net_host import (
    HOST4,
    LAN4,
    Host,
    attach,
    container_id,
    die_at,
    needs_kind,
    on_fake_host,
    steps_of,
    until,
)
from tests.kernel.test_net_connections import Neighbours, engine, started
from tests.support.network_drivers import NoPeers, plugin

KILLS = int(os.environ.get("SAMPAN_KILLS", "3"))
SEED = os.environ.get("SAMPAN_SEED", "1")
OPTIONS = {
    "bridge": {"com.docker.network.bridge.name": "brown"},
    "macvlan": {"parent": "lan0"},
    "overlay": {"com.docker.network.driver.overlay.vxlanid_list": "4300"},
    "plugin": {},
}
NEEDED = {"macvlan": ("macvlan",), "overlay": ("vxlan",)}
ALSO = ((Names, "_write"), (Names, "drop"), (Plugin, "call"))


@contextlib.contextmanager
def plugin_process(host: Host) -> Iterator[str]:
    """A plugin that outlives the engines; its socket."""
    path = f"{host.directory}/plugin.sock"
    command = [sys.executable, "-m", "tests.support.network_plugin", path, f"{path}.journal"]
    with subprocess.Popen(command) as process:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                while probe.connect_ex(path):
                    assert process.poll() is None
            yield path
        finally:
            process.send_signal(signal.SIGTERM)


def drivers(path: str) -> dict[str, NetworkDriver]:
    return choice.drivers(NoPeers()) | {"plugin": choice.known(plugin(path), ())}


def request(kind: str) -> NetworkCreateRequest:
    ipam = IPAM(config=[IPAMConfig(subnet="10.219.0.0/24")])
    return NetworkCreateRequest(name="own", driver=kind, ipam=ipam, options=OPTIONS[kind])


def links(host: Host) -> set[str]:
    return {link.name for link in host.netlink.links()}


def names_files(host: Host) -> set[str]:
    directory = Path(f"{host.directory}/a/run/names")
    return {path.name for path in directory.glob("*.json")} if directory.exists() else set()


def rules(host: Host) -> list[str]:
    """The lines of our table, without counters."""
    return sorted(line for line in host.nft.run("list ruleset").splitlines() if "counter" not in line)


def inside(host: Host, pid: int) -> set[str]:
    with host.inside(f"/proc/{pid}/ns/net"), Netlink() as there:
        return {link.name for link in there.links() if link.kind}


def steps(total: int) -> list[int]:
    """Those steps of a life at which it is killed."""
    every = list(range(1, total + 1))
    return sorted(random.Random(SEED).sample(every, min(KILLS or total, total)))


async def emptied(host: Host, networks: Networks, pid: int, before: tuple[object, ...]) -> None:
    """Prove that nothing is left of the network and its endpoints."""

    def now() -> tuple[object, ...]:
        return links(host), inside(host, pid), names_files(host), rules(host), len(networks._fabric.leases)

    with contextlib.suppress(TimeoutError):
        await until(lambda: now() == before)
    assert now() == before
    assert {n.name for n in networks._catalogue.all()} <= set(PREDEFINED)
    assert [r.id for r in networks._sandboxes.all()] == [container_web(networks)]


def container_web(networks: Networks) -> str:
    return next(r.id for r in networks._sandboxes.all() if r.name == "web")


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_kill_9_at_every_step_of_a_networks_life(root: None, kind: str) -> None:
    """Made, connected to and left by a running container, started on and ended, removed; killed before each change."""
    for needed in NEEDED.get(kind, ()):
        needs_kind(needed)

    async def test(host: Host) -> None:
        beside = Neighbours()
        with plugin_process(host) as path:
            async with engine(host, beside, drivers(path)) as (containers, networks):
                id = await started(containers)
                pid = beside.supervisor.tasks[id].pid
                await networks.create(request(kind))
                await containers.connect(id, "own", EndpointSettings())
                await containers.disconnect(id, "own")  # what a container has from its first connection it keeps
                await networks.remove("own")
                before = links(host), inside(host, pid), names_files(host), rules(host), len(networks._fabric.leases)
            host.serve(f"/proc/{pid}/ns/net", 80)
            reached: list[str] = []
            begun = False

            async def life() -> None:
                nonlocal begun
                async with engine(host, beside, drivers(path)) as (containers, networks):
                    begun = True
                    await networks.create(request(kind))
                    await containers.connect(id, "own", EndpointSettings(aliases=["al"]))
                    await containers.disconnect(id, "own")
                    await attach(networks, "late", mode="own", ports={"80/tcp": "8090"} if kind == "bridge" else None)
                    await networks.detach(container_id("late"))
                    await networks.remove("own")
                    begun = False

            async def mended(step: int) -> None:
                async with engine(host, beside, drivers(path)) as (containers, networks):
                    mine = set((await containers.inspect(id))["NetworkSettings"]["Networks"])
                    assert mine <= {"bridge", "own"} and "bridge" in mine
                    reached.append(",".join(sorted(mine)))
                    assert await host.ask(host.lan, HOST4, 8080) == LAN4, "what it had it keeps"
                    if "own" in mine:
                        await containers.disconnect(id, "own")
                    if networks._catalogue.named("own") is not None:
                        await attach(networks, "again", mode="own")
                        await networks.detach(container_id("again"))
                        await networks.remove("own")
                    await emptied(host, networks, pid, before)

            total = steps_of(lambda: begun, life, ALSO)
            for step in steps(total):
                assert die_at(step, lambda: begun, life, ALSO), (step, total)
                try:
                    await mended(step)
                except BaseException as error:
                    error.add_note(f"killed before step {step} of {total}")
                    raise
            assert total > 15, total
            await host.unserve()
            async with engine(host, beside, drivers(path)) as (containers, _):
                await containers.remove(id, force=True)
        beside.supervisor.end_all()

    on_fake_host(test)(root)
