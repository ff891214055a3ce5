"""Who reaches whom, by the options of a bridge network: a whole engine between a LAN and a router, real packets.

    lan 192.0.2.9 ── lan0 192.0.2.1 ┐
                                    ├ host ── the network under test: web (serves), peer; the network `other`: other
    outside 203.0.113.9 ── router ──┘ wan0 198.51.100.1

Everybody has a route to everybody, so what does not arrive was kept back by the engine. `python -m
tests.e2e.gateway_modes PROGRAM` prints what an engine of that program (dockerd's flags) does, for gateway_answers.json:
of the first network all, of every other what differs from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from sampan.linux import netlink
from sampan.linux.namespaces import setns, unshare
from tests.kernel.net_host import CLONE_NEWNET, HOST4, HOST6, LAN4, LAN6, Host, apart, run
from tests.support.engine import Engine

WAN4, WAN6, OUTSIDE4, OUTSIDE6 = "198.51.100.1", "2001:db8:1::1", "203.0.113.9", "2001:db8:2::9"
GATEWAY4, WEB4, PEER4, OTHER4 = "10.31.0.1", "10.31.0.2", "10.31.0.3", "10.32.0.2"
GATEWAY6, WEB6, PEER6, OTHER6 = "fd31::1", "fd31::2", "fd31::3", "fd32::2"
PORTS = ("80/tcp", "80/udp")
PUBLISHED, INNER, CLOSED, LOCAL = 8080, 80, 81, 8081
WAIT_S, AGAIN_S = 0.7, 0.2  # a packet that is dropped is waited for so long; echo requests are sent again

_echoes = itertools.count(1)  # each with an id of its own: connection tracking remembers them

BRIDGE = "com.docker.network.bridge."
MODE4, MODE6 = BRIDGE + "gateway_mode_ipv4", BRIDGE + "gateway_mode_ipv6"


def _mode(mode: str, **more: Any) -> dict[str, Any]:
    return {"Options": {MODE4: mode, MODE6: mode}, **more}


NETWORKS: dict[str, dict[str, Any]] = {
    "nat": {},
    "nat-unprotected": _mode("nat-unprotected"),
    "routed": _mode("routed"),
    "isolated": _mode("isolated", Internal=True),
    "internal": {"Internal": True},
    "internal routed": _mode("routed", Internal=True),
    "nat and routed": {"Options": {MODE6: "routed"}},
    "trusted": {"Options": {BRIDGE + "trusted_host_interfaces": "lan0"}},
    "no icc": {"Options": {BRIDGE + "enable_icc": "false"}},
    "routed without icc": {"Options": {MODE4: "routed", MODE6: "routed", BRIDGE + "enable_icc": "false"}},
    "no masquerade": {"Options": {BRIDGE + "enable_ip_masquerade": "false"}},
    "host address": {"Options": {"com.docker.network.host_ipv4": WAN4, "com.docker.network.host_ipv6": WAN6}},
    "no address on the host": {"Options": {BRIDGE + "inhibit_ipv4": "true"}},
    "bound to the LAN": {"Options": {BRIDGE + "host_binding_ipv4": HOST4}},
    "only IPv6": {"EnableIPv4": False},
    "only IPv6 routed": {"EnableIPv4": False, "Options": {MODE6: "routed"}},
}


class World(Host):
    """The fake host with its LAN, and a router to an outside host."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.outside = _namespace(self.own), _namespace(self.own)
        self.netlink.batch([netlink.add_veth("wan0", "in", peer_namespace=self.router)])
        with self.inside(self.router):
            run("ip", "link", "add", "out", "type", "veth", "peer", "name", "eth0", "netns", _path(self.outside))
        places = [
            (self.own, "wan0", (WAN4, WAN6)),
            (self.router, "in", ("198.51.100.254", "2001:db8:1::fe")),
            (self.router, "out", ("203.0.113.254", "2001:db8:2::fe")),
            (self.outside, "eth0", (OUTSIDE4, OUTSIDE6)),
        ]
        for where, link, (four, six) in places:
            self.ip(where, f"link set lo up\nlink set {link} up\naddr add {four}/24 dev {link}")
            self.ip(where, f"addr add {six}/64 dev {link} nodad")
        self.sysctl(self.own, "net/ipv4/icmp_ratelimit", "0")
        self.sysctl(self.own, "net/ipv6/icmp/ratelimit", "0")
        for where in (self.router, self.lan):
            self.sysctl(where, "net/ipv4/ip_forward", "1")
            self.sysctl(where, "net/ipv6/conf/all/forwarding", "1")
        self._defaults(self.own, "198.51.100.254", "2001:db8:1::fe")
        self._defaults(self.outside, "203.0.113.254", "2001:db8:2::fe")
        self._defaults(self.lan, HOST4, HOST6)
        self._defaults(self.router, WAN4, WAN6)

    @property
    def own(self) -> int:
        return self._own

    def _defaults(self, where: int, four: str, six: str) -> None:
        self.ip(where, f"route add default via {four}")
        self.ip(where, f"route add default via {six}")

    def ip(self, where: int, commands: str) -> None:
        with self.inside(where):
            for command in commands.splitlines():
                run("ip", *command.split())


