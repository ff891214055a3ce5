"""Attacks on names and networks from containers and resolvers, each with a control that shows that it would have shown.

Source: RFC 5452 (spoofed answers), RFC 826 and RFC 4861 (neighbours), CVE-2020-13401 (router
advertisements), ip-sysctl (route_localnet, mc_forwarding).
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dnslib
import pytest

from tests.support import dns
from tests.support.engine import Engine, until
from tests.support.machine import lacks

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

GROUP, GROUP6 = "239.9.9.9", "ff05::9:9"
PREFIX = "2001:db8:bad::"


class World:
    """Containers on networks of their own, and a thread inside each."""

    def __init__(self, engine: Engine, stack: contextlib.ExitStack) -> None:
        self.engine, self._stack = engine, stack

    def network(self, name: str, **more: Any) -> str:
        self.engine.call("POST", "/networks/create", {"Name": name, **more})
        self._stack.callback(self.engine.request, "DELETE", f"/networks/{name}")
        return name

    def inside(self, name: str, network: str, **host: Any) -> dns.Inside:
        self.engine.run("sleep", "1000", name=name, NetworkMode=network, **host)
        self._stack.callback(self.engine.remove, name)
        thread = dns.Inside(self.engine.inspect(name)["State"]["Pid"])
        self._stack.callback(thread.close)
        return thread

    def endpoint(self, name: str) -> dict[str, Any]:
        (found,) = self.engine.inspect(name)["NetworkSettings"]["Networks"].values()
        return dict(found)


@pytest.fixture
def world(shared_engine: Engine) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(shared_engine, stack)


def bound(inside: dns.Inside, port: int, group: str = "") -> socket.socket:
    """Return a UDP socket in a container's namespace, in a multicast group when one is given."""
    made: list[socket.socket] = []

    def make() -> None:
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.bind(("0.0.0.0", port))
        if group:
            peer.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + bytes(4))
        made.append(peer)

    inside.run(make)
    made[0].settimeout(0.3)
    return made[0]


def received(peer: socket.socket) -> list[bytes]:
    """Return what has come, until nothing comes for a moment."""
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(peer.recv(2048))
    return found


@pytest.mark.parametrize("truth", [True, False], ids=["among lies", "lies alone"])
def test_spoofed_upstream_answers_are_dropped(world: World, truth: bool) -> None:
    """Another id, another question, another source: none of them is an answer."""
    world.network("spoof")
    world.inside("spoof-first", "spoof")
    gateway = world.endpoint("spoof-first")["Gateway"]
    asking = world.inside("spoof-asks", "spoof", Dns=[gateway])

    def serve(peer: socket.socket) -> None:
        packet, client = peer.recvfrom(2048)
        asked = dnslib.DNSRecord.parse(packet)
        lie = asked.reply()
        lie.add_answer(*dnslib.RR.fromZone(f"{asked.q.qname} 60 IN A 6.6.6.6"))
        right_id = lie.header.id
        for other in range(1, 65):
            lie.header.id = (right_id + other) & 0xFFFF
            peer.sendto(lie.pack(), client)
        lie.header.id = right_id
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            elsewhere.bind((gateway, 0))
            elsewhere.sendto(lie.pack(), client)
        lie.questions = [dnslib.DNSQuestion("bank.example")]
        peer.sendto(lie.pack(), client)
        if truth:
            right = asked.reply()
            right.add_answer(*dnslib.RR.fromZone(f"{asked.q.qname} 60 IN A 192.0.2.9"))
            peer.sendto(right.pack(), client)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind((gateway, 53))
        thread = threading.Thread(target=serve, args=(resolver,))
        thread.start()
        assert asking.addresses("www.example") == (["192.0.2.9"] if truth else [])
        thread.join(5)


@pytest.mark.parametrize("internal", [True, False])
def test_an_internal_network_asks_nobody_cve_2024_29018(world: World, internal: bool) -> None:
    """internal False is the control: there the resolver hears of the question."""
    gateway = "10.91.7.1"
    world.network("inner", Internal=internal, IPAM={"Config": [{"Subnet": "10.91.7.0/24", "Gateway": gateway}]})
    asking = world.inside("inner-asks", "inner", Dns=[gateway])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
        resolver.bind(("0.0.0.0", 53))
        resolver.settimeout(0.3)
        assert asking.addresses("secret.www.example") == []
        assert bool(received(resolver)) is not internal


def frame(destination: str, source: tuple[str, int], target: tuple[str, int], payload: bytes) -> bytes:
    """Return an Ethernet frame with a UDP datagram. destination: a MAC."""
    udp = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0) + payload
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + addresses
    total: int = sum(struct.unpack("!10H", head))
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    mac = bytes.fromhex(destination.replace(":", ""))
    return mac + b"\x02\0\0\0\0\1" + b"\x08\0" + head[:10] + check.to_bytes(2, "big") + head[12:] + udp


