"""rtnetlink: links, addresses, routes and neighbours, batched.

A message is built by a pure function named after what it does (`add_veth`, `set_link`, `add_route`, …) and is plain
bytes without a sequence number. `Netlink.batch` stamps a list of them, sends them in one datagram and reads every
answer: the kernel handles the list in order, so a namespace costs two system calls instead of twenty.

Not here: policy (which names, which addresses), other netlink families (nftables.py), generic netlink.

Invariants: a socket belongs to the network namespace it was opened in, for ever: open it inside, keep it, and use it
from any thread (one at a time). Every error is an `OSError` whose text carries the kernel's extended ack when it gives
one.

Source: rtnetlink(7), linux/{netlink,rtnetlink,if_link,if_addr,neighbour}.h, kernel 6.1.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

Address = IPv4Address | IPv6Address

# message types
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTMGRP_LINK = 1

# flags of a request
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1

# attributes
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO = 1, 3, 4, 5, 10, 12
IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 18, 19, 20, 26, 27, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, VETH_INFO_PEER = 1, 2, 4, 5, 1
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
NDA_DST, NDA_LLADDR = 1, 2
NLA_F_NESTED = 0x8000

IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST = 1, 2, 3
NUD_STALE = 0x04

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_NDMSG = struct.Struct("=BxxxiHBB")
_ATTR = struct.Struct("=HH")
_U32 = struct.Struct("=I")


class Message(NamedTuple):
    """One request before it has a sequence number."""

    type: int
    flags: int
    body: bytes


class Link(NamedTuple):
    ifindex: int
    name: str
    flags: int
    kind: str
    master: int
    address: str
    mtu: int
    alias: str


class Prefix(NamedTuple):
    """An address of a link: `address/length`."""

    ifindex: int
    address: Address
    length: int


class IpRoute(NamedTuple):
    """A route; `destination` is None for the default route, `ifindex` the outgoing link (0 when there is none)."""

    destination: Address | None
    length: int
    gateway: Address | None
    ifindex: int
    table: int
    type: int


# ── building ────────────────────────────────────────────────────────────────────────────────────────────────────


def attribute(type_: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return _ATTR.pack(length, type_) + data + b"\0" * (-length % 4)


def _text(type_: int, value: str) -> bytes:
    return attribute(type_, value.encode() + b"\0")


def _number(type_: int, value: int) -> bytes:
    return attribute(type_, _U32.pack(value))


def _mac(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _link_attributes(*, name: str = "", address: str = "", mtu: int = 0, master: int | None = None) -> bytes:
    attributes = b""
    if name:
        attributes += _text(IFLA_IFNAME, name)
    if address:
        attributes += attribute(IFLA_ADDRESS, _mac(address))
    if mtu:
        attributes += _number(IFLA_MTU, mtu)
    if master is not None:
        attributes += _number(IFLA_MASTER, master)
    return attributes


def add_bridge(name: str, *, address: str = "", mtu: int = 0) -> Message:
    kind = attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"bridge"))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _link_attributes(name=name, address=address, mtu=mtu) + kind
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def add_veth(
    name: str,
    peer: str,
    *,
    peer_namespace: int | None = None,
    master: int = 0,
    up: bool = False,
    mtu: int = 0,
    peer_address: str = "",
) -> Message:
    """Create a veth pair: `name` here (a port of `master` when given), `peer` in the namespace of that descriptor."""
    inside = _IFINFO.pack(0, 0, 0, 0, 0) + _link_attributes(name=peer, address=peer_address, mtu=mtu)
    if peer_namespace is not None:
        inside += _number(IFLA_NET_NS_FD, peer_namespace)
    kind = attribute(IFLA_INFO_KIND, b"veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, inside))
    flags = IFF_UP if up else 0
    outside = _IFINFO.pack(0, 0, 0, flags, flags) + _link_attributes(name=name, mtu=mtu, master=master or None)
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, outside + attribute(IFLA_LINKINFO, kind))


def add_link(name: str, kind: str, *, parent: int = 0, namespace: int | None = None, data: bytes = b"") -> Message:
    """Create a link of any kind, in the namespace of that descriptor when given.

    parent: index of the link here that it is made on. data: the attributes of its kind (IFLA_INFO_DATA), encoded.
    """
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + (_number(IFLA_LINK, parent) if parent else b"")
    if namespace is not None:
        body += _number(IFLA_NET_NS_FD, namespace)
    info = attribute(IFLA_INFO_KIND, kind.encode()) + (attribute(IFLA_INFO_DATA, data) if data else b"")
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + attribute(IFLA_LINKINFO, info))


def set_link(
    link: int | str,
    *,
    up: bool | None = None,
    name: str = "",
    address: str = "",
    mtu: int = 0,
    master: int | None = None,
    alias: str = "",
    namespace: int | None = None,
) -> Message:
    """Change a link, by index or by name. `master=0` takes it out of its bridge; `namespace` is a descriptor."""
    index = link if isinstance(link, int) else 0
    body = _IFINFO.pack(0, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
    if isinstance(link, str):
        body += _text(IFLA_IFNAME, link)
    body += _link_attributes(name=name, address=address, mtu=mtu, master=master)
    if alias:
        body += attribute(IFLA_IFALIAS, alias.encode())
    if namespace is not None:
        body += _number(IFLA_NET_NS_FD, namespace)
    return Message(RTM_NEWLINK, 0, body)


def set_bridge_port(name: str, *, hairpin: bool = False, isolated: bool = False) -> Message:
    """Set flags of a bridge port. hairpin: frames may leave where they came in; isolated: to no other isolated port."""
    options = attribute(IFLA_BRPORT_MODE, bytes([hairpin])) + attribute(IFLA_BRPORT_ISOLATED, bytes([isolated]))
    info = attribute(IFLA_INFO_SLAVE_KIND, b"bridge") + attribute(IFLA_INFO_SLAVE_DATA, options)
    body = _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, name) + attribute(IFLA_LINKINFO, info)
    return Message(RTM_NEWLINK, 0, body)


def delete_link(link: int | str) -> Message:
    if isinstance(link, int):
        return Message(RTM_DELLINK, 0, _IFINFO.pack(0, 0, link, 0, 0))
    return Message(RTM_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, link))


def get_link(link: int | str) -> Message:
    if isinstance(link, int):
        return Message(RTM_GETLINK, 0, _IFINFO.pack(0, 0, link, 0, 0))
    return Message(RTM_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _text(IFLA_IFNAME, link))


def _address(type_: int, flags: int, index: int, address: Address, length: int, broadcast: bool) -> Message:
    body = _IFADDR.pack(_family(address), length, 0, 0, index)
    body += attribute(IFA_LOCAL, address.packed) + attribute(IFA_ADDRESS, address.packed)
    if address.version == 6:
        body += _number(IFA_FLAGS, IFA_F_NODAD)  # the engine gives out unique addresses: usable at once
    elif broadcast and length < 31:
        body += attribute(IFA_BROADCAST, struct.pack("!I", int(address) | ((1 << (32 - length)) - 1)))
    return Message(type_, flags, body)


def add_address(index: int, address: Address, length: int, *, broadcast: bool = True) -> Message:
    return _address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, address, length, broadcast)


def delete_address(index: int, address: Address, length: int) -> Message:
    return _address(RTM_DELADDR, 0, index, address, length, False)


def add_route(
    destination: Address | None,
    length: int,
    *,
    index: int,
    gateway: Address | None = None,
    family: int = socket.AF_INET,
    metric: int = 0,  # 0: the kernel's
) -> Message:
    """Add a route in the main table; destination None is the default route. Without a gateway its scope is the link."""
    near = destination or gateway
    if near is not None:
        family = _family(near)
    scope = 0 if gateway is not None or family == socket.AF_INET6 else 253
    body = _RTMSG.pack(family, length, 0, 0, RT_TABLE_MAIN, 3, scope, RTN_UNICAST, 0)
    if destination is not None:
        body += attribute(RTA_DST, destination.packed)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway.packed)
    body += _number(RTA_PRIORITY, metric) if metric else b""
    return Message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, body + _number(RTA_OIF, index))


def delete_default_route(family: int, gateway: Address) -> Message:
    body = _RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 255, 0, 0) + attribute(RTA_GATEWAY, gateway.packed)
    return Message(RTM_DELROUTE, 0, body)


def set_neighbour(ifindex: int, address: Address, mac: str) -> Message:
    """Tell the neighbour cache who has an address now: used at once, verified by the kernel as usual."""
    body = _NDMSG.pack(_family(address), ifindex, NUD_STALE, 0, 0)
    body += attribute(NDA_DST, address.packed) + attribute(NDA_LLADDR, _mac(mac))
    return Message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


# ── parsing ─────────────────────────────────────────────────────────────────────────────────────────────────────


def attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """Decode a run of attributes; the nested flag is taken off the type."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(data):
        length, type_ = _ATTR.unpack_from(data, offset)
        if length < 4:
            break
        found[type_ & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _string(data: bytes | None) -> str:
    return (data or b"").rstrip(b"\0").decode(errors="replace")


def _u32(data: bytes | None) -> int:
    return int(_U32.unpack(data)[0]) if data else 0


def parse_link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    a = attributes(body, _IFINFO.size)
    info = attributes(a[IFLA_LINKINFO], 0) if IFLA_LINKINFO in a else {}
    return Link(
        ifindex=index,
        name=_string(a.get(IFLA_IFNAME)),
        flags=flags,
        kind=_string(info.get(IFLA_INFO_KIND)),
        master=_u32(a.get(IFLA_MASTER)),
        address=a.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=_u32(a.get(IFLA_MTU)),
        alias=_string(a.get(IFLA_IFALIAS)),
    )


def parse_address(body: bytes) -> Prefix | None:
    _, length, _, _, index = _IFADDR.unpack_from(body)
    a = attributes(body, _IFADDR.size)
    raw = a.get(IFA_LOCAL) or a.get(IFA_ADDRESS)
    return Prefix(index, ip_address(raw), length) if raw else None


def parse_route(body: bytes) -> IpRoute:
    _, length, _, _, table, _, _, type_, _ = _RTMSG.unpack_from(body)
    a = attributes(body, _RTMSG.size)
    return IpRoute(
        destination=ip_address(a[RTA_DST]) if RTA_DST in a else None,
        length=length,
        gateway=ip_address(a[RTA_GATEWAY]) if RTA_GATEWAY in a else None,
        ifindex=_u32(a.get(RTA_OIF)),
        table=_u32(a.get(RTA_TABLE)) or table,
        type=type_,
    )


def messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Split a datagram into (type, flags, sequence, body)."""
    offset = 0
    while offset + 16 <= len(datagram):
        length, type_, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        yield type_, flags, sequence, datagram[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _failure(flags: int, body: bytes) -> OSError | None:
    """Return the error of an NLMSG_ERROR body, None when it acknowledges. The extended ack follows the request."""
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    text = os.strerror(-code)
    if flags & NLM_F_ACK_TLVS:
        offset = 20
        if not flags & NLM_F_CAPPED:
            (request,) = _U32.unpack_from(body, 4)
            offset = 4 + ((request + 3) & ~3)
        said = _string(attributes(body, offset).get(NLMSGERR_ATTR_MSG))
        if said:
            text = f"{text}: {said}"
    return OSError(-code, text)


# ── talking ─────────────────────────────────────────────────────────────────────────────────────────────────────

SO_ATTACH_FILTER = 26
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
_RECEIVE_BYTES = 1 << 17
_AT_ONCE = 32  # the socket has room for some 230 acknowledgements, fewer links; what finds none is lost


class Netlink:
    """A NETLINK_ROUTE socket of the calling thread's network namespace; owns its descriptor."""

    def __init__(self, *, groups: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def only_deletions(self) -> None:
        """Let a socket of group RTMGRP_LINK receive RTM_DELLINK only: the kernel drops the rest unseen."""
        program = [
            (0x28, 0, 0, 4),  # ldh [4]: nlmsg_type, which the filter reads as big-endian
            (0x15, 0, 1, socket.htons(RTM_DELLINK)),  # jeq
            (0x06, 0, 0, 0xFFFFFFFF),  # ret: all of it
            (0x06, 0, 0, 0),  # ret: nothing
        ]
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
        filter_ = struct.pack("@HP", len(program), ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_)

    def batch(self, requests: Sequence[Message]) -> list[bytes]:
        """Run the requests in order; return the bodies of what they answered (links that were asked for).

        Raises: OSError of the first that failed, after all have run (the kernel does not stop at an error).
        """
        failures = self.attempt(requests)
        for failure in failures.errors:
            if failure is not None:
                raise failure
        return failures.answers

    def attempt(self, requests: Sequence[Message]) -> Outcome:
        """Run the requests in order; return for each its error or None, and the bodies that were answered."""
        if len(requests) > _AT_ONCE:
            one, others = self.attempt(requests[:_AT_ONCE]), self.attempt(requests[_AT_ONCE:])
            return Outcome(one.errors + others.errors, one.answers + others.answers)
        if not requests:
            return Outcome([], [])
        first = self._sequence + 1
        self._sequence += len(requests)
        wire = [
            _HEADER.pack(16 + len(body), type_, flags | NLM_F_REQUEST | NLM_F_ACK, first + n, 0) + body
            for n, (type_, flags, body) in enumerate(requests)
        ]
        self._socket.send(b"".join(wire))
        errors: list[OSError | None] = [None] * len(requests)
        answers: list[bytes] = []
        missing = len(requests)
        while missing:
            for type_, flags, sequence, body in messages(self._socket.recv(_RECEIVE_BYTES)):
                if not first <= sequence <= self._sequence:
                    continue  # left over from a call that was interrupted
                if type_ == NLMSG_ERROR:
                    errors[sequence - first] = _failure(flags, body)
                    missing -= 1
                else:
                    answers.append(body)
        return Outcome(errors, answers)

    def dump(self, type_: int, body: bytes) -> list[bytes]:
        self._sequence += 1
        header = _HEADER.pack(16 + len(body), type_, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
        self._socket.send(header + body)
        found: list[bytes] = []
        while True:
            for kind, flags, sequence, answer in messages(self._socket.recv(_RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if kind == NLMSG_DONE:
                    return found
                if kind == NLMSG_ERROR:
                    raise _failure(flags, answer) or OSError(0, "unexpected acknowledgement of a dump")
                found.append(answer)

    def links(self) -> list[Link]:
        return [parse_link(body) for body in self.dump(RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0))]

    def link(self, link: int | str) -> Link | None:
        """Return one link by index or name; None when there is none."""
        outcome = self.attempt([get_link(link)])
        error = outcome.errors[0]
        if error is not None and error.errno != 19:  # ENODEV
            raise error
        return parse_link(outcome.answers[0]) if error is None else None

    def addresses(self) -> list[Prefix]:
        bodies: Iterable[bytes] = self.dump(RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0))
        return [prefix for body in bodies if (prefix := parse_address(body)) is not None]

    def routes(self) -> list[IpRoute]:
        return [parse_route(body) for body in self.dump(RTM_GETROUTE, _RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0))]

    def gone(self) -> list[str]:
        """Read what a socket of group RTMGRP_LINK has pending, without waiting: names of links that were deleted or
        moved away.

        Raises: OSError ENOBUFS when notifications were lost: then the caller looks for itself.
        """
        deleted: list[str] = []
        while True:
            try:
                datagram = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return deleted
            for type_, _, _, body in messages(datagram):
                if type_ == RTM_DELLINK and body[0] == 0:  # family AF_BRIDGE only says that it left its bridge
                    deleted.append(_string(attributes(body, _IFINFO.size).get(IFLA_IFNAME)))


class Outcome(NamedTuple):
    errors: list[OSError | None]
    answers: list[bytes]