def _namespace(own: int) -> int:
    unshare(CLONE_NEWNET)
    made = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    setns(own, CLONE_NEWNET)
    return made


def _path(namespace: int) -> str:
    os.set_inheritable(namespace, True)
    return f"/proc/{os.getpid()}/fd/{namespace}"


@contextlib.contextmanager
def containers(engine: Engine, network: dict[str, Any]) -> Iterator[dict[str, int]]:
    """The two networks with their containers; yields {name: pid}."""
    four = network.get("EnableIPv4", True)
    pids = {}
    try:
        subnets = [{"Subnet": "10.31.0.0/24"}] if four else []
        config = {"Config": [*subnets, {"Subnet": "fd31::/64"}]}
        engine.call("POST", "/networks/create", {"Name": "tested", "EnableIPv6": True, "IPAM": config, **network})
        config = {"Config": [{"Subnet": "10.32.0.0/24"}, {"Subnet": "fd32::/64"}]}
        engine.call("POST", "/networks/create", {"Name": "other", "EnableIPv6": True, "IPAM": config})
        for name, where, address4, address6 in (
            ("web", "tested", WEB4 if four else "", WEB6),
            ("peer", "tested", PEER4 if four else "", PEER6),
            ("other", "other", OTHER4, OTHER6),
        ):
            ports: dict[str, Any] = {}
            if name == "web":
                ports = {f"{INNER}/{p}": [{"HostPort": str(PUBLISHED)}] for p in ("tcp", "udp")}
                ports[f"{INNER}/tcp"].append({"HostIp": "127.0.0.1", "HostPort": str(LOCAL)})
            body = {
                "Image": "busybox",
                "Cmd": ["sleep", "1000"],
                "ExposedPorts": {port: {} for port in ports},
                "HostConfig": {"NetworkMode": where, "PortBindings": ports},
                "NetworkingConfig": {
                    "EndpointsConfig": {where: {"IPAMConfig": {"IPv4Address": address4, "IPv6Address": address6}}}
                },
            }
            engine.call("POST", "/containers/create", body, name=name)
            engine.call("POST", f"/containers/{name}/start")
            pids[name] = engine.inspect(name)["State"]["Pid"]
        yield pids
    finally:
        for name in ("web", "peer", "other"):
            engine.request("DELETE", f"/containers/{name}", force=1)
        for name in ("tested", "other"):
            engine.request("DELETE", f"/networks/{name}")


def questions() -> Iterator[tuple[str, str, str, str, int]]:
    """Yield (from, protocol, what is asked for, address, port); port 0: an echo request."""
    ways = [(HOST4, GATEWAY4, WEB4, "4"), (HOST6, GATEWAY6, WEB6, "6")]
    for host, gateway, web, version in ways:
        for source in ("web", "peer", "other", "host", "lan", "outside"):
            for proto in ("tcp", "udp"):
                yield source, proto + version, "the host's published port", host, PUBLISHED
                if source != "web":
                    yield source, proto + version, "the container's published port", web, INNER
                    yield source, proto + version, "a port that is not published", web, CLOSED
            yield source, f"tcp{version}", "the gateway's published port", gateway, PUBLISHED
            if source != "web":
                yield source, f"icmp{version}", "the container", web, 0
                yield source, f"icmp{version}", "the gateway", gateway, 0
    for source in ("other", "host", "lan"):
        yield source, "tcp4", "a port on 127.0.0.1", "127.0.0.1" if source == "host" else HOST4, LOCAL
    outward = [
        (LAN4, OUTSIDE4, PEER4, OTHER4, HOST4, GATEWAY4, "4"),
        (LAN6, OUTSIDE6, PEER6, OTHER6, HOST6, GATEWAY6, "6"),
    ]
    for lan, outside, peer, other, host, gateway, version in outward:
        targets = [("lan", lan), ("outside", outside), ("peer", peer), ("other", other), ("host", host)]
        targets.append(("gateway", gateway))
        for what, address in targets:
            for proto in ("tcp", "udp"):
                yield "web", proto + version, what, address, CLOSED
            yield "web", f"icmp{version}", what, address, 0


