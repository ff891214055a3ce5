"""Which published ports the carrier has, and where each leads: a file for each container's address.

sampand writes it. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from sampan.supervisor.kept.files import Damaged, items, number, text

PROTOCOLS = frozenset({"tcp", "udp"})


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Carried:
    """A port of the host, and the port of a container that it leads to."""

    proto: str
    host_ip: str
    host_port: int
    address: str
    port: int

    @property
    def key(self) -> str:
        """What tells it from all others of the host."""
        return f"{self.proto}/{self.host_ip}/{self.host_port}"


def encode(ports: Iterable[Carried]) -> bytes:
    """Return the text of the file of one container's address."""
    return json.dumps([[p.proto, p.host_ip, p.host_port, p.address, p.port] for p in sorted(ports)]).encode()


def decode(raw: bytes, address: str) -> dict[str, Carried]:
    """Read the file of a container's address; return its ports by their keys. Raises: Damaged."""
    try:
        ports = [_carried(*items(item)) for item in items(json.loads(raw))]
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from error
    for port in ports:
        if port.address != address:
            raise Damaged(f"it is of {port.address}")
    return {port.key: port for port in ports}


def _carried(proto: Any, host_ip: Any, host_port: Any, address: Any, port: Any) -> Carried:
    if proto not in PROTOCOLS:
        raise ValueError("no such protocol")
    return Carried(
        proto=proto,
        host_ip=str(ip_address(text(host_ip))),
        host_port=number(host_port, 0xFFFF),
        address=str(ip_address(text(address))),
        port=number(port, 0xFFFF),
    )
