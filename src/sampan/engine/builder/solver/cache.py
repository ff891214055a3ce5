"""The build cache: which step gave which layers, how much that takes, and what may go.

Records live in the store's table `build_cache`; each keeps its layers by a reference `build:<id>` → `layer:<chain id>`,
so removing images never breaks the cache, and pruning the cache never breaks images. What a running build has been
given is held by that build besides.

Source: Engine API 1.51, BuildCache; BuildKit's cache manager for what a prune takes (parents after their children, the
longest unused first) and its default policy.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from msgspec.structs import replace

from sampan.engine.builder.solver.cachemounts import CacheMounts, new_id, sizes
from sampan.engine.builder.solver.records import CACHE_MOUNT, REGULAR, CacheRecord
from sampan.engine.builder.state import LayerChain
from sampan.engine.images.service import Images
from sampan.engine.layers.layers import is_whole
from sampan.engine.store import Ref, Store, Table
from sampan.errors import InvalidArgument
from sampan.spec import times

T = TypeVar("T")
Filters = Mapping[str, Iterable[str]]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9, "d": 86400e9}
_INTERNAL = ("internal", "frontend")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What a prune leaves. 0: no bound. Without any, everything that may go goes."""

    reserved_bytes: int = 0  # as much is kept in any case
    max_used_bytes: int = 0
    min_free_bytes: int = 0  # of the file system

    def keep_bytes(self, total: int, free: int) -> int:
        """Return how much of `total` stays; 0 without bounds."""
        if not (self.reserved_bytes or self.max_used_bytes or self.min_free_bytes):
            return 0
        keep = self.max_used_bytes
        if (excess := self.min_free_bytes - free) > 0:
            keep = min(keep, total - excess) if keep else total - excess
        return max(keep, self.reserved_bytes, 0)


NO_BOUNDS = Space()


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheUsage:
    """One record as du and prune see it."""

    record: CacheRecord
    size_bytes: int
    in_use: bool
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GcPolicy:
    """One rule of garbage collection."""

    filters: Filters = field(default_factory=dict)
    all: bool = False
    space: Space = NO_BOUNDS


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSources:
    """Files of clients, downloads, repositories that a service keeps for the next build. Both functions block."""

    kind: str
    description: str
    size_bytes: Callable[[], int]
    forget: Callable[[], object]
    in_thread: bool = True

    @property
    def id(self) -> str:
        """As long as a record's, the same for ever."""
        return hashlib.sha256(self.kind.encode() + self.description.encode()).hexdigest()[:25]


