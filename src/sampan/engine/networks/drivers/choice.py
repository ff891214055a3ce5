"""Which network drivers there are. A new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sampan.engine.networks.drivers.bridge import BridgeDriver
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.drivers.overlay import OverlayDriver
from sampan.engine.networks.drivers.plain import HostDriver, NullDriver
from sampan.engine.networks.drivers.remote import KIND, RemoteDriver
from sampan.engine.networks.drivers.vlan import IpvlanDriver, MacvlanDriver
from sampan.engine.networks.peers import PeerSource
from sampan.engine.plugins.client import Plugin
from sampan.engine.plugins.plugins import Plugins

DRIVERS: dict[str, Callable[[PeerSource | None], NetworkDriver]] = {
    "host": lambda _: HostDriver(),
    "null": lambda _: NullDriver(),
    "bridge": lambda _: BridgeDriver(),
    "macvlan": lambda _: MacvlanDriver(),
    "ipvlan": lambda _: IpvlanDriver(),
    "overlay": OverlayDriver,
}
"""By the name that Docker's API has for it."""


def drivers(source: PeerSource | None = None) -> dict[str, NetworkDriver]:
    """Return the drivers of one engine. source: who tells of the endpoints that other hosts have."""
    return {name: make(source) for name, make in DRIVERS.items()}


async def existing(plugins: Plugins, name: str) -> NetworkDriver:
    """Return the driver that a plugin is, which is there now. Raises: NotFound, Unavailable, Internal."""
    driver = RemoteDriver(await plugins.existing(name, KIND))
    await driver.begin()
    return driver


def known(plugin: Plugin, networks: Iterable[str]) -> NetworkDriver:
    """Return the driver of networks (ids) that a plugin has made, whether it is there now or not."""
    return RemoteDriver(plugin, networks)
