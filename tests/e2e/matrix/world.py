"""The hosts around an engine, and packets between them.

    lan 192.0.2.9 ──┬── lan0 192.0.2.1 ┐
     │              └── lan1 (no address)├ the engine's host ── networks, containers
    outside 203.0.113.9 ── router ── wan0┘ 198.51.100.1

Everybody has a route to everybody, so what does not arrive was kept back by the engine, or by the kind of a link. The
host `lan` is the gateway of networks that are on the LAN (macvlan), and has a link of its own to `outside` for them. It
also sends what is addressed to 127.0.0.1 to the engine's host, and resolves every name to one address.

Everything runs in one process: a socket belongs to the namespace that it was made in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import struct
from pathlib import Path

import dnslib

from sampan.linux import netlink
from sampan.linux.namespaces import setns, unshare
from tests.kernel.net_host import CLONE_NEWNET, HOST4, HOST6, LAN4, Host, run

WAN4, WAN6, OUTSIDE4, OUTSIDE6 = "198.51.100.1", "2001:db8:1::1", "203.0.113.9", "2001:db8:2::9"
VLANS4, VLANS6 = "10.40.0.0/13", "fd40::/16"  # networks whose containers are on the LAN
NAME_SERVICE = "127.0.0.11"
_IP_PKTINFO = 8  # linux/in.h
AGAIN_S = 0.2  # echo requests are sent again

_echoes = itertools.count(1)  # each with an id of its own: connection tracking remembers them


class World(Host):
    """The fake host with its LAN, and a router to an outside host."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.outside = self._namespace(), self._namespace()
        self.netlink.batch(
            [
                netlink.add_veth("wan0", "in", peer_namespace=self.router),
                netlink.add_veth("lan1", "eth1", peer_namespace=self.lan),
            ]
        )
        with self.inside(self.router):
            run("ip", "link", "add", "out", "type", "veth", "peer", "name", "eth0", "netns", _path(self.outside))
        with self.inside(self.lan):
            run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "lan0", "netns", _path(self.outside))
        places = [
            (self.own, "wan0", WAN4, WAN6),
            (self.router, "in", "198.51.100.254", "2001:db8:1::fe"),
            (self.router, "out", "203.0.113.254", "2001:db8:2::fe"),
            (self.outside, "eth0", OUTSIDE4, OUTSIDE6),
            (self.lan, "up0", "10.39.0.1", "fd39::1"),
            (self.outside, "lan0", "10.39.0.9", "fd39::9"),
        ]
        for where, link, four, six in places:
            self.ip(where, f"link set lo up\nlink set {link} up\naddr add {four}/24 dev {link}")
            self.ip(where, f"addr add {six}/64 dev {link} nodad")
        self.ip(self.own, "link set lan1 up")
        self.ip(self.lan, "link set eth1 up")
        self.sysctl(self.own, "net/ipv4/icmp_ratelimit", "0")
        self.sysctl(self.own, "net/ipv6/icmp/ratelimit", "0")
        for name in ("icmp_msgs_per_sec", "icmp_msgs_burst"):
            if Path("/proc/sys/net/ipv4", name).exists():  # the limit is a namespace's own from Linux 6.13 on
                self.sysctl(self.own, f"net/ipv4/{name}", "100000")
        for where in (self.router, self.lan):
            self.sysctl(where, "net/ipv4/ip_forward", "1")
            self.sysctl(where, "net/ipv6/conf/all/forwarding", "1")
            self.sysctl(where, "net/ipv4/conf/all/send_redirects", "0")
        self._defaults(self.own, "198.51.100.254", "2001:db8:1::fe")
        self._defaults(self.outside, "203.0.113.254", "2001:db8:2::fe")
        self._defaults(self.lan, HOST4, HOST6)
        self._defaults(self.router, WAN4, WAN6)
        self.ip(self.outside, f"route add {VLANS4} via 10.39.0.1\nroute add {VLANS6} via fd39::1")
        self.ip(self.lan, f"rule add from {VLANS4} to {OUTSIDE4} lookup 40\nrule add from {VLANS6} lookup 40")
        self.ip(self.lan, f"route add {OUTSIDE4} via 10.39.0.9 table 40\nroute add {OUTSIDE6} via fd39::9 table 40")
        self.send_martians(self.lan, "eth0", HOST4)

    @property
    def own(self) -> int:
        return self._own

    def _namespace(self) -> int:
        unshare(CLONE_NEWNET)
        made = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        setns(self.own, CLONE_NEWNET)
        return made

    def _defaults(self, where: int, four: str, six: str) -> None:
        self.ip(where, f"route add default via {four}")
        self.ip(where, f"route add default via {six}")

    def ip(self, where: int, commands: str) -> None:
        """Run `ip` with each line's words."""
        with self.inside(where):
            for command in commands.splitlines():
                six = ["-6"] if ":" in command else []
                run("ip", *six, *command.split())

    def send_martians(self, where: int, link: str, gateway: str) -> None:
        """Make a namespace send what is addressed to 127.0.0.1 to a gateway."""
        self.sysctl(where, f"net/ipv4/conf/{link}/route_localnet", "1")
        for address in ("127.0.0.1", "127.0.0.0/8"):
            self.ip(where, f"route del local {address} dev lo table local")
        self.ip(where, f"route add 127.0.0.1 via {gateway} dev {link}")

    def serve(self, namespace: str | int | None, port: int, *, udp: bool = False, address: str = "0.0.0.0") -> None:
        """Answer on a port with the address of who asks, from the address that was asked."""
        if not udp:
            super().serve(namespace, port, address=address)
            return
        six = ":" in address
        with self.inside(self.own if namespace is None else namespace):
            sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind((address, port))
        sock.setblocking(False)
        self._servers.append(asyncio.get_running_loop().create_task(_answer(sock)))

    def resolve(self) -> None:
        """Answer every question to the LAN's host with one address."""
        with self.inside(self.lan):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((LAN4, 53))
        sock.setblocking(False)
        self._servers.append(asyncio.get_running_loop().create_task(_resolve(sock)))

    async def settled(self, places: list[int]) -> None:
        """Wait until every IPv6 address of these namespaces may be used."""
        waiting = list(places)
        async with asyncio.timeout(10):
            while waiting:
                with self.inside(waiting[0]), open("/proc/thread-self/net/if_inet6") as listed:
                    tentative = any(int(line.split()[4], 16) & 0x40 for line in listed)
                if tentative:
                    await asyncio.sleep(0.05)
                else:
                    del waiting[0]

    async def said(self, where: int, proto: str, address: str, port: int, limit_s: float) -> str:
        """Return what comes of a try: whom the other side sees, or how it failed.

        proto: tcp, udp, icmp (an echo request) or dns (a question to the name service, which is then the address).
        """
        try:
            async with asyncio.timeout(limit_s):
                if proto == "icmp":
                    return await self._echo(where, address)
                if proto == "dns":
                    return await self._question(where)
                return await self.ask(where, address, port, udp=proto == "udp")
        except TimeoutError:
            return "nothing"
        except OSError as error:
            if error.errno == errno.EHOSTUNREACH:
                return "nothing"  # whether the last router says so in time is chance
            known = {errno.ECONNREFUSED: "refused", errno.ENETUNREACH: "no route"}
            return known.get(error.errno or 0) or errno.errorcode.get(error.errno or 0, str(error))

    async def _echo(self, where: int, address: str) -> str:
        six = ":" in address
        family, number = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        with self.inside(where):
            sock = socket.socket(family, socket.SOCK_RAW, number)
        with sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            kind, reply = (128, 129) if six else (8, 0)
            sock.connect((address, 0))
            sent = set()
            while True:
                sent.add(next(_echoes) & 0xFFFF)
                sock.send(_checked(struct.pack("!BBHHH", kind, 0, 0, max(sent), 1)))
                with contextlib.suppress(TimeoutError):  # the first may be lost while neighbours are looked for
                    async with asyncio.timeout(AGAIN_S):
                        while True:
                            answer = await loop.sock_recv(sock, 2000)
                            answer = answer if six else answer[(answer[0] & 15) * 4 :]
                            if answer[0] == reply and int.from_bytes(answer[4:6], "big") in sent:
                                return "answered"

    async def _question(self, where: int) -> str:
        with self.inside(where):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setblocking(False)
            sock.connect((NAME_SERVICE, 53))
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, bytes(dnslib.DNSRecord.question("www.example.com").pack()))
            answer = dnslib.DNSRecord.parse(await loop.sock_recv(sock, 2000))
            return ", ".join([str(dnslib.RCODE.get(answer.header.rcode)), *(str(rr.rdata) for rr in answer.rr)])


