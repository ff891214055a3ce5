"""What the networks service keeps: networks, and the sandboxes of running containers. Data only.

A sandbox record exists exactly while its container has a network namespace of ours: written before the process starts,
deleted by detach. After a crash of the daemon the records say what to adopt and what to sweep up.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.engine.store import Record


class SubnetRecord(msgspec.Struct, kw_only=True):
    """One subnet of a network, as text."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = {}


class NetworkRecord(Record, kw_only=True):
    name: str
    driver: str
    created: str
    scope: str = "local"
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    subnets: list[SubnetRecord] = []
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    bridge: str = ""
    user_subnets: bool = False  # the user named the subnet: then static addresses may be asked for

    def subnet(self, version: int) -> SubnetRecord | None:
        """The network's subnet of IP version 4 or 6."""
        return next((s for s in self.subnets if (":" in s.subnet) == (version == 6)), None)


class EndpointRecord(msgspec.Struct, kw_only=True):
    """One interface of a container on one network. Addresses are `address/length`; settings is what the user asked for."""

    id: str
    network_id: str
    network: str
    interface: str = ""
    veth: str = ""
    mac: str = ""
    ipv4: str = ""
    ipv6: str = ""
    gateway4: str = ""
    gateway6: str = ""
    settings: dict[str, Any] = {}
    dns_names: list[str] | None = None


class BindingRecord(msgspec.Struct, kw_only=True, frozen=True):
    """A published port as it was granted."""

    proto: str
    host_ip: str
    host_port: int
    address: str
    port: int


class SandboxRecord(Record, kw_only=True):
    """The network sandbox of one container; `id` is the container's."""

    sandbox_id: str
    key: str
    mode: str
    name: str = ""
    hostname: str = ""
    pid: int = 0
    endpoints: list[EndpointRecord] = []
    bindings: list[BindingRecord] = []
    exposed: list[str] = []
    requested: dict[str, list[dict[str, str]] | None] = {}
    publish_all: bool = False
