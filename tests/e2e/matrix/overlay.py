"""Overlay networks between two engines: the second one is on the LAN's host, with the container `far`.

Both read one file of peers. Docker has such networks only in a swarm.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.e2e.matrix.cases import Case, Group
from tests.e2e.matrix.player import Player, network_name
from tests.e2e.matrix.table import Place, gateways
from tests.e2e.matrix.world import World
from tests.kernel.net_host import HOST4, LAN4
from tests.support.engine import Engine

FIRST_VNI = 5000


def flags(peers: Path) -> tuple[str, ...]:
    """Return what both engines are started with."""
    tell(peers, [])
    return ("--overlay-peers", str(peers))


def tell(file: Path, peers: list[dict[str, Any]]) -> None:
    """Replace the file of peers, in one step."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"peers": peers}))
    os.replace(new, file)


class OverlayPlayer(Player):
    """Makes each network on both engines."""

    def __init__(self, engine: Engine, world: World, group: Group, second: Engine, peers: Path) -> None:
        super().__init__(engine, world, group)
        self._second, self._peers = second, peers

    def __enter__(self) -> OverlayPlayer:
        super().__enter__()
        told = []
        for n in range(len(self.group.cases)):
            for engine, vtep, names in ((self.engine, HOST4, ("web", "peer")), (self._second, LAN4, ("far",))):
                for name in names:
                    told.append(_peer(engine, f"{name}-{n}", n, vtep))
        tell(self._peers, told)
        return self

    def make(self, number: int, named: tuple[str, Case]) -> None:
        """Make a network on both engines, each with its own range of addresses."""
        name, case = network_name(number), named[1]
        body = {**(case.network or {}), "Name": name, "EnableIPv6": True}
        body["Options"] = {"com.docker.network.driver.overlay.vxlanid_list": str(FIRST_VNI + number)}
        four, six = f"10.{60 + number}", f"fd60:{number}:"
        for which, engine in enumerate((self.engine, self._second)):
            ranges = [(f"{four}.0.0/16", f"{four}.{which + 1}.0/24"), (f"{six}:/64", f"{six}:{which}:0/112")]
            body["IPAM"] = {"Config": [{"Subnet": subnet, "IPRange": part} for subnet, part in ranges]}
            engine.call("POST", "/networks/create", body)
        self.networks.append(name)
        self.contained(number, case, name)
        far = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": name}}
        self._second.call("POST", "/containers/create", far, name=f"far-{number}")
        self._second.call("POST", f"/containers/far-{number}/start")

    def more_places(self, number: int) -> dict[str, Place]:
        """Return the container of the second engine, and the network by which containers reach the outside."""
        out: dict[str, Any] = self.engine.call("GET", "/networks/docker_gwbridge")
        name = f"gateway_{self.engine.inspect(f'web-{number}')['NetworkSettings']['SandboxID'][:12]}"
        found = {"far": self.place(f"far-{number}"), "gateway of the way out": Place(-1, gateways(out))}
        for endpoint in out["Containers"].values():
            if endpoint["Name"] == name:
                found["web's way out"] = Place(-1, {"4": endpoint["IPv4Address"].partition("/")[0]})
        return found

    def engine_of(self, name: str) -> Engine:
        """Return the engine that has a container."""
        return self._second if name.startswith("far") else self.engine


def _peer(engine: Engine, name: str, number: int, vtep: str) -> dict[str, Any]:
    settings = engine.inspect(name)["NetworkSettings"]["Networks"][network_name(number)]
    found = {"vni": FIRST_VNI + number, "vtep": vtep, "ipv4": settings["IPAddress"], "mac": settings["MacAddress"]}
    return found | {"ipv6": settings["GlobalIPv6Address"], "names": settings["DNSNames"]}


def second_engine(world: World, *options: str) -> Engine:
    """Return an engine that will run on the LAN's host."""
    os.set_inheritable(world.lan, True)
    engine = Engine(None, *options)
    engine.wrapper = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{world.lan}"]
    return engine
