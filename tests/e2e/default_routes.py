"""Which networks a container's default routes lead to: stories of networks that it has, gets and loses.

    SAMPAN_REFERENCE_SOCKET=SOCKET python -m tests.e2e.default_routes

records what Docker Engine 28.5.2 with busybox:latest at this socket does, in default_routes.json.

A story is one line. The first word says what a container starts with, each other what happens while it runs: `+` it is
connected, `-` it is disconnected, `!` it is stopped and started again. `a4:5` is the network a4 with the gateway
priority 5. After each word both default routes are looked at.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.engine import Engine

ANSWERS = Path(__file__).with_name("default_routes.json")
PARENT, PARENT_PEER = "drt-parent", "drt-peer"
MACVLAN = {"Driver": "macvlan", "Options": {"parent": PARENT}}
MACVLAN_INSIDE = {"Driver": "macvlan", "Options": {"parent": PARENT_PEER}, "Internal": True}
ROUTED = {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}
NO_ADDRESS = {"com.docker.network.bridge.inhibit_ipv4": "true"}

NETWORKS: dict[str, dict[str, Any]] = {
    "a4": {"subnets": (4,)},
    "b4": {"subnets": (4,)},
    "c6": {"subnets": (6,)},
    "d46": {"subnets": (4, 6)},
    "e46": {"subnets": (4, 6)},
    "i46": {"subnets": (4, 6), "Internal": True},
    "m46": {"subnets": (4, 6), **MACVLAN},
    "n46": {"subnets": (4, 6), **MACVLAN_INSIDE},
    "r4": {"subnets": (4,), "Options": ROUTED},
    "x4": {"subnets": (4,), "Options": NO_ADDRESS},
    "z6": {"subnets": (6,)},
}
STORIES = """
a4 +b4 -a4 +a4 -b4
b4 +a4:1 -a4 +a4:-1
b4:2,a4:1 -b4
a4,b4,c6 +z6:1 -c6
c6,z6:1 +a4:7 -z6 -a4
a4:9,d46 -d46 +d46:-9 -a4
d46:-5,c6:5 -d46 +d46:-5
a4:9,c6:8,d46 +e46:1 -e46 -d46 ! -a4
e46,d46 -d46 +d46:-1 -e46
d46:1,e46:2 +a4:3 -e46 ! -d46
a4:9,i46 +d46 -a4 -d46
i46:9,a4 -a4 +c6
i46:9,d46 -i46 +i46:99
m46,d46 -d46 +d46:1 -m46
m46,a4:5 -m46 +m46 ! -a4
m46:-1,n46:9 +a4 -m46
n46,c6 +m46 -m46
r4,a4 -a4 +x4 -r4
x4:1,z6,d46 -d46 +e46:5
bridge +a4 -bridge
bridge +a4:1 -a4
bridge +c6 +d46 -d46
""".strip().splitlines()


@contextlib.contextmanager
def parent() -> Iterator[None]:
    """The links for the networks of macvlan."""
    subprocess.run(["ip", "link", "add", PARENT, "type", "veth", "peer", "name", PARENT_PEER], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "del", PARENT], check=True)


def networks(engine: Engine) -> None:
    """Make the networks on an engine."""
    for n, (name, given) in enumerate(NETWORKS.items()):
        pools = {4: (f"10.234.{n}.0/24", f"10.234.{n}.254"), 6: (f"fd00:234:{n}::/64", f"fd00:234:{n}::fe")}
        body: dict[str, Any] = {key: value for key, value in given.items() if key != "subnets"}
        config = [{"Subnet": pools[version][0], "Gateway": pools[version][1]} for version in given["subnets"]]
        families = {"EnableIPv4": 4 in given["subnets"], "EnableIPv6": 6 in given["subnets"]}
        engine.call("POST", "/networks/create", {"Name": name, "IPAM": {"Config": config}, **families, **body})


def look(engine: Engine, name: str) -> list[str]:
    """Return the gateways of a container's default routes. Docker has no order in which it names interfaces."""
    pid = engine.inspect(name)["State"]["Pid"]
    found = []
    for version in ("-4", "-6"):
        command = ["nsenter", "-t", str(pid), "-n", "ip", "-j", version, "route", "show", "default"]
        routes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout or "[]")
        found += [str(route.get("gateway", "link")) for route in routes]
    bridge = engine.call("GET", "/networks/bridge")["IPAM"]["Config"][0]["Gateway"]
    return ["bridge" if gateway == bridge else gateway for gateway in found]


def play(engine: Engine, story: str) -> list[list[str]]:
    """Tell a story to an engine; return the default routes after each word. Nothing of it is left."""
    first, *words = story.split()
    looks = []
    ends = {name: {"GwPriority": priority} for name, priority in map(_network, first.split(","))}
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "1000"],
        "HostConfig": {"NetworkMode": next(iter(ends))},
        "NetworkingConfig": {"EndpointsConfig": ends},
        "StopSignal": "SIGKILL",
    }
    made = engine.call("POST", "/containers/create", body)["Id"]
    try:
        engine.call("POST", f"/containers/{made}/start")
        looks.append(look(engine, made))
        for word in words:
            name, priority = _network(word[1:])
            if word == "!":
                engine.call("POST", f"/containers/{made}/restart")
            elif word[0] == "-":
                engine.call("POST", f"/networks/{name}/disconnect", {"Container": made})
            else:
                ask = {"Container": made, "EndpointConfig": {"GwPriority": priority}}
                engine.call("POST", f"/networks/{name}/connect", ask)
            looks.append(look(engine, made))
    finally:
        engine.remove(made)
    return looks


def _network(text: str) -> tuple[str, int]:
    name, _, priority = text.partition(":")
    return name, int(priority or 0)


def main() -> None:
    from tests.support.reference import Reference

    reference = Reference().start()
    with parent():
        try:
            networks(reference)
            answers = {story: play(reference, story) for story in STORIES}
        finally:
            for name in NETWORKS:
                reference.request("DELETE", f"/networks/{name}")
            reference.close()
    lines = ",\n".join(f"{json.dumps(story)}: {json.dumps(looks)}" for story, looks in answers.items())
    ANSWERS.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
