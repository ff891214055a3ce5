"""The firewall of one engine as an nft ruleset: `render` gives all of it, `elements` what one more port changes. Pure.

One table `inet <name>` holds everything: nothing of ours hangs in other programs' chains (but see enforcer.py, where
another program's forward policy drops). Published ports are elements of maps, so that one more port costs one element:

    raw     nothing from outside reaches a container's address, or a port published on 127.0.0.1, directly; with the
            daemon's option allow-direct-routing, addresses are reached, and `forward` lets published ports through
    dnat    host address . protocol . port → container address . port; packets of the host itself too
    forward replies and published ports in, everything out, between networks nothing
    snat    masquerade for what leaves, and for containers that come back in through a published port
    input   containers do not reach the engine's own API

The verdicts of all tables count: our accept overrules nobody's drop, our drop is final.

Source: nft(8); Docker Engine 28 packet filtering, as its rules on a host show; CVE-2020-8558, CVE-2025-54388,
CVE-2025-9074.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from sampan.linux.nftables import Element

IP_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


def _service(port: int) -> bytes:
    return port.to_bytes(2, "big") + bytes(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRules:
    """What the ruleset needs to know of one network that lies behind an interface of the host.

    Subnets are CIDR text, empty when the network has none. source4: what outgoing packets carry as their address
    (option com.docker.network.host_ipv4). mode4, mode6: nat, or nat-unprotected (all of a container's ports are
    open).
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
    mode4: str = "nat"
    mode6: str = "nat"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Published:
    """One published port; `host_ip` 0.0.0.0 or :: is every address of the host."""

    proto: str
    host_ip: str
    host_port: int
    address: str
    port: int

    def element(self) -> tuple[str, str, str]:
        """Return the map it lives in, its key and its value; only between addresses of one IP version."""
        six = ":" in self.address
        wildcard = ip_address(self.host_ip).is_unspecified
        name = ("published" if wildcard else "published_at") + ("6" if six else "4")
        key = f"{self.proto} . {self.host_port}"
        return name, key if wildcard else f"{self.host_ip} . {key}", f"{self.address} . {self.port}"

    def wire(self) -> Element:
        """Return the element of `element` as the kernel keeps it."""
        name, _, _ = self.element()
        key = bytes([IP_PROTOCOLS[self.proto], 0, 0, 0]) + _service(self.host_port)
        if not ip_address(self.host_ip).is_unspecified:
            key = ip_address(self.host_ip).packed + key
        return Element(name, key, ip_address(self.address).packed + _service(self.port))

    def direct(self) -> Element:
        """Return the element of the set of what may be reached at the container's own address."""
        name = "direct6" if ":" in self.address else "direct4"
        proto = bytes([IP_PROTOCOLS[self.proto], 0, 0, 0])
        return Element(name, ip_address(self.address).packed + proto + _service(self.port))

    def describe(self) -> str:
        return f"{self.proto} {self.host_ip}:{self.host_port} -> {self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruleset:
    table: str
    networks: tuple[NetworkRules, ...] = ()
    published: tuple[Published, ...] = ()
    api: tuple[tuple[str, int], ...] = ()  # (address or "", port) that containers must not reach
    direct_routing: bool = False  # published ports are open at the containers' own addresses too


def translatable(port: Published) -> bool:
    """Return whether nftables can do it.

    It cannot from IPv6 to IPv4, nor from ::1, which no packet may leave the host with.
    """
    six = ":" in port.host_ip
    return six == (":" in port.address) and port.host_ip != "::1"


def elements(ports: Iterable[Published]) -> list[Element]:
    """Return the map elements of published ports: one more port is one more element."""
    return [port.wire() for port in ports if translatable(port)]


def direct_elements(ports: Iterable[Published]) -> list[Element]:
    """Return the set elements of what these ports lead to: several ports may lead to one."""
    return sorted({port.direct() for port in ports})


