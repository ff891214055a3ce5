"""Answer on one port for another, within a network namespace: packets to (address, from_port) reach a socket at
(address, to_port), and its answers come from from_port.

The ports are rewritten in the output hook without connection tracking, which would cost every packet of the namespace.
So whoever lives there can still listen on from_port of any other address.

Source: linux/netfilter/nf_tables.h; the expressions are those that `nft --debug=netlink` shows for
`ip daddr ADDRESS udp dport FROM udp dport set TO`.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from ipaddress import IPv4Address

from sampan.linux import netlink
from sampan.linux.netlink import attribute
from sampan.linux.nftables import Transactions

TABLE = b"sampan-names\0"
_CHAIN = b"output\0"
_IPV4, _NESTED = 2, 0x8000
_HEADER = struct.pack("=BBH", _IPV4, 0, 0)  # before the attributes of each message
_WHAT = "rules of the name service"
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 2, 3, 6
_HOOK_LOCAL_OUT, _PRIORITY_NAT = 3, -100
_REG_1, _CMP_EQ = 1, 0
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOURCE_ADDRESS, _DESTINATION_ADDRESS = 12, 16
_SOURCE_PORT, _DESTINATION_PORT = 0, 2
_META_L4PROTO = 16
_CHECKSUM_INTERNET = 1
_CHECKSUM_AT = {socket.IPPROTO_UDP: 6, socket.IPPROTO_TCP: 16}


def install(address: IPv4Address, from_port: int, to_port: int) -> None:
    """Make the rules in the calling thread's network namespace, for UDP and TCP; all or none.

    They take the place of earlier ones. Raises: OSError.
    """
    rules = [(_NEWCHAIN, netlink.NLM_F_CREATE, _HEADER + _chain())]
    for protocol in _CHECKSUM_AT:
        for rule in (
            _rule(protocol, address, _DESTINATION_ADDRESS, _DESTINATION_PORT, from_port, to_port),
            _rule(protocol, address, _SOURCE_ADDRESS, _SOURCE_PORT, to_port, from_port),
        ):
            rules.append((_NEWRULE, netlink.NLM_F_CREATE, _HEADER + rule))
    table = _HEADER + attribute(1, TABLE)
    made = (_NEWTABLE, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, table)
    with contextlib.closing(Transactions()) as nftables:
        try:
            nftables.send([made, *rules], _WHAT)
        except FileExistsError:  # deleting costs milliseconds, also when there is nothing
            nftables.send([(_DELTABLE, 0, table), made, *rules], _WHAT)


def _chain() -> bytes:
    hook = attribute(1, struct.pack("!I", _HOOK_LOCAL_OUT)) + attribute(2, struct.pack("!i", _PRIORITY_NAT))
    return attribute(1, TABLE) + attribute(3, _CHAIN) + attribute(4 | _NESTED, hook) + attribute(7, b"filter\0")


def _rule(protocol: int, address: IPv4Address, address_at: int, port_at: int, port: int, new_port: int) -> bytes:
    """A rule: of this protocol, this address and port, write new_port there."""
    where = _payload(_TRANSPORT_HEADER, port_at, 2)
    expressions = [
        _expression(b"payload", _loaded() + _payload(_NETWORK_HEADER, address_at, 4)),
        _expression(b"cmp", _equals(address.packed)),
        _expression(b"meta", attribute(1, _u32(_REG_1)) + attribute(2, _u32(_META_L4PROTO))),
        _expression(b"cmp", _equals(bytes([protocol]))),
        _expression(b"payload", _loaded() + where),
        _expression(b"cmp", _equals(struct.pack("!H", port))),
        _expression(b"immediate", attribute(1, _u32(_REG_1)) + _data(2, struct.pack("!H", new_port))),
        _expression(
            b"payload",
            where
            + attribute(5, _u32(_REG_1))
            + attribute(6, _u32(_CHECKSUM_INTERNET))
            + attribute(7, _u32(_CHECKSUM_AT[protocol])),
        ),
    ]
    return attribute(1, TABLE) + attribute(2, _CHAIN) + attribute(4 | _NESTED, b"".join(expressions))


def _u32(value: int) -> bytes:
    return struct.pack("!I", value)


def _expression(name: bytes, data: bytes) -> bytes:
    return attribute(1 | _NESTED, attribute(1, name + b"\0") + attribute(2 | _NESTED, data))


def _loaded() -> bytes:
    return attribute(1, _u32(_REG_1))


def _payload(base: int, offset: int, length: int) -> bytes:
    return attribute(2, _u32(base)) + attribute(3, _u32(offset)) + attribute(4, _u32(length))


def _data(type_: int, value: bytes) -> bytes:
    return attribute(type_ | _NESTED, attribute(1, value))


def _equals(value: bytes) -> bytes:
    return attribute(1, _u32(_REG_1)) + attribute(2, _u32(_CMP_EQ)) + _data(3, value)
