"""Overlay networks between whole engines, each on a host of its own, by the real docker client."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, until
from tests.support.lan import Lan

VNI, SUBNET = 4099, "10.213.0.0/16"


class World:
    """Two engines that read one file of peers."""

    def __init__(self, directory: Path) -> None:
        self.lan = Lan(2)
        self.file = directory / "peers.json"
        self.tell()
        self.engines = []
        for n, host in enumerate(self.lan.hosts):
            (directory / f"{n}").mkdir()
            engine = Engine(directory / f"{n}", "--overlay-peers", str(self.file))
            engine.wrapper = host.enter
            engine.start()
            self.engines.append(engine)
            engine.import_busybox()

    def tell(self, *peers: dict[str, Any]) -> None:
        """Replace the file, in one step."""
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps({"peers": [{"vni": VNI, **peer} for peer in peers]}))
        os.replace(new, self.file)

    def peer(self, n: int, name: str, network: str = "n") -> dict[str, Any]:
        """What is to be told of a container of the engine with this number."""
        settings = self.engines[n].inspect(name)["NetworkSettings"]["Networks"][network]
        found = {"vtep": self.lan.address(n), "ipv4": settings["IPAddress"], "mac": settings["MacAddress"]}
        return found | {"ipv6": settings["GlobalIPv6Address"], "names": settings["DNSNames"]}

    def docker(self, n: int, *argv: str, check: bool = True) -> str:
        done = self.engines[n].cli("docker", *argv, check=check)
        return (done.stdout + done.stderr).strip()

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
        self.lan.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("overlay"))
    yield made
    made.close()


def create(world: World, n: int, *options: str) -> None:
    ranges = ("10.213.1.0/24", "10.213.2.0/24")
    ip6 = ("fd00:213::/112", "fd00:213::1:0/112")
    world.docker(
        n, "network", "create", "-d", "overlay", "--attachable", "--subnet", SUBNET, "--ip-range", ranges[n],
        "--ipv6", "--subnet", "fd00:213::/64", "--ip-range", ip6[n],
        "--opt", f"com.docker.network.driver.overlay.vxlanid_list={VNI}", *options, "n",
    )  # fmt: skip


def links(world: World, n: int) -> set[str]:
    found = json.loads(world.lan.hosts[n].run("ip -json link"))
    return {link["ifname"] for link in found if link["ifname"].startswith(("ov-", "vx-", "br-", "veth"))}


def test_two_engines_share_a_network(world: World) -> None:
    for n in range(2):
        create(world, n)
        world.docker(n, "run", "-d", "--name", f"c{n}", "--network", "n", "-p", "8080:80", "busybox", "sh", "-c",
                     f"mkdir /www && echo page {n} > /www/index.html && exec httpd -f -p 80 -h /www")  # fmt: skip
    world.tell(world.peer(0, "c0"), world.peer(1, "c1"))
    for n, other in ((0, "c1"), (1, "c0")):
        until(lambda n=n, other=other: "0% packet loss" in ping(world, n, other), 5, "the peer answers")  # type: ignore[misc]
        assert world.docker(n, "exec", f"c{n}", "wget", "-qO-", f"http://{other}/") == f"page {1 - n}"
        assert "0% packet loss" in ping(
            world, n, world.engines[1 - n].inspect(other)["NetworkSettings"]["Networks"]["n"]["GlobalIPv6Address"]
        )
        assert "10.213." in world.docker(n, "exec", f"c{n}", "nslookup", f"{other}.n")
        # as large as the network's packets may be: 1450 with 28 bytes of headers
        assert "0% packet loss" in ping(world, n, other, "-s", "1422")
    # the outside: by the second interface, and in by published ports
    shown = world.docker(0, "exec", "c0", "ip", "-o", "-4", "address")
    assert re.search(r"eth0.* 10\.213\.1\.\d+/16", shown) and re.search(r"eth1.* 172\.", shown)
    assert "mtu 1450" in world.docker(0, "exec", "c0", "ip", "link", "show", "eth0")
    assert "0% packet loss" in ping(world, 0, world.lan.address(1))
    assert world.docker(0, "exec", "c0", "wget", "-qO-", f"http://{world.lan.address(1)}:8080/") == "page 1"
    # what is shown
    inspected = world.engines[0].inspect("c0")["NetworkSettings"]["Networks"]
    assert list(inspected) == ["n"] and inspected["n"]["Gateway"] == ""
    network = world.engines[0].call("GET", "/networks/n")
    assert (network["Driver"], network["Scope"], network["Attachable"]) == ("overlay", "local", True)
    gateway = world.engines[0].call("GET", "/networks/docker_gwbridge")["Containers"]
    assert [name for name in gateway if name.startswith("gateway_")] == list(gateway) and len(gateway) == 1


def ping(world: World, n: int, where: str, *options: str) -> str:
    return world.docker(n, "exec", f"c{n}", "ping", "-c", "2", "-i", "0.2", "-W", "1", *options, where, check=False)


def test_a_killed_engine_finds_its_peers_again(world: World) -> None:
    engine = world.engines[0]
    assert engine.process is not None
    os.kill(engine.process.pid, signal.SIGKILL)
    engine.process.wait()
    # the data plane needs nobody: c1 reaches c0 while its engine is dead
    assert "0% packet loss" in ping(world, 1, "c0")
    world.tell(world.peer(1, "c1"), {"vtep": world.lan.address(1), "ipv4": "10.213.2.77", "names": ["late"]})
    engine.start()
    until(lambda: "10.213.2.77" in neighbours(world, 0), 5, "the new peer is known")
    assert "0% packet loss" in ping(world, 0, "c1")
    assert "10.213.2.77" in world.docker(0, "exec", "c0", "nslookup", "late")


def neighbours(world: World, n: int) -> str:
    return world.lan.hosts[n].run(f"ip neighbour show dev vx-{VNI}; bridge fdb show dev vx-{VNI}")


def test_a_peer_goes_and_its_entries_with_it(world: World) -> None:
    world.tell(world.peer(1, "c1"))
    until(lambda: "10.213.2.77" not in neighbours(world, 0), 5, "the entries are gone")
    assert "can't find" in world.docker(0, "exec", "c0", "nslookup", "late", check=False)
    assert "0% packet loss" in ping(world, 0, "c1")


def test_a_damaged_file_changes_nothing(world: World) -> None:
    before = neighbours(world, 0)
    world.file.write_text('{"peers": [')
    until(lambda: "what was known stays" in world.engines[0].log.read_text(), 5, "the warning")
    assert neighbours(world, 0) == before
    assert "0% packet loss" in ping(world, 0, "c1")
    world.tell(world.peer(1, "c1"))


def test_a_container_changes_its_way_out_with_its_networks(world: World) -> None:
    world.docker(0, "network", "create", "b")
    route = ("exec", "c0", "ip", "route", "show", "default")
    assert "dev eth1" in world.docker(0, *route)
    world.docker(0, "network", "connect", "b", "c0")
    assert "dev eth2" in world.docker(0, *route)
    assert "eth1" not in world.docker(0, "exec", "c0", "ip", "link")
    world.docker(0, "network", "disconnect", "b", "c0")
    assert "dev eth1" in world.docker(0, *route)
    world.docker(0, "network", "rm", "b")
    assert "0% packet loss" in ping(world, 0, world.lan.address(1))


def test_what_an_address_elsewhere_means_here(world: World) -> None:
    """Another host's address is given to nobody, and refused to who asks for it."""
    first = world.docker(0, "run", "--rm", "--network", "n", "busybox", "ip", "-o", "-4", "address", "show", "eth0")
    given = re.search(r"10\.213\.1\.(\d+)/", first)
    assert given is not None
    taken = f"10.213.1.{given[1]}"
    world.tell(world.peer(1, "c1"), {"vtep": world.lan.address(1), "ipv4": taken, "names": ["x"]})
    until(lambda: taken in neighbours(world, 0), 5, "the peer is known")
    again = world.docker(0, "run", "--rm", "--network", "n", "busybox", "ip", "-o", "-4", "address", "show", "eth0")
    assert f"{taken}/" not in again and "10.213.1." in again
    assert "Address already in use" in world.docker(
        0, "run", "--rm", "--network", "n", "--ip", taken, "busybox", "true", check=False
    )
    world.tell(world.peer(1, "c1"))


def test_nothing_is_left(world: World) -> None:
    for n in range(2):
        world.docker(n, "rm", "-f", f"c{n}")
        world.docker(n, "network", "rm", "n")
        until(lambda n=n: links(world, n) == set(), 5, "no link is left")  # type: ignore[misc]
        assert not list(world.engines[n].exec_root.glob("names/elsewhere-*"))
        assert world.docker(n, "network", "ls", "--format", "{{.Name}}").split() == ["bridge", "host", "none"]
        assert world.lan.hosts[n].run("bridge fdb show | grep -c 192.0.2 || true").strip() == "0"


def test_refusals(world: World, shared_engine: Engine) -> None:
    refused = world.docker(0, "network", "create", "-d", "overlay", "--opt", "encrypted", "x", check=False)
    assert "encrypted" in refused and "swarm" in refused
    answer = shared_engine.request("POST", "/networks/create", {"Name": "x", "Driver": "overlay"})
    assert answer.status == 503
    assert answer.message == (
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to'
        " swarm and try again."
    )