def _publish(table: str, ports: Iterable[Published], *, direct: bool) -> str:
    by_map: dict[str, list[str]] = {}
    ports = tuple(ports)
    for address, proto, number in sorted({(p.address, p.proto, p.port) for p in ports if direct}):
        by_map.setdefault("direct6" if ":" in address else "direct4", []).append(f"{address} . {proto} . {number}")
    for port in sorted(ports):
        if translatable(port):
            name, key, value = port.element()
            by_map.setdefault(name, []).append(f"{key} : {value}")
    return "".join(f"add element inet {table} {name} {{ {', '.join(items)} }}\n" for name, items in by_map.items())


def remove(table: str) -> str:
    """Return what removes the table, whether it is there or not."""
    return f"add table inet {table}\ndelete table inet {table}\n"


def render(rules: Ruleset) -> str:
    """Return the whole ruleset as one atomic transaction that replaces what was there."""
    body = [*_sets(rules), *_raw(rules), *_dnat(), *_forward(rules), *_snat(rules), *_input(rules)]
    text = "".join(f"\t{line}\n" for line in body)
    return (
        remove(rules.table)
        + f"table inet {rules.table} {{\n{text}}}\n"
        + _publish(rules.table, rules.published, direct=rules.direct_routing)
    )


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
        port, target = "inet_proto . inet_service", f"ipv{version}_addr . inet_service"
        lines += [f"map published{version} {{", f"\ttype {port} : {target};", "}"]
        lines += [f"map published_at{version} {{", f"\ttype ipv{version}_addr . {port} : {target};", "}"]
        if rules.direct_routing:
            lines += _set(f"direct{version}", f"type ipv{version}_addr . {port};", ())
    return lines


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
        for family, subnet, gateway, mode in (
            ("ip", n.subnet4, n.gateway4, n.mode4),
            ("ip6", n.subnet6, n.gateway6, n.mode6),
        ):
            if subnet and mode == "nat":
                except_gateway = f" {family} daddr != {gateway}" if gateway else ""
                lines.append(f'iifname != {{ "lo", "{n.interface}" }} {family} daddr {subnet}{except_gateway} drop')
    return _chain("raw", "type filter hook prerouting priority raw; policy accept;", lines)


def _dnat() -> list[str]:
    lines = []
    for family, version in (("ip", "4"), ("ip6", "6")):
        lines.append(f"dnat {family} to {family} daddr . meta l4proto . th dport map @published_at{version}")
        lines.append(f"dnat {family} to meta l4proto . th dport map @published{version}")
    return [
        *_chain("published", "", lines),
        *_chain(
            "prerouting",
            "type nat hook prerouting priority dstnat; policy accept;",
            ["fib daddr type local jump published"],
        ),
        # not ::1: a packet with that source never leaves the host; the relay serves it
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
        if n.internal:
            lines += [
                f"{inside} {'accept' if n.icc else 'drop'}",
                f'iifname "{n.interface}" drop',
                f'oifname "{n.interface}" drop',
            ]
            continue
        lines.append(f'oifname "{n.interface}" ct status dnat accept')
        lines.append(f"{inside} {'accept' if n.icc else 'drop'}")
        if rules.direct_routing:
            for family, version in (("ip", "4"), ("ip6", "6")):
                to = f"{family} daddr . meta l4proto . th dport @direct{version}"
                lines.append(f'iifname != @links oifname "{n.interface}" {to} accept')
        for family, mode in (("ipv4", n.mode4), ("ipv6", n.mode6)):
            if mode == "nat-unprotected":
                lines.append(f'meta nfproto {family} iifname != @links oifname "{n.interface}" accept')
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
            if n.subnet4:
                action = f"snat ip to {n.source4}" if n.source4 else "masquerade"
                lines.append(f'ip saddr {n.subnet4} oifname != "{n.interface}" {action}')
            if n.subnet6:
                lines.append(f'ip6 saddr {n.subnet6} oifname != "{n.interface}" masquerade')
    return _chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", lines)


def _input(rules: Ruleset) -> list[str]:
    lines = []
    for address, port in rules.api:
        where = f"ip{'6' if ':' in address else ''} daddr {address} " if address else ""
        lines.append(f"iifname @links {where}tcp dport {port} drop")
    return _chain("input", "type filter hook input priority filter; policy accept;", lines)
