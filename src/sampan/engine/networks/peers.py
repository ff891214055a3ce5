"""Which endpoints other hosts have, and who tells: what the overlay driver is fed with.

A `PeerSource` is watched; each of its updates is a whole state or a difference. `PeerTable` adds updates up. Pure; the
source that is a file is peer_file.py.

The file's form, JSON: `{"peers": [{"vni": 4097, "vtep": "192.0.2.2", "ipv4": "10.9.0.3", "names": ["web"]}]}`; `mac`
may be left out when it is the engine's own choice for the IPv4 address (02:42 and the address), `ipv6` and `names` too.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

import msgspec

from sampan.engine.networks.ipam import Address
from sampan.linux.vxlan import LAST_VNI

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class BadPeers(ValueError):
    """A text does not say which peers there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One endpoint of one network on some host.

    vni: the network. vtep: the host's address for tunnels. mac: in small letters, with colons. names: what the endpoint
    answers to, its own name first.
    """

    vni: int
    vtep: Address
    mac: str
    addresses: tuple[Address, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerUpdate:
    """A step of what is known. put: peers that are there, in the place of what had their VNI and MAC.

    gone: (VNI, MAC) of peers that are not there any more. whole: all that is not put is gone.
    """

    put: tuple[Peer, ...] = ()
    gone: tuple[tuple[int, str], ...] = ()
    whole: bool = False


class PeerSource(Protocol):
    """Who tells which endpoints there are, those of this host included or not."""

    def watch(self) -> AsyncIterator[PeerUpdate]:
        """Yield a whole state, and then updates for ever; what cannot be read is the source's to log."""
        ...


class PeerTable:
    """The peers of all networks as the updates so far say."""

    def __init__(self) -> None:
        self._by_vni: dict[int, dict[str, Peer]] = {}
        self._of_address: dict[int, dict[Address, Peer]] = {}

    def apply(self, update: PeerUpdate) -> set[int]:
        """Take an update in; return the VNIs for which something is different now."""
        before = self._by_vni
        after = {} if update.whole else {vni: dict(peers) for vni, peers in before.items()}
        for vni, mac in update.gone:
            after.get(vni, {}).pop(mac, None)
        for peer in update.put:
            after.setdefault(peer.vni, {})[peer.mac] = peer
        self._by_vni = after
        changed = {vni for vni in {*before, *after} if before.get(vni, {}) != after.get(vni, {})}
        for vni in changed:
            self._of_address[vni] = {a: peer for peer in self.of(vni) for a in peer.addresses}
        return changed

    def of(self, vni: int) -> Iterable[Peer]:
        """Return the peers of a network."""
        return self._by_vni.get(vni, {}).values()

    def having(self, vni: int, address: Address) -> Peer | None:
        """Return who has an address in a network; None: no peer."""
        return self._of_address.get(vni, {}).get(address)


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    vni: int
    vtep: str
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    names: list[str] = []


class _File(msgspec.Struct, forbid_unknown_fields=True):
    peers: list[_Entry]


def decode(text: bytes) -> tuple[Peer, ...]:
    """Read the file's form. Raises: BadPeers, with the place."""
    try:
        entries = msgspec.json.decode(text, type=_File).peers
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPeers(str(error)) from error
    found = []
    seen: dict[tuple[int, str | Address], int] = {}
    versions: dict[int, int] = {}
    for number, entry in enumerate(entries):
        try:
            peer = _peer(entry)
        except ValueError as error:
            raise BadPeers(f"peers[{number}]: {error}") from error
        for what in (peer.mac, *peer.addresses):
            other = seen.setdefault((peer.vni, what), number)
            if other != number:
                raise BadPeers(f"peers[{number}]: {what} is of peers[{other}] already")
        if versions.setdefault(peer.vni, peer.vtep.version) != peer.vtep.version:
            raise BadPeers(f"peers[{number}]: the tunnel ends of network {peer.vni} are not all of one IP version")
        found.append(peer)
    return tuple(found)


def _peer(entry: _Entry) -> Peer:
    if not 0 < entry.vni <= LAST_VNI:
        raise ValueError(f"no VXLAN id: {entry.vni}")
    four = IPv4Address(entry.ipv4) if entry.ipv4 else None
    six = IPv6Address(entry.ipv6) if entry.ipv6 else None
    mac = entry.mac.lower() or ((b"\x02\x42" + four.packed).hex(":") if four is not None else "")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or not mac.strip("0:"):
        raise ValueError(f"no MAC address of one station: {mac!r}")
    addresses = tuple(a for a in (four, six) if a is not None)
    if not addresses:
        raise ValueError("neither ipv4 nor ipv6")
    vtep = ip_address(entry.vtep)
    if vtep.is_unspecified or vtep.is_multicast or vtep.is_loopback or getattr(vtep, "scope_id", None):
        raise ValueError(f"no address of a host: {entry.vtep}")
    return Peer(vni=entry.vni, vtep=vtep, mac=mac, addresses=addresses, names=tuple(entry.names))


def elsewhere(peers: Iterable[Peer], own: Mapping[Address, object] | frozenset[Address]) -> list[Peer]:
    """Return those of the peers that are on other hosts. own: this host's addresses."""
    return [peer for peer in peers if peer.vtep not in own]
