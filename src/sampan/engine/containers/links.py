"""Links on the default bridge: what a container is told of others, its *sources*, by an alias for each.

    variables   of the source's ports and environment, for the first process and every exec
    /etc/hosts  the alias, host name and name of the source; rewritten when the source gets another address or name
    firewall    a way to the source's exposed ports where containers may not reach each other (icc=false)

A link is a name of the source, too: `/ldst/db` is the container that ldst knows as db. What is linked stands in the
container's record by the source's id; all else follows from the records and sandboxes of now.

Source: docs.docker.com, "Legacy container links"; answers of Docker Engine 28.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from msgspec.structs import replace

from sampan.engine.containers.records import Container, LinkedContainer
from sampan.engine.containers.table import ContainerTable
from sampan.engine.networks.catalogue import DEFAULT_NETWORK
from sampan.engine.networks.firewall import Way
from sampan.engine.networks.records import PREDEFINED, EndpointRecord
from sampan.engine.networks.service import Networks
from sampan.engine.store import Op
from sampan.engine.tasks import etcfiles
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec.engine_api.container import HostConfig
from sampan.spec.engine_api.network import EndpointSettings

_UNTOLD = ("HOME", "PATH")
_PROTOCOLS = ("tcp", "udp", "sctp")


# ── pure ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(entry: str) -> tuple[str, str]:
    """Split `container[:alias]`, or `/container:/of/alias` as an answer has it. Raises: Internal, as Docker does."""
    if not entry:
        raise Internal("empty string specified for links")
    name, colon, alias = entry.partition(":")
    if ":" in alias:
        raise Internal(f"bad format for links: {entry}")
    if not colon:
        return name, name
    return (name[1:], alias.rpartition("/")[2]) if name.startswith("/") else (name, alias)


def variables(name: str, address: str, environment: Iterable[str], exposed: Iterable[str]) -> list[str]:
    """Return what a container is told of a source. name: `/container/alias`. exposed: the source's ports, `80/tcp`."""
    prefix = name.rpartition("/")[2].upper().replace("-", "_")
    ports = sorted(_ports(exposed), key=lambda p: (p[1] != "tcp", p[1], p[0]))
    found = [f"{prefix}_PORT={proto}://{address}:{port}" for port, proto in ports[:1]]
    first = last = ports[0] if ports else (0, "")
    for n, (port, proto) in enumerate(ports):
        own = f"{prefix}_PORT_{port}_{proto.upper()}"
        found += [f"{own}={proto}://{address}:{port}", f"{own}_ADDR={address}", f"{own}_PORT={port}"]
        found.append(f"{own}_PROTO={proto}")
        if (port - 1, proto) == last:
            last = (port, proto)
            if n + 1 < len(ports):
                continue
        if first != last:
            found += _range(prefix, address, first, last)
        first = last = (port, proto)
    found.append(f"{prefix}_NAME={name}")
    told = (item.partition("=") for item in environment)
    return found + [f"{prefix}_ENV_{key}={value}" for key, equals, value in told if equals and key not in _UNTOLD]


def _range(prefix: str, address: str, first: tuple[int, str], last: tuple[int, str]) -> list[str]:
    """Return what is said of ports that follow each other, beside what is said of each."""
    proto = first[1]
    own = f"{prefix}_PORT_{first[0]}_{proto.upper()}"
    return [
        f"{own}_START={proto}://{address}:{first[0]}",
        f"{own}_PORT_START={first[0]}",
        f"{own}_END={proto}://{address}:{last[0]}",
        f"{own}_PORT_END={last[0]}",
    ]


def _ports(exposed: Iterable[str]) -> Iterator[tuple[int, str]]:
    for text in exposed:
        number, _, proto = text.partition("/")
        if number.isdecimal():
            yield int(number), proto or "tcp"


