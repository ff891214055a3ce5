"""Published ports: what was asked for (parsed), and which host ports are whose (reserved with real sockets).

`published` reads Docker's port bindings. `Ports` grants them: a port is taken by binding (and, for TCP, listening on) a
socket, so that a program of the host which has it, or wants it, gets the kernel's own answer. What nftables does not
translate is carried on the same sockets (carrier.py). Kernel sockets only; no rules are made here.

Source: Engine API 1.51 PortMap; ip_local_port_range (ip-sysctl); messages as Docker Engine 28.5 gives them.
"""

from __future__ import annotations

import errno
import itertools
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from sampan.engine.networks.firewall import IP_PROTOCOLS, Published, Reach
from sampan.engine.networks.records import PublishedPort
from sampan.errors import Internal, InvalidArgument, words
from sampan.spec.engine_api.container import PortBinding
from sampan.supervisor.ports.sockets import reserve
from sampan.supervisor.ports.table import PROTOCOLS

EVERYWHERE_ON_THE_HOST = {4: Reach.HOST, 6: Reach.HOST}
_LISTED = " and ".join(sorted(PROTOCOLS))
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def parse_port(text: str) -> tuple[int, str]:
    """Read `80/tcp`; the protocol defaults to tcp. Raises: InvalidArgument in Docker's words."""
    number, _, proto = text.partition("/")
    if not number.isdecimal() or not 0 <= int(number) <= 65535:
        raise InvalidArgument(f'invalid port specification: "{number}"')
    return int(number), (proto or "tcp").lower()


def published(
    bindings: Mapping[str, Sequence[PortBinding] | None] | None, *, exposed: Iterable[str], publish_all: bool
) -> tuple[PublishedPort, ...]:
    """Return what a container publishes. As in Docker, a binding counts only for a port that is exposed.

    bindings: HostConfig.PortBindings; a key may be empty and means nothing. publish_all: an exposed port without
    binding gets any host port. Raises: InvalidArgument in Docker's words.
    """
    wanted: dict[tuple[int, str], list[PortBinding]] = {}
    for text, given in (bindings or {}).items():
        if text:
            wanted.setdefault(parse_port(text), []).extend(given or [])
    found = []
    for port, proto in sorted({parse_port(text) for text in exposed}):
        for binding in wanted.get((port, proto)) or ([PortBinding()] if publish_all else []):
            first, last = _host_ports(binding.host_port)
            found.append(
                PublishedPort(port=port, proto=proto, host_ip=_host_ip(binding.host_ip), first=first, last=last)
            )
    return tuple(found)


def _host_ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        return ""  # Docker publishes on every address then


