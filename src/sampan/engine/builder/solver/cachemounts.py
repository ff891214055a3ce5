"""Cache mounts: directories that RUN steps share between builds (`--mount=type=cache`).

    <data root>/builder/cache-mounts/<id>/data     what the steps see
    store, table `build_cache`, kind exec.cachemount: one record each; `key` says which mounts it serves

Sharing: `shared` gives all the same directory at once, `locked` one after the other, `private` another one to whoever
comes while the first is in use. What one step has `locked` or `private` is nobody else's meanwhile: `shared` gets
another one then. A mount whose first content comes from an image or a tree is another cache than one that begins empty,
and so is one with an owner or a mode of its own.

Invariant: what a running step uses is neither pruned nor given to a second `private` or `locked` one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from msgspec.structs import replace

from sampan.engine.archives import streams, tar_writer
from sampan.engine.builder.ops import RunMount
from sampan.engine.builder.solver.records import CACHE_MOUNT, CacheRecord
from sampan.engine.images.service import Images
from sampan.engine.layers import unpack
from sampan.engine.layers.sizes import tree_size
from sampan.engine.store import Store, Table
from sampan.errors import NotFound

Seed = Callable[[str], Awaitable[None]]  # fill this directory


class CacheMounts:
    """The cache mounts of one data root. On the loop's thread."""

    def __init__(self, data_root: str, store: Store, table: Table[CacheRecord], images: Images) -> None:
        self.root = f"{data_root}/builder/cache-mounts"
        self._store, self._table, self._images = store, table, images
        self._used: Counter[str] = Counter()  # record → steps
        self._exclusive: set[str] = set()  # records that one step has for itself
        self._free = asyncio.Condition()
        self.making: set[str] = set()  # directories whose record is still to come

    def start(self) -> None:
        """Directories without a record go, and records without a directory."""
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        if self._store.aside():
            return
        known = {record.id for record in self._mounts()}
        for name in set(os.listdir(self.root)) - known:
            self._images.driver.trash.take(f"{self.root}/{name}", "cache-mount")
        lost = [record.id for record in self._mounts() if not os.path.isdir(self.path(record.id))]
        self._store.apply_now(*(self._table.delete(id) for id in lost))

    def _mounts(self) -> list[CacheRecord]:
        return [record for record in self._table.all() if record.kind == CACHE_MOUNT]

    def ids(self) -> set[str]:
        return {record.id for record in self._mounts()}

    def path(self, id: str) -> str:
        return f"{self.root}/{id}/data"

    def in_use(self, id: str) -> bool:
        return self._used[id] > 0

    @asynccontextmanager
    async def use(
        self, mount: RunMount, origin: str, seed: Seed | None, emptied: set[str] | None = None
    ) -> AsyncIterator[str]:
        """The directory for one step. origin: what identifies its first content, "" for none; `seed` fills that in.

        emptied: of a build that uses no cache: what it has begun anew. Its first use of a cache is an empty one, which
        takes the place of what was there; but what was imported and not used yet was brought for this build.
        """
        key = f"{mount.id or mount.target} {origin}".rstrip()
        if emptied is not None and key not in emptied:
            emptied.add(key)
            for old in [record for record in self._mounts() if record.key == key and record.uses]:
                if self.in_use(old.id):  # a running step keeps it, and nobody finds it any more
                    self._store.apply_now(self._table.put(replace(old, key=f"{key} until {time.time_ns()}")))
                else:
                    self.remove(old.id)
        record = await self._take(mount, key, seed)
        try:
            yield self.path(record.id)
        finally:
            self._used[record.id] -= 1
            self._exclusive.discard(record.id)
            async with self._free:
                self._free.notify_all()

    async def _take(self, mount: RunMount, key: str, seed: Seed | None) -> CacheRecord:
        async with self._free:
            while True:
                record = self._choose(key, mount.sharing)
                if record is None:
                    break
                if mount.sharing != "locked" or not self.in_use(record.id):
                    self._used[record.id] += 1
                    if mount.sharing != "shared":
                        self._exclusive.add(record.id)
                    now = time.time_ns()
                    self._store.apply_now(self._table.put(replace(record, used_ns=now, uses=record.uses + 1)))
                    return record
                await self._free.wait()
            record = await self._make(mount, key, seed)  # under the lock: equal mounts of parallel steps are one
            if mount.sharing != "shared":
                self._exclusive.add(record.id)
            return record

    def _choose(self, key: str, sharing: str) -> CacheRecord | None:
        """The record to use; None: a new one."""
        fitting = [record for record in self._mounts() if record.key == key]
        free = [record for record in fitting if not self.in_use(record.id)]
        match sharing:
            case "private":
                fitting = free
            case "locked":
                fitting = free or fitting
            case _:
                fitting = [record for record in fitting if record.id not in self._exclusive]
        return fitting[0] if fitting else None

    async def _make(self, mount: RunMount, key: str, seed: Seed | None) -> CacheRecord:
        id = new_id()
        path = self.path(id)
        self.making.add(id)
        os.mkdir(os.path.dirname(path), 0o700)
        os.mkdir(path, 0o700)
        try:
            if seed is not None:
                await seed(path)
            if seed is None or mount.uid or mount.gid:  # what fills it brings owner and mode
                os.chown(path, mount.uid, mount.gid)
            if seed is None or mount.mode is not None:
                os.chmod(path, 0o755 if mount.mode is None else mount.mode)
        except BaseException:
            self._images.driver.trash.take(os.path.dirname(path), "cache-mount")
            self.making.discard(id)
            raise
        now = time.time_ns()
        description = f"cached mount {mount.target} from exec with id {mount.id or mount.target}"
        record = CacheRecord(
            id=id, key=key, kind=CACHE_MOUNT, description=description, created_ns=now, used_ns=now, uses=1
        )
        self._store.apply_now(self._table.put(record))
        self.making.discard(id)
        self._used[id] += 1
        return record

    def remove(self, id: str) -> None:
        """Delete a cache mount that no step uses."""
        self._store.apply_now(self._table.delete(id))
        self._images.driver.trash.take(f"{self.root}/{id}", "cache-mount")

    # -- carrying them between machines ---------------------------------------------------------------------------

    def named(self) -> list[str]:
        """Return the ids under which Dockerfiles know the cache mounts, sorted."""
        return sorted({record.key for record in self._mounts()})

    async def export(self, name: str) -> AsyncIterator[bytes]:
        """Yield the content of one as a tar archive. Raises: NotFound."""
        record = next((record for record in self._mounts() if record.key == name), None)
        if record is None:
            raise NotFound(f"no cache mount {name}")
        self._used[record.id] += 1
        fd = os.open(self.path(record.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            async for chunk in streams.drain(tar_writer.tree(fd), self._images.streaming):
                yield chunk
        finally:
            os.close(fd)
            self._used[record.id] -= 1

    async def import_(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        """Give a cache mount this content, in the place of what it had. Raises: InvalidArgument, OSError."""

        async def fill(path: str) -> None:
            await _unpack(chunks, path, self._images)

        old = [record for record in self._mounts() if record.key == name and not self.in_use(record.id)]
        made = await self._make(RunMount(kind="cache", target=name, id=name, mode=0o755), name, fill)
        self._used[made.id] -= 1
        self._store.apply_now(self._table.put(replace(made, uses=0)))
        for record in old:
            self.remove(record.id)


async def _unpack(chunks: AsyncIterator[bytes], path: str, images: Images) -> None:
    """Unpack an archive into a directory by the way of a snapshot: the same defences as for layers."""
    number = images.driver.new_layer(None)
    try:
        unpack_here = partial(_unpack_to, images.driver.path(number))
        await streams.feed_thread(chunks, images.streaming, unpack_here, "upload of a cache mount")
        os.rmdir(path)
        os.rename(f"{images.driver.path(number)}/fs", path)
    finally:
        images.driver.remove(number)


def _unpack_to(path: str, feed: streams.Feed) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk = os.fstatvfs(fd)
        unpack.unpack(streams.decompressed(feed, limit_bytes=disk.f_blocks * disk.f_frsize), fd)
    finally:
        os.close(fd)


def new_id() -> str:
    """25 characters as BuildKit's ids have: 128 random bits in base 36."""
    number = secrets.randbits(128)
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits.rjust(25, "0")


def origin_of(*parts: Any) -> str:
    """Return a short name for a first content."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def sizes(paths: Iterator[tuple[str, str]]) -> dict[str, int]:
    """Bytes below each (id, directory). Blocking."""
    found = {}
    for id, path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found[id] = tree_size(fd)
        finally:
            os.close(fd)
    return found
