"""Which network drivers there are. A new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Callable

from sampan.engine.networks.drivers.bridge import BridgeDriver
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.drivers.plain import HostDriver, NullDriver
from sampan.engine.networks.drivers.vlan import IpvlanDriver, MacvlanDriver

DRIVERS: dict[str, Callable[[], NetworkDriver]] = {
    "host": HostDriver,
    "null": NullDriver,
    "bridge": BridgeDriver,
    "macvlan": MacvlanDriver,
    "ipvlan": IpvlanDriver,
}
"""By the name that Docker's API has for it."""


def drivers() -> dict[str, NetworkDriver]:
    """Return the drivers of one engine."""
    return {name: make() for name, make in DRIVERS.items()}
