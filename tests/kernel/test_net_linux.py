"""netlink and nftables against the kernel: what they make, and how they fail."""

from __future__ import annotations

import errno
import re
from ipaddress import ip_address

import pytest

from sampan.linux import netlink
from sampan.linux.nftables import Element, Elements, Monitor
from tests.kernel.net_host import Host, on_fake_host, run

MAP = "add table inet t; add map inet t m { type inet_proto . inet_service : ipv4_addr . inet_service; }"


def element(port: int) -> Element:
    return Element("m", b"\x06\0\0\0" + port.to_bytes(2, "big") + b"\0\0", bytes([10, 0, 0, 2, 0, 80, 0, 0]))


@on_fake_host
async def test_elements_are_what_nft_would_add(host: Host) -> None:
    host.nft.run(MAP)
    elements = Elements()
    elements.change("t", add=[element(8080)])
    assert "tcp . 8080 : 10.0.0.2 . 80 }" in host.nft.run("list map inet t m")
    host.nft.run("delete element inet t m { tcp . 8080 }")
    with pytest.raises(FileNotFoundError):
        elements.change("t", delete=[element(8080)])
    with pytest.raises(FileNotFoundError):
        elements.change("nope", add=[element(8080)])
    elements.close()
    host.nft.run("delete table inet t")


@on_fake_host
async def test_many_elements_are_one_transaction(host: Host) -> None:
    host.nft.run(MAP)
    elements = Elements()
    many = [element(port) for port in range(1, 5001)]
    elements.change("t", add=many)
    assert host.nft.run("list map inet t m").count(" : ") == 5001  # the map's type has one too
    with pytest.raises(FileExistsError):
        elements.change("t", add=[*(element(port) for port in range(6000, 7000)), element(5)])
    assert host.nft.run("list map inet t m").count(" : ") == 5001, "all or none"
    elements.change("t", delete=many)
    assert host.nft.run("list map inet t m").count(" : ") == 1
    elements.close()
    host.nft.run("delete table inet t")


@on_fake_host
async def test_nft_says_what_is_wrong(host: Host) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        host.nft.run("list table inet nope")
    with pytest.raises(OSError, match="syntax error"):
        host.nft.run("add nonsense")


@on_fake_host
async def test_netlink_errors_carry_the_kernels_words(host: Host) -> None:
    with pytest.raises(FileExistsError):
        host.netlink.batch([netlink.add_bridge("lan0")])
    assert host.netlink.link("nope") is None
    with pytest.raises(OSError, match=re.escape("Nexthop has invalid gateway")) as caught:
        host.netlink.batch([netlink.add_route(ip_address("10.0.0.0"), 8, index=1, gateway=ip_address("10.99.0.1"))])
    assert caught.value.errno == errno.ENETUNREACH
    outcome = host.netlink.attempt([netlink.delete_link("nope"), netlink.add_bridge("br9"), netlink.delete_link("br9")])
    assert [e and e.errno for e in outcome.errors] == [errno.ENODEV, None, None], "an error stops nothing"


@on_fake_host
async def test_dumps_read_back_what_was_set(host: Host) -> None:
    host.netlink.batch([netlink.add_bridge("br9", address="02:00:00:00:00:09", mtu=1400)])
    host.netlink.batch([netlink.set_link("br9", alias="mine", up=True)])
    link = host.netlink.link("br9")
    assert link is not None
    assert (link.kind, link.address, link.mtu, link.alias) == ("bridge", "02:00:00:00:00:09", 1400, "mine")
    host.netlink.batch([netlink.add_address(link.ifindex, ip_address("10.9.0.1"), 24)])
    assert netlink.Prefix(link.ifindex, ip_address("10.9.0.1"), 24) in host.netlink.addresses()
    routes = [r for r in host.netlink.routes() if r.ifindex == link.ifindex and r.type == netlink.RTN_UNICAST]
    assert (ip_address("10.9.0.0"), 24) in [(r.destination, r.length) for r in routes]
    host.netlink.batch([netlink.delete_link(link.ifindex)])


@on_fake_host
async def test_any_number_of_requests_is_answered_in_order(host: Host) -> None:
    requests = [netlink.get_link("lo" if n % 3 else f"none{n}") for n in range(1000)]
    outcome = host.netlink.attempt(requests)
    assert [error is None for error in outcome.errors] == [n % 3 != 0 for n in range(1000)]
    assert {netlink.parse_link(body).name for body in outcome.answers} == {"lo"} and len(outcome.answers) == 666


@on_fake_host
async def test_the_monitor_hears_what_counts_and_no_more(host: Host) -> None:
    host.nft.run("add table inet mine; add chain inet mine c; add rule inet mine c counter; add table ip filter")
    host.nft.run("add chain ip filter DOCKER; add rule ip filter DOCKER counter; add chain ip filter DOCKER-USER")
    host.nft.run("add rule ip filter DOCKER-USER counter")
    monitor = Monitor("mine", ("DOCKER-USER",))
    for command, counts in (
        ("add chain ip filter other; add rule ip filter DOCKER counter", False),
        ("flush chain ip filter DOCKER", False),
        ("flush chain ip filter DOCKER-USER", True),
        ("add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }", True),
        ("flush chain inet mine c", True),
        ("delete table inet mine", True),
    ):
        run("nft", command)
        assert monitor.disturbed() is counts, command
    host.nft.run("delete table ip filter")
    assert not monitor.disturbed(), "our own doing"
    monitor.close()