def shown(c: Container, sources: Callable[[str], Container | None]) -> list[str] | None:
    """Return `HostConfig.Links`: by the names that containers have now."""
    found = []
    for alias, link in c.links.items():
        source = sources(link.id)
        found.append(f"/{source.name if source is not None else link.name}:/{c.name}/{alias}")
    return sorted(found) or None


def planned(host: HostConfig, find: Callable[[str], Container | None]) -> dict[str, LinkedContainer]:
    """Return the links that a container is made with, by alias; the first of one alias stands.

    On a network that a user has made they are aliases of its endpoint, and none of these. find: a container by its id,
    name or prefix. Raises: Internal, InvalidArgument in Docker's words.
    """
    mode = host.network_mode
    if mode not in PREDEFINED and mode != "default":
        return {}
    made: dict[str, LinkedContainer] = {}
    for entry in host.links or []:
        ref, alias = parse(entry)
        source = _source(ref, find)
        if alias.strip("/"):
            made.setdefault(alias.strip("/"), LinkedContainer(id=source.id, name=source.name))
    return made


def _source(ref: str, find: Callable[[str], Container | None]) -> Container:
    """Return the container that a link leads to: whose network the named one has."""
    if not ref:
        raise InvalidArgument('could not get container for : invalid name or ID supplied: ""')
    source = find(ref)
    if source is None:
        raise InvalidArgument(f"could not get container for {ref}: No such container: {ref}")
    while source.host_config.network_mode.startswith("container:"):
        shared = source.host_config.network_mode.partition(":")[2]
        source = find(shared)
        if source is None:
            raise InvalidArgument(f"could not get container for {shared}: No such container: {shared}")
    if source.host_config.network_mode == "host":
        raise InvalidArgument(
            "conflicting options: host type networking can't be used with links."
            " This would result in undefined behavior"
        )
    return source


# ── of the containers there are ─────────────────────────────────────────────────────────────────────────────────────


