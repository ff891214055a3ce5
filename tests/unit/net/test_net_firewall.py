"""The ruleset as text. The golden file is read by people: when it changes, the diff is the review."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from sampan.engine.networks.enforcer import Chain, dropping
from sampan.engine.networks.firewall import NetworkRules, Published, Ruleset, render, spans, translatable
from sampan.linux.nftables import Element

GOLDEN = Path(__file__).parent / "firewall.golden.nft"

RULES = Ruleset(
    table="sampan0",
    networks=(
        NetworkRules(interface="sampan0", subnet4="172.18.0.0/16", gateway4="172.18.0.1"),
        NetworkRules(
            interface="br-six", subnet4="10.9.0.0/24", gateway4="10.9.0.1", subnet6="fd00:9::/64", gateway6="fd00:9::1",
            icc=False, source4="192.0.2.1",
        ),
        NetworkRules(interface="br-inner", subnet4="10.8.0.0/24", gateway4="10.8.0.1", internal=True),
        NetworkRules(interface="br-open", subnet4="10.7.0.0/24", gateway4="10.7.0.1", mode4="nat-unprotected",
        masquerade=False),
        NetworkRules(interface="br-routed", subnet4="10.6.0.0/24", gateway4="10.6.0.1", subnet6="fd00:6::/64",
        gateway6="fd00:6::1", mode4="routed", mode6="routed"),
        NetworkRules(interface="br-trusting", subnet4="10.5.0.0/24", gateway4="10.5.0.1",
        trusted=("lan0", "vpn+", 'a"b')),
    ),
    published=(
        Published(proto="tcp", host_ip="0.0.0.0", host_port=8080, address="172.18.0.2", port=80),
        Published(proto="tcp", host_ip="::", host_port=8080, address="172.18.0.2", port=80),
        Published(proto="udp", host_ip="127.0.0.1", host_port=53, address="10.9.0.2", port=5353),
        Published(proto="tcp", host_ip="::", host_port=443, address="fd00:9::2", port=443),
        Published(proto="tcp", host_ip="0.0.0.0", host_port=0, address="10.6.0.2", port=80, direct=True),
        Published(proto="tcp", host_ip="0.0.0.0", host_port=81, address="10.5.0.2", port=80, direct=True),
        *(Published(proto="udp", host_ip="0.0.0.0", host_port=5000 + n, address="10.5.0.2", port=5000 + n)
          for n in range(1000)),
        *(Published(proto="udp", host_ip="::", host_port=0, address="fd00:6::2", port=5000 + n, direct=True)
          for n in range(1000)),
    ),
    api=(("", 2375), ("192.0.2.1", 2376)),
)  # fmt: skip


def test_the_whole_ruleset() -> None:
    text = render(RULES)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_one_more_port_is_one_element() -> None:
    port = Published(proto="tcp", host_ip="0.0.0.0", host_port=8080, address="172.18.0.2", port=80)
    local = Published(proto="udp", host_ip="127.0.0.1", host_port=53, address="172.18.0.2", port=53)
    assert {span.wire() for span in spans([port, local])} == {
        Element("published4", b"\x06\0\0\0\x1f\x90\0\0", b"\xac\x12\0\x02\0\x50\0\0"),
        Element("published_at4", b"\x7f\0\0\x01\x11\0\0\0\0\x35\0\0", b"\xac\x12\0\x02\0\x35\0\0"),
    }


def test_a_row_of_ports_is_one_element() -> None:
    def rows(numbers: Iterable[int], shift: int = 0) -> list[str]:
        ports = [
            Published(proto="udp", host_ip="0.0.0.0", host_port=n + shift, address="10.0.0.2", port=n) for n in numbers
        ]
        return [f"{span.map} {span.text()}" for span in spans(ports)]

    assert rows(range(5000, 6000)) == ["published_rows4 udp . 5000-5999 : 10.0.0.2"]
    assert rows([*range(1, 17), 18]) == ["published4 udp . 18 : 10.0.0.2 . 18", "published_rows4 udp . 1-16 : 10.0.0.2"]
    assert len(rows(range(1, 16))) == 15, "short rows stay hashed"
    assert len(rows(range(1, 101), shift=7)) == 100, "nft cannot shift a range"
    ports = [Published(proto="udp", host_ip="::", host_port=n, address="fd00::2", port=n) for n in range(100, 200)]
    (span,) = spans(ports)
    begin, end = (b"\x11\0\0\0" + n.to_bytes(2, "big") + b"\0\0" for n in (100, 199))
    assert span.wire() == Element("published_rows6", begin, bytes.fromhex("fd00" + "00" * 13 + "02"), end)


@pytest.mark.parametrize(
    ("host_ip", "address", "expected"),
    [("0.0.0.0", "10.0.0.2", True), ("::", "10.0.0.2", False), ("::", "fd00::2", True), ("::1", "fd00::2", False)],
)
def test_what_nftables_cannot_do_is_left_to_the_relay(host_ip: str, address: str, expected: bool) -> None:
    port = Published(proto="tcp", host_ip=host_ip, host_port=1, address=address, port=2)
    assert translatable(port) is expected
    assert bool(spans([port])) is expected


def test_where_foreign_forward_chains_drop() -> None:
    def chain(family: str, table: str, name: str, **base: str) -> dict[str, str]:
        return {"family": family, "table": table, "name": name, **base}

    chains = [
        chain("ip", "filter", "FORWARD", hook="forward", policy="drop"),
        chain("ip", "filter", "DOCKER-USER"),
        chain("ip6", "filter", "FORWARD", hook="forward", policy="drop"),
        chain("inet", "sampan0", "forward", hook="forward", policy="accept"),
        chain("inet", "mine", "fwd", hook="forward", policy="drop"),
        chain("ip", "filter", "INPUT", hook="input", policy="drop"),
    ]
    assert list(dropping(chains, "sampan0")) == [
        Chain("ip", "filter", "DOCKER-USER"),
        Chain("ip6", "filter", "FORWARD"),
        Chain("inet", "mine", "fwd"),
    ]
