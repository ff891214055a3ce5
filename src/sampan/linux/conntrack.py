"""Connection tracking: forget flows by their original destination port. One purpose, one function.

A UDP "connection" is what conntrack remembers of it: a client that goes on sending to a port keeps the translation (or
the lack of one) that its first packet got, whatever the rules say since.

Source: linux/netfilter/nfnetlink_conntrack.h; ctnetlink has no deletion by port, so flows are listed and deleted
singly.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection

from sampan.linux.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    attributes,
    messages,
)

_NETLINK_NETFILTER, _SUBSYSTEM = 12, 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_TUPLE_ORIG, _TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 1, 2, 1, 3
_RECEIVE_BYTES = 1 << 17


def forget(protocol: int, ports: Collection[int]) -> int:
    """Delete the flows of an IP protocol (17 is UDP) whose first packet went to one of these ports; return how many."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
        chosen = [(family, raw) for family, raw in _flows(sock) if _matches(raw, protocol, ports)]
        for family, raw in chosen:
            body = struct.pack("=BBH", family, 0, 0) + attribute(_TUPLE_ORIG | 0x8000, raw)
            _send(sock, _DELETE, NLM_F_REQUEST | NLM_F_ACK, body)
            sock.recv(_RECEIVE_BYTES)  # the acknowledgement; ENOENT is a flow that ended meanwhile
    return len(chosen)


def _flows(sock: socket.socket) -> list[tuple[int, bytes]]:
    """Return family and original tuple of all flows. The kernel walks its whole table: some milliseconds, even when it
    is empty.
    """
    _send(sock, _GET, NLM_F_REQUEST | NLM_F_DUMP, struct.pack("=BBH", socket.AF_UNSPEC, 0, 0))
    found: list[tuple[int, bytes]] = []
    while True:
        for type_, _, _, body in messages(sock.recv(_RECEIVE_BYTES)):
            if type_ == NLMSG_DONE:
                return found
            if type_ == NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", body)[0], "listing connections failed")
            raw = attributes(body, 4).get(_TUPLE_ORIG)
            if raw:
                found.append((body[0], raw))


def _matches(raw: bytes, protocol: int, ports: Collection[int]) -> bool:
    proto = attributes(attributes(raw, 0).get(_TUPLE_PROTO, b""), 0)
    port = proto.get(_PROTO_DST_PORT)
    return proto.get(_PROTO_NUM) == bytes([protocol]) and port is not None and int.from_bytes(port, "big") in ports


def _send(sock: socket.socket, type_: int, flags: int, body: bytes) -> None:
    sock.send(struct.pack("=IHHII", 16 + len(body), type_, flags, 1, 0) + body)
