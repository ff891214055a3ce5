"""The options of macvlan and ipvlan networks: their names, what is allowed, and what the kernel is told. Pure.

Source: docs.docker.com/engine/network/drivers/macvlan and ipvlan; linux/if_link.h; messages as Docker Engine 28.5 gives
them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from sampan.engine.networks.records import NetworkRecord
from sampan.errors import Forbidden, InvalidArgument
from sampan.linux import netlink
from sampan.spec import go_values

PARENT, MACVLAN_MODE, IPVLAN_MODE, IPVLAN_FLAG = "parent", "macvlan_mode", "ipvlan_mode", "ipvlan_flag"
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
LOOPBACK = "lo"
VLAN_IDS = range(1, 4095)

_IFLA_MACVLAN_MODE, _IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS, _IFLA_VLAN_ID = 1, 1, 2, 1
_LINK_NAME = re.compile(r"[^\s/\0]+")
MAX_NAME = 15  # octets: the kernel's limit


@dataclass(frozen=True, slots=True)
class Vlan:
    """A network as the drivers macvlan and ipvlan see it."""

    network: NetworkRecord

    kind: ClassVar[str]
    prefix: ClassVar[str]

    @property
    def parent(self) -> str:
        """The link of the host that the containers' links are made on; a dummy of ours when none is asked for."""
        return self.network.options.get(PARENT) or self.own_parent

    @property
    def own_parent(self) -> str:
        """The name of the network's dummy."""
        return f"{self.prefix}{self.network.id[:12]}"

    @property
    def mode(self) -> str:
        """How the parent's segment and the containers see each other."""
        raise NotImplementedError

    @property
    def attributes(self) -> bytes:
        """The attributes of the link's kind (IFLA_INFO_DATA)."""
        raise NotImplementedError

    @property
    def routed(self) -> bool:
        """True when the host forwards between the parent and the containers, which then have no gateway."""
        return False

    def validate(self, others: Iterable[NetworkRecord]) -> None:
        """Check the options against other networks of this driver. Raises: InvalidArgument, Forbidden."""
        if self.parent == LOOPBACK:
            raise InvalidArgument(f"loopback interface is not a valid {self.kind} parent link")

    def describe(self) -> str:
        """Return the mode and the parent, for people."""
        return f"{self.kind} {self.mode} on {self.parent}"


class Macvlan(Vlan):
    """Every container is a station of its own on the parent's segment."""

    __slots__ = ()
    kind = "macvlan"
    prefix = "dm-"

    @property
    def mode(self) -> str:
        return self.network.options.get(MACVLAN_MODE) or "bridge"

    @property
    def attributes(self) -> bytes:
        """The attributes of the link's kind (IFLA_INFO_DATA)."""
        return netlink.attribute(_IFLA_MACVLAN_MODE, struct.pack("=I", MACVLAN_MODES[self.mode]))

    def validate(self, others: Iterable[NetworkRecord]) -> None:
        """Check the options against other networks of this driver. Raises: InvalidArgument, Forbidden."""
        _among(MACVLAN_MODES, self.mode, f"macvlan mode '{self.mode}' is not valid, 'bridge' mode")
        super().validate(others)
        for other in map(Macvlan, others):
            if other.parent != self.parent:
                continue
            used = f"macvlan network {other.network.id} is already using parent interface {self.parent}"
            if self.mode == "passthru":
                raise Forbidden(f"cannot use mode passthru, {used}")
            if other.mode == "passthru":
                raise Forbidden(f"{used} in mode passthru")


class Ipvlan(Vlan):
    """The containers have the parent's MAC address, and IP addresses of their own."""

    __slots__ = ()
    kind = "ipvlan"
    prefix = "di-"

    @property
    def mode(self) -> str:
        return self.network.options.get(IPVLAN_MODE) or "l2"

    @property
    def flag(self) -> str:
        return self.network.options.get(IPVLAN_FLAG) or "bridge"

    @property
    def attributes(self) -> bytes:
        """The attributes of the link's kind (IFLA_INFO_DATA)."""
        mode = netlink.attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[self.mode]))
        return mode + netlink.attribute(_IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[self.flag]))

    @property
    def routed(self) -> bool:
        """True when the host forwards between the parent and the containers, which then have no gateway."""
        return self.mode != "l2"

    def validate(self, others: Iterable[NetworkRecord]) -> None:
        """Check the options against other networks of this driver. Raises: InvalidArgument, Forbidden."""
        _among(IPVLAN_MODES, self.mode, f"ipvlan mode '{self.mode}' is not valid, 'l2' mode")
        _among(IPVLAN_FLAGS, self.flag, f"ipvlan flag '{self.flag}' is not valid, 'bridge'")
        super().validate(others)
        for other in map(Ipvlan, others):
            if other.parent == self.parent:
                raise Forbidden(f"network {other.own_parent} is already using parent interface {self.parent}")

    def describe(self) -> str:
        """Return the mode, the flag and the parent, for people."""
        return f"{self.kind} {self.mode} {self.flag} on {self.parent}"


def _among(known: Iterable[str], value: str, said: str) -> None:
    if value not in known:
        driver = said.partition(" ")[0]
        raise InvalidArgument(f"requested {said} is the {driver} driver default")


def is_link_name(name: str) -> bool:
    """Return whether a link can have this name at all."""
    return _LINK_NAME.fullmatch(name) is not None and len(name.encode()) <= MAX_NAME


def parse_sub_interface(name: str) -> tuple[str, int]:
    """Split the name of an 802.1q sub-interface, `eth0.10`, into (link, VLAN id); the id is not checked.

    Raises: InvalidArgument in Docker's words.
    """
    if "." not in name:
        raise InvalidArgument(f"invalid subinterface vlan name {name}, example formatting is eth0.10")
    parts = name.split(".")
    if len(parts) != 2:
        needed = "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10"
        raise InvalidArgument(f"{needed}, instead received {name}")
    try:
        return parts[0], go_values.integer(parts[1], base=10)
    except ValueError as error:
        raise InvalidArgument(f"unable to parse a valid vlan id from: {parts[1]} (ex. eth0.10 for vlan 10)") from error


def check_vlan_id(id: int) -> None:
    """Raises: InvalidArgument in Docker's words."""
    if id not in VLAN_IDS:
        raise InvalidArgument(f"vlan id must be between 1-4094, received: {id}")


def sub_interface(id: int) -> bytes:
    """Return the attributes of the kind `vlan` (IFLA_INFO_DATA)."""
    return netlink.attribute(_IFLA_VLAN_ID, struct.pack("=H", id))
