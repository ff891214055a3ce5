"""What a create request says of networks becomes endpoints. Answers of Docker Engine 28.5 to the same requests."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from sampan.engine.containers import endpoints
from sampan.engine.networks import endpoints as network_endpoints
from sampan.engine.networks.endpoints import SYSCTLS_OPTION
from sampan.errors import Internal, InvalidArgument, SampanError
from sampan.spec.engine_api.container import ContainerConfig, HostConfig
from sampan.spec.engine_api.network import EndpointIPAMConfig, EndpointSettings, NetworkingConfig

MAC, OTHER = "02:42:ac:00:00:99", "02:42:ac:00:00:77"
NEW, OLD = (1, 51), (1, 43)
FORM = "represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"


def planned(
    asked: dict[str, EndpointSettings] | None = None,
    *,
    mode: str = "bridge",
    mac: str = "",
    sysctls: dict[str, str] | None = None,
    version: tuple[int, int] = NEW,
) -> endpoints.EndpointPlan:
    host = HostConfig(network_mode=mode, sysctls=sysctls)
    given: dict[str, EndpointSettings | None] = {**asked} if asked else {}
    return endpoints.plan(ContainerConfig(mac_address=mac), host, NetworkingConfig(endpoints_config=given), version)


@pytest.mark.parametrize(
    ("asked", "mode", "joined"),
    [
        ((), "bridge", ["bridge"]),
        (("a", "b"), "bridge", ["a", "b"]),
        (("a",), "b", ["a"]),
        (("a",), "none", ["a"]),
        (("default",), "bridge", ["bridge"]),
        (("a",), "container:x", []),
    ],
)
def test_a_container_joins_what_is_named_and_else_its_mode(
    asked: tuple[str, ...], mode: str, joined: list[str]
) -> None:
    assert list(planned({name: EndpointSettings() for name in asked}, mode=mode).endpoints) == joined


def test_the_container_wide_mac_address_goes_to_the_main_endpoint() -> None:
    alone = planned(mac=MAC)
    assert alone.endpoints["bridge"].mac_address == MAC
    assert alone.warnings == (
        "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead.",
    )
    for mode in ("host", "none", "container:x"):
        assert planned(mac=MAC, mode=mode).config.mac_address == "", "nobody has it"
    old = planned({"a": EndpointSettings(mac_address=OTHER)}, mode="a", mac=MAC, version=OLD)
    assert (old.endpoints["a"].mac_address, old.warnings) == (MAC, ())
    assert planned({"a": EndpointSettings(mac_address="zz")}, version=OLD).endpoints["a"].mac_address == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            partial(planned, asked={"a": EndpointSettings(mac_address=OTHER)}, mode="a", mac=MAC),
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network,"
            " or be left empty",
        ),
        (
            partial(planned, asked={"a": EndpointSettings(), "b": EndpointSettings()}, mac=MAC),
            "unable to migrate container-wide MAC address to a specific network: HostConfig.NetworkMode must match"
            " the identity of a network in NetworkSettings.Networks",
        ),
        (partial(planned, mac="nope"), "invalid config for network bridge: invalid MAC address nope"),
        (partial(planned, mac=MAC, mode="host", version=OLD), "conflicting options: mac-address and the network mode"),
        (
            partial(planned, asked={"bridge": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="x"))}),
            "invalid config for network bridge: invalid endpoint settings:\n"
            "* user specified IP address is supported on user defined networks only\n"
            "* invalid IPv4 address: x\n"
            "* user specified IP address is supported only when connecting to networks with user configured subnets",
        ),
        (
            partial(planned, asked={"i": EndpointSettings(mac_address="zz"), "j": EndpointSettings(mac_address="yy")}),
            "* invalid config for network i: invalid MAC address zz\n"
            "* invalid config for network j: invalid MAC address yy",
        ),
        (
            partial(planned, asked={"bridge": EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["x"]))}),
            "invalid config for network bridge: invalid endpoint settings:\ninvalid link-local IP address: x",
        ),
        (
            partial(planned, asked={"bridge": EndpointSettings(aliases=["x"])}),
            "invalid config for network bridge: invalid endpoint settings:\n"
            "network-scoped alias is supported only for containers in user defined networks",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_create(given: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        given()
    assert caught.value.message == message


def test_sysctls_of_an_interface_belong_to_its_endpoint() -> None:
    asked = {"net.ipv4.conf.eth0.log_martians": "1", "kernel.msgmax": "9"}
    moved = planned(sysctls=asked, version=(1, 47))
    assert moved.host.sysctls == {"kernel.msgmax": "9"}
    assert moved.endpoints["bridge"].driver_opts == {SYSCTLS_OPTION: "net.ipv4.conf.IFNAME.log_martians=1"}
    assert moved.warnings == (
        'Migrated sysctl "net.ipv4.conf.eth0.log_martians" to '
        f'DriverOpts{{"{SYSCTLS_OPTION}":"net.ipv4.conf.IFNAME.log_martians=1"}}.',
    )
    with pytest.raises(
        Internal, match=r'^interface specific sysctl setting "net\.ipv4\.conf\.eth0\.log_martians" must be'
    ):
        planned(sysctls=asked)
    assert planned(sysctls=asked, mode="host").host.sysctls == asked


@pytest.mark.parametrize(
    "text",
    ["net.ipv4.conf.eth0.x=1", "net.ipv4.ip_forward=1", "kernel.IFNAME.x=1", "net/ipv4/conf/IFNAME/x=1", "IFNAME=1",
     "net.core.IFNAME.x=1", "net.ipv4.conf.IfName.x=1", ""],
)  # fmt: skip
def test_what_is_no_sysctl_of_an_interface_is_refused_at_create(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        planned({"a": EndpointSettings(driver_opts={SYSCTLS_OPTION: text})})
    where = "invalid config for network a: invalid endpoint settings:\n"
    assert caught.value.message == f"{where}unrecognised network interface sysctl '{text}'; {FORM}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("net.ipv4.conf.IFNAME.log_martians", "name=value"),
        ("net.ipv4.conf.IFNAME..log_martians=1", "net.X.Y.IFNAME.Z"),
        ("net.ipv4.conf.IFNAME.a.b=1", "net.X.Y.IFNAME.Z"),
        ("net.ipv6.conf.IFNAME.../../../kernel/x=1", "net.X.Y.IFNAME.Z"),
        ("net.ipv6.conf.IFNAME.a/b=1", "net.X.Y.IFNAME.Z"),
    ],
)
def test_what_is_spelt_wrongly_is_refused_at_start(text: str, reason: str) -> None:
    settings = EndpointSettings(driver_opts={SYSCTLS_OPTION: text})
    planned({"a": settings})
    with pytest.raises(SampanError) as caught:
        network_endpoints.sysctls(settings, "eth0")
    assert caught.value.message == f"expected sysctl '{text}' to have format {reason}"


def test_sysctls_name_the_interface_that_the_endpoint_gets() -> None:
    for name in ("IFNAME", "ifname"):
        settings = EndpointSettings(driver_opts={SYSCTLS_OPTION: f"net.ipv4.conf.{name}.a=1,net.ipv6.conf.{name}.b="})
        expected = (("net/ipv4/conf/lan7/a", "1"), ("net/ipv6/conf/lan7/b", ""))
        assert network_endpoints.sysctls(settings, "lan7") == expected
