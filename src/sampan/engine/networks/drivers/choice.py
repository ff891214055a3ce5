"""Which network drivers there are. A new one is a file beside this and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sampan.engine.networks.drivers.bridge import BridgeDriver
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.drivers.plain import HostDriver, NullDriver
from sampan.engine.networks.drivers.remote import KIND, RemoteDriver
from sampan.engine.networks.drivers.vlan import IpvlanDriver, MacvlanDriver
from sampan.engine.plugins.client import Plugin
from sampan.engine.plugins.plugins import Plugins

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


async def existing(plugins: Plugins, name: str) -> NetworkDriver:
    """Return the driver that a plugin is, which is there now. Raises: NotFound, Unavailable, Internal."""
    driver = RemoteDriver(await plugins.existing(name, KIND))
    await driver.begin()
    return driver


def known(plugin: Plugin, networks: Iterable[str]) -> NetworkDriver:
    """Return the driver of networks (ids) that a plugin has made, whether it is there now or not."""
    return RemoteDriver(plugin, networks)
