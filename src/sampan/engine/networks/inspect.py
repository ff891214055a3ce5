"""The JSON objects the Engine API shows of networks and endpoints, key for key in Docker's order. Pure.

Source: Engine API 1.51 Network, NetworkContainer, EndpointSettings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from sampan.engine.networks.records import BindingRecord, EndpointRecord, NetworkRecord, SandboxRecord
from sampan.spec import codec

JSON = dict[str, Any]


def network(record: NetworkRecord, sandboxes: Iterable[SandboxRecord]) -> JSON:
    """Return a network. sandboxes: those with an endpoint on it; none for a list."""
    config: list[JSON] = []
    for subnet in record.subnets:
        entry: JSON = {"Subnet": subnet.subnet}
        if subnet.ip_range:
            entry["IPRange"] = subnet.ip_range
        if subnet.gateway and not subnet.gateway_chosen:
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
            "Config": config or None,
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": record.ingress,
        "ConfigFrom": {"Network": record.config_from},
        "ConfigOnly": record.config_only,
        "Containers": {
            _shown_as(sandbox, endpoint) or sandbox.id: _container(sandbox, endpoint)
            for sandbox in sandboxes
            for endpoint in sandbox.endpoints
            if endpoint.network_id == record.id
        },
        "Options": record.options,
        "Labels": record.labels,
    }


def _shown_as(sandbox: SandboxRecord, endpoint: EndpointRecord) -> str:
    """Return what Docker calls the endpoint by which a container leaves that is on no network that leads out."""
    return f"gateway_{sandbox.sandbox_id[:12]}" if endpoint.hidden else ""


def _container(sandbox: SandboxRecord, endpoint: EndpointRecord) -> dict[str, str]:
    return {
        "Name": _shown_as(sandbox, endpoint) or sandbox.name,
        "EndpointID": endpoint.id,
        "MacAddress": endpoint.mac,
        "IPv4Address": endpoint.ipv4,
        "IPv6Address": endpoint.ipv6,
    }


def endpoints(records: Iterable[EndpointRecord]) -> dict[str, JSON]:
    """Return NetworkSettings.Networks."""
    return {record.network: endpoint(record) for record in records}


def endpoint(record: EndpointRecord) -> JSON:
    """Return an endpoint as NetworkSettings.Networks shows it."""
    return codec.to_json(
        replace(
            record.settings,
            mac_address=record.mac,
            network_id=record.network_id,
            endpoint_id=record.id,
            gateway=record.gateway4,
            ip_address=record.address4,
            ip_prefix_len=int(record.ipv4.partition("/")[2] or 0),
            ipv6_gateway=record.gateway6,
            global_ipv6_address=record.address6,
            global_ipv6_prefix_len=int(record.ipv6.partition("/")[2] or 0),
            dns_names=record.dns_names,
        )
    )


def ports(exposed: Iterable[str], bindings: Iterable[BindingRecord]) -> dict[str, list[dict[str, str]] | None]:
    """Return NetworkSettings.Ports: every exposed port, with where it is published or null."""
    shown: dict[str, list[dict[str, str]] | None] = {}
    for text in exposed:
        number, _, proto = text.partition("/")
        shown[f"{number}/{proto or 'tcp'}"] = None
    for b in bindings:
        entry = {"HostIp": b.host_ip, "HostPort": str(b.host_port or "")}
        shown[f"{b.port}/{b.proto}"] = [*(shown.get(f"{b.port}/{b.proto}") or []), entry]
    return dict(sorted(shown.items()))