def test_a_neighbour_with_raw_sockets_is_no_name_service(world: World) -> None:
    """It answers no question in the name service's name, and asks no other sandbox's."""
    world.network("raw")
    victim, neighbour = world.inside("raw-victim", "raw"), world.inside("raw-other", "raw")
    at, own = world.endpoint("raw-victim"), world.endpoint("raw-other")["IPAddress"]
    files = [json.loads(path.read_text()) for path in Path(world.engine.exec_root / "names").glob("*.json")]
    pid = world.engine.inspect("raw-victim")["State"]["Pid"]
    port = next(record["port"] for record in files if record["pid"] == pid)
    question = bytes(dnslib.DNSRecord.question("raw-other").pack())

    def send(*frames: bytes) -> None:
        def work() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("eth0", 0))
                for each in frames:
                    raw.send(each)

        neighbour.run(work)

    with bound(victim, 4444) as waiting, bound(neighbour, 4445) as answered:
        to = (at["IPAddress"], 4444)
        send(
            frame(at["MacAddress"], ("127.0.0.11", 53), to, b"spoofed"),
            frame(at["MacAddress"], ("127.0.0.11", port), to, b"spoofed"),
            frame(at["MacAddress"], (own, 4445), to, b"control"),
        )
        assert received(waiting) == [b"control"]
        for asked in (port, 53):
            send(frame(at["MacAddress"], (own, 4445), ("127.0.0.11", asked), question))
            send(frame(at["MacAddress"], (own, 4445), (at["IPAddress"], asked), question))
        assert received(answered) == []
    assert victim.addresses("raw-other") == [own]


def test_multicast_stays_on_its_network(world: World) -> None:
    world.network("many-one")
    world.network("many-two")
    sends, near = world.inside("many-a", "many-one"), world.inside("many-b", "many-one")
    far = world.inside("many-c", "many-two")
    with bound(near, 5555, GROUP) as here, bound(far, 5555, GROUP) as there, bound(sends, 5556) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)

        def heard() -> bool:
            sender.sendto(b"hello", (GROUP, 5555))
            return bool(received(here))

        until(heard, 5, "the neighbour hears it")
        assert received(there) == []


def test_ipv6_multicast_stays_on_its_network(world: World) -> None:
    if not Path("/proc/net/if_inet6").exists():
        lacks("a kernel without IPv6")
    for n, name in enumerate(("six-one", "six-two")):
        world.network(name, EnableIPv6=True, IPAM={"Config": [{"Subnet": f"fd00:77:2{n}::/64"}]})
    sends, near = world.inside("six-a", "six-one"), world.inside("six-b", "six-one")
    far = world.inside("six-c", "six-two")
    with bound6(near, GROUP6) as here, bound6(far, GROUP6) as there, bound6(sends, "") as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)

        def send() -> None:
            sender.sendto(b"hello", (GROUP6, 5555, 0, socket.if_nametoindex("eth0")))

        def heard() -> bool:
            sends.run(send)
            return bool(received(here))

        until(heard, 5, "the neighbour hears it")
        assert received(there) == []


def bound6(inside: dns.Inside, group: str) -> socket.socket:
    """Return a UDP socket for IPv6 in a container's namespace, in a multicast group when one is given."""
    made: list[socket.socket] = []

    def make() -> None:
        peer = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        peer.bind(("::", 5555))
        if group:
            index = struct.pack("@I", socket.if_nametoindex("eth0"))
            peer.setsockopt(
                socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + index
            )
        made.append(peer)

    inside.run(make)
    made[0].settimeout(0.3)
    return made[0]


def claim(address: str, mac: str, to: tuple[str, str]) -> bytes:
    """Return an answer of ARP or neighbour discovery that gives an address to a MAC.

    to: who is told, (MAC, address).
    """
    own, other = (bytes.fromhex(each.replace(":", "")) for each in (mac, to[0]))
    if ":" not in address:
        ip = socket.inet_aton(address)
        return other + own + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + own + ip + other + ip
    ip, target = socket.inet_pton(socket.AF_INET6, address), socket.inet_pton(socket.AF_INET6, to[1])
    said = b"\x60\0\0\0" + ip + b"\x02\x01" + own  # solicited, overriding; the link-layer address
    pseudo = ip + target + struct.pack("!II", 4 + len(said), socket.IPPROTO_ICMPV6) + b"\x88\0\0\0" + said
    total: int = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    total = (total & 0xFFFF) + (total >> 16)
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = struct.pack("!IHBB", 0x60000000, 4 + len(said), socket.IPPROTO_ICMPV6, 255) + ip + target
    return other + own + b"\x86\xdd" + head + b"\x88\0" + check.to_bytes(2, "big") + said


