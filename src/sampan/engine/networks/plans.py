"""What a sandbox shall hold, as values: interfaces with their addresses, routes and settings. Pure.

Drivers make these (`NetworkDriver.interface`); plumbing.py carries them out. Nothing here knows a driver.

Source: rtnetlink(7); ip-sysctl (accept_ra, disable_ipv6).
"""

from __future__ import annotations

from dataclasses import dataclass

from sampan.engine.networks.ipam import Address, Subnet

VETH = "veth"
MOVED = "moved"  # not a kind of the kernel's: a link that somebody else made


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutePlan:
    """A static route by one interface; without a gateway the destination is on the link. metric: 0 is the kernel's."""

    destination: Subnet
    gateway: Address | None = None
    metric: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourPlan:
    """An entry for the neighbour cache of a link on the host: who has this address now."""

    index: int
    address: Address
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfacePlan:
    """One interface of a sandbox, called `name` there.

    kind: the kernel's kind of link.
      - `VETH`: a pair; the other end is `host_name` on the host, a port of the link with index `master` (0: of none).
      - `MOVED`: the host's link `host_name` is there already; it is moved in and renamed.
      - any other: made inside, on the host's link with index `parent` (0: on none); `attributes` are the netlink
        attributes of its kind (IFLA_INFO_DATA), encoded.
    mac, mtu: empty and 0 leave the kernel's. isolated, hairpin: flags of the port that `host_name` is of `master`.
    sysctls: (path below /proc/sys, value), written in the sandbox after those that follow from the addresses; each must
    be there.
    """

    kind: str
    name: str
    host_name: str = ""
    master: int = 0
    isolated: bool = False
    hairpin: bool = False
    parent: int = 0
    attributes: bytes = b""
    mac: str = ""
    mtu: int = 0
    addresses: tuple[tuple[Address, int], ...] = ()
    routes: tuple[RoutePlan, ...] = ()
    neighbours: tuple[NeighbourPlan, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()

    @property
    def inside(self) -> bool:
        """Return whether the link is only in the sandbox: nothing on the host tells of its end."""
        return self.kind not in (VETH, MOVED)

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Return what is written below /proc/sys in the sandbox before `sysctls`, where this kernel has it.

        That is: no IPv6, or IPv6 without autoconfiguration; also for whoever switches IPv6 on later.
        """
        own = f"net/ipv6/conf/{self.name}"
        six = any(address.version == 6 for address, _ in self.addresses)
        return (f"{own}/accept_ra", "0"), (f"{own}/disable_ipv6", "0" if six else "1")

    def describe(self) -> str:
        """Return one line for people: `veth veth0123abc port of 4 -> eth0 02:42:ac:11:00:02 172.17.0.2/16`."""
        where = f" {self.host_name}" if self.host_name else ""
        on = f" port of {self.master}" if self.master else f" on {self.parent}" if self.parent else ""
        addresses = [f"{address}/{length}" for address, length in self.addresses]
        routes = [f"to {r.destination}" + (f" via {r.gateway}" if r.gateway else "") for r in self.routes]
        words = [f"{self.kind}{where}{on} -> {self.name}", self.mac, *addresses, *routes]
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxPlan:
    """What a container's namespace shall hold: its interfaces, and where its default routes go.

    gateways: (interface, gateway), one for each IP version. names: whether it gets a name service.
    """

    interfaces: tuple[InterfacePlan, ...] = ()
    gateways: tuple[tuple[str, Address], ...] = ()
    names: bool = False

    def describe(self) -> str:
        """Return a line for each interface and default route."""
        lines = [interface.describe() for interface in self.interfaces]
        return "\n".join(lines + [f"default via {gateway} by {name}" for name, gateway in self.gateways])
