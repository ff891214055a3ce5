"""Port bindings as clients send them."""

from __future__ import annotations

import pytest

from sampan.engine.networks.ports import Ports, freedom, parse_port, published
from sampan.engine.networks.records import PublishedPort
from sampan.errors import Internal, InvalidArgument
from sampan.spec.engine_api.container import PortBinding


def test_only_exposed_ports_are_published() -> None:
    bindings = {"80/tcp": [PortBinding(host_port="8080")], "81/tcp": [PortBinding(host_port="8081")], "": None}
    assert published(bindings, exposed=["80/tcp"], publish_all=False) == (
        PublishedPort(port=80, proto="tcp", first=8080, last=8080),
    )


def test_publish_all_takes_random_ports_for_the_rest() -> None:
    found = published(
        {"80/tcp": [PortBinding(host_port="1")], "82/udp": None},
        exposed=["80/tcp", "81/tcp", "82/udp"],
        publish_all=True,
    )
    assert [(r.port, r.proto, r.first, r.last) for r in found] == [
        (80, "tcp", 1, 1),
        (81, "tcp", 0, 0),
        (82, "udp", 0, 0),
    ]


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        (PortBinding(host_ip="127.0.0.1", host_port="1-3"), ("127.0.0.1", 1, 3)),
        (PortBinding(host_ip="::1", host_port="0"), ("::1", 0, 0)),
        (PortBinding(host_ip="300.1.1.1", host_port="9"), ("", 9, 9)),
        (PortBinding(), ("", 0, 0)),
    ],
)
def test_bindings(binding: PortBinding, expected: tuple[str, int, int]) -> None:
    [found] = published({"80": [binding]}, exposed=["80/tcp"], publish_all=False)
    assert (found.host_ip, found.first, found.last) == expected


@pytest.mark.parametrize("text", ["abc", "99999", "3-1", "-1", "1-", "1 2"])
def test_bad_host_ports(text: str) -> None:
    with pytest.raises(InvalidArgument, match=f'^invalid port specification: "{text}"$'):
        published({"80/tcp": [PortBinding(host_port=text)]}, exposed=["80/tcp"], publish_all=False)


def test_bad_container_ports() -> None:
    assert parse_port("53/UDP") == (53, "udp")
    for text in ("x", "80-82/tcp", "65536", ""):
        with pytest.raises(InvalidArgument, match="invalid port specification"):
            parse_port(text)


def test_grants_conflict_by_address() -> None:
    ports = Ports(ipv6=False)
    one = ports.grant(PublishedPort(port=80, proto="tcp", host_ip="127.0.0.1"), "172.18.0.2", "")[0]
    number = one.published.host_port
    asked = PublishedPort(port=80, proto="tcp", first=number, last=number)
    with pytest.raises(Internal, match=f"^Bind for 0.0.0.0:{number} failed: port is already allocated$"):
        ports.grant(asked, "172.18.0.2", "")
    other = ports.grant(
        PublishedPort(port=80, proto="tcp", host_ip="127.0.0.2", first=number, last=number), "172.18.0.2", ""
    )
    udp = ports.grant(
        PublishedPort(port=80, proto="udp", host_ip="127.0.0.1", first=number, last=number), "172.18.0.2", ""
    )
    for grant in [one, *other, *udp]:
        ports.release(grant)
        ports.release(grant)
    again = ports.grant(asked, "172.18.0.2", "")
    assert [g.published.host_ip for g in again] == ["0.0.0.0"]
    for grant in again:
        ports.release(grant)


def test_what_is_least_free_chooses_first() -> None:
    asked = [
        PublishedPort(port=n, proto="tcp", first=f, last=la) for n, (f, la) in enumerate([(0, 0), (9, 12), (9, 9)])
    ]
    assert [p.port for p in sorted(asked, key=freedom)] == [2, 1, 0]


@pytest.mark.parametrize(("listens", "ips"), [(True, ["0.0.0.0", "::"]), (False, ["0.0.0.0"])])
def test_ipv6_leads_to_ipv4_only_where_somebody_carries_it(listens: bool, ips: list[str]) -> None:
    """nftables translates no IPv6 to IPv4; without `userland-proxy` nobody else does."""
    ports = Ports(listens=listens)
    grants = ports.grant(PublishedPort(port=80, proto="tcp"), "172.18.0.2", "")
    assert [grant.published.host_ip for grant in grants] == ips
    for grant in grants:
        ports.release(grant)