async def _answer(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    come = asyncio.Event()
    loop.add_reader(sock, come.set)
    try:
        while True:
            await come.wait()
            come.clear()
            with contextlib.suppress(BlockingIOError):
                while True:
                    _, told, _, peer = sock.recvmsg(1000, 256)
                    sock.sendmsg([peer[0].encode()], [_by_route(*each) for each in told], 0, peer)
    finally:
        loop.remove_reader(sock)
        sock.close()


def _by_route(level: int, kind: int, told: bytes) -> tuple[int, int, bytes]:
    """Return what makes an answer come from the address that was asked, by the link that the routes say."""
    if level == socket.IPPROTO_IPV6:
        return level, kind, told[:16] + bytes(4)
    return level, kind, bytes(4) + told[8:12] + bytes(4)


async def _resolve(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with sock:
        while True:
            packet, peer = await loop.sock_recvfrom(sock, 2000)
            answer = dnslib.DNSRecord.parse(packet).reply()
            answer.add_answer(*dnslib.RR.fromZone(f"{answer.q.qname} 60 IN A {OUTSIDE4}"))
            await loop.sock_sendto(sock, bytes(answer.pack()), peer)


def _path(namespace: int) -> str:
    os.set_inheritable(namespace, True)
    return f"/proc/{os.getpid()}/fd/{namespace}"


def _checked(packet: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]
