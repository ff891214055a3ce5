"""VXLAN links, and what they know of other hosts: forwarding entries (MAC → tunnel end), neighbours (address → MAC).

Neither such a link nor its bridge learns from packets that come in by it, and it answers ARP and neighbour
solicitations for whom it knows (`proxy`). So what is said here is all there is: a frame to an unknown MAC, and a
question after an unknown address, go nowhere.

Messages are built by pure functions, as in netlink.py; `known` looks, `write` writes many.

Source: rtnetlink(7), bridge(8), linux/{if_link,neighbour}.h, kernel 6.1; RFC 7348.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from sampan.linux import netlink
from sampan.linux.netlink import Address, Message, Netlink, attribute

PORT = 4789
LAST_VNI = (1 << 24) - 1
OVERHEAD_BYTES = 50  # outer Ethernet, IPv4, UDP and VXLAN headers; 20 more with IPv6
NOWHERE: Address = ip_address("0.0.0.0")

IFLA_VXLAN_ID, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PROXY, IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6 = 1, 7, 11, 15, 17
IFLA_BRPORT_LEARNING = 8
NDA_IFINDEX = 8
NUD_REACHABLE, NUD_NOARP, NUD_PERMANENT = 0x02, 0x40, 0x80
NTF_SELF, NTF_MASTER = 0x02, 0x04

_NDMSG = struct.Struct("=BxxxiHBB")
_IFINFO = struct.Struct("=BxHiII")
_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Known:
    """What a VXLAN link knows: where a MAC is, and which MAC has an address. MACs as `02:42:0a:00:00:02`."""

    forwarding: Mapping[str, Address] = field(default_factory=dict)
    neighbours: Mapping[Address, str] = field(default_factory=dict)


def add_vxlan(name: str, vni: int, *, mtu: int, master: int, ip6: bool = False) -> Message:
    """Create a VXLAN link as a port of the bridge with index `master`; packets have the address of their route.

    ip6: its tunnels have IPv6 addresses. A link has ends of one IP version only: others are EAFNOSUPPORT.
    """
    data = attribute(IFLA_VXLAN_ID, struct.pack("=I", vni)) + attribute(IFLA_VXLAN_PORT, struct.pack("!H", PORT))
    data += attribute(IFLA_VXLAN_LEARNING, b"\0") + attribute(IFLA_VXLAN_PROXY, b"\1")
    if ip6:
        data += attribute(IFLA_VXLAN_LOCAL6, bytes(16))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(netlink.IFLA_IFNAME, name.encode() + b"\0")
    body += attribute(netlink.IFLA_MTU, struct.pack("=I", mtu))
    body += attribute(netlink.IFLA_MASTER, struct.pack("=I", master))
    kind = attribute(netlink.IFLA_INFO_KIND, b"vxlan") + attribute(netlink.IFLA_INFO_DATA, data)
    return Message(
        netlink.RTM_NEWLINK, netlink.NLM_F_CREATE | netlink.NLM_F_EXCL, body + attribute(netlink.IFLA_LINKINFO, kind)
    )


def no_learning(name: str) -> Message:
    """Let the bridge of this port learn nothing from packets that come in by it."""
    info = attribute(netlink.IFLA_INFO_SLAVE_KIND, b"bridge")
    info += attribute(netlink.IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_LEARNING, b"\0"))
    body = _IFINFO.pack(0, 0, 0, 0, 0) + attribute(netlink.IFLA_IFNAME, name.encode() + b"\0")
    return Message(netlink.RTM_NEWLINK, 0, body + attribute(netlink.IFLA_LINKINFO, info))


def _forwarding(index: int, mac: str, end: Address, flags: int) -> bytes:
    # for the bridge a permanent entry would be an address of its own; these two say that it does not age, to both
    body = _NDMSG.pack(socket.AF_BRIDGE, index, NUD_NOARP | NUD_REACHABLE, flags, 0)
    return body + attribute(netlink.NDA_LLADDR, _mac(mac)) + attribute(netlink.NDA_DST, end.packed)


def forward(index: int, mac: str, end: Address) -> Message:
    """Send frames to a MAC by this port and through the tunnel to this host, whatever was known of the MAC before."""
    body = _forwarding(index, mac, end, NTF_SELF | NTF_MASTER)
    return Message(netlink.RTM_NEWNEIGH, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE, body)


def forward_no_more(index: int, mac: str, end: Address) -> list[Message]:
    """Forget where a MAC is."""
    return [Message(netlink.RTM_DELNEIGH, 0, _forwarding(index, mac, end, flag)) for flag in (NTF_MASTER, NTF_SELF)]


def answer_for(index: int, address: Address, mac: str) -> Message:
    """Answer for an address with this MAC."""
    body = _NDMSG.pack(_family(address), index, NUD_PERMANENT, 0, 0)
    body += attribute(netlink.NDA_DST, address.packed) + attribute(netlink.NDA_LLADDR, _mac(mac))
    return Message(netlink.RTM_NEWNEIGH, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE, body)


def answer_no_more(index: int, address: Address) -> Message:
    """Answer for an address no more."""
    body = _NDMSG.pack(_family(address), index, 0, 0, 0)
    return Message(netlink.RTM_DELNEIGH, 0, body + attribute(netlink.NDA_DST, address.packed))


def changes(index: int, have: Known, want: Known) -> list[Message]:
    """Return what makes a link know this instead of that: no more than the difference. What is wanted comes first."""
    put: list[Message] = []
    for mac, end in want.forwarding.items():
        if have.forwarding.get(mac) != end:
            put.append(forward(index, mac, end))
    for address, mac in want.neighbours.items():
        if have.neighbours.get(address) != mac:
            put.append(answer_for(index, address, mac))
    gone: list[Message] = []
    for mac, end in have.forwarding.items():
        if mac not in want.forwarding:
            gone += forward_no_more(index, mac, end)
    return put + gone + [answer_no_more(index, a) for a in have.neighbours if a not in want.neighbours]


def known(rtnl: Netlink, index: int) -> Known:
    """Return what a link knows at this moment; a MAC that only it or only its bridge knows is at 0.0.0.0.

    Raises: OSError.
    """
    bodies = rtnl.dump(netlink.RTM_GETNEIGH, _IFINFO.pack(socket.AF_BRIDGE, 0, index, 0, 0))
    asked = _NDMSG.pack(0, 0, 0, 0, 0) + attribute(NDA_IFINDEX, struct.pack("=I", index))
    return Known(_forwarding_of(bodies, index), dict(_neighbours_of(rtnl.dump(netlink.RTM_GETNEIGH, asked), index)))


def _forwarding_of(bodies: Sequence[bytes], index: int) -> dict[str, Address]:
    own: dict[str, Address] = {}
    bridge: set[str] = set()
    for body in bodies:
        family, link, state, flags, _ = _NDMSG.unpack_from(body)
        if family != socket.AF_BRIDGE or link != index or not state & NUD_NOARP:
            continue
        found = netlink.attributes(body, _NDMSG.size)
        mac, end = found[netlink.NDA_LLADDR].hex(":"), found.get(netlink.NDA_DST, b"")
        if len(end) in (4, 16):
            own[mac] = ip_address(end)
        elif not flags & NTF_SELF:
            bridge.add(mac)
    return own | dict.fromkeys(own.keys() ^ bridge, NOWHERE)


def _neighbours_of(bodies: Sequence[bytes], index: int) -> Iterator[tuple[Address, str]]:
    for body in bodies:
        _, link, state, _, _ = _NDMSG.unpack_from(body)
        found = netlink.attributes(body, _NDMSG.size)
        if link == index and state & NUD_PERMANENT and netlink.NDA_LLADDR in found:
            yield ip_address(found[netlink.NDA_DST]), found[netlink.NDA_LLADDR].hex(":")


def write(rtnl: Netlink, requests: Sequence[Message]) -> None:
    """Run any number of requests; what is to be forgotten may be unknown. Raises: OSError of the first that failed."""
    failed: OSError | None = None
    for start in range(0, len(requests), _AT_ONCE):
        part = requests[start : start + _AT_ONCE]
        for request, error in zip(part, rtnl.attempt(part).errors):
            fine = error is None or (request.type == netlink.RTM_DELNEIGH and error.errno == errno.ENOENT)
            failed = failed or (None if fine else error)
    if failed is not None:
        raise failed


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
