"""Bodies about networks and a container's place on them.

Source: Engine API 1.51, definitions EndpointSettings, NetworkCreateRequest, IPAM.
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import field

from sampan.spec.engine_api.wire import Int, StringMap, Strings, Wire


class EndpointIPAMConfig(Wire, omit_defaults=True):
    GO: ClassVar[str] = "network.EndpointIPAMConfig"
    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")
    link_local_ips: Strings = field(name="LinkLocalIPs", default=None)


class EndpointSettings(Wire):
    """A container's endpoint on one network: what was asked for, and what the network gave."""

    GO: ClassVar[str] = "network.EndpointSettings"
    ipam_config: EndpointIPAMConfig | None = field(name="IPAMConfig", default=None)
    links: Strings = None
    aliases: Strings = None
    mac_address: str = ""
    driver_opts: StringMap = None
    gw_priority: Int = 0
    network_id: str = field(name="NetworkID", default="")
    endpoint_id: str = field(name="EndpointID", default="")
    gateway: str = ""
    ip_address: str = field(name="IPAddress", default="")
    ip_prefix_len: Int = field(name="IPPrefixLen", default=0)
    ipv6_gateway: str = field(name="IPv6Gateway", default="")
    global_ipv6_address: str = field(name="GlobalIPv6Address", default="")
    global_ipv6_prefix_len: Int = field(name="GlobalIPv6PrefixLen", default=0)
    dns_names: Strings = field(name="DNSNames", default=None)


class NetworkingConfig(Wire):
    GO: ClassVar[str] = "network.NetworkingConfig"
    GO_FIELDS: ClassVar[dict[str, str]] = {"EndpointsConfig": "map[string]*network.EndpointSettings"}
    endpoints_config: dict[str, EndpointSettings | None] | None = None


class IPAMConfig(Wire, omit_defaults=True):
    GO: ClassVar[str] = "network.IPAMConfig"
    subnet: str = ""
    ip_range: str = field(name="IPRange", default="")
    gateway: str = ""
    auxiliary_addresses: StringMap = None


class IPAM(Wire):
    GO: ClassVar[str] = "network.IPAM"
    driver: str = ""
    options: StringMap = None
    config: list[IPAMConfig] | None = None


class ConfigReference(Wire):
    GO: ClassVar[str] = "network.ConfigReference"
    network: str = ""


class NetworkCreateRequest(Wire):
    """Body of POST /networks/create."""

    GO: ClassVar[str] = "network.CreateRequest"
    ROOT: ClassVar[str] = "CreateRequest"
    name: str = ""
    check_duplicate: bool | None = None
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = field(name="EnableIPv4", default=None)
    enable_ipv6: bool | None = field(name="EnableIPv6", default=None)
    ipam: IPAM | None = field(name="IPAM", default=None)
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: StringMap = None
    labels: StringMap = None


class NetworkConnect(Wire):
    """Body of POST /networks/{id}/connect."""

    GO: ClassVar[str] = "network.ConnectOptions"
    ROOT: ClassVar[str] = "ConnectOptions"
    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnect(Wire):
    """Body of POST /networks/{id}/disconnect."""

    GO: ClassVar[str] = "network.DisconnectOptions"
    ROOT: ClassVar[str] = "DisconnectOptions"
    container: str = ""
    force: bool = False
