"""One case as it is played: where its places are, which addresses they have, and what answers there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from tests.e2e.matrix.cases import BOUND, CLOSED, INNER, LOCAL, PUBLISHED, SERVED, Case, Question, questions
from tests.e2e.matrix.world import NAME_SERVICE, OUTSIDE4, OUTSIDE6, WAN4, WAN6, World
from tests.kernel.net_host import HOST4, HOST6, LAN4, LAN6

ANY = ("0.0.0.0", "::")
STATIONS = {"host": 100, "lan": 109}  # last numbers of addresses on a network that is on the LAN
_WORDS = {PUBLISHED: "published", LOCAL: "local", BOUND: "bound"}


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace, and its address in each IP version."""

    namespace: int
    addresses: dict[str, str]

    @classmethod
    def of(cls, namespace: int, settings: dict[str, Any]) -> Place:
        """Return a container's place. settings: its endpoint's."""
        pairs = {"4": settings.get("IPAddress", ""), "6": settings.get("GlobalIPv6Address", "")}
        return cls(namespace, {version: address for version, address in pairs.items() if address})


def around(world: World) -> dict[str, Place]:
    """Return the places that are there without containers."""
    return {
        "host": Place(world.own, {"4": HOST4, "6": HOST6}),
        "lan": Place(world.lan, {"4": LAN4, "6": LAN6}),
        "outside": Place(world.outside, {"4": OUTSIDE4, "6": OUTSIDE6}),
        "wan": Place(world.own, {"4": WAN4, "6": WAN6}),
        "itself": Place(-1, {"4": "127.0.0.1", "6": "::1"}),
        "127.0.0.1": Place(-1, {"4": "127.0.0.1"}),
        "names": Place(-1, {"4": NAME_SERVICE}),
    }


class Table:
    """places: all that the case's questions name. network: what /networks/NAME answers, {} for none."""

    def __init__(self, case: Case, first: int, places: dict[str, Place], network: dict[str, Any]) -> None:
        self._case, self._first, self._network = case, first, network
        self._places = places | {"gateway": Place(-1, gateways(network))}
        if case.parent:  # the host and the LAN are stations of the network
            bases = {"6" if ":" in s else "4": s for s in _subnets(network)}
            for name, last in STATIONS.items():
                own = {version: str(ip_network(subnet)[last]) for version, subnet in bases.items()}
                self._places[name] = Place(places[name].namespace, own)
        self._names: dict[str, str] = {}
        for name, place in self._places.items():  # who has two names is called by the first
            for address in place.addresses.values():
                self._names.setdefault(address, name)

    def join(self, world: World) -> None:
        """Make the host and the LAN stations of a network that is on the LAN."""
        if not self._case.parent:
            return
        for name, link in (("host", self._case.parent), ("lan", self._case.parent.replace("lan", "eth"))):
            place = self._places[name]
            for address in place.addresses.values():
                six = ":" in address
                world.ip(place.namespace, f"addr add {address}/{64 if six else 24} dev {link}{' nodad' * six}")

    def serve(self, world: World) -> None:
        """Answer on the ports of the case's containers."""
        for name in ("web", "peer", "far"):
            if name in self._places and self._case.kind != "host":
                for address in ANY:
                    for udp in (False, True):
                        world.serve(self._places[name].namespace, CLOSED, udp=udp, address=address)
                        world.serve(self._places[name].namespace, INNER, udp=udp, address=address)
        if self._case.kind == "host":
            for address in ANY:
                for udp in (False, True):
                    world.serve(self._places["web"].namespace, self._first + SERVED, udp=udp, address=address)

    def questions(self) -> Iterator[Question]:
        """Yield those whose places have addresses of the IP version."""
        for question in questions(self._case, self._first):
            if question.by in self._places and question.version in self._target(question):
                yield question

    def _target(self, question: Question) -> dict[str, str]:
        return self._places[question.to].addresses if question.to in self._places else {}

    async def said(self, world: World, question: Question, limit_s: float) -> str:
        """Ask; addresses are told by name."""
        where, address = self._places[question.by].namespace, self._target(question)[question.version]
        said = await world.said(where, question.proto, address, question.port, limit_s)
        seen = question.proto in ("tcp", "udp") and _is_address(said)
        return f"seen as {self._names.get(said, said)}" if seen else said

    # ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────

    def facts(self, world: World, ports: dict[str, Any]) -> dict[str, str]:
        """Return what web's namespace and the bridge look like. ports: what is shown as web's."""
        words = {str(self._first + number): word for number, word in _WORDS.items()}
        found = {}
        for port in ("80/tcp", "80/udp"):
            shown = sorted(f"{b['HostIp']} {words.get(b['HostPort'], b['HostPort'])}" for b in ports.get(port) or ())
            found[f"web ports {port}"] = ", ".join(shown)
        if self._case.kind == "host":
            return found
        namespace = self._places["web"].namespace
        links = [link for link in ip_json(world, namespace, "address") if link["operstate"] != "DOWN"]
        found["web interfaces"] = ", ".join(self._link(link) for link in links if link["ifname"] != "lo")
        for version in "46":
            routes = [r for r in ip_json(world, namespace, f"-{version}", "route") if r["dst"] == "default"]
            found[f"web default route {version}"] = ", ".join(
                f"{self._names.get(r.get('gateway', ''), r.get('gateway', 'none'))} by {r['dev']}" for r in routes
            )
        for name in (link["ifname"] for link in links):
            if name != "lo":
                found[f"web router advertisements by {name}"] = _advertisements(world, namespace, name)
        return found | self._bridge(world)

    def _bridge(self, world: World) -> dict[str, str]:
        if self._network.get("Driver") != "bridge":
            return {}
        name = self._network["Options"].get("com.docker.network.bridge.name", f"br-{self._network['Id'][:12]}")
        (link,) = ip_json(world, world.own, "address", "show", name)
        return {
            "the bridge": self._link(link).removeprefix(f"{name} "),
            "router advertisements by the bridge": _advertisements(world, world.own, name),
        }

    def _link(self, link: dict[str, Any]) -> str:
        scoped = [a for a in link["addr_info"] if a["scope"] == "global"]
        own = sorted(f"{self._names.get(a['local'], a['local'])} {a['family']}" for a in scoped)
        return ", ".join([f"{link['ifname'].partition('@')[0]} mtu {link['mtu']}", *own])


def gateways(network: dict[str, Any]) -> dict[str, str]:
    """Return a network's gateway in each IP version: the first address where none is told."""
    found = {}
    for config in (network.get("IPAM") or {}).get("Config") or ():
        subnet = ip_network(config["Subnet"])
        found[str(subnet.version)] = (config.get("Gateway") or str(subnet[1])).partition("/")[0]
    return found


def _subnets(network: dict[str, Any]) -> list[str]:
    return [config["Subnet"] for config in network["IPAM"]["Config"]]


def ip_json(world: World, namespace: int, *words: str) -> list[dict[str, Any]]:
    """Return what `ip` shows in a namespace."""
    with world.inside(namespace):
        done = subprocess.run(["ip", "-json", *words], check=True, capture_output=True, text=True)
    found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return [each for each in found if each]


def _advertisements(world: World, namespace: int, link: str) -> str:
    with world.inside(namespace):
        directory = Path("/proc/sys/net/ipv6/conf", link)
        off = directory.joinpath("disable_ipv6").read_text() == "1\n"
        return "no" if off or directory.joinpath("accept_ra").read_text() == "0\n" else "taken"


def _is_address(said: str) -> bool:
    return bool(said) and all(c in "0123456789abcdef.:" for c in said) and ("." in said or ":" in said)
