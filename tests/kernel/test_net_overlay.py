"""The overlay driver on three hosts of their own: who is where is told by the test."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from ipaddress import IPv4Address, ip_address

import pytest

from sampan.engine.networks.drivers import choice, overlay_options
from sampan.engine.networks.drivers.driver import MTU
from sampan.engine.networks.peers import Peer, PeerUpdate
from sampan.engine.networks.service import Networks, Sandbox
from sampan.errors import Forbidden, InvalidArgument, NotImplemented_, Unavailable
from sampan.linux import netlink, vxlan
from sampan.linux.netlink import Address, Netlink
from sampan.linux.nftables import Nftables
from sampan.spec.engine_api.network import IPAM, EndpointIPAMConfig, EndpointSettings, IPAMConfig, NetworkCreateRequest
from tests.kernel.net_host import TIMEOUT_S, Host, attach, container_id, die_at, on_fake_host, until
from tests.support.lan import Lan

VNI = 4200
EXPERIMENTAL = 0x88B5
SUBNETS = ("10.213.0.0/24", "10.214.0.0/24")


class Told:
    """A source that tells what the test says."""

    def __init__(self) -> None:
        self._updates: asyncio.Queue[PeerUpdate] = asyncio.Queue()
        self.taken, self.applied = 0, asyncio.Condition()

    def tell(self, *put: Peer, gone: tuple[tuple[int, str], ...] = (), whole: bool = False) -> None:
        self._updates.put_nowait(PeerUpdate(put=put, gone=gone, whole=whole))

    def beyond(self, number: int) -> bool:
        return self.taken > number

    async def watch(self) -> AsyncIterator[PeerUpdate]:
        while True:
            yield await self._updates.get()
            async with self.applied:
                self.taken += 1
                self.applied.notify_all()


class Station:
    """One host with the networks service of an engine."""

    def __init__(self, host: Host, number: int, pid: int) -> None:
        self.host, self.number, self.source = host, number, Told()
        self.vtep = IPv4Address(Lan.address(number))
        self.namespace = f"/proc/{pid}/ns/net"
        with host.inside(self.namespace):
            self.netlink = Netlink()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Networks]:
        self.source = Told()
        opened = self.host.networks(f"h{self.number}", drivers=choice.drivers(self.source))
        with self.host.inside(self.namespace):
            self.networks = await opened.__aenter__()
        try:
            yield self.networks
        finally:
            await opened.__aexit__(None, None, None)

    def known(self) -> vxlan.Known:
        link = self.netlink.link(f"vx-{VNI}")
        return vxlan.known(self.netlink, link.ifindex) if link is not None else vxlan.Known()

    def links(self) -> set[str]:
        return {link.name for link in self.netlink.links()} - {"lo", "eth0"}

    async def container(self, name: str, address: str) -> Sandbox:
        asked = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address=address))
        return await attach(self.networks, name, mode="n", endpoints={"n": asked})

    def peer(self, sandbox: Sandbox) -> Peer:
        endpoint = sandbox.endpoints["n"]
        return Peer(vni=VNI, vtep=self.vtep, mac=endpoint.mac, addresses=(ip_address(endpoint.address4),))


async def create(networks: Networks, **options: str) -> None:
    given = {overlay_options.VNIS: str(VNI), **options}
    ipam = IPAM(config=[IPAMConfig(subnet=subnet) for subnet in SUBNETS])
    await networks.create(NetworkCreateRequest(name="n", driver="overlay", ipam=ipam, options=given))


@contextlib.contextmanager
def stations(host: Host, count: int) -> Iterator[list[Station]]:
    lan = Lan(count)
    made = [Station(host, n, place.pid) for n, place in enumerate(lan.hosts)]
    try:
        yield made
        for station in made:
            assert station.links() - {"sampan0"} == set()
    finally:
        for station in made:
            station.netlink.close()
        lan.close()


@on_fake_host
async def test_three_hosts_see_peers_come_move_and_go(host: Host) -> None:
    with stations(host, 3) as (a, b, c):
        async with a.open(), b.open(), c.open():
            for station in (a, b, c):
                await create(station.networks)
            # b's is in the second subnet: neighbours all the same
            boxes = [await a.container("a", "10.213.0.11"), await b.container("b", "10.214.0.12")]
            boxes.append(await c.container("c", "10.213.0.13"))
            peers = [station.peer(box) for station, box in zip((a, b, c), boxes)]
            for station in (a, b, c):
                station.source.tell(*peers, whole=True)  # its own too, as a file for all hosts would
            await until(lambda: all(len(s.known().forwarding) == 2 for s in (a, b, c)))
            for box in boxes:
                host.serve(box.netns, 80)
            for one in boxes:
                for other in boxes:
                    if one is not other:
                        address = one.endpoints["n"].address4
                        assert await host.ask(other.netns, address, 80) == other.endpoints["n"].address4
            # from b to c, with its address and MAC: c has room for it when it is told that it is nowhere else
            await b.networks.detach(container_id("b"))
            with pytest.raises(Forbidden, match="Address already in use"):
                await c.container("b", "10.214.0.12")
            for station in (a, b, c):
                station.source.tell(dataclasses.replace(peers[1], vtep=c.vtep))
            await until(lambda: set(c.known().forwarding) == {peers[0].mac})
            moved = await c.container("b", "10.214.0.12")
            assert c.peer(moved).mac == peers[1].mac
            host.serve(moved.netns, 80)
            await until(lambda: a.known().forwarding.get(peers[1].mac) == c.vtep)
            assert len(a.known().forwarding) == 2
            assert await host.ask(boxes[0].netns, "10.214.0.12", 80) == "10.213.0.11"
            assert await host.ask(boxes[2].netns, "10.214.0.12", 80) == "10.213.0.13"
            # gone
            a.source.tell(gone=((VNI, peers[1].mac),))
            await until(lambda: set(a.known().forwarding) == {peers[2].mac})
            assert set(a.known().neighbours) == {ip_address("10.213.0.13")}
            assert await host.dropped(boxes[0].netns, "10.214.0.12", 80)
            assert await host.ask(boxes[0].netns, "10.213.0.13", 80) == "10.213.0.11"
            await host.unserve()
            for station, name in ((a, "a"), (c, "b"), (c, "c")):
                await station.networks.detach(container_id(name))
            for station in (a, b, c):
                await station.networks.remove("n")


def many(count: int, vtep: str = "192.0.2.2") -> list[Peer]:
    made = []
    for n in range(count):
        address = IPv4Address(int(IPv4Address("10.220.0.1")) + n)
        mac = (b"\x02\x42" + address.packed).hex(":")
        made.append(Peer(vni=VNI, vtep=IPv4Address(vtep), mac=mac, addresses=(address,), names=(f"n{n}",)))
    return made


@on_fake_host
async def test_a_thousand_peers_are_told_at_once_and_one_change_alone(host: Host) -> None:
    with stations(host, 1) as (a,):
        async with a.open() as networks:
            await create(networks)
            peers = many(1000)
            took = []
            for put, whole in ((peers, True), (many(1, "192.0.2.3"), False)):
                began, before = time.process_time(), a.source.taken
                a.source.tell(*put, whole=whole)
                async with a.source.applied:
                    await a.source.applied.wait_for(partial(a.source.beyond, before))
                took.append(time.process_time() - began)
            known = a.known()
            assert len(known.forwarding) == len(known.neighbours) == 1000
            assert known.forwarding[peers[0].mac] == IPv4Address("192.0.2.3")
            print(f"CPU: 1000 peers {took[0] * 1e3:.1f} ms, one change {took[1] * 1e3:.1f} ms")
            assert took[0] < 0.4 and took[1] < 0.1
            a.source.tell(whole=True)
            await until(lambda: a.known() == vxlan.Known())
            await networks.remove("n")


@on_fake_host
async def test_entries_outlive_the_engine_and_are_compared_when_it_is_back(host: Host) -> None:
    with stations(host, 1) as (a,):
        async with a.open() as networks:
            await create(networks)
            box = await a.container("a", "10.213.0.11")
            a.source.tell(*many(3), whole=True)
            await until(lambda: len(a.known().forwarding) == 3)
            with host.inside(box.netns):
                holder = await asyncio.create_subprocess_exec("sleep", "1000")
            await networks.started(container_id("a"), holder.pid)
        before = a.known()
        assert len(before.forwarding) == 3
        opened = a.host.networks("h0", drivers=choice.drivers(source := Told()), restored=False)
        with host.inside(a.namespace):
            networks = await opened.__aenter__()
        await networks.restore({container_id("a"): holder.pid})
        assert a.known() == before, "nothing was told yet"
        source.tell(*many(2, "192.0.2.3"), whole=True)
        await until(lambda: set(a.known().forwarding.values()) == {IPv4Address("192.0.2.3")})
        assert len(a.known().forwarding) == len(a.known().neighbours) == 2
        holder.kill()
        await holder.wait()
        await networks.detach(container_id("a"))
        await networks.remove("n")
        await opened.__aexit__(None, None, None)


@on_fake_host
async def test_the_next_engine_removes_what_a_killed_one_has_left(host: Host) -> None:
    with stations(host, 1) as (a,):

        async def life() -> None:
            async with a.open() as networks:
                await create(networks)
                a.source.tell(*many(3), whole=True)
                await until(lambda: len(a.known().forwarding) == 3)
                os.kill(os.getpid(), signal.SIGKILL)

        with host.inside(a.namespace):
            assert die_at(1 << 30, lambda: True, life)
        assert {f"ov-{VNI}", f"vx-{VNI}"} <= a.links()
        opened = host.networks("another", drivers=choice.drivers(Told()))
        with host.inside(a.namespace):
            networks = await opened.__aenter__()
        assert {name for name in a.links() if not name.startswith("sampan")} == set()
        await create(networks)
        await networks.remove("n")
        await opened.__aexit__(None, None, None)


@on_fake_host
async def test_what_cannot_be_had_is_refused_and_leaves_nothing(host: Host) -> None:
    with stations(host, 1) as (a,):
        async with a.open() as networks:
            before = a.links()
            a.netlink.batch([netlink.add_bridge(f"ov-{VNI}")])
            with pytest.raises(Forbidden, match=f"link name ov-{VNI} is already in use on this host"):
                await create(networks)
            a.netlink.batch([netlink.delete_link(f"ov-{VNI}")])
            with pytest.raises(NotImplemented_, match="option encrypted: an encrypted overlay network needs a swarm"):
                await create(networks, encrypted="")
            assert a.links() == before and networks._catalogue.named("docker_gwbridge") is None
            # the option is nothing that other drivers' networks, or those that only carry it, have taken
            carried = {overlay_options.VNIS: str(VNI)}
            await networks.create(NetworkCreateRequest(name="c", driver="overlay", config_only=True, options=carried))
            await networks.create(NetworkCreateRequest(name="b", driver="bridge", options={overlay_options.VNIS: "x"}))
            await create(networks)
            await networks.remove("b")
            await networks.remove("c")
            again = NetworkCreateRequest(name="m", driver="overlay", options={overlay_options.VNIS: str(VNI)})
            with pytest.raises(InvalidArgument, match=f"vxlan id {VNI} is in use"):
                await networks.create(again)
            a.source.tell(*many(1), whole=True)
            await until(lambda: len(a.known().forwarding) == 1)
            chosen = await networks.create(NetworkCreateRequest(name="m", driver="overlay", internal=True))
            assert chosen.options[overlay_options.VNIS] == str(overlay_options.FIRST_VNI)
            inside = await attach(networks, "i", mode="m")
            assert inside.way_out is None
            await networks.detach(container_id("i"))
            await networks.remove("m")
            assert await networks.prune({"label": ["x"]}) is None
            assert networks._catalogue.named("docker_gwbridge") is not None
            await networks.remove("n")
            assert networks._catalogue.named("docker_gwbridge") is None
        bare = host.networks("bare", drivers=choice.drivers())
        with host.inside(a.namespace):
            networks = await bare.__aenter__()
        with pytest.raises(Unavailable, match="This node is not a swarm manager"):
            await create(networks)
        await bare.__aexit__(None, None, None)


@on_fake_host
async def test_an_address_of_another_host_is_given_to_nobody(host: Host) -> None:
    with stations(host, 1) as (a,):
        async with a.open() as networks:
            await create(networks)
            address = IPv4Address("10.213.0.2")
            mac = (b"\x02\x42" + address.packed).hex(":")
            a.source.tell(Peer(vni=VNI, vtep=IPv4Address("192.0.2.2"), mac=mac, addresses=(address,)), whole=True)
            await until(lambda: len(a.known().forwarding) == 1)
            box = await attach(networks, "a", mode="n")
            assert box.endpoints["n"].address4 == "10.213.0.3"
            with pytest.raises(Forbidden, match="Address already in use"):
                await a.container("b", str(address))
            a.source.tell(whole=True)
            await until(lambda: not a.known().forwarding)
            assert (await attach(networks, "b", mode="n")).endpoints["n"].address4 == "10.213.0.2"
            for name in ("a", "b"):
                await networks.detach(container_id(name))
            await networks.remove("n")


@on_fake_host
async def test_a_stranger_on_the_lan_injects_nothing(host: Host) -> None:
    """Frames in VXLAN packets, for a container by its MAC and for all: only hosts that have a peer may send them."""
    with stations(host, 3) as (a, b, stranger):
        async with a.open(), b.open():
            for station in (a, b):
                await create(station.networks)
            boxes = [await a.container("a", "10.213.0.11"), await b.container("b", "10.213.0.12")]
            a.source.tell(b.peer(boxes[1]), whole=True)
            await until(lambda: len(a.known().forwarding) == 1)
            await until(lambda: lets_in(host, a) == {str(b.vtep)})
            mac = boxes[0].endpoints["n"].mac
            seen, others = listening(host, boxes[0].netns), listening(host, a.namespace)
            with host.inside(a.namespace):  # another program's tunnel on this port is not ours to close
                a.netlink.batch([netlink.add_bridge("others0"), netlink.set_link("others0", up=True)])
                index = a.netlink.link("others0")
                assert index is not None
                a.netlink.batch([vxlan.add_vxlan("others1", VNI + 1, mtu=1450, master=index.ifindex)])
                a.netlink.batch([netlink.set_link("others1", up=True)])
            with seen, others:
                for word, sender, vni in (
                    (b"stranger", stranger, VNI),
                    (b"outside", a, VNI),  # from the host itself, but through its own address
                    (b"others", stranger, VNI + 1),
                    (b"peer", b, VNI),
                ):
                    for target in ("ff:ff:ff:ff:ff:ff", mac):
                        send(host, sender, a.vtep, vni, frame(target, word))
                assert set(await until_word(seen, b"peer")) == {b"peer"}, "the stranger was first"
                assert b"others" in await until_word(others, b"others")
                # the host that had a peer is a stranger when the peer has gone
                a.source.tell(whole=True)
                await until(lambda: lets_in(host, a) == set())
                send(host, b, a.vtep, VNI, frame(mac, b"gone"))
                a.source.tell(stranger_peer := dataclasses.replace(b.peer(boxes[1]), vtep=stranger.vtep), whole=True)
                await until(lambda: lets_in(host, a) == {str(stranger_peer.vtep)})
                send(host, stranger, a.vtep, VNI, frame(mac, b"known"))
                assert b"gone" not in await until_word(seen, b"known")
            a.netlink.batch([netlink.delete_link("others1"), netlink.delete_link("others0")])
            for station, name in ((a, "a"), (b, "b")):
                await station.networks.detach(container_id(name))
                await station.networks.remove("n")


def input_rules(host: Host, station: Station) -> str:
    with host.inside(station.namespace), contextlib.closing(Nftables()) as nft:
        return nft.run("list chain inet sampan0 input")


def lets_in(host: Host, station: Station) -> set[str]:
    """Which hosts may send by a station's tunnel, as its rules say."""
    (rule,) = (line for line in input_rules(host, station).splitlines() if "@th,96,24" in line and "v6" not in line)
    return set(re.findall(r"\d+\.\d+\.\d+\.\d+", rule))