class Cache:
    """The records of one data root. On the loop's thread."""

    def __init__(self, store: Store, table: Table[CacheRecord], images: Images, mounts: CacheMounts) -> None:
        self._store, self._table = store, table
        self._images = images
        self.mounts = mounts
        self._by_key: dict[str, str] = {}
        self._held: dict[str, set[str]] = {}  # record → running builds that were given it
        self._pruning = asyncio.Lock()
        self.kept: list[KeptSources] = []
        self._ended_ns = time.time_ns()  # the last build

    def start(self) -> None:
        """Drop records whose layers do not exist, and references without a record."""
        self._by_key = {record.key: record.id for record in self._table.all() if record.kind != CACHE_MOUNT}
        if self._store.aside():
            return  # what cannot be read may be about these
        lost = [
            record for record in self._table.all() if record.chain_id and record.chain_id not in self._images.layers
        ]
        for record in lost:
            self._store.apply_now(self._table.delete(record.id), self._images.store.release(Ref("build", record.id)))
        for holder, _ in self._images.store.references():
            if holder.noun == "build" and holder.id not in self._table:
                self.release(holder)
        self._by_key = {record.key: record.id for record in self._table.all() if record.kind != CACHE_MOUNT}

    def __contains__(self, id: str) -> bool:
        return id in self._table

    # -- steps --------------------------------------------------------------------------------------------------------

    def find(self, key: str) -> CacheRecord | None:
        """Return what an equal step gave before."""
        record = self._table.get(self._by_key.get(key, ""))
        if record is not None and not is_whole(self._images.layers, record.chain_id):
            self._remove(record)  # a weak one, whose images are gone
            return None
        return record

    def used(self, record: CacheRecord, build: str, *, keep: bool) -> None:
        """Note that a running build was given this; `let_go` when it ends.

        keep: the record holds its layers from now on.
        """
        self._held.setdefault(record.id, set()).add(build)
        weak = record.weak and not keep
        ops = [self._table.put(replace(record, used_ns=time.time_ns(), uses=record.uses + 1, weak=weak))]
        if record.weak and keep and record.chain_id:
            ops.append(self._images.store.reference(Ref("build", record.id), Ref("layer", record.chain_id)))
        self._store.apply_now(*ops)

    def let_go(self, build: str) -> None:
        self._ended_ns = time.time_ns()
        for id, builds in list(self._held.items()):
            builds.discard(build)
            if not builds:
                del self._held[id]

    def put(
        self,
        key: str,
        state: LayerChain,
        *,
        empty: bool,
        time_ns: int,
        description: str,
        size_bytes: int,
        parents: Collection[LayerChain],
        kind: str = REGULAR,
        weak: bool = False,
    ) -> CacheRecord:
        """Record what a step gave, in the place of what an equal one gave before.

        Its layers must be held by the caller.
        """
        old = self._table.get(self._by_key.get(key, ""))
        now = time.time_ns()
        record = CacheRecord(
            id=old.id if old is not None else new_id(),
            key=key,
            kind=kind,
            chain_id=state.chain_id,
            empty=empty,
            time_ns=time_ns,
            description=description,
            parents=self._makers(parents),
            size_bytes=size_bytes,
            created_ns=now,
            used_ns=now,
            uses=1,
            weak=weak,
        )
        holder = Ref("build", record.id)
        before = old.chain_id if old is not None else ""
        ops = [self._table.put(record)]
        if state.chain_id and not weak:
            ops.append(self._images.store.reference(holder, Ref("layer", state.chain_id)))
        self._store.apply_now(*ops)
        if before and (weak or before != state.chain_id):
            self._drop_layer(holder, before)
        self._by_key[key] = record.id
        return record

    def _makers(self, states: Collection[LayerChain]) -> tuple[str, ...]:
        """The records whose results these states are."""
        chains = {state.chain_id for state in states if state.chain_id}
        return tuple(r.id for r in self._table.all() if r.chain_id in chains and not r.empty)

    def state(self, record: CacheRecord) -> LayerChain:
        """Return the state that a record stands for."""
        layers = self._images.layers.records(record.chain_id)
        return LayerChain(diff_ids=tuple(layer.diff_id for layer in reversed(layers)), chain_id=record.chain_id)

    def _drop_layer(self, holder: Ref, chain_id: str) -> None:
        layers, store = self._images.layers, self._images.store
        unused = layers.unused_after(chain_id, holder) if chain_id in layers else []
        store.apply_now(store.release(holder, Ref("layer", chain_id)), *layers.forget(unused))
        layers.discard(unused)

    def release(self, holder: Ref) -> None:
        """Drop all that a holder keeps."""
        for target in self._images.store.targets(holder):
            self._drop_layer(holder, target.id)

    def _remove(self, record: CacheRecord) -> None:
        if record.kind == CACHE_MOUNT:
            self.mounts.remove(record.id)
            return
        self._store.apply_now(self._table.delete(record.id))
        self._by_key.pop(record.key, None)
        self.release(Ref("build", record.id))

    # -- disk ---------------------------------------------------------------------------------------------------------

    async def usages(self) -> list[CacheUsage]:
        """Return every record with what it takes; weak ones take nothing."""
        mounts = [(r.id, self.mounts.path(r.id)) for r in self._table.all() if r.kind == CACHE_MOUNT]
        measured = await asyncio.to_thread(sizes, iter(mounts)) if mounts else {}
        found = [self._usage(record, measured) for record in self._table.all() if not record.weak]
        for kept in self.kept:
            if size := await _call(kept, kept.size_bytes):
                record = CacheRecord(
                    id=kept.id, key="", kind=kept.kind, description=kept.description, used_ns=self._ended_ns,
                    created_ns=self._ended_ns,
                )  # fmt: skip
                found.append(CacheUsage(record=record, size_bytes=size, in_use=bool(self._held), shared=False))
        return found

    def _usage(self, record: CacheRecord, measured: Mapping[str, int]) -> CacheUsage:
        if record.kind == CACHE_MOUNT:
            return CacheUsage(
                record=record,
                size_bytes=measured.get(record.id, 0),
                in_use=self.mounts.in_use(record.id),
                shared=False,
            )
        return CacheUsage(
            record=record,
            size_bytes=0 if record.empty else record.size_bytes,
            in_use=record.id in self._held,
            shared=not record.empty and self._of_image(record.chain_id),
        )

    def _of_image(self, chain_id: str) -> bool:
        """Whether an image or a container needs the layer, too."""
        pending, store = [chain_id], self._images.store
        while pending:
            for holder in store.holders(Ref("layer", pending.pop())):
                if holder.noun in ("image", "snapshot"):
                    return True
                if holder.noun == "layer":
                    pending.append(holder.id)
        return False

    async def disk_usage(self) -> list[dict[str, Any]]:
        """Return BuildCache objects of API 1.51, the last used first."""
        found = sorted(await self.usages(), key=lambda usage: usage.record.used_ns, reverse=True)
        return [_shown(usage) for usage in found]

    async def prune(
        self, filters: Filters | None = None, *, all: bool = False, space: Space = NO_BOUNDS
    ) -> tuple[list[str], int]:
        """Remove what nobody uses. Returns (ids, bytes). Raises: InvalidArgument for bad filters."""
        matches = matcher(filters or {})
        async with self._pruning:
            found = await self.usages()
            total = sum(usage.size_bytes for usage in found)
            keep = space.keep_bytes(total, self._free_bytes())
            removed: list[str] = []
            reclaimed = 0
            bounded = space != NO_BOUNDS
            now = time.time_ns()
            candidates = [u for u in found if (all or not (u.shared or u.record.kind in _INTERNAL)) and matches(u, now)]
            for usage in order(candidates, found):
                if bounded and total <= keep:
                    break
                current = self._table.get(usage.record.id)
                if kept := next((kept for kept in self.kept if kept.id == usage.record.id), None):
                    await _call(kept, kept.forget)
                    removed.append(kept.id)
                    total -= usage.size_bytes
                    reclaimed += usage.size_bytes
                    continue
                if current is None or self._busy(current) or self._has_children(current):
                    continue
                self._remove(current)
                removed.append(current.id)
                total -= usage.size_bytes
                reclaimed += 0 if usage.shared else usage.size_bytes
            return removed, reclaimed

    def _busy(self, record: CacheRecord) -> bool:
        return self.mounts.in_use(record.id) if record.kind == CACHE_MOUNT else record.id in self._held

    def _has_children(self, record: CacheRecord) -> bool:
        return any(record.id in other.parents for other in self._table.all() if not other.weak)

    def _free_bytes(self) -> int:
        disk = os.statvfs(self.mounts.root)
        return disk.f_bavail * disk.f_frsize

    async def collect(self, policies: Sequence[GcPolicy]) -> None:
        """Do one round of garbage collection."""
        for policy in policies:
            await self.prune(policy.filters, all=policy.all, space=policy.space)


