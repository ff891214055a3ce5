"""The sockets of a sandbox's name service, and how questions to port 53 come to them.

They listen on any free port of 127.0.0.11; the sandbox's packets to port 53 of that address are led there
(linux/portshift.py). So a container can listen on port 53 itself.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address

from sampan.linux import portshift

ADDRESS = "127.0.0.11"
_PORT = 53
_TRIES = 8


@dataclass(frozen=True, slots=True)
class NameSockets:
    """Both sockets, and the one port that they have. The owner closes them."""

    udp: socket.socket
    tcp: socket.socket
    port: int

    def close(self) -> None:
        """Close both."""
        self.udp.close()
        self.tcp.close()


def listen_on(port: int = 0) -> NameSockets:
    """Open the sockets in the network namespace of the calling thread, whose loopback must be up. Raises: OSError."""
    for last in range(_TRIES):
        try:
            return _listen_on(port)
        except OSError:  # the TCP port of the number that UDP was given is taken
            if port or last == _TRIES - 1:
                raise
    raise AssertionError("unreachable")


def _listen_on(port: int) -> NameSockets:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier service may linger
        udp.bind((ADDRESS, port))
        port = udp.getsockname()[1]
        tcp.bind((ADDRESS, port))
        tcp.listen(64)
    except BaseException:
        udp.close()
        tcp.close()
        raise
    return NameSockets(udp, tcp, port)


def make() -> NameSockets:
    """Open the sockets and lead port 53 to them, in the calling thread's network namespace. Raises: OSError."""
    made = listen_on()
    try:
        portshift.install(IPv4Address(ADDRESS), _PORT, made.port)
    except BaseException:
        made.close()
        raise
    return made
