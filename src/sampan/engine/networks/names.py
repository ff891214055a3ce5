"""Who answers to which name: what the name service of the sandboxes is told.

A sandbox has a name service when it is on a network that a user has made. What it knows stands in a file for each
sandbox (`sampan.supervisor.names.table`); here the file is written when a sandbox comes, changes or goes, and the name
service is told. When that cannot be reached nobody waits for it: it reads the files when it comes back.

Source: Docker Engine 28.5, what its containers resolve.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence

from sampan.engine.networks import endpoints
from sampan.engine.networks.drivers.driver import RemoteEndpoint
from sampan.engine.networks.records import PREDEFINED, EndpointRecord, NetworkRecord, SandboxRecord
from sampan.errors import SampanError
from sampan.supervisor import layout
from sampan.supervisor.names import table
from sampan.supervisor.names.sockets import SOCKET, NameSockets
from sampan.supervisor.names.table import NetworkNames, SandboxNames

log = logging.getLogger(__name__)

_ANSWER_S = 2.0
_MESSAGE_BYTES = 4096

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
    mine = [e for e in endpoints.in_order(record.endpoints) if e.network not in PREDEFINED and not e.hidden]
    networks = [(e, find(e.network_id)) for e in record.endpoints]
    on_host = {e.network_id for e, network in networks if network is not None and leads_to_host(network)}
    gateways = [
        str(gateway) for _, gateway in endpoints.gateways(e for e in record.endpoints if e.network_id in on_host)
    ]
    return SandboxNames(
        id=record.sandbox_id,
        port=record.names_port,
        namespace=record.namespace,
        boot=layout.boot_id(),
        pid=record.pid,
        networks=tuple(_names(e) for e in mine),
        servers=tuple(record.resolvers),
        forwards=any(network is not None and not network.internal for _, network in networks),
        host=tuple(host_addresses) or tuple(gateways),
    )


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
        self._directory = f"{exec_root}/{table.DIRECTORY}"
        self._find = find
        self._host_addresses = tuple(host_addresses)
        self._start: Callable[[], Awaitable[None]] | None = None
        self._peer: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._connecting = asyncio.Lock()

    def supply(self, start: Callable[[], Awaitable[None]]) -> None:
        """Say how the name service is started; `start` returns when it answers."""
        self._start = start

    def close(self) -> None:
        """Close the connection; the name service goes on."""
        self._lost()

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
                await self._tell({"put": record.sandbox_id}, sockets)
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
            os.unlink(f"{self._directory}/{table.file_name(record.sandbox_id)}")
        try:
            await self._tell({"drop": record.sandbox_id})
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
                os.unlink(f"{self._directory}/{table.file_name(id)}")
            except FileNotFoundError:
                return
        try:
            await self._tell({"put": id}, start=False)
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # there is none
        except (OSError, SampanError) as error:
            log.warning("network %s: the name service: %s", network_id[:12], error)

    def sweep(self, known: Iterable[str]) -> None:
        """Delete the files that are of no sandbox known (by its id): left by an engine that was killed."""
        keep = set(known)
        with contextlib.suppress(FileNotFoundError):
            for id in list(table.ids(self._directory)):
                if id not in keep:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self._directory}/{table.file_name(id)}")

    def _write(self, named: SandboxNames) -> None:
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            layout.write(f"{self._directory}/{table.file_name(named.id)}", table.encode(named))
        except OSError as error:  # a full exec root: names stay as they were
            log.error("names of %s cannot be written: %s", named.id[:12], error)

    async def _tell(self, request: dict[str, str], sockets: NameSockets | None = None, *, start: bool = True) -> None:
        """Ask, and wait for the answer. Raises: OSError, SampanError when there is none."""
        peer = await self._connected(start=start)
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                rights = [sockets.udp.fileno(), sockets.tcp.fileno()] if sockets is not None else []
                socket.send_fds(peer, [json.dumps({**request, "n": number}).encode()], rights)
                await answer
        finally:
            self._waiting.pop(number, None)

    async def _connected(self, *, start: bool) -> socket.socket:
        async with self._connecting:
            if self._peer is None:
                peer = await self._connect(start=start)
                asyncio.get_running_loop().add_reader(peer, self._readable)
                self._peer = peer
            return self._peer

    async def _connect(self, *, start: bool) -> socket.socket:
        try:
            return layout.connect(self._directory, SOCKET, socket.SOCK_SEQPACKET)
        except (FileNotFoundError, ConnectionRefusedError):
            if self._start is None or not start:
                raise
        await self._start()
        return layout.connect(self._directory, SOCKET, socket.SOCK_SEQPACKET)

    def _readable(self) -> None:
        assert self._peer is not None
        try:
            message = self._peer.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._lost()
            return
        answer = self._waiting.get(json.loads(message)["n"])
        if answer is not None and not answer.done():
            answer.set_result(None)

    def _lost(self) -> None:
        peer, self._peer = self._peer, None
        if peer is not None:
            asyncio.get_running_loop().remove_reader(peer)
            peer.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the name service has ended"))
