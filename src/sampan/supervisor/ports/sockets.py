"""The sockets of the host on which published ports lie: how each is opened, by sampand and, again, by the carrier.

Source: Docker Engine 28.5 (`[::]` is IPv6 alone); ip(7), ipv6(7).
"""

from __future__ import annotations

import socket

KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, 132),
}
BACKLOG = 4096


def reserve(proto: str, ip: str, port: int, *, listens: bool) -> socket.socket:
    """Bind a port; listening on TCP, so that SO_REUSEADDR of another program does not get past it.

    Not listening, a program that comes to it past our rules is refused, and not kept waiting. Raises: OSError.
    """
    kind, number = KINDS[proto]
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind | socket.SOCK_NONBLOCK, number)
    try:
        if ":" in ip:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((ip, port))
        if kind == socket.SOCK_STREAM and listens:
            sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