class Links:
    """The links of all containers. directory: where a container's own files are, by its id."""

    def __init__(self, table: ContainerTable, networks: Networks, directory: Callable[[str], str]) -> None:
        self._table, self._networks, self._directory = table, networks, directory
        networks.let_through(self._ways)

    def check(self, c: Container) -> None:
        """Check that a container which is about to start can be told of its sources. Raises: Internal, as Docker."""
        if DEFAULT_NETWORK not in c.endpoints:
            return
        for alias, link in c.links.items():
            source = self._table.find(link.id)
            if source is None or not source.status.pid:
                name = source.name if source is not None else link.name
                raise Internal(f"Cannot link to a non running container: /{name} AS /{c.name}/{alias}")
            if self._endpoint(link.id) is None:
                raise Internal(f"container {link.id} not attached to default bridge network")

    def environment(self, c: Container) -> list[str]:
        """Return the variables of a container's links, of those sources that run on the default bridge."""
        if DEFAULT_NETWORK not in c.endpoints:
            return []
        return [
            text
            for alias, source, endpoint in self._linked(c)
            for text in variables(
                f"/{c.name}/{alias}", endpoint.address4, source.config.env or (), source.config.exposed_ports or ()
            )
        ]

    def hosts(self, c: Container) -> list[tuple[str, str]]:
        """Return (names, address) of a container's links, for its /etc/hosts."""
        if DEFAULT_NETWORK not in c.endpoints:
            return []
        return [
            (_names(alias, source), address)
            for alias, source, endpoint in self._linked(c)
            for address in (endpoint.address4, endpoint.address6)
            if address
        ]

    async def follow(self, id: str) -> None:
        """Tell those who are linked to a container, and itself of its sources, where they are and their names."""
        found = [self._table.find(each) for each in {id, *self._table.linking(id)}]
        involved = [c for c in found if c is not None and c.links]
        for c in involved:
            self.rewrite(c, c.links)
        if involved:
            await self._networks.ways_changed()

    def renaming(self, id: str, name: str) -> list[Op]:
        """Return the changes by which a container that has a network answers to another name there."""
        return self._networks.renaming(id, name)

    async def renamed(self, c: Container, old: str) -> None:
        """Have a container answer to its other name, once that is written; what led to it by the old one follows.

        That is links, and aliases on networks that a user has made.
        """
        await self._networks.renamed(c.id)
        for id in [other.id for other in self._table.all() if other.id != c.id and _led(other, c, old) is not other]:
            async with self._table.live.lock(id):
                before = self._table.find(id)
                after = _led(before, c, old) if before is not None else None
                if after is None or after is before:
                    continue  # it has gone, or forgotten them meanwhile
                await self._table.save(after, *self._networks.relinking(id, after.endpoints))
                await self._networks.renamed(id)
        await self.follow(c.id)

    def rewrite(self, c: Container, aliases: Iterable[str]) -> None:
        """Make the lines of these aliases in a running container's /etc/hosts what they are now."""
        if self._networks.sandbox(c.id) is None:
            return
        present = {alias for alias, _, _ in self._linked(c)}
        gone = [alias for alias in aliases if alias not in c.links]
        lines = self.hosts(c)
        etcfiles.follow_links(self._directory(c.id), [*gone, *present], lines)

    async def ended(self, c: Container) -> None:
        """Close the ways of a container that has no network any more."""
        if c.links or self._table.linking(c.id):
            await self._networks.ways_changed()

    async def unlink(self, ref: str) -> None:
        """Take a link away by its name, `container/alias`. Raises: NotFound; Internal for what is no link's name."""
        self._table.get(ref)
        owner, slash, alias = ref.removeprefix("/").partition("/")
        if not slash:
            raise Internal("Conflict, cannot remove the default link name of the container")
        id = self._table.get(owner).id
        async with self._table.live.lock(id):
            c = self._table.get(id)
            if alias not in c.links:
                raise NotFound(f"No such container: {ref}")
            c = await self._table.save(replace(c, links={a: link for a, link in c.links.items() if a != alias}))
            self.rewrite(c, [alias])
        await self._networks.ways_changed()

    def _endpoint(self, id: str) -> EndpointRecord | None:
        sandbox = self._networks.sandbox(id)
        return sandbox.endpoints.get(DEFAULT_NETWORK) if sandbox is not None else None

    def _linked(self, c: Container) -> Iterator[tuple[str, Container, EndpointRecord]]:
        for alias, link in c.links.items():
            source, endpoint = self._table.find(link.id), self._endpoint(link.id)
            if source is not None and endpoint is not None:
                yield alias, source, endpoint

    def _ways(self) -> Iterator[Way]:
        for c in self._table.linked():
            own = self._endpoint(c.id)
            if own is None or not own.address4:
                continue
            for _, source, endpoint in self._linked(c):
                for port, proto in _ports(source.config.exposed_ports or ()):
                    if proto in _PROTOCOLS and endpoint.address4:
                        yield Way(source=own.address4, address=endpoint.address4, proto=proto, port=port)


def _led(other: Container, c: Container, old: str) -> Container:
    """Return a container as it is when what led to `c` by its old name leads there by the new one."""
    links = {a: LinkedContainer(id=c.id, name=c.name) if link.id == c.id else link for a, link in other.links.items()}
    ends = {n: _following(e, old, c.name) if n in c.endpoints else e for n, e in other.endpoints.items()}
    return other if (links, ends) == (other.links, other.endpoints) else replace(other, links=links, endpoints=ends)


def _following(settings: EndpointSettings, old: str, new: str) -> EndpointSettings:
    """Return an endpoint whose links to a name lead to another."""
    split = [(link, *link.removeprefix("/").partition(":")) for link in settings.links or ()]
    if not any(name == old for _, name, _, _ in split):
        return settings
    return replace(settings, links=[f"{new}:{alias or old}" if name == old else link for link, name, _, alias in split])


def _names(alias: str, source: Container) -> str:
    alias = alias.rpartition("/")[2]
    names = [alias, source.config.hostname]
    return " ".join(names if alias == source.name else [*names, source.name])
