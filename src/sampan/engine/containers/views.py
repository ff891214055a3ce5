"""What clients are shown of containers: `docker inspect` and `docker ps`, and which of them filters choose.

inspect.py and listing.py say how a container is shown; here is what they need of the other services.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from sampan.engine.containers import inspect, links, listing
from sampan.engine.containers.exec import Execs
from sampan.engine.containers.health import Healthchecks
from sampan.engine.containers.launch import Launcher
from sampan.engine.containers.records import Container
from sampan.engine.containers.states import ACTIVE, WITH_TASK
from sampan.engine.containers.table import ContainerTable
from sampan.engine.images.records import Image
from sampan.engine.images.service import Images
from sampan.engine.layers.roots import Roots
from sampan.engine.networks import inspect as network_inspect
from sampan.engine.networks.service import Networks
from sampan.errors import SampanError
from sampan.spec import codec

log = logging.getLogger("sampan.containers")


class ContainerViews:
    """Shows containers."""

    def __init__(
        self,
        table: ContainerTable,
        launcher: Launcher,
        images: Images,
        roots: Roots,
        networks: Networks,
        execs: Execs,
        health: Healthchecks,
    ) -> None:
        self._table = table
        self._launcher = launcher
        self._images = images
        self._roots = roots
        self._networks = networks
        self._execs = execs
        self._health = health
        self._rows: dict[str, tuple[Container, dict[str, Any]]] = table.live.notes({})  # the row of this very record

    async def inspect(self, ref: str, *, size: bool = False, version: tuple[int, int] = (1, 51)) -> dict[str, Any]:
        """Describe a container."""
        c = self._table.get(ref)
        sizes = await self._roots.usage(c.id) if size else None
        shown = replace(c, host_config=replace(c.host_config, links=links.shown(c, self._table.find)))
        return inspect.inspect(
            shown,
            directory=self._launcher.directory(c.id),
            driver=c.driver,
            graph={"ID": c.id, **self._graph_driver(c)},
            network_settings=self._network_settings(c),
            exec_ids=self._execs.ids(c.id),
            health=self._health.shown(c),
            sizes=sizes,
        )

    def _graph_driver(self, c: Container) -> Mapping[str, str]:
        try:
            return self._roots.graph_driver(c.id)
        except SampanError as e:  # a layer below it is lost: it is shown all the same
            log.warning("container %s: %s", c.id, e.message)
            return {}

    def _network_settings(self, c: Container) -> dict[str, Any]:
        sandbox = self._networks.sandbox(c.id)
        if sandbox is not None and c.status.state in WITH_TASK:
            return inspect.network_settings(
                network_inspect.endpoints(sandbox.endpoints.values()),
                network_inspect.ports(sandbox.exposed, sandbox.bindings),
                sandbox_id=sandbox.id,
                sandbox_key=sandbox.key,
            )
        endpoints = {name: codec.to_json(e) for name, e in c.endpoints.items()}
        return inspect.network_settings(endpoints, {}, sandbox_id="", sandbox_key="")

    async def list(
        self,
        *,
        all: bool = False,
        limit: int = 0,
        size: bool = False,
        filters: Mapping[str, Iterable[str]] | None = None,
        version: tuple[int, int] = (1, 51),
    ) -> list[dict[str, Any]]:
        """Return the rows of `docker ps`, newest first."""
        filters = {k: tuple(v) for k, v in (filters or {}).items()}
        tests = listing.tests(
            filters,
            find=self._table.find,
            image_ids=self._image_ids,
            health=self._health.word,
            networks=self._network_names,
            ports=self._ports,
        )
        everything = all or limit > 0 or listing.implies_all(filters)
        chosen = [
            c
            for c in sorted(self._table.all(), key=listing.age, reverse=True)
            if (everything or c.status.state in ACTIVE) and listing.passes(c, tests)
        ]
        if limit > 0:
            chosen = chosen[:limit]
        names: dict[tuple[str, str], str] = {}
        rows = [self._row(c, names) for c in chosen]
        if size:
            for c, row in zip(chosen, rows):
                try:
                    rw, root_fs = await self._roots.usage(c.id)
                except (SampanError, OSError) as e:
                    if (
                        self._table.find(c.id) is not None
                    ):  # its files are lost: it is shown all the same, without sizes
                        log.warning("the size of container %s cannot be measured: %s", c.id, e)
                    continue
                row |= {k: v for k, v in (("SizeRw", rw), ("SizeRootFs", root_fs)) if v}
            rows = [
                row for c, row in zip(chosen, rows) if self._table.find(c.id) is not None
            ]  # some may have gone meanwhile
        return rows

    def _row(self, c: Container, names: dict[tuple[str, str], str]) -> dict[str, Any]:
        sandbox = self._networks.sandbox(c.id) if c.status.state in WITH_TASK else None
        key = (c.config.image, c.image_id)
        if key not in names:
            names[key] = self._image_name(c)
        if sandbox is None:
            kept = self._rows.get(c.id)
            if kept is not None and kept[0] is c:
                return {
                    **kept[1],
                    "Names": self._table.names(c),
                    "Image": names[key],
                    "Status": inspect.status_text(c, "none"),
                }
            endpoints = {name: codec.to_json(e) for name, e in c.endpoints.items()}
            ports: list[dict[str, Any]] = []
        else:
            endpoints = network_inspect.endpoints(sandbox.endpoints.values())
            ports = inspect.published(network_inspect.ports(sandbox.exposed, sandbox.bindings))
        row = inspect.row(
            c,
            names=self._table.names(c),
            image=names[key],
            endpoints=endpoints,
            ports=ports,
            health=self._health.word(c),
        )
        if sandbox is None:
            self._rows[c.id] = (c, row)
        return row

    def _image_name(self, c: Container) -> str:
        """Return the image's name as it was given, or its id when that name means another image now."""
        try:
            return c.config.image if c.image_id in self._images.catalog.members(c.config.image) else c.image_id
        except SampanError:
            return c.image_id or c.config.image

    def _image_ids(self, ref: str) -> frozenset[str]:
        try:
            image = self._images.resolve(ref)
        except SampanError:
            return frozenset()
        return frozenset({image.id}) | frozenset(
            c.image_id for c in self._table.all() if c.image_id and self._descends(c.image_id, image)
        )

    def _descends(self, image_id: str, image: Image) -> bool:
        """Tell whether an image was made from another: it has its layers and its history, and more."""
        try:
            later = self._images.resolve(image_id)
        except SampanError:
            return False
        if later.layers[: len(image.layers)] != image.layers:
            return False
        before, since = (i.config.get("history") or [] for i in (image, later))
        if not before:  # a history need not be kept
            return len(later.layers) > len(image.layers) > 0
        return len(since) > len(before) and since[: len(before)] == before

    def _network_names(self, c: Container) -> tuple[set[str], set[str]]:
        """Return names and ids of the container's networks."""
        names, ids = set(c.endpoints), {e.network_id for e in c.endpoints.values()}
        sandbox = self._networks.sandbox(c.id)
        if sandbox is not None:
            names |= set(sandbox.endpoints)
            ids |= {e.network_id for e in sandbox.endpoints.values()}
        return names, ids

    def _ports(self, c: Container) -> listing.ShownPorts:
        sandbox = self._networks.sandbox(c.id) if c.status.state in WITH_TASK else None
        return listing.ports_of(network_inspect.ports(sandbox.exposed, sandbox.bindings) if sandbox else {})