@pytest.mark.parametrize("version", [4, 6])
def test_who_poses_as_another_does_so_on_its_own_network_alone(world: World, version: int) -> None:
    """What Docker lets a container with CAP_NET_RAW do, and no more: its own neighbours believe it.

    Those on another network do not hear it, and the host believes nobody about a network that it is not on.
    """
    if not Path("/proc/net/if_inet6").exists():
        lacks("a kernel without IPv6")
    for n, name in enumerate(("posing", "beside")):
        subnets = [{"Subnet": f"10.91.{10 + n}.0/24"}, {"Subnet": f"fd00:77:3{n}::/64"}]
        world.network(name, EnableIPv6=True, IPAM={"Config": subnets})
    posing, victim = world.inside("posing-a", "posing"), world.inside("posing-b", "posing")
    beside = world.inside("beside-a", "beside")
    own, near, far = (world.endpoint(name) for name in ("posing-a", "posing-b", "beside-a"))
    gateway, address = ("Gateway", "IPAddress") if version == 4 else ("IPv6Gateway", "GlobalIPv6Address")

    def known(inside: dns.Inside | None, of: str) -> str:
        found: list[str] = []

        def look() -> None:
            told = subprocess.run(["ip", "-json", "neigh", "show", "to", of], check=True, capture_output=True)
            found.extend(entry.get("lladdr", "") for entry in json.loads(told.stdout or b"[]"))

        if inside is None:
            look()
        else:
            inside.run(look)
        return "".join(found)

    def meet(inside: dns.Inside, of: str) -> str:
        def send() -> None:
            with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.sendto(b"hello", (of, 9))

        inside.run(send)
        until(lambda: known(inside, of), 5, "the gateway is known")
        return known(inside, of)

    right = meet(beside, far[gateway])
    assert meet(victim, near[gateway]) != own["MacAddress"]
    lies = [
        (near[gateway], (near["MacAddress"], near[address])),
        (far[gateway], (far["MacAddress"], far[address])),
        (far[address], ("ff:ff:ff:ff:ff:ff", far[gateway])),
    ]

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            for each, to in lies:
                raw.send(claim(each, own["MacAddress"], to))

    def believed() -> bool:
        posing.run(send)
        return known(victim, near[gateway]) == str(own["MacAddress"])

    until(believed, 10, "the neighbour believes it")
    assert known(beside, far[gateway]) == right
    assert known(None, far[address]) in ("", far["MacAddress"])


@pytest.mark.parametrize("dropped", [False, True])
def test_without_net_raw_nobody_makes_frames(world: World, dropped: bool) -> None:
    """dropped False is the control: Docker's capabilities have NET_RAW, and so have ours."""
    gives = ["arping", "-c", "1", "-w", "1", "-I", "eth0", "10.91.9.1"]
    network = world.network("frames", IPAM={"Config": [{"Subnet": "10.91.9.0/24"}]})
    name = world.engine.run(*gives, NetworkMode=network, CapDrop=["NET_RAW"] if dropped else [])
    world.engine.wait(name)
    said = world.engine.logs(name)
    world.engine.remove(name)
    assert (b"Operation not permitted" in said) is dropped, said
    assert (b"ARPING" in said) is not dropped, said


def test_router_advertisements_change_nothing_cve_2020_13401(world: World) -> None:
    """Neither on the host nor in a container; one that asks for them gets an address."""
    if not Path("/proc/net/if_inet6").exists():
        lacks("a kernel without IPv6")
    subnet = {"IPAM": {"Config": [{"Subnet": "fd00:77:13::/64"}]}, "EnableIPv6": True}
    world.network("advert", **subnet)
    sends, quiet = world.inside("advert-a", "advert"), world.inside("advert-b", "advert")
    taking = world.inside("advert-c", "advert")
    option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 0xFFFFFFFF, 0xFFFFFFFF, 0) + socket.inet_pton(
        socket.AF_INET6, PREFIX
    )
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + option

    def ask() -> None:
        Path("/proc/sys/net/ipv6/conf/eth0/accept_ra").write_text("2")

    def advertise() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            index = socket.if_nametoindex("eth0")
            raw.sendto(advertisement, ("ff02::1", 0, 0, index))

    def addresses(inside: dns.Inside) -> str:
        found: list[str] = []
        inside.run(lambda: found.append(Path("/proc/thread-self/net/if_inet6").read_text()))
        return found[0]

    taking.run(ask)
    prefix = socket.inet_pton(socket.AF_INET6, PREFIX).hex()[:16]

    def taken() -> bool:
        sends.run(advertise)
        return prefix in addresses(taking)

    until(taken, 5, "who asks for it takes it")
    assert prefix not in addresses(quiet)
    assert prefix not in Path("/proc/net/if_inet6").read_text()
