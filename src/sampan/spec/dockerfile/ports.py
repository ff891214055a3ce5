"""EXPOSE's ports: `80`, `80/udp`, `8000-8010/tcp`. Of what `docker run -p` takes, the container's part counts.

Source: Docker Engine 28.5; its two doors word the same complaints differently.
"""

from __future__ import annotations

import ipaddress

from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.go_values import quote

_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_ports(text: str, dialect: str = "buildkit") -> list[str]:
    """As `port/proto` strings. Raises: DockerfileError."""
    host, _, container = text.rpartition(":")
    ip, _, host_ports = host.rpartition(":")
    ports, _, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    if dialect == "classic":
        protocol = protocol.partition("/")[0]
    elif ports.startswith("+"):
        ports = ports[1:]
    if not ports:
        raise DockerfileError(
            f"invalid port: {quote(text)}: no port specified", classic=f"No port specified: {container}<empty>"
        )
    if protocol not in _PROTOCOLS:
        raise DockerfileError(
            f"invalid port: {quote(text)}: invalid proto: {protocol}", classic=f"Invalid proto: {protocol}"
        )
    if ip and not _is_address(ip):
        raise _bad("IP address", ip, "ip address")
    first, last = _range("containerPort", ports)
    if host_ports:
        host_first, host_last = _range("hostPort", host_ports)
        if last - first != host_last - host_first and last != first:
            raise _bad("ranges specified for container and host Ports", f"{ports} and {host_ports}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _bad(what: str, value: str, classic: str = "") -> DockerfileError:
    return DockerfileError(f"invalid {what}: {value}", classic=f"Invalid {classic or what}: {value}")


def _is_address(ip: str) -> bool:
    try:
        ipaddress.ip_address(ip.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _range(what: str, text: str) -> tuple[int, int]:
    parts = text.split("-")
    if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts):
        raise _bad(what, text)
    first, last = int(parts[0]), int(parts[-1])
    if not first <= last <= 65535:
        raise _bad(what, text)
    return first, last
