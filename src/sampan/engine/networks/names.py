"""Who answers to which name: what the name service of the sandboxes is told.

A sandbox has a name service when it is on a network that a user has made. What it knows stands in a file for each
sandbox (`sampan.supervisor.names.table`); here the file is written when a sandbox comes, changes or goes, and the name
service is told. When that cannot be reached nobody waits for it: it reads the files when it comes back.

Source: Docker Engine 28.5, what its containers resolve.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

from sampan.engine.networks.drivers.driver import RemoteEndpoint
from sampan.engine.networks.records import PREDEFINED, EndpointRecord, NetworkRecord, SandboxRecord
from sampan.errors import SampanError
from sampan.supervisor import layout
from sampan.supervisor.kept import files
from sampan.supervisor.kept.processes import NAMES
from sampan.supervisor.kept.teller import Teller
from sampan.supervisor.names import table
from sampan.supervisor.names.sockets import NameSockets
from sampan.supervisor.names.table import NetworkNames, SandboxNames

log = logging.getLogger(__name__)

_ANSWER_S = 2.0

Find = Callable[[str], NetworkRecord | None]
LeadsToHost = Callable[[NetworkRecord], bool]


def wanted(endpoints: Iterable[EndpointRecord]) -> bool:
    """Return whether a sandbox with these endpoints has a name service."""
    return any(e.network not in PREDEFINED and not e.hidden for e in endpoints)


def describe(
    record: SandboxRecord, find: Find, host_addresses: Iterable[str], leads_to_host: LeadsToHost
) -> SandboxNames:
    """Return what the name service shall know of a sandbox. host_addresses: how the host is reached instead of by its
    gateways. leads_to_host: whether the gateways of a network are the host's.
    """
    mine = [e for e in _in_order(record.endpoints) if e.network not in PREDEFINED and not e.hidden]
    networks = [(e, find(e.network_id)) for e in record.endpoints]
    on_host = {e.network_id for e, network in networks if network is not None and leads_to_host(network)}
    ordered = [e for e in _in_order(record.endpoints) if e.network_id in on_host]
    gateways = [address for e in ordered for address in (e.gateway4, e.gateway6) if address]
    return SandboxNames(
        id=record.sandbox_id,
        port=record.names_port,
        namespace=record.namespace,
        boot=layout.boot_id(),
        pid=record.pid,
        networks=tuple(_names(e) for e in mine),
        servers=tuple(record.resolvers),
        forwards=any(network is not None and not network.internal for _, network in networks),
        host=tuple(host_addresses) or tuple(gateways[:2]),
    )


def _in_order(endpoints: Iterable[EndpointRecord]) -> list[EndpointRecord]:
    """The order in which networks are asked: as default routes are chosen, those with both IP versions first."""
    return sorted(endpoints, key=lambda e: (-e.settings.gw_priority, not (e.gateway4 and e.gateway6), e.network))


def _names(endpoint: EndpointRecord) -> NetworkNames:
    links = [link.partition(":") for link in endpoint.settings.links or ()]
    return NetworkNames(
        id=endpoint.network_id,
        name=endpoint.network,
        names=tuple(endpoint.dns_names or ()),
        ipv4=endpoint.address4,
        ipv6=endpoint.address6,
        links={alias or name: name for name, _, alias in links},
    )


def elsewhere(network_id: str) -> str:
    """Return under which id the name service knows the endpoints that other hosts have of a network."""
    return f"elsewhere-{network_id}"


class Names:
    """The name service of one exec root, as the engine tells it. Start it with `supply`; without, nothing is told.

    find: a network by its id. host_addresses, leads_to_host: see `describe`.
    """

    def __init__(self, exec_root: str, find: Find, host_addresses: Iterable[str], leads_to_host: LeadsToHost) -> None:
        self._leads_to_host = leads_to_host
        self._directory = f"{exec_root}/{NAMES.directory}"
        self._find = find
        self._host_addresses = tuple(host_addresses)
        self._service = Teller(exec_root, NAMES, _ANSWER_S)
        self.supply = self._service.supply
        self.close = self._service.close

    def put(self, record: SandboxRecord, sockets: NameSockets | None = None) -> Coroutine[None, None, None]:
        """Write what a sandbox is now, at once, and tell it, with its sockets when they are new: they are closed here.

        What is returned must be awaited: it ends when names are answered so, or when the name service does not answer,
        which is logged.
        """
        if record.names_port:
            self._write(describe(record, self._find, self._host_addresses, self._leads_to_host))
        return self._put(record, sockets)

    async def _put(self, record: SandboxRecord, sockets: NameSockets | None) -> None:
        try:
            if record.names_port:
                await self._tell_of(record.sandbox_id, record, sockets)
        except (OSError, SampanError) as error:
            log.warning("container %s: its name service: %s", record.id[:12], error)
        finally:
            if sockets is not None:
                sockets.close()

    async def drop(self, record: SandboxRecord) -> None:
        """Tell that a sandbox is gone; then nothing of the name service's is in its namespace."""
        if not record.names_port:
            return
        with contextlib.suppress(OSError):
            os.unlink(f"{self._directory}/{files.file_name(record.sandbox_id)}")
        try:
            await self._service.tell({"drop": record.sandbox_id})
        except (OSError, SampanError) as error:
            log.warning("container %s: its name service: %s", record.id[:12], error)

    async def announce(self, network_id: str, remote: Sequence[RemoteEndpoint]) -> None:
        """Let names lead to the endpoints that other hosts have of a network, to these and to no others.

        The name service is not started for it: it reads the file when it comes.
        """
        id, network = elsewhere(network_id), self._find(network_id)
        name = network.name if network is not None else ""
        there = [
            NetworkNames(id=network_id, name=name, names=e.names, ipv4=e.ipv4, ipv6=e.ipv6, links={}) for e in remote
        ]
        if there:
            self._write(SandboxNames(id=id, port=0, namespace=0, boot=layout.boot_id(), networks=tuple(there)))
        else:
            try:
                os.unlink(f"{self._directory}/{files.file_name(id)}")
            except FileNotFoundError:
                return
        try:
            await self._tell_of(id, start=False)
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # there is none
        except (OSError, SampanError) as error:
            log.warning("network %s: the name service: %s", network_id[:12], error)

    def sweep(self, known: Iterable[str]) -> None:
        """Delete the files that are of no sandbox known (by its id): left by an engine that was killed."""
        keep = set(known)
        with contextlib.suppress(FileNotFoundError):
            for id in list(files.ids(self._directory)):
                if id not in keep:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self._directory}/{files.file_name(id)}")

    def _write(self, named: SandboxNames) -> None:
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            layout.write(f"{self._directory}/{files.file_name(named.id)}", table.encode(named))
        except OSError as error:  # a full exec root: names stay as they were
            log.error("names of %s cannot be written: %s", named.id[:12], error)

    async def _tell_of(
        self, id: str, record: SandboxRecord | None = None, sockets: NameSockets | None = None, *, start: bool = True
    ) -> None:
        """Tell what a sandbox is now, or that it has gone. Raises: OSError, SampanError when there is no answer."""
        try:
            with self._rights(id, record, sockets) as fds:
                await self._service.tell({"put": id, "fds": list(fds)}, list(fds.values()), start=start)
                return
        except (FileNotFoundError, ProcessLookupError):
            pass
        await self._service.tell({"drop": id}, start=start)

    @contextlib.contextmanager
    def _rights(self, id: str, record: SandboxRecord | None, sockets: NameSockets | None) -> Iterator[dict[str, int]]:
        """Open what the name service needs of a sandbox, since it opens nothing itself; by their names in the request.

        Raises: FileNotFoundError, ProcessLookupError when it has gone meanwhile; OSError.
        """
        with contextlib.ExitStack() as stack:

            def own(fd: int) -> int:
                stack.callback(os.close, fd)
                return fd

            path = f"{self._directory}/{files.file_name(id)}"
            fds = {"file": own(os.open(path, os.O_RDONLY | os.O_CLOEXEC))}
            if record is not None and record.pid:
                fds["process"] = own(os.pidfd_open(record.pid))
                fds["namespace"] = own(os.open(f"/proc/{record.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
                if os.fstat(fds["namespace"]).st_ino != record.namespace:
                    raise ProcessLookupError(errno.ESRCH, "another process has its number")
            if sockets is not None:
                fds |= {"udp": sockets.udp.fileno(), "tcp": sockets.tcp.fileno()}
            yield fds
