"""Which ports of a sandbox are published, and to which of its endpoints: those that have the default routes, each for
its IP version.

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
from sampan.engine.networks.ports import EVERY_ADDRESS, EVERYWHERE_ON_THE_HOST, Grant, freedom, ip_version
from sampan.engine.networks.records import BindingRecord, EndpointRecord, PublishedPort, SandboxRecord
from sampan.errors import Internal, SampanError


class PortPublisher:
    """The published ports of one engine's sandboxes. config: where and how they are when their network does not say."""

    def __init__(self, allocator: Allocator, fabric: Fabric, config: EngineConfig) -> None:
        self._allocator = allocator
        self._fabric = fabric
        self._mapper = PortMapper(config.port_mapper)
        self._direct_routing = config.allow_direct_routing

    def grant(self, record: SandboxRecord, kept: Mapping[int, list[Grant]] | None = None) -> list[Grant]:
        """Reserve the host ports of a sandbox; nothing is in the kernel's rules yet.

        kept: what is granted already, by the place in the record's ports.
        Raises: Internal in Docker's words when one cannot be had; then none is taken.
        """
        leads = self._leads(record)
        if leads is None or not record.ports:
            return []
        by4, by6 = leads
        granted: dict[int, list[Grant]] = {}
        kept = kept or {}
        default_ip = self._allocator.publication(by4).host_ip or EVERY_ADDRESS
        # the least free to choose first: what could be had anywhere must not take what another needs
        order = sorted(kept.keys() ^ range(len(record.ports)), key=lambda n: freedom(record.ports[n]))
        try:
            for n in order:
                granted[n] = self._fabric.ports.grant(
                    record.ports[n],
                    by4.address4,
                    by6.address6,
                    default_ip=default_ip,
                    reach=self._reach(by4, by6),
                    proxied=self._proxied(by4, by6),
                )
        except SampanError as error:
            for grant in itertools.chain.from_iterable(granted.values()):
                self._fabric.ports.release(grant)
            what = f"driver failed programming external connectivity on endpoint {record.name} ({by4.id})"
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
        leads = self._leads(record)
        reach = self._reach(*leads) if leads is not None else EVERYWHERE_ON_THE_HOST
        proxied = self._proxied(*leads) if leads is not None else frozenset()
        return self._fabric.adopt(
            Published(
                proto=b.proto,
                host_ip=b.host_ip,
                host_port=b.host_port,
                address=b.address,
                port=b.port,
                direct=not b.host_port or reach[ip_version(b.address)] is not Reach.HOST,
                proxied=ip_version(b.address) in proxied,
            )
            for b in record.bindings
        )

    def fits(self, record: SandboxRecord, granted: Iterable[Grant]) -> bool:
        """Return whether granted ports lead to the endpoints that they should lead to."""
        leads = self._leads(record)
        addresses = (leads[0].address4, leads[1].address6) if leads is not None else ()
        return all(grant.published.address in addresses for grant in granted)

    def shows(self, record: SandboxRecord) -> bool:
        """Return whether the ports of a sandbox are shown: not on networks that never publish any."""
        return not record.endpoints or any(self._allocator.publishes(e) for e in record.endpoints)

    def _reach(self, by4: EndpointRecord, by6: EndpointRecord) -> dict[int, Reach]:
        found = {version: self._allocator.reach(endpoint, version) for version, endpoint in ((4, by4), (6, by6))}
        open_ = {Reach.HOST: Reach.BOTH} if self._direct_routing else {}
        return {version: open_.get(reach, reach) for version, reach in found.items()}

    def _proxied(self, by4: EndpointRecord, by6: EndpointRecord) -> frozenset[int]:
        """Return the IP versions of those addresses to which a process carries what is published."""
        mapper = {version: self._allocator.publication(endpoint).mapper for version, endpoint in ((4, by4), (6, by6))}
        return frozenset(version for version, own in mapper.items() if (own or self._mapper) is PortMapper.PROXY)

    def _leads(self, record: SandboxRecord) -> tuple[EndpointRecord, EndpointRecord] | None:
        """Return the endpoints whose IPv4 and IPv6 addresses ports lead to; None: to none."""
        by4, by6 = endpoints.gateway_endpoints(e for e in record.endpoints if self._allocator.publishes(e))
        one, other = by4 or by6, by6 or by4
        return (one, other) if one is not None and other is not None else None


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
