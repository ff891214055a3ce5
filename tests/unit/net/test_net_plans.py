"""What plans say, and what follows from them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from sampan.engine.networks.plans import MOVED, VETH, InterfacePlan, RoutePlan, SandboxPlan

PAIR = InterfacePlan(
    kind=VETH,
    name="eth0",
    host_name="veth0123abc",
    master=4,
    mac="02:42:ac:11:00:02",
    addresses=((ip_address("172.17.0.2"), 16),),
)


def test_a_plan_tells_people_what_it_is() -> None:
    assert PAIR.describe() == "veth veth0123abc port of 4 -> eth0 02:42:ac:11:00:02 172.17.0.2/16"
    inside = InterfacePlan(
        kind="macvlan",
        name="eth1",
        parent=2,
        routes=(
            RoutePlan(destination=ip_network("10.0.0.0/8"), gateway=ip_address("10.1.0.1")),
            RoutePlan(destination=ip_network("192.0.2.0/24")),
        ),
    )
    assert inside.describe() == "macvlan on 2 -> eth1 to 10.0.0.0/8 via 10.1.0.1 to 192.0.2.0/24"
    gateways = (("eth0", ip_address("172.17.0.1")),)
    plan = SandboxPlan(interfaces=(PAIR, inside), gateways=gateways)
    lines = [PAIR.describe(), inside.describe(), "default via 172.17.0.1 by eth0"]
    assert plan.describe() == "\n".join(lines)
    assert SandboxPlan().describe() == ""


def test_ipv6_is_on_only_with_an_address_and_never_autoconfigured() -> None:
    assert PAIR.settings == (("net/ipv6/conf/eth0/accept_ra", "0"), ("net/ipv6/conf/eth0/disable_ipv6", "1"))
    own = ("net/ipv4/conf/eth0/arp_ignore", "1")
    six = InterfacePlan(kind=VETH, name="eth0", addresses=((ip_address("fd00::2"), 64),), sysctls=(own,))
    assert six.settings == (("net/ipv6/conf/eth0/accept_ra", "0"), ("net/ipv6/conf/eth0/disable_ipv6", "0"))
    assert six.sysctls == (own,)


def test_which_links_nothing_on_the_host_tells_of() -> None:
    kinds = {kind: InterfacePlan(kind=kind, name="eth0").inside for kind in (VETH, MOVED, "macvlan", "ipvlan")}
    assert kinds == {VETH: False, MOVED: False, "macvlan": True, "ipvlan": True}
