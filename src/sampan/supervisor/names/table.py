"""What the name service knows: for each sandbox its networks and names, as sampand writes them, and who answers to a
name.

Each sandbox is one file, `<exec_root>/names/<id>.json`, replaced in one step. The files are the truth: they outlive
both sampand and the name service. Pure but for `load`.

Source: Docker Engine 28.5, what its resolver answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.supervisor.kept import files
from sampan.supervisor.kept.files import Damaged, file_name, items, number, text, texts

HOST_NAMES = frozenset({b"host.docker.internal", b"gateway.docker.internal"})


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkNames:
    """One endpoint: the network, what the sandbox answers to there, its addresses (empty: none of that version).

    links: another name for a container on this network, for this sandbox alone: alias → its name.
    """

    id: str
    name: str
    names: tuple[str, ...]
    ipv4: str = ""
    ipv6: str = ""
    links: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxNames:
    """One sandbox. port: where its name service listens, on 127.0.0.11; 0: nowhere, these are other hosts' endpoints.

    pid: its first process, 0 before there is one.
    namespace: the inode number of its network namespace; boot: the kernel's boot id. By both a process of another
    sandbox that has got the pid is told from the one that is meant.
    networks: in the order in which they are asked. servers: resolvers to forward to, asked from inside the sandbox;
    without any, the host's own are asked, from the host.
    forwards: whether to forward at all. host: the host's addresses as seen from the sandbox.
    """

    id: str
    port: int
    namespace: int
    boot: str
    pid: int = 0
    networks: tuple[NetworkNames, ...] = ()
    servers: tuple[str, ...] = ()
    forwards: bool = True
    host: tuple[str, ...] = ()


def encode(sandbox: SandboxNames) -> bytes:
    """Return the text of a sandbox's file."""
    return json.dumps(sandbox, default=_fields).encode()


def _fields(value: NetworkNames | SandboxNames) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def decode(raw: bytes) -> SandboxNames:
    """Read a sandbox's file. Raises: Damaged."""
    try:
        value = json.loads(raw)
        networks = tuple(_network(item) for item in items(value["networks"]))
        return SandboxNames(
            id=text(value["id"]),
            port=number(value["port"], 0xFFFF),
            namespace=number(value["namespace"], 1 << 64),
            boot=text(value["boot"]),
            pid=number(value["pid"], 1 << 22),
            networks=networks,
            servers=texts(value["servers"]),
            forwards=bool(value["forwards"]),
            host=texts(value["host"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(str(error)) from error


def _network(value: Any) -> NetworkNames:
    links = {text(alias): text(name) for alias, name in value["links"].items()}
    return NetworkNames(
        id=text(value["id"]),
        name=text(value["name"]),
        names=texts(value["names"]),
        ipv4=text(value["ipv4"]),
        ipv6=text(value["ipv6"]),
        links=links,
    )


def load(directory: str, id: str) -> SandboxNames:
    """Read one sandbox by its name. Raises: Damaged; OSError."""
    fd = os.open(f"{directory}/{file_name(id)}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read(fd, id)
    finally:
        os.close(fd)


def read(fd: int, id: str) -> SandboxNames:
    """Read one sandbox from its open file. Raises: Damaged; OSError."""
    sandbox = decode(files.read(fd))
    if sandbox.id != id:
        raise Damaged(f"it is of {sandbox.id}")
    return sandbox


class NameTable:
    """All sandboxes, and by network who has which name and address. Names are bytes in small letters."""

    def __init__(self) -> None:
        self.sandboxes: dict[str, SandboxNames] = {}
        self._by_name: dict[tuple[str, bytes], list[NetworkNames]] = {}
        self._by_address: dict[tuple[str, str], NetworkNames] = {}

    def put(self, sandbox: SandboxNames) -> None:
        """Take a sandbox in, in the place of what was known of it."""
        self.drop(sandbox.id)
        self.sandboxes[sandbox.id] = sandbox
        for endpoint in sandbox.networks:
            for name in _own(endpoint):
                self._by_name.setdefault((endpoint.id, name), []).append(endpoint)
            for address in _addresses(endpoint):
                self._by_address[endpoint.id, address] = endpoint

    def drop(self, id: str) -> None:
        """Forget a sandbox; one that is not known is fine."""
        old = self.sandboxes.pop(id, None)
        for endpoint in old.networks if old is not None else ():
            for name in _own(endpoint):
                having = self._by_name[endpoint.id, name]
                having.remove(endpoint)
                if not having:
                    del self._by_name[endpoint.id, name]
            for address in _addresses(endpoint):
                if self._by_address.get((endpoint.id, address)) is endpoint:
                    del self._by_address[endpoint.id, address]

    def addresses(self, sandbox: SandboxNames, name: bytes) -> list[str] | None:
        """Return the addresses of both versions that a name has for a sandbox; None when nobody has it.

        name: without its last dot. The sandbox's networks are asked in order, and the first that knows it answers.
        """
        wanted = name.lower()
        for network in sandbox.networks:
            found = self._on(network, wanted)
            if found:
                return [address for endpoint in found for address in _addresses(endpoint)]
        if wanted in HOST_NAMES and sandbox.host:
            return list(sandbox.host)
        return None

    def _on(self, network: NetworkNames, wanted: bytes) -> list[NetworkNames]:
        suffix = b"." + network.name.encode().lower()
        for name in (wanted, wanted.removesuffix(suffix)) if wanted.endswith(suffix) else (wanted,):
            for alias, target in network.links.items():
                if alias.encode().lower() == name:
                    name = target.encode().lower()
                    break
            found = self._by_name.get((network.id, name))
            if found:
                return found
        return []

    def name_of(self, sandbox: SandboxNames, address: str) -> str | None:
        """Return `name.network` of who has an address on one of the sandbox's networks; None when nobody has."""
        for network in sandbox.networks:
            found = self._by_address.get((network.id, address))
            if found is not None and found.names:
                return f"{found.names[0]}.{network.name}"
        return None


def _own(endpoint: NetworkNames) -> Iterable[bytes]:
    return {name.encode().lower() for name in endpoint.names}


def _addresses(endpoint: NetworkNames) -> list[str]:
    return [address for address in (endpoint.ipv4, endpoint.ipv6) if address]