async def ask(world: World, where: int, proto: str, address: str, port: int) -> str:
    """Return what comes of it: whom the other side sees, or how it failed."""
    try:
        async with asyncio.timeout(WAIT_S):
            if proto.startswith("icmp"):
                return await _echo(world, where, address)
            return "seen as " + await world.ask(where, address, port, udp=proto.startswith("udp"))
    except TimeoutError:
        return "nothing"
    except OSError as error:
        if error.errno == errno.EHOSTUNREACH:
            return "nothing"  # whether the last router says so in time is chance
        return errno.errorcode.get(error.errno or 0, str(error))


async def _echo(world: World, where: int, address: str) -> str:
    six = ":" in address
    family, number = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    with world.inside(where):
        sock = socket.socket(family, socket.SOCK_RAW, number)
    with sock:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        kind, reply = (128, 129) if six else (8, 0)
        sock.connect((address, 0))
        while True:
            sock.send(_checked(struct.pack("!BBHHH", kind, 0, 0, next(_echoes), 1)))
            with contextlib.suppress(TimeoutError):  # the first may be lost while neighbours are looked for
                async with asyncio.timeout(AGAIN_S):
                    while True:
                        answer = await loop.sock_recv(sock, 2000)
                        if answer[0 if six else (answer[0] & 15) * 4] == reply:
                            return "answered"


def _checked(packet: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]


async def _answers(world: World, pids: dict[str, int]) -> dict[str, str]:
    places = {name: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC) for name, pid in pids.items()}
    places |= {"host": world.own, "lan": world.lan, "outside": world.outside}
    for name, where in places.items():
        for address in ("0.0.0.0", "::"):
            for udp in (False, True):
                world.serve(where, CLOSED, udp=udp, address=address)
                if name == "web":
                    world.serve(where, INNER, udp=udp, address=address)
    asked = list(questions())
    try:
        found = await asyncio.gather(
            *(ask(world, places[who], proto, address, port) for who, proto, _, address, port in asked)
        )
    finally:
        await world.unserve()
        for name in pids:
            os.close(places[name])
    return {f"{who} {proto} {what}": said for (who, proto, what, _, _), said in zip(asked, found, strict=True)}


def play(engine: Engine, world: World, names: Iterable[str] = tuple(NETWORKS)) -> dict[str, dict[str, str]]:
    """Return, by network, what comes of every question; and what is shown of the ports."""
    result = {}
    for name in names:
        with containers(engine, NETWORKS[name]) as pids:
            answers = asyncio.run(_answers(world, pids))
            ports = engine.inspect("web")["NetworkSettings"]["Ports"]
            shown = {
                port: sorted(f"{b['HostIp']} {b['HostPort']}" for b in found or []) for port, found in ports.items()
            }
            result[name] = answers | {f"ports {port}": ", ".join(shown.get(port, [])) for port in PORTS}
    return result


def differences(answers: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Return all of the first network's answers, and of the others' those that differ from it."""
    first, *others = answers
    of = {name: {q: a for q, a in answers[name].items() if answers[first][q] != a} for name in others}
    return {first: answers[first], **of}


def main(program: str) -> None:
    with World() as world:
        engine = Engine()
        engine.program = program.split()
        engine.start()
        try:
            engine.import_busybox()
            print(json.dumps(differences(play(engine, world)), indent=1))
        finally:
            engine.close()


if __name__ == "__main__":
    apart(lambda: main(sys.argv[1]))