async def _call(kept: KeptSources, function: Callable[[], T]) -> T:
    return await asyncio.to_thread(function) if kept.in_thread else function()


def order(candidates: Sequence[CacheUsage], everything: Sequence[CacheUsage]) -> list[CacheUsage]:
    """Return what goes first: the longest unused; a parent never before its children. Pure."""
    left = sorted(candidates, key=lambda usage: (usage.record.used_ns, usage.record.id))
    there = {usage.record.id: set(usage.record.parents) for usage in everything}
    children: dict[str, int] = {}
    for parents in there.values():
        for parent in parents:
            children[parent] = children.get(parent, 0) + 1
    found: list[CacheUsage] = []
    while left:
        ready = next((usage for usage in left if not children.get(usage.record.id)), None)
        if ready is None:
            break  # each has a child that stays
        left.remove(ready)
        found.append(ready)
        for parent in there[ready.record.id]:
            children[parent] -= 1
    return found


def matcher(filters: Filters) -> Callable[[CacheUsage, int], bool]:
    """Return whether a record passes all filters: f(usage, now_ns). Values of one key are alternatives.

    Raises: InvalidArgument.
    """
    tests: list[Callable[[CacheUsage, int], bool]] = []
    for key, values in filters.items():
        tests.append(_test(key, [str(value) for value in values]))
    return lambda usage, now: all(test(usage, now) for test in tests)


def _test(key: str, values: list[str]) -> Callable[[CacheUsage, int], bool]:
    match key:
        case "until" | "unused-for":
            if len(values) != 1:
                raise InvalidArgument(f"{key} filter expects only one value")
            age_ns = duration_ns(values[0])
            return lambda usage, now: usage.record.used_ns <= now - age_ns
        case "id":
            return lambda usage, _: any(usage.record.id.startswith(value.removeprefix("~=")) for value in values)
        case "parent" | "parents":
            return lambda usage, _: any(value in usage.record.parents for value in values)
        case "type":
            return lambda usage, _: usage.record.kind in values
        case "description":
            return lambda usage, _: any(value in usage.record.description for value in values)
        case "inuse":
            return lambda usage, _: usage.in_use == _truth(values)
        case "shared":
            return lambda usage, _: usage.shared == _truth(values)
        case "private":
            return lambda usage, _: usage.shared != _truth(values)
        case "label" | "label!":  # records of the cache have no labels
            return lambda usage, _: key == "label!" or not values
        case _:
            raise InvalidArgument(f"invalid filter '{key}'")


def _truth(values: list[str]) -> bool:
    return not values or values[0].lower() in ("", "1", "true", "t")


def duration_ns(text: str) -> int:
    """Return Go's durations (`24h`, `1h30m`), also with days, or seconds without a unit. Raises: InvalidArgument."""
    if text.isdecimal():
        return int(text) * 10**9
    parts = _DURATION.findall(text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise InvalidArgument(f'time: invalid duration "{text}"')
    return int(sum(float(number) * _UNITS[unit] for number, unit in parts))


def _shown(usage: CacheUsage) -> dict[str, Any]:
    record = usage.record
    shown: dict[str, Any] = {
        "ID": record.id,
        "Type": record.kind,
        "Description": record.description,
        "InUse": usage.in_use,
        "Shared": usage.shared,
        "Size": usage.size_bytes,
        "CreatedAt": times.rfc3339_nano(record.created_ns),
        "LastUsedAt": times.rfc3339_nano(record.used_ns),
        "UsageCount": record.uses,
    }
    if record.parents:
        shown["Parents"] = list(record.parents)
    return shown
