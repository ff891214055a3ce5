"""The disk under one engine: what takes how much, what is left over or lost, and giving space back for a budget.

It sees all nouns (images, containers, volumes) and belongs to none. Not here: how each removes its objects.

Invariants: everything in the data root is counted exactly once; a repair removes only what no record and no running
operation names, by renaming it into the trash; what is missing is named and never papered over. Finding and repairing
happen between two awaits, so no operation can begin to use what is being taken away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sampan.engine import findings
from sampan.engine.background import Background
from sampan.engine.config import EngineConfig
from sampan.engine.containers.service import Containers
from sampan.engine.disk import budget
from sampan.engine.disk.usage import DataRootPlaces, Usage, allocated, measure
from sampan.engine.events import Events
from sampan.engine.findings import Finding, Problem
from sampan.engine.hostpaths import WALK_PATIENCE_S, WALKS, HostPaths
from sampan.engine.images import checking as images_checking
from sampan.engine.images.service import Images
from sampan.engine.layers import checking as layers_checking
from sampan.engine.layers.layers import is_whole
from sampan.engine.store import Ref, Store
from sampan.engine.volumes.service import Volumes
from sampan.errors import Conflict, Internal, InvalidArgument, NotFound, words

if TYPE_CHECKING:
    from sampan.engine.builder.service import Builder

log = logging.getLogger("sampan.disk")

BUDGET_EVERY_S = 300.0  # logs and containers' files grow without an event
_GROWTH = {"type": ("image", "container", "volume"), "event": ("import", "load", "pull", "create", "die", "destroy")}


class Disk:
    """The disk service of one engine. Use on the event loop's thread."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        events: Events,
        images: Images,
        containers: Containers,
        volumes: Volumes,
        builder: Callable[[], Builder],
    ) -> None:
        self._config = config
        self._store, self._events = store, events
        self._images, self._containers, self._volumes = images, containers, volumes
        self._builder = builder  # made when it is first asked for
        self._layer_bytes: dict[str, int] = {}
        self._background = Background()
        self._walks = HostPaths(WALKS, WALK_PATIENCE_S)
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to watch the budget, where there is one."""
        if self._config.disk_budget_bytes:
            self._keeper = self._background.spawn(self._keep_budget(), "disk budget")

    def reconfigure(self, config: EngineConfig) -> None:
        """Take a new budget (SIGHUP) and see at once whether it is kept."""
        changed = config.disk_budget_bytes != self._config.disk_budget_bytes
        self._config = config
        if not changed:
            return
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if config.disk_budget_bytes:
            self._keeper = self._background.spawn(self._keep_budget(), "disk budget")

    async def close(self) -> None:
        """Watch the budget no more."""
        await self._background.close()
        self._walks.close()

    # --- usage -------------------------------------------------------------------------------------------------------

    async def usage(self) -> Usage:
        """Measure the data root; layers only when they are new, as they never change."""
        places = self._places()
        found = await self._walks.run(places.data_root, partial(measure, places))
        self._layer_bytes = dict(found.layers)
        return found

    def _places(self) -> DataRootPlaces:
        root, images = self._config.data_root, self._images
        own = {id: f"{root}/containers/{id}" for id in self._containers.ids() | self._containers.hidden}
        directories = {id: [path] for id, path in own.items()}
        for snapshot in images.roots.all():
            directories.setdefault(snapshot.id, []).append(images.driver.path(snapshot.snapshot))
        return DataRootPlaces(
            data_root=root,
            layers={layer.id: images.driver.path(layer.snapshot) for layer in images.layers.all()},
            containers=directories,
            logs=own,
            volumes=dict(self._volumes.measured()),
            one_device=not images.driver.subvolumes,
            known=self._layer_bytes,
        )

    # --- fsck --------------------------------------------------------------------------------------------------------

    async def fsck(self, *, repair: bool, verify: bool = False) -> list[dict[str, Any]]:
        """Compare the records with the disk. Returns one object a finding, for the API; `repair` reaps and drops.

        verify: also read every layer and compare it with its digest. SizeBytes is what lies at a finding's path.
        """
        damaged = await self._damaged_layers() if verify else []
        found = self._findings() + damaged
        sizes = await self._walks.run(
            self._config.data_root, lambda: [allocated(f.path) if f.path else 0 for f in found]
        )
        size = dict(zip(found, sizes))
        repaired: set[Finding] = set()
        if repair:
            found = (
                self._findings() + damaged
            )  # nothing may have happened since: from here to the end there is no await
            repaired = {f for f in found if f.repairable and self._repair(f)}
            self._images.driver.trash.retry()
        return [
            {
                "Kind": f.kind,
                "ID": f.id,
                "Problem": str(f.problem),
                "Path": f.path,
                "SizeBytes": size.get(f, 0),
                "Remedy": f.remedy,
                "Repairable": f.repairable,
                "Repaired": f in repaired,
            }
            for f in found
        ]

    def _findings(self) -> list[Finding]:
        images, aside = self._images, self._store.aside()
        found = [
            *layers_checking.check(images.driver, images.layers, images.roots),
            *images_checking.check(images.catalog, images.content, images.layers),
            *self._check_containers(),
            *self._check_volumes(),
            *self._check_cache_mounts(),
            *self._check_leftovers(),
            *findings.references(self._references(), self._existence()),
        ]
        return found if not aside else findings.beside_unreadable(found, aside)

    async def _damaged_layers(self) -> list[Finding]:
        """Read every layer as `save` would; what is missing altogether is found without reading."""
        layers = self._images.layers
        found = []
        for record in layers.all():
            if record.id not in layers:
                continue  # removed since
            holder = layers.hold(record.id)
            try:
                await asyncio.to_thread(_exhaust, layers.replay(record))
            except FileNotFoundError:
                pass
            except (Internal, InvalidArgument, OSError) as e:
                path = self._images.driver.path(record.snapshot)
                reason = words(e) if isinstance(e, OSError) else e.message
                found.append(
                    Finding(
                        kind="layer", id=record.id, problem=Problem.DAMAGED, path=path, remedy=reason, repairable=False
                    )
                )
            finally:
                layers.let_go(holder)
        return found

    def _check_containers(self) -> list[Finding]:
        root = f"{self._config.data_root}/containers"
        there = {name: f"{root}/{name}" for name in _names(root)}
        known = self._containers.ids()
        kept = known | self._containers.making | self._containers.hidden
        found = findings.strays("container", there, kept, "moved to the trash")
        stray = {s.id: self._images.driver.path(s.snapshot) for s in self._images.roots.all()}
        found += findings.strays("snapshot", stray, known | self._containers.making, "moved to the trash")
        for id in sorted(known - there.keys() - self._containers.leaving()):
            found.append(
                findings.missing("container", id, f"{root}/{id}", "its logs are lost; it is made anew at a start")
            )
        return found

    def _check_volumes(self) -> list[Finding]:
        root = f"{self._config.data_root}/volumes"
        known = {name: f"{path}/_data" for name, path in self._volumes.measured().items()}
        found = []
        for name in sorted(_names(root) - known.keys() - self._volumes.making):
            data = f"{root}/{name}/_data"
            empty = not os.path.isdir(data) or not os.listdir(data)
            remedy = (
                "moved to the trash: it is empty"
                if empty
                else (
                    "kept: it may be the only copy of somebody's data;"
                    " create a volume of this name to use it, or delete it"
                )
            )
            found.append(
                Finding(
                    kind="volume",
                    id=name,
                    problem=Problem.UNREFERENCED,
                    path=f"{root}/{name}",
                    remedy=remedy,
                    repairable=empty,
                )
            )
        for name, path in sorted(known.items()):
            if os.path.basename(path) not in _names(os.path.dirname(path)):  # what is mounted there may not answer
                found.append(findings.missing("volume", name, path, "its data is lost: remove it, or restore a copy"))
        return found

    def _check_cache_mounts(self) -> list[Finding]:
        mounts = self._builder().solver.cache.mounts
        there = {name: f"{mounts.root}/{name}" for name in _names(mounts.root)}
        found = findings.strays("cache mount", there, mounts.ids() | mounts.making, "moved to the trash")
        for id in sorted(mounts.ids() - there.keys()):
            found.append(findings.missing("cache mount", id, mounts.path(id), "it is made anew when a build needs it"))
        return found

    def _check_leftovers(self) -> list[Finding]:
        trash, content = self._images.driver.trash, self._images.content
        found = [
            Finding(
                kind="trash",
                id=name,
                problem=Problem.UNREFERENCED,
                path=f"{trash.path}/{name}",
                remedy=f"tried again: {reason}",
            )
            for name, reason in trash.stuck()
        ]
        there = {name: f"{content.ingest}/{name}" for name in content.abandoned()}
        return found + findings.strays("ingest", there, (), "moved to the trash")

    def _references(self) -> list[tuple[Ref, Ref]]:
        """The references of the storage driver in use, and those that belong to none. Other drivers' are left alone.

        A container's to an image that was removed by force is as it should be: its layers are held for themselves, and
        when the image comes back it is in use again.
        """
        own = ("container", "image")
        mine = [pair for pair in self._images.store.references() if (pair[0].noun, pair[1].noun) != own]
        if self._images.store is self._store:
            return mine
        return mine + [pair for pair in self._store.references() if pair[1].noun == "volume"]

    def _existence(self) -> Callable[[Ref], bool | None]:
        """Whether a holder or a target of references exists; None for what is not told here."""
        images, containers = self._images, self._containers
        nouns: Mapping[str, Callable[[str], bool]] = {
            "image": lambda id: id in images.catalog.images,
            "layer": lambda id: id in images.layers,
            "snapshot": lambda id: id in images.roots,
            "container": lambda id: id in known or id in containers.making,
            "volume": lambda id: self._volumes.get(id) is not None,
            "work": images.layers.is_held,
            "build": lambda id: id in self._builder().solver.cache,
        }
        known = containers.ids() | containers.hidden

        def exists(ref: Ref) -> bool | None:
            return nouns[ref.noun](ref.id) if ref.noun in nouns else None

        return exists

    def _repair(self, finding: Finding) -> bool:
        """Take away one thing that nobody needs. True: done. A failure is logged and named again by the next check."""
        images = self._images
        try:
            match finding.kind:
                case "blob":
                    images.content.remove(finding.id)
                case "record":
                    table, _, id = finding.id.partition("/")
                    for aside in self._store.aside():
                        if (aside.table, aside.id) == (table, id):
                            self._store.apply_now(self._store.remove_aside(aside))
                case "tag":
                    if (tag := images.catalog.tags.get(finding.id)) is not None:
                        lost = images.catalog.lost_members(tag)
                        images.store.apply_now(images.catalog.without(tag, *lost))
                        images.catalog.changed()
                case "reference":
                    holder = Ref.parse(finding.id.partition(" → ")[0])
                    self._store.apply_now(self._store.release(holder), images.store.release(holder))
                case "snapshot" if finding.id in images.roots:
                    images.roots.remove(finding.id, images.unclaim(finding.id))
                case "trash":
                    pass  # `retry` does it for all
                case _:
                    images.driver.trash.take(finding.path, f"fsck-{finding.kind}")
        except (OSError, Internal) as e:
            log.warning("fsck cannot repair %s %s: %s", finding.kind, finding.id, e)
            return False
        return finding.kind != "trash"

    # --- budget ------------------------------------------------------------------------------------------------------

    async def _keep_budget(self) -> None:
        while True:
            async with self._events.subscribe(filters=_GROWTH) as growth:  # what grows while we measure counts next
                try:
                    await self.collect(self._config.disk_budget_bytes)
                except (OSError, Internal) as e:
                    log.warning("the disk budget cannot be kept: %s", e)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BUDGET_EVERY_S):
                        await anext(growth)

    async def collect(self, budget_bytes: int) -> list[str]:
        """Remove build cache, then images that nothing uses, the longest unused first, until the data root fits.

        Returns the images' ids.
        """
        measured = await self.usage()
        given_back = measured.trash + self._store.reserve_bytes  # neither is anything that removing images would free
        over = measured.total - given_back - budget_bytes
        if over <= 0:
            return []
        over -= await self._collect_cache(over)
        removed = []
        for image_id in budget.choose(over, self._unused(), self._layer_users(), measured.layers):
            if self._images.store.holders(Ref("image", image_id)):
                continue
            try:
                await self._images.remove(image_id, force=True, noprune=True)
            except (Conflict, NotFound):
                continue  # somebody took it meanwhile
            removed.append(image_id)
        log.info("the disk budget of %d bytes is exceeded by %d: %d images removed", budget_bytes, over, len(removed))
        return removed

    async def _collect_cache(self, over_bytes: int) -> int:
        """Give back what builds have left, the longest unused first: it can be made again. Returns the bytes."""
        builder = self._builder()
        total = sum(usage.size_bytes for usage in await builder.solver.cache.usages())
        return (await builder.prune(all=True, max_used_bytes=max(1, total - over_bytes)))[1] if total else 0

    def _unused(self) -> list[budget.Candidate]:
        """Images without a container and without a child image."""
        catalog, layers = self._images.catalog, self._images.layers
        found = []
        for image in catalog.readable():
            record = catalog.images.get(image.id)
            if record is None or self._images.store.holders(Ref("image", record.id)) or catalog.children(record.id):
                continue
            chain = tuple(layer.id for layer in layers.records(image.chain_id))
            used = max(record.used_at, record.tagged_at)
            found.append(budget.Candidate(image=record.id, used=used, layers=chain))
        return found

    def _layer_users(self) -> Counter[str]:
        """How many images, containers and operations need each layer."""
        layers = self._images.layers
        users: Counter[str] = Counter()
        for layer in layers.all():
            direct = sum(1 for h in self._images.store.holders(Ref("layer", layer.id)) if h.noun != "layer")
            for below in layers.records(layer.id) if is_whole(layers, layer.id) else ():
                users[below.id] += direct
        return users


def _exhaust(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


def _names(path: str) -> set[str]:
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return set()