def listening(host: Host, namespace: str | int) -> socket.socket:
    """Hear of the frames of `frame` in a namespace."""
    with host.inside(namespace):
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EXPERIMENTAL))


def frame(mac: str, word: bytes) -> bytes:
    """A frame of no protocol, to this station, with a word in it."""
    ends = bytes.fromhex(mac.replace(":", "")) + b"\x02\0\0\0\0\x07"
    return ends + struct.pack("!H", EXPERIMENTAL) + word.ljust(46, b".")


def send(host: Host, sender: Station, to: Address, vni: int, inner: bytes) -> None:
    """Send a frame in a packet of VXLAN."""
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    with host.inside(sender.namespace), socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.sendto(struct.pack("!BxxxI", 0x08, vni << 8) + inner, (str(to), vxlan.PORT))


async def until_word(seen: socket.socket, last: bytes) -> list[bytes]:
    """Return what has come in until this word."""
    found: list[bytes] = []
    seen.setblocking(False)
    async with asyncio.timeout(TIMEOUT_S):
        while last not in found:
            found.append((await asyncio.get_running_loop().sock_recv(seen, 2000))[14:].rstrip(b"."))
    return found


@on_fake_host
async def test_tunnels_have_ends_of_either_ip_version(host: Host) -> None:
    """IPv6 ends, then IPv4 ones, and IPv6 again, as the source tells; names, MTU and rules follow."""
    with stations(host, 3) as (a, b, stranger):
        for station in (a, b, stranger):
            host.address(station.namespace, "eth0", f"2001:db8:5::{station.number + 1}", 64)
        async with a.open(), b.open():
            for station in (a, b):
                await create(station.networks, **{MTU: "1480"})
            boxes = [await a.container("a", "10.213.0.11"), await b.container("b", "10.214.0.12")]
            for box in boxes:
                host.serve(box.netns, 80)
                with host.inside(box.netns), Netlink() as inside:
                    assert {link.mtu for link in inside.links() if link.name == "eth0"} == {1430}
            seen = listening(host, boxes[0].netns)
            for version in (6, 4, 6):
                peers = [tunnelled(station.peer(box), station, version) for station, box in zip((a, b), boxes)]
                for station, other in ((a, peers[1]), (b, peers[0])):
                    station.source.tell(*peers, whole=True)
                    await until(lambda: station.known().forwarding == {other.mac: other.vtep})  # noqa: B023
                    await until(lambda: str(other.vtep) in input_rules(host, station))  # noqa: B023
                assert await host.ask(boxes[0].netns, "10.214.0.12", 80) == "10.213.0.11"
                assert await host.ask(boxes[1].netns, "10.213.0.11", 80) == "10.214.0.12"
                for word, sender in ((b"stranger", stranger), (b"peer", b)):
                    send(host, sender, peers[0].vtep, VNI, frame(peers[0].mac, word))
                assert await until_word(seen, b"peer") == [b"peer"]
            seen.close()
            await host.unserve()
            for station, name in ((a, "a"), (b, "b")):
                await station.networks.detach(container_id(name))
                await station.networks.remove("n")


def tunnelled(peer: Peer, station: Station, version: int) -> Peer:
    """Return a peer whose host has the tunnel's end at its address of this IP version."""
    six = ip_address(f"2001:db8:5::{station.number + 1}")
    return peer if version == 4 else dataclasses.replace(peer, vtep=six)
