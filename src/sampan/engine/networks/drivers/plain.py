"""The drivers `host` (the host's own network) and `null` (a loopback device, nothing else). There is nothing to make.

Source: Engine API 1.51, NetworkMode; moby libnetwork/drivers/host and null.
"""

from __future__ import annotations

from sampan.engine.networks.drivers.driver import ChooseSubnet, NetworkCapabilities, NetworkDriver
from sampan.engine.networks.host import HostNetwork
from sampan.engine.networks.records import PREDEFINED, NetworkRecord, new_id
from sampan.spec import times


class NullDriver(NetworkDriver):
    """Containers on this network have nothing but their loopback device."""

    capabilities = NetworkCapabilities(single=True, addresses=False, ipv6=False)

    def describe(self, network: NetworkRecord) -> str:
        """Return one line for people."""
        return "no network"

    async def predefined(
        self, host: HostNetwork, name: str, old: NetworkRecord | None, choose: ChooseSubnet
    ) -> NetworkRecord | None:
        """Return the network, with the id it had."""
        return old or NetworkRecord(id=new_id(), name=name, driver=PREDEFINED[name], created=times.now())


class HostDriver(NullDriver):
    """Containers on this network are in the host's network namespace."""

    capabilities = NetworkCapabilities(single=True, addresses=False, ipv6=False, namespace=False)

    def describe(self, network: NetworkRecord) -> str:
        """Return one line for people."""
        return "the host's network"
