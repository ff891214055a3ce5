"""What is asked, as data: kinds of networks, and who tries to reach whom on each.

A group is one engine with its flags; its cases are networks that this engine has all at once, each with the containers
`web` (which publishes ports) and `peer`. `other` and `beyond` are containers on networks of their own, of the gateway
modes nat and routed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.matrix.world import WAN4, WAN6
from tests.kernel.net_host import HOST4, LAN4

BRIDGE = "com.docker.network.bridge."
MODE4, MODE6 = BRIDGE + "gateway_mode_ipv4", BRIDGE + "gateway_mode_ipv6"
MTU, PREFIX = "com.docker.network.driver.mtu", "com.docker.network.container_iface_prefix"

INNER, CLOSED = 80, 81  # served by the containers: one is published, the other is not
PUBLISHED, LOCAL, BOUND, SERVED = range(4)  # ports of the host, counted from the case's first


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One network with its containers.

    network: what is asked for in /networks/create, beside subnets; None for a network that is there already, `mode`.
    """

    kind: str = "bridge"
    network: dict[str, Any] | None = field(default_factory=dict)
    mode: str = ""
    subnets: bool = True
    containers: tuple[str, ...] = ("web", "peer")
    parent: str = ""
    extra: dict[str, str] = field(default_factory=dict)  # a container: whose network it has


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """alone: Docker Engine has no such networks; a second engine is on the LAN's host."""

    flags: tuple[str, ...]
    cases: dict[str, Case]
    alone: bool = False


def _mode(mode: str, options: dict[str, str] | None = None, **more: Any) -> Case:
    return Case(network={"Options": {MODE4: mode, MODE6: mode, **(options or {})}, **more})


def _bridge(option: str = "", value: str = "", **more: Any) -> Case:
    return Case(network={"Options": {option: value} if option else {}, **more})


def _macvlan(mode: str, **more: Any) -> Case:
    parent = "lan1" if mode == "passthru" else "lan0"
    options = {"parent": parent, "macvlan_mode": mode}
    containers = ("web",) if mode == "passthru" else ("web", "peer")
    network = {"Driver": "macvlan", "Options": options, **more}
    return Case(kind="macvlan", network=network, parent=parent, containers=containers)


def _overlay(**more: Any) -> Case:
    return Case(kind="overlay", network={"Driver": "overlay", "Attachable": True, **more}, containers=("web", "peer"))


_NETWORKS = {
    "nat": Case(),
    "nat-unprotected": _mode("nat-unprotected"),
    "routed": _mode("routed"),
    "isolated": _mode("isolated", Internal=True),
    "internal": _bridge(Internal=True),
    "internal routed": _mode("routed", Internal=True),
    "internal without icc": _bridge(BRIDGE + "enable_icc", "false", Internal=True),
    "IPv4 nat and IPv6 routed": _bridge(MODE6, "routed"),
    "IPv4 routed and IPv6 nat": _bridge(MODE4, "routed"),
    "trusted interface": _bridge(BRIDGE + "trusted_host_interfaces", "lan0"),
    "no icc": _bridge(BRIDGE + "enable_icc", "false"),
    "routed without icc": _mode("routed", {BRIDGE + "enable_icc": "false"}),
    "no masquerading": _bridge(BRIDGE + "enable_ip_masquerade", "false"),
    "host address": Case(
        network={"Options": {"com.docker.network.host_ipv4": WAN4, "com.docker.network.host_ipv6": WAN6}}
    ),
    "no address on the host": _bridge(BRIDGE + "inhibit_ipv4", "true"),
    "bound to the LAN": _bridge(BRIDGE + "host_binding_ipv4", HOST4),
    "only IPv4": _bridge(EnableIPv6=False),
    "only IPv6": _bridge(EnableIPv4=False),
    "only IPv6 routed": _bridge(MODE6, "routed", EnableIPv4=False),
    "only IPv6 internal": _bridge(EnableIPv4=False, Internal=True),
    "subnets of the engine": Case(subnets=False),
    "MTU": _bridge(MTU, "1400"),
    "interface name": _bridge(PREFIX, "net"),
    "default bridge": Case(network=None, mode="bridge"),
}
_LAN = {
    "macvlan bridge": _macvlan("bridge"),
    "macvlan private": _macvlan("private"),
    "macvlan vepa": _macvlan("vepa"),
    "macvlan passthru": _macvlan("passthru"),
    "macvlan internal": _macvlan("bridge", Internal=True),
}
_SHARED = {
    "host": Case(kind="host", network=None, mode="host", containers=("web",)),
    "none": Case(kind="none", network=None, mode="none", containers=("web",)),
    "container": Case(kind="container", extra={"sharer": "web"}),
}
GROUPS = {
    "bridges": Group(flags=("--dns", LAN4), cases=_NETWORKS),
    "LAN and shared": Group(flags=("--dns", LAN4), cases=_LAN | _SHARED),
    "direct routing": Group(
        flags=("--allow-direct-routing",),
        cases={
            "direct: nat": Case(),
            "direct: internal": _bridge(Internal=True),
            "direct: no icc": _bridge(BRIDGE + "enable_icc", "false"),
            "direct: default bridge": Case(network=None, mode="bridge"),
        },
    ),
    "other defaults": Group(
        flags=(
            "--icc=false",
            "--ipv6",
            "--fixed-cidr-v6=fd77::/64",
            f"--ip={HOST4}",
            "--ip-masq=false",
            "--mtu=1400",
            f"--default-network-opt=bridge={PREFIX}=net",
        ),
        cases={"defaults: nat": Case(), "defaults: default bridge": Case(network=None, mode="bridge")},
    ),
    "without a proxy": Group(
        flags=("--userland-proxy=false",),
        cases={
            "no proxy: nat": Case(),
            "no proxy: no icc": _bridge(BRIDGE + "enable_icc", "false"),
            "no proxy: default bridge": Case(network=None, mode="bridge"),
        },
    ),
    "overlay": Group(
        flags=("--dns", LAN4),
        cases={"overlay": _overlay(), "overlay internal": _overlay(Internal=True)},
        alone=True,
    ),
}