def _host_ports(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    match = _RANGE.fullmatch(text)
    first = int(match[1]) if match else -1
    last = int(match[2] or match[1]) if match else -1
    if not 0 <= first <= last <= 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return first, last


def freedom(asked: PublishedPort) -> int:
    """Return how many host ports would do: 1 for a fixed one, more for a range, the most for any."""
    return asked.last - asked.first + 1 if asked.first else 1 << 16


@dataclass(slots=True)
class Grant:
    """A granted port and the socket that holds it; the owner closes it."""

    published: Published
    socket: socket.socket | None = None

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None


@dataclass(slots=True)
class Ports:
    """The host ports of one engine."""

    ipv6: bool = True  # whether the host has IPv6 sockets
    listens: bool = True  # whether somebody takes connections from the sockets that hold ports
    _taken: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    _next: int = 0

    def grant(
        self,
        asked: PublishedPort,
        address4: str,
        address6: str,
        *,
        default_ip: str = "0.0.0.0",
        reach: Mapping[int, Reach] = EVERYWHERE_ON_THE_HOST,
        proxied: bool = False,
    ) -> list[Grant]:
        """Take a host port for one published port.

        reach: by IP version, where it is to be reached; at the container's own address it needs no port of the host.
        proxied: it is not to be translated.

        Without an address asked for, it is taken on IPv4 and IPv6 alike, unless `default_ip` (of the daemon, or of the
        network) says otherwise.
        Raises: Internal in Docker's words when no port can be had; then nothing is taken.
        """
        if asked.proto not in IP_PROTOCOLS:
            raise Internal("unknown protocol")
        wanted = self._host_ips(asked, default_ip, address4, address6)
        routed = [ip for ip in wanted if (":" not in ip or address6) and reach[_version(ip)] is Reach.CONTAINER]
        host_ips = [ip for ip in wanted if ip not in routed]
        alone = [_routed(asked, address6 if ":" in ip else address4) for ip in routed]
        if proxied and host_ips and asked.proto not in PROTOCOLS:
            raise Internal(f"port {asked.port}/{asked.proto}: port mapper 'proxy' carries {_LISTED} only")
        return alone + self._on_host(asked, host_ips, address4, address6, reach, proxied=proxied)

    def _on_host(
        self,
        asked: PublishedPort,
        host_ips: Sequence[str],
        address4: str,
        address6: str,
        reach: Mapping[int, Reach],
        *,
        proxied: bool,
    ) -> list[Grant]:
        if not host_ips:
            return []
        several = asked.first == 0 or asked.last > asked.first
        for port in self._candidates(asked):
            holder = next((h for ip in host_ips if (h := self._holder(asked.proto, ip, port))), "")
            if holder:
                if several:
                    continue
                raise Internal(f"Bind for {holder}:{port} failed: port is already allocated")
            try:
                return self._bind(asked, host_ips, port, address4, address6, reach, proxied=proxied)
            except OSError as error:
                if several and error.errno == errno.EADDRINUSE:
                    continue
                ip = host_ips[0]
                shown = f"[{ip}]" if ":" in ip else ip
                target = address4 or f"[{address6}]"
                where = f"{shown}:{port}:{target}:{asked.port}/{asked.proto}"
                raise Internal(f"failed to bind host port for {where}: {words(error)}") from error
        raise Internal("all ports are allocated")

    def adopt(self, published: Published, *, carried: bool) -> Grant:
        """Take a port that a container of an earlier daemon has already. carried: a process has its socket.

        The socket is missing, too, when another program has the port.
        """
        if not published.host_port:
            return Grant(published)
        self._take(published)
        if carried:
            return Grant(published)
        try:
            listens = self.listens or published.proxied
            return Grant(published, reserve(published.proto, published.host_ip, published.host_port, listens=listens))
        except OSError:
            return Grant(published)

    def release(self, grant: Grant) -> None:
        grant.close()
        held = self._taken.get((grant.published.proto, grant.published.host_port))
        if held and grant.published.host_ip in held:
            held.remove(grant.published.host_ip)
            if not held:
                del self._taken[(grant.published.proto, grant.published.host_port)]

    def _host_ips(self, asked: PublishedPort, default_ip: str, address4: str, address6: str) -> list[str]:
        """Return the host's addresses to publish on: an IPv4 address leads to an IPv4 address only, as in Docker."""
        ips = [asked.host_ip or default_ip]
        if ips == ["0.0.0.0"] and not asked.host_ip and self.ipv6:
            ips.append("::")
        return [ip for ip in ips if address4 or (address6 and ":" in ip)]

    def _candidates(self, asked: PublishedPort) -> Iterator[int]:
        if asked.first:
            yield from range(asked.first, asked.last + 1)
            return
        low, high = _ephemeral()
        start = self._next if low <= self._next <= high else low
        for port in itertools.chain(range(start, high + 1), range(low, start)):
            self._next = port + 1
            yield port

    def _holder(self, proto: str, ip: str, port: int) -> str:
        """The address that stands in the way of ip:port, or nothing."""
        for held in self._taken.get((proto, port), ()):
            if (":" in held) == (":" in ip):
                if held == ip or ip_address(held).is_unspecified:
                    return held
                if ip_address(ip).is_unspecified:
                    return ip
        return ""

    def _bind(
        self,
        asked: PublishedPort,
        host_ips: Sequence[str],
        port: int,
        address4: str,
        address6: str,
        reach: Mapping[int, Reach],
        *,
        proxied: bool,
    ) -> list[Grant]:
        grants: list[Grant] = []
        try:
            for ip in host_ips:
                target = address6 if (":" in ip and address6) else address4 or address6
                published = Published(
                    proto=asked.proto,
                    host_ip=ip,
                    host_port=port,
                    address=target,
                    port=asked.port,
                    direct=reach[_version(target)] is not Reach.HOST,
                    proxied=proxied,
                )
                grants.append(Grant(published, reserve(asked.proto, ip, port, listens=self.listens or proxied)))
        except BaseException:
            for grant in grants:
                grant.close()
            raise
        for grant in grants:
            self._take(grant.published)
        return grants

    def _take(self, published: Published) -> None:
        self._taken.setdefault((published.proto, published.host_port), []).append(published.host_ip)


def _version(ip: str) -> int:
    return 6 if ":" in ip else 4


def _routed(asked: PublishedPort, address: str) -> Grant:
    """Return a port that is reached at the container's own address and nowhere else."""
    everywhere = "::" if ":" in address else "0.0.0.0"
    return Grant(
        Published(proto=asked.proto, host_ip=everywhere, host_port=0, address=address, port=asked.port, direct=True)
    )


def _ephemeral() -> tuple[int, int]:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = file.read().split()
    return int(low), int(high)
