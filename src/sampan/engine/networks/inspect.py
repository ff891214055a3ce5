"""The JSON objects the Engine API shows of networks and endpoints, key for key in Docker's order. Pure.

Source: Engine API 1.51 Network, NetworkContainer, EndpointSettings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sampan.engine.networks.records import BindingRecord, EndpointRecord, NetworkRecord, SandboxRecord


def network(record: NetworkRecord, sandboxes: Iterable[SandboxRecord]) -> dict[str, Any]:
    """`sandboxes` are those with an endpoint on this network; none for a list."""
    config: list[dict[str, Any]] = []
    for subnet in record.subnets:
        entry: dict[str, Any] = {"Subnet": subnet.subnet}
        if subnet.ip_range:
            entry["IPRange"] = subnet.ip_range
        if subnet.gateway:
            entry["Gateway"] = subnet.gateway
        if subnet.auxiliary:
            entry["AuxiliaryAddresses"] = subnet.auxiliary
        config.append(entry)
    return {
        "Name": record.name,
        "Id": record.id,
        "Created": record.created,
        "Scope": record.scope,
        "Driver": record.driver,
        "EnableIPv4": record.enable_ipv4,
        "EnableIPv6": record.enable_ipv6,
        "IPAM": {
            "Driver": record.ipam_driver,
            "Options": record.ipam_options,
            "Config": config if record.driver == "bridge" else None,
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": record.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {
            sandbox.id: _container(sandbox, endpoint)
            for sandbox in sandboxes
            for endpoint in sandbox.endpoints
            if endpoint.network_id == record.id
        },
        "Options": record.options,
        "Labels": record.labels,
    }


def _container(sandbox: SandboxRecord, endpoint: EndpointRecord) -> dict[str, str]:
    return {
        "Name": sandbox.name,
        "EndpointID": endpoint.id,
        "MacAddress": endpoint.mac,
        "IPv4Address": endpoint.ipv4,
        "IPv6Address": endpoint.ipv6,
    }


def endpoint(record: EndpointRecord) -> dict[str, Any]:
    """An endpoint as NetworkSettings.Networks shows it."""
    settings = record.settings
    address4, _, length4 = record.ipv4.partition("/")
    address6, _, length6 = record.ipv6.partition("/")
    return {
        "IPAMConfig": settings.get("IPAMConfig"),
        "Links": settings.get("Links"),
        "Aliases": settings.get("Aliases"),
        "MacAddress": record.mac,
        "DriverOpts": settings.get("DriverOpts"),
        "GwPriority": settings.get("GwPriority") or 0,
        "NetworkID": record.network_id,
        "EndpointID": record.id,
        "Gateway": record.gateway4,
        "IPAddress": address4,
        "IPPrefixLen": int(length4 or 0),
        "IPv6Gateway": record.gateway6,
        "GlobalIPv6Address": address6,
        "GlobalIPv6PrefixLen": int(length6 or 0),
        "DNSNames": record.dns_names,
    }


def ports(exposed: Iterable[str], bindings: Iterable[BindingRecord]) -> dict[str, list[dict[str, str]] | None]:
    """NetworkSettings.Ports: every exposed port, with where it is published or null."""
    shown: dict[str, list[dict[str, str]] | None] = {}
    for text in exposed:
        number, _, proto = text.partition("/")
        shown[f"{number}/{proto or 'tcp'}"] = None
    for b in bindings:
        entry = {"HostIp": b.host_ip, "HostPort": str(b.host_port)}
        shown[f"{b.port}/{b.proto}"] = [*(shown.get(f"{b.port}/{b.proto}") or []), entry]
    return dict(sorted(shown.items()))
