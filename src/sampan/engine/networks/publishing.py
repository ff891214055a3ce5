"""Which ports of a sandbox are published, and to which of its endpoints: the one that has the default route.

Not here: what a port is on the host (ports.py), how it gets into the kernel (fabric.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from sampan.engine.config import EngineConfig
from sampan.engine.networks import endpoints
from sampan.engine.networks.allocator import Allocator
from sampan.engine.networks.fabric import Fabric
from sampan.engine.networks.firewall import PortMapper, Published, Reach
from sampan.engine.networks.ports import EVERYWHERE_ON_THE_HOST, Grant, freedom
from sampan.engine.networks.records import BindingRecord, EndpointRecord, PublishedPort, SandboxRecord
from sampan.errors import Internal, SampanError


class PortPublisher:
    """The published ports of one engine's sandboxes. config: where and how they are when their network does not say."""

    def __init__(self, allocator: Allocator, fabric: Fabric, config: EngineConfig) -> None:
        self._allocator = allocator
        self._fabric = fabric
        self._default_ip = config.ip
        self._mapper = PortMapper(config.port_mapper)
        self._direct_routing = config.allow_direct_routing

    def grant(self, record: SandboxRecord, kept: Mapping[int, list[Grant]] | None = None) -> list[Grant]:
        """Reserve the host ports of a sandbox; nothing is in the kernel's rules yet.

        kept: what is granted already, by the place in the record's ports.
        Raises: Internal in Docker's words when one cannot be had; then none is taken.
        """
        endpoint = self._endpoint(record)
        if endpoint is None or not record.ports:
            return []
        granted: dict[int, list[Grant]] = {}
        kept = kept or {}
        default_ip = self._allocator.publication(endpoint).host_ip or self._default_ip
        # the least free to choose first: what could be had anywhere must not take what another needs
        order = sorted(kept.keys() ^ range(len(record.ports)), key=lambda n: freedom(record.ports[n]))
        try:
            for n in order:
                granted[n] = self._fabric.ports.grant(
                    record.ports[n],
                    endpoint.address4,
                    endpoint.address6,
                    default_ip=default_ip,
                    reach=self._reach(endpoint),
                    proxied=self._proxied(endpoint),
                )
        except SampanError as error:
            for grant in itertools.chain.from_iterable(granted.values()):
                self._fabric.ports.release(grant)
            what = f"driver failed programming external connectivity on endpoint {record.name} ({endpoint.id})"
            raise Internal(f"{what}: {error.message}") from error
        granted |= kept
        return [grant for n in sorted(granted) for grant in granted[n]]

    def kept(
        self, record: SandboxRecord, ports: Sequence[PublishedPort], granted: Sequence[Grant]
    ) -> dict[int, list[Grant]]:
        """Return which granted ports of a sandbox serve other wishes as well, by the wish's place in `ports`.

        A wish that is new gets none.
        """
        left, before = list(granted), list(record.ports)
        found: dict[int, list[Grant]] = {}
        for n in sorted(range(len(ports)), key=lambda n: freedom(ports[n])):
            asked = ports[n]
            if asked not in before:
                continue
            before.remove(asked)
            serving = [grant for grant in left if _serves(grant.published, asked)]
            # on several addresses of the host, but on one port
            mine = [g for g in serving if g.published.host_port in (0, serving[-1].published.host_port)]
            if mine:
                found[n] = mine
                left = [grant for grant in left if grant not in mine]
        return found

    def adopt(self, record: SandboxRecord) -> list[Grant]:
        """Take the ports that a sandbox of an earlier daemon has; the next `Fabric.apply` puts them in."""
        endpoint = self._endpoint(record)
        reach = self._reach(endpoint) if endpoint is not None else EVERYWHERE_ON_THE_HOST
        proxied = endpoint is not None and self._proxied(endpoint)
        return self._fabric.adopt(
            Published(
                proto=b.proto,
                host_ip=b.host_ip,
                host_port=b.host_port,
                address=b.address,
                port=b.port,
                direct=not b.host_port or reach[6 if ":" in b.address else 4] is not Reach.HOST,
                proxied=proxied,
            )
            for b in record.bindings
        )

    def fits(self, record: SandboxRecord, granted: Iterable[Grant]) -> bool:
        """Return whether granted ports lead to the endpoint that they should lead to."""
        endpoint = self._endpoint(record)
        addresses = (endpoint.address4, endpoint.address6) if endpoint is not None else ()
        return all(grant.published.address in addresses for grant in granted)

    def shows(self, record: SandboxRecord) -> bool:
        """Return whether the ports of a sandbox are shown: not on networks that never publish any."""
        return not record.endpoints or any(self._allocator.publishes(e) for e in record.endpoints)

    def _reach(self, endpoint: EndpointRecord) -> dict[int, Reach]:
        found = {version: self._allocator.reach(endpoint, version) for version in (4, 6)}
        open_ = {Reach.HOST: Reach.BOTH} if self._direct_routing else {}
        return {version: open_.get(reach, reach) for version, reach in found.items()}

    def _proxied(self, endpoint: EndpointRecord) -> bool:
        return (self._allocator.publication(endpoint).mapper or self._mapper) is PortMapper.PROXY

    def _endpoint(self, record: SandboxRecord) -> EndpointRecord | None:
        able = [e for e in record.endpoints if self._allocator.publishes(e)]
        return endpoints.gateway_endpoint(able, 4) or endpoints.gateway_endpoint(able, 6)


def bindings(granted: Sequence[Grant]) -> list[BindingRecord]:
    """Return granted ports as they are kept."""
    return [
        BindingRecord(proto=p.proto, host_ip=p.host_ip, host_port=p.host_port, address=p.address, port=p.port)
        for p in (grant.published for grant in granted)
    ]


def _serves(granted: Published, asked: PublishedPort) -> bool:
    """Return whether a granted port is one that was asked for so."""
    if (granted.proto, granted.port) != (asked.proto, asked.port):
        return False
    if not granted.host_port:
        return True  # on no address of the host
    number = not asked.first or asked.first <= granted.host_port <= asked.last
    return number and (not asked.host_ip or granted.host_ip == asked.host_ip)