# ── questions ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One try. `to` is a place, `port` its number (0: none) in words `named`."""

    by: str
    proto: str
    version: str
    to: str
    port: int = 0
    named: str = ""

    def describe(self) -> str:
        what = f"{self.to} {self.named}".strip()
        return f"{self.by} {self.proto}{self.version} {what}"


def _each(by: str, protos: str, to: str, port: int, named: str, versions: str = "46") -> Iterator[Question]:
    for version in versions:
        for source in by.split():
            for target in to.split():
                for proto in protos.split():
                    if source != target or source == "host":
                        has_port = proto in ("tcp", "udp")
                        yield Question(
                            by=source,
                            proto=proto,
                            version=version,
                            to=target,
                            port=port if has_port else 0,
                            named=named if has_port else "",
                        )


def _bridges(first: int) -> Iterator[Question]:
    others = "peer other beyond host lan outside"
    yield from _each(f"web {others}", "tcp udp", "host", first + PUBLISHED, "published")
    yield from _each("host", "tcp udp", "itself", first + PUBLISHED, "published")
    yield from _each(others, "tcp udp", "web", INNER, "published")
    yield from _each(others, "tcp udp icmp", "web", CLOSED, "unpublished")
    yield from _each(f"web {others}", "tcp", "gateway", first + PUBLISHED, "published")
    yield from _each(others, "icmp", "gateway", 0, "")
    yield from _each(others, "tcp udp", "host", first + LOCAL, "published on 127.0.0.1", "4")
    yield from _each("host other lan", "tcp udp", "127.0.0.1", first + LOCAL, "published on 127.0.0.1", "4")
    yield from _each("other lan", "tcp udp", "127.0.0.1", first + PUBLISHED, "published", "4")
    yield from _each(others, "tcp", "host", first + BOUND, "published on the LAN", "4")
    yield from _each("host outside", "tcp", "wan", first + BOUND, "published on the LAN", "4")
    yield from _each("lan outside", "tcp", "wan", first + PUBLISHED, "published")
    yield from _each("web", "tcp udp icmp", "lan outside peer other beyond host gateway", CLOSED, "unpublished")
    yield from _each("web", "tcp udp", "other beyond", INNER, "published")
    yield from _each("web", "dns", "names", 0, "", "4")


def _lan(first: int) -> Iterator[Question]:
    around = "peer host lan outside other"
    yield from _each(around, "tcp udp icmp", "web", CLOSED, "unpublished")
    yield from _each("web", "tcp udp icmp", around, CLOSED, "unpublished")
    yield from _each("lan host", "tcp udp", "host", first + PUBLISHED, "published")
    yield from _each("web", "dns", "names", 0, "", "4")


def _overlays(first: int) -> Iterator[Question]:
    around = "peer far other host lan outside"
    yield from _each(around, "tcp udp icmp", "web", CLOSED, "unpublished")
    yield from _each("web", "tcp udp icmp", around, CLOSED, "unpublished")
    yield from _each("web peer far other host lan outside", "tcp udp", "host", first + PUBLISHED, "published")
    yield from _each("web far", "dns", "names", 0, "", "4")


def _host(first: int) -> Iterator[Question]:
    yield from _each("host lan outside other", "tcp udp", "host", first + SERVED, "served by web")
    yield from _each("lan", "tcp udp", "host", first + PUBLISHED, "published")
    yield from _each("web", "tcp udp icmp", "lan outside other", CLOSED, "unpublished")


def _none(first: int) -> Iterator[Question]:
    yield from _each("web", "tcp udp icmp", "lan outside host other", CLOSED, "unpublished")
    yield from _each("lan", "tcp udp", "host", first + PUBLISHED, "published")
    yield from _each("web", "dns", "names", 0, "", "4")


def _container(first: int) -> Iterator[Question]:
    yield from _each("sharer", "tcp udp icmp", "web peer lan outside other", CLOSED, "unpublished")
    yield from _each("peer", "tcp udp icmp", "sharer", CLOSED, "unpublished")
    yield from _each("lan", "tcp udp", "host", first + PUBLISHED, "published")
    yield from _each("web sharer", "dns", "names", 0, "", "4")


_KINDS = {
    "bridge": _bridges,
    "macvlan": _lan,
    "overlay": _overlays,
    "host": _host,
    "none": _none,
    "container": _container,
}


def questions(case: Case, first: int) -> list[Question]:
    """Return what is asked on a network whose first port of the host is `first`."""
    return list(_KINDS[case.kind](first))
