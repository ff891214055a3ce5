"""The firewall of one engine as an nft ruleset: `render` gives all of it, `elements` what one more port changes. Pure.

One table `inet <name>` holds everything: nothing of ours hangs in other programs' chains (but see enforcer.py, where
another program's forward policy drops). Published ports are elements of maps, so that one more port costs one element,
and so does a row of ports that are the same on the host and in the container:

    raw     nothing from outside reaches a container's address, or a port published on 127.0.0.1, directly, unless the
            network is routed, trusts the interface, or the daemon has allow-direct-routing
    dnat    host address . protocol . port → container address . port; packets of the host itself too
    forward replies and published ports in, everything out, between networks nothing
    snat    masquerade for what leaves, and for containers that come back in through a published port
    input   containers do not reach the engine's own API

The verdicts of all tables count: our accept overrules nobody's drop, our drop is final.

Source: nft(8); Docker Engine 28 packet filtering, as its rules on a host show; CVE-2020-8558, CVE-2025-54388,
CVE-2025-9074.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import ip_address, ip_network

from sampan.linux.nftables import Element

IP_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
ROW = 16  # so many ports in a row are one element of a map with intervals, which is slower to change than a hash
ADMINISTRATORS = "sampan-admin"  # a table that no engine flushes: docs/concepts/firewall.md
_ICMP = {"ip": "icmp", "ip6": "ipv6-icmp"}
_INTERFACE = re.compile(r"[^\s\"/*\\]{1,15}")


def _service(port: int) -> bytes:
    return port.to_bytes(2, "big") + bytes(2)


class Mode(StrEnum):
    """How the containers of a network are reached from outside; the value is the word of Docker's option.

    nat: by published ports, translated. nat-unprotected: by all ports at their own addresses, too. routed: by published
    ports at their own addresses, and by nothing else. isolated: not at all, and the host has no address on the network.
    """

    NAT = "nat"
    NAT_UNPROTECTED = "nat-unprotected"
    ROUTED = "routed"
    ISOLATED = "isolated"


class PortMapper(StrEnum):
    """How a published port of the host leads to its container.

    nat: the kernel translates packets, before the host's input rules see them. proxy: a process of the host takes the
    connections, so these rules decide about them.
    """

    NAT = "nat"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Publication:
    """What a network says of the ports of its containers; where it says nothing, the engine does.

    host_ip: on which address of the host they are published when none is asked for.
    """

    host_ip: str = ""
    mapper: PortMapper | None = None


class Reach(Enum):
    """Where a published port is reached: on the host, at the container's own address, or both."""

    HOST = "host"
    CONTAINER = "container"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    """What the ruleset needs to know of one network that lies behind an interface of the host.

    Subnets are CIDR text, empty when the network has none. source4, source6: what outgoing packets carry as their
    address (options com.docker.network.host_ipv4, …_ipv6). trusted: interfaces of the host by which published ports are
    reached at the containers' own addresses; `+` at the end of a name stands for anything.
    """

    interface: str
    subnet4: str = ""
    gateway4: str = ""
    subnet6: str = ""
    gateway6: str = ""
    icc: bool = True
    masquerade: bool = True
    internal: bool = False
    source4: str = ""
    source6: str = ""
    mode4: str = Mode.NAT
    mode6: str = Mode.NAT
    trusted: tuple[str, ...] = ()

    def families(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Yield (nft's word, IP version, subnet, gateway, mode, source) of each IP version that the network has."""
        if self.subnet4:
            yield "ip", "4", self.subnet4, self.gateway4, self.mode4, self.source4
        if self.subnet6:
            yield "ip6", "6", self.subnet6, self.gateway6, self.mode6, self.source6


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Published:
    """One published port; `host_ip` 0.0.0.0 or :: is every address of the host.

    host_port: 0 when it is on no address of the host. direct: it is reached at the container's own address. proxied: it
    is not translated: a process carries it (carrier.py).
    """

    proto: str
    host_ip: str
    host_port: int
    address: str
    port: int
    direct: bool = False
    proxied: bool = False

    def describe(self) -> str:
        return f"{self.proto} {self.host_ip}:{self.host_port} -> {self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """Ports in a row with one meaning: one element of a map, or of a set when there is nothing to translate to.

    ip: the address in the key, empty for all. address, port: the value; without a port the packet keeps its own.
    """

    map: str
    proto: str
    first: int
    last: int
    ip: str = ""
    address: str = ""
    port: int = 0

    def text(self) -> str:
        """Return the element in nft's language."""
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        key = " . ".join([*([self.ip] if self.ip else []), self.proto, ports])
        value = f"{self.address} . {self.port}" if self.port else self.address
        return f"{key} : {value}" if value else key

    def wire(self) -> Element:
        """Return the element as the kernel keeps it."""
        before = (ip_address(self.ip).packed if self.ip else b"") + bytes([IP_PROTOCOLS[self.proto], 0, 0, 0])
        value = ip_address(self.address).packed if self.address else b""
        end = before + _service(self.last) if self.last > self.first else b""
        return Element(
            self.map, before + _service(self.first), value + (_service(self.port) if self.port else b""), end
        )


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Way:
    """A port of one container that another one may reach on their network although containers there may not."""

    source: str
    address: str
    proto: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    table: str
    networks: tuple[NetworkRules, ...] = ()
    published: tuple[Published, ...] = ()
    api: tuple[tuple[str, int], ...] = ()  # (address or "", port) that containers must not reach
    ways: tuple[Way, ...] = ()
    direct_routing: bool = False  # published ports are open at the containers' own addresses too


def translatable(port: Published) -> bool:
    """Return whether nftables can do it.

    It cannot from IPv6 to IPv4, nor from ::1, which no packet may leave the host with.
    """
    six = ":" in port.host_ip
    return six == (":" in port.address) and port.host_ip != "::1"


def spans(ports: Iterable[Published]) -> list[Span]:
    """Return the elements of published ports: one more port is one more element, a long row of ports is one."""
    ports = set(ports)
    found: list[Span] = []
    rows: dict[tuple[str, str, str], set[int]] = {}
    for p in ports:
        if not p.host_port or p.proxied or not translatable(p):
            continue
        if p.host_port == p.port:
            rows.setdefault((p.proto, p.host_ip, p.address), set()).add(p.port)
        else:
            found += _translated(p.proto, p.host_ip, p.address, p.host_port, p.host_port, p.port)
    for (proto, host_ip, address), numbers in rows.items():
        for first, last in _rows(numbers):
            found += _translated(proto, host_ip, address, first, last, first)
    direct: dict[tuple[str, str], set[int]] = {}
    for p in ports:
        if p.direct:
            direct.setdefault((p.address, p.proto), set()).add(p.port)
    for (address, proto), numbers in direct.items():
        version = "6" if ":" in address else "4"
        for first, last in _rows(numbers):
            name = f"direct{version}" if first == last else f"direct_rows{version}"
            found.append(Span(map=name, ip=address, proto=proto, first=first, last=last))
    return sorted(found)


def _translated(proto: str, host_ip: str, address: str, first: int, last: int, port: int) -> list[Span]:
    wildcard = ip_address(host_ip).is_unspecified
    row = first < last
    name = f"published{'_rows' if row else ''}{'' if wildcard else '_at'}{'6' if ':' in address else '4'}"
    where = "" if wildcard else host_ip
    return [Span(map=name, ip=where, proto=proto, first=first, last=last, address=address, port=0 if row else port)]


def _rows(numbers: Collection[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of the rows in these numbers; what is too short for a row is yielded one by one."""
    ordered = sorted(numbers)
    start = 0
    for n in range(1, len(ordered) + 1):
        if n == len(ordered) or ordered[n] != ordered[n - 1] + 1:
            if n - start >= ROW:
                yield ordered[start], ordered[n - 1]
            else:
                yield from ((one, one) for one in ordered[start:n])
            start = n


def _publish(table: str, ports: Iterable[Published]) -> str:
    by_map: dict[str, list[str]] = {}
    for span in spans(ports):
        by_map.setdefault(span.map, []).append(span.text())
    return "".join(f"add element inet {table} {name} {{ {', '.join(items)} }}\n" for name, items in by_map.items())


def administrators() -> str:
    """Return what makes the administrator's chain where it is missing; what is in it stays."""
    chain = (
        f"add chain inet {ADMINISTRATORS} forward {{ type filter hook forward priority filter - 1; policy accept; }}"
    )
    return f"add table inet {ADMINISTRATORS}\n{chain}\n"


def remove(table: str) -> str:
    """Return what removes the table, whether it is there or not."""
    return f"add table inet {table}\ndelete table inet {table}\n"


def render(rules: Ruleset) -> str:
    """Return the whole ruleset as one atomic transaction that replaces what was there."""
    body = [*_sets(rules), *_raw(rules), *_dnat(), *_forward(rules), *_snat(rules), *_input(rules)]
    text = "".join(f"\t{line}\n" for line in body)
    return remove(rules.table) + f"table inet {rules.table} {{\n{text}}}\n" + _publish(rules.table, rules.published)


def _chain(name: str, head: str, rules: Iterable[str]) -> list[str]:
    return [f"chain {name} {{", *(f"\t{line}" for line in ([head] if head else [])), *(f"\t{r}" for r in rules), "}"]


def _set(name: str, head: str, elements: Iterable[str]) -> list[str]:
    listed = ", ".join(elements)
    return [f"set {name} {{", f"\t{head}", *([f"\telements = {{ {listed} }}"] if listed else []), "}"]


def _sets(rules: Ruleset) -> list[str]:
    nets = rules.networks
    lines = _set("links", "type ifname;", [f'"{n.interface}"' for n in nets])
    lines += _set("subnets4", "type ipv4_addr; flags interval;", [n.subnet4 for n in nets if n.subnet4])
    lines += _set("subnets6", "type ipv6_addr; flags interval;", [n.subnet6 for n in nets if n.subnet6])
    for version in "46":
        address, port = f"ipv{version}_addr", "inet_proto . inet_service"
        for name, key in (("published", port), ("published_at", f"{address} . {port}")):
            lines += [f"map {name}{version} {{", f"\ttype {key} : {address} . inet_service;", "}"]
            row = name.replace("published", "published_rows")
            lines += [f"map {row}{version} {{", f"\ttype {key} : {address}; flags interval;", "}"]
        lines += _set(f"direct{version}", f"type {address} . {port};", ())
        lines += _set(f"direct_rows{version}", f"type {address} . {port}; flags interval;", ())
    return lines


def leads(network: NetworkRules, way: Way) -> bool:
    """Return whether a way is one through this network, and needed there."""
    return not network.icc and bool(network.subnet4) and ip_address(way.address) in ip_network(network.subnet4)


def _raw(rules: Ruleset) -> list[str]:
    """Return what comes before connection tracking, so before any translation.

    What is addressed to a container here came by a direct route.
    """
    lines = [
        # route_localnet opens 127.0.0.0/8 to the networks: close it again, whoever sends
        "iifname @links ip daddr 127.0.0.0/8 drop",
        "iifname @links ip saddr 127.0.0.0/8 drop",
    ]
    for n in () if rules.direct_routing else rules.networks:
        trusted = [f"{name[:-1]}*" if name.endswith("+") else name for name in n.trusted if _INTERFACE.fullmatch(name)]
        for family, _, subnet, gateway, mode, _ in n.families():
            if mode == Mode.NAT:
                except_gateway = f" {family} daddr != {gateway}" if gateway else ""
                lines += [f'iifname "{name}" {family} daddr {subnet} accept' for name in trusted]
                lines.append(f'iifname != {{ "lo", "{n.interface}" }} {family} daddr {subnet}{except_gateway} drop')
    return _chain("raw", "type filter hook prerouting priority raw; policy accept;", lines)


def _dnat() -> list[str]:
    lines = []
    for family, version in (("ip", "4"), ("ip6", "6")):
        for name, key in (("at", f"{family} daddr . meta l4proto"), ("", "meta l4proto")):
            for row in ("", "_rows"):
                map_ = f"published{row}{'_' if name else ''}{name}{version}"
                lines.append(f"dnat {family} to {key} . th dport map @{map_}")
    return [
        *_chain("published", "", lines),
        *_chain(
            "prerouting",
            "type nat hook prerouting priority dstnat; policy accept;",
            ["fib daddr type local jump published"],
        ),
        # not ::1: a packet with that source never leaves the host; the carrier serves it
        *_chain(
            "output",
            "type nat hook output priority -100; policy accept;",
            ["ip6 daddr ::1 return", "fib daddr type local jump published"],
        ),
    ]


def _forward(rules: Ruleset) -> list[str]:
    lines = [
        # A port published on 127.0.0.1 is translated for whoever sends; what did not come from this host ends here. (In
        # the raw chain it takes a lookup in the map as in a set, which kernels up to 6.1 refuse.)
        "oifname @links ct original ip daddr 127.0.0.0/8 drop",
        "oifname @links ct state established,related accept",
    ]
    for n in sorted(rules.networks, key=lambda n: not n.internal):  # an internal network's drops come before any accept
        inside = f'iifname "{n.interface}" oifname "{n.interface}"'
        ways = sorted({way for way in rules.ways if leads(n, way)})
        if ways:
            listed = ", ".join(f"{w.source} . {w.address} . {w.proto} . {w.port}" for w in ways)
            lines.append(f"{inside} ip saddr . ip daddr . meta l4proto . th dport {{ {listed} }} accept")
        if n.internal:
            lines += [
                f"{inside} {'accept' if n.icc else 'drop'}",
                f'iifname "{n.interface}" drop',
                f'oifname "{n.interface}" drop',
            ]
            continue
        out = f'oifname "{n.interface}"'
        lines.append(f"{out} ct status dnat accept")
        modes = [(family, version, mode) for family, version, _, _, mode, _ in n.families()]
        # one may ask a routed container whether it is there
        lines += [f"{out} meta l4proto {_ICMP[family]} accept" for family, _, mode in modes if mode == Mode.ROUTED]
        lines.append(f"{inside} {'accept' if n.icc else 'drop'}")
        for family, version, mode in modes:
            if mode == Mode.NAT_UNPROTECTED:
                lines.append(f"meta nfproto ipv{version} iifname != @links {out} accept")
            elif mode == Mode.ROUTED or n.trusted or rules.direct_routing:
                # a routed network's ports are open to other networks too
                who = f"{out}" if mode == Mode.ROUTED else f"iifname != @links {out}"
                key = f"{family} daddr . meta l4proto . th dport"
                lines += [f"{who} {key} @direct{row}{version} accept" for row in ("", "_rows")]
        lines.append(f'oifname "{n.interface}" drop')
    # drops first, for all networks: only then may a network's own packets out
    lines += [f'iifname "{n.interface}" accept' for n in rules.networks if not n.internal]
    return _chain("forward", "type filter hook forward priority filter; policy accept;", lines)


def _snat(rules: Ruleset) -> list[str]:
    lines = [
        "oifname @links ip saddr 127.0.0.0/8 ct status dnat masquerade",
        # a container that uses a published port: the reply must come back through the host
        "ip saddr @subnets4 oifname @links ct status dnat masquerade",
        "ip6 saddr @subnets6 oifname @links ct status dnat masquerade",
    ]
    for n in rules.networks:
        if n.masquerade and not n.internal:
            for family, _, subnet, _, mode, source in n.families():
                if mode in (Mode.NAT, Mode.NAT_UNPROTECTED):
                    action = f"snat {family} to {source}" if source else "masquerade"
                    lines.append(f'{family} saddr {subnet} oifname != "{n.interface}" {action}')
    return _chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", lines)


def _input(rules: Ruleset) -> list[str]:
    lines = []
    for address, port in rules.api:
        where = f"ip{'6' if ':' in address else ''} daddr {address} " if address else ""
        lines.append(f"iifname @links {where}tcp dport {port} drop")
    return _chain("input", "type filter hook input priority filter; policy accept;", lines)
