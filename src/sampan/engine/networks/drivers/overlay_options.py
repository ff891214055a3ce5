"""The options of overlay networks: their names, what is allowed, and what they say. Pure.

Source: docs.docker.com/engine/network/drivers/overlay (options).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sampan.engine.networks.drivers.driver import MTU
from sampan.engine.networks.records import NetworkRecord
from sampan.errors import InvalidArgument, NotImplemented_
from sampan.linux.vxlan import LAST_VNI, OVERHEAD_BYTES
from sampan.spec import go_values

VNIS = "com.docker.network.driver.overlay.vxlanid_list"
ENCRYPTED = "encrypted"
FIRST_VNI = 4097  # that is chosen: Docker's first, after the one of its ingress network
DEFAULT_MTU, LEAST_MTU, MOST_MTU = 1500, 68 + OVERHEAD_BYTES, 65535


def vni(text: str) -> int:
    """Read the option `VNIS`. Raises: InvalidArgument."""
    numbers = [_number(VNIS, part) for part in text.split(",")]
    if len(numbers) > 1:
        raise InvalidArgument(f"{VNIS} {text}: a network has one VXLAN id, however many subnets it has")
    if not 0 < numbers[0] <= LAST_VNI:
        raise InvalidArgument(f"invalid vxlan id value {text} passed: it must be between 1 and {LAST_VNI}")
    return numbers[0]


def _number(key: str, text: str) -> int:
    try:
        return go_values.integer(text, base=10)
    except ValueError as error:
        raise InvalidArgument(
            f"failed to parse {key} value: {text} ({str(error).replace('ParseInt', 'Atoi')})"
        ) from error


def validate(network: NetworkRecord, others: Iterable[NetworkRecord]) -> None:
    """Check every option that the overlay driver reads. Raises: InvalidArgument, NotImplemented_ naming it."""
    options = network.options
    if ENCRYPTED in options:
        raise NotImplemented_(
            "option encrypted: an encrypted overlay network needs a swarm, which is not available yet"
        )
    if MTU in options and not LEAST_MTU <= (mtu := _number(MTU, options[MTU])) <= MOST_MTU:
        raise InvalidArgument(f"invalid MTU number: {mtu}")
    if VNIS in options and vni(options[VNIS]) in taken(others):
        raise InvalidArgument(f"vxlan id {options[VNIS]} is in use by another network")


def taken(networks: Iterable[NetworkRecord]) -> frozenset[int]:
    """Return the VXLAN ids that networks have."""
    return frozenset(vni(n.options[VNIS]) for n in networks if VNIS in n.options)


@dataclass(frozen=True, slots=True)
class Overlay:
    """A network as the overlay driver sees it: what its record and options say."""

    network: NetworkRecord

    @property
    def vni(self) -> int:
        """The VXLAN id, the same on every host."""
        return vni(self.network.options[VNIS])

    @property
    def bridge(self) -> str:
        """The name of the bridge that its containers are on."""
        return f"ov-{self.vni}"

    @property
    def tunnel(self) -> str:
        """The name of the VXLAN link, a port of the bridge."""
        return f"vx-{self.vni}"

    @property
    def mtu(self) -> int:
        """What a container's packets may have: as Docker's, the option is what the hosts' may have."""
        return int(self.network.options.get(MTU, DEFAULT_MTU)) - OVERHEAD_BYTES

    @property
    def mac(self) -> str:
        """The bridge's address, fixed: else it would be its lowest port's and change with every container."""
        return "02:42:" + ":".join(self.network.id[n : n + 2] for n in range(0, 8, 2))
