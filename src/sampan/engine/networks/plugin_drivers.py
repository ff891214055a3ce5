"""Drivers that are other programs, as the networks service uses them: found when first asked for, kept by name.

An engine starts without a word to them: what they made for it is theirs to keep, and they may come later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from sampan.engine.background import Background
from sampan.engine.networks import creation, plugin_ipam
from sampan.engine.networks.catalogue import Catalogue
from sampan.engine.networks.drivers import choice
from sampan.engine.networks.drivers.driver import NetworkDriver
from sampan.engine.networks.ipam import DEFAULT_IPAM, NULL_IPAM, Subnet
from sampan.engine.networks.leases import Leases
from sampan.engine.networks.plugin_ipam import PluginPool
from sampan.engine.networks.records import NetworkRecord, SubnetRecord
from sampan.engine.plugins.plugins import Plugins
from sampan.errors import NotFound
from sampan.spec.engine_api.network import NetworkCreateRequest


class PluginDrivers:
    """The plugins among the drivers of one engine. Without `plugins` there are none."""

    def __init__(self, catalogue: Catalogue, plugins: Plugins | None) -> None:
        self._catalogue = catalogue
        self._plugins = plugins
        self.own = frozenset(catalogue.drivers)
        self._background = Background()

    async def close(self) -> None:
        """Finish telling plugins what they have back."""
        await self._background.close()

    def recall(self) -> None:
        """Make the drivers of recorded networks that are not ours. Nothing is asked."""
        networks = self._catalogue.all()
        if self._plugins is None:
            return
        for name in {n.driver for n in networks} - self.own:
            made = [n.id for n in networks if n.driver == name]
            self._catalogue.drivers[name] = choice.known(self._plugins.known(name), made)

    async def driver(self, name: str) -> NetworkDriver:
        """Return the driver for a new network. Raises: NotFound in Docker's words; Unavailable, Internal."""
        found = self._catalogue.drivers.get(name)
        if found is None:
            if self._plugins is None:
                raise NotFound(f'plugin "{name}" not found')
            made = await choice.existing(self._plugins, name)
            found = self._catalogue.drivers.setdefault(name, made)
        return found

    async def subnets(
        self,
        request: NetworkCreateRequest,
        driver: NetworkDriver,
        host_subnets: Callable[[], Awaitable[list[Subnet]]],
        undo: contextlib.AsyncExitStack,
    ) -> list[SubnetRecord] | None:
        """Return the subnets that an IPAM plugin gives a new network; None: it is no plugin that gives them.

        Raises: NotFound in Docker's words; Unavailable, Internal, Forbidden.
        """
        name = request.ipam.driver if request.ipam else ""
        if request.config_only or name in ("", DEFAULT_IPAM, NULL_IPAM):
            return None
        if self._plugins is None:
            raise NotFound(f'plugin "{name}" not found')
        plugin = await self._plugins.existing(name, plugin_ipam.KIND)
        options = (request.ipam.options if request.ipam else None) or {}
        taken = [*await host_subnets(), *self._catalogue.subnets()]
        asked = creation.asked_subnets(request, driver)
        given = await plugin_ipam.request_pools(plugin, asked, options, taken)
        undo.push_async_callback(self._release, name, given)
        return given

    async def _release(self, name: str, given: list[SubnetRecord]) -> None:
        if self._plugins is not None:
            await plugin_ipam.release_pools(self._plugins.known(name), given)

    def pools(self, network: NetworkRecord, *, known: bool) -> list[PluginPool]:
        """Return the subnets of a network whose addresses are a plugin's. known: an earlier daemon made it."""
        if network.config_only or network.ipam_driver in (DEFAULT_IPAM, NULL_IPAM) or self._plugins is None:
            return []
        plugin = self._plugins.known(network.ipam_driver)
        return [PluginPool(plugin, network, s, self._background, known=known) for s in network.subnets]

    async def close_pools(self, network: NetworkRecord, leases: Leases) -> None:
        """Give the subnets of a network that goes back to the plugin."""
        for version in (4, 6):
            for pool in self._catalogue.plugin_pools_of(network.id, version):
                await leases.settle()
                await pool.close()
