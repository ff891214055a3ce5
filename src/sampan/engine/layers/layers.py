"""Layers: an archive becomes a directory with a chain id, shared by every image that has it below.

Not here: images (service.py), the unpacking itself (unpack.py), overlay mounts (snapshots/).
Invariants: a layer's record is written only after its files are on the disk (flush.py), or says in which boot it was
made (`unsynced`): after power loss such a layer does not exist, and no image is visible before `sync` has seen to its
layers. A layer nobody refers to has no record and its directory is in the trash; equal content exists once.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from sampan.engine.archives import buffers
from sampan.engine.archives.streams import Digest, Source, decompressed, feed_thread
from sampan.engine.background import to_its_end
from sampan.engine.layers import recording, tarsplit, unpack
from sampan.engine.layers.records import LayerRecord
from sampan.engine.layers.snapshots.driver import SnapshotDriver
from sampan.engine.store import Op, Ref, Store
from sampan.errors import Internal
from sampan.linux import filesystems
from sampan.spec import oci_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """An unpacked layer that no record names yet. `Layers.adopt` makes it real; else it goes to the trash."""

    number: int
    parent: str  # chain id
    chain_id: str
    unpacked: unpack.Unpacked
    unsynced: str = ""  # the boot, while its files may not be on the disk


class Layers:
    """The layers of one data root.

    Methods on the loop's thread; unpacking, which waits for its stream, in `executor`.
    """

    def __init__(self, store: Store, driver: SnapshotDriver, executor: Executor) -> None:
        self._store = store
        self._driver = driver
        self._executor = executor
        self._table = store.table("layers", LayerRecord)
        self._chains: dict[str, tuple[int, ...]] = {}
        self._holders = itertools.count(1)
        self._held: set[Ref] = set()  # holders of work under way
        self._syncing = asyncio.Lock()

    def all(self) -> list[LayerRecord]:
        return self._table.all()

    def get(self, chain_id: str) -> LayerRecord:
        """Raises: Internal when the record is missing."""
        record = self._table.get(chain_id)
        if record is None:
            raise Internal(f"layer {chain_id} does not exist")
        return record

    def __contains__(self, chain_id: str) -> bool:
        return chain_id in self._table

    def same_content(self, diff_id: str) -> LayerRecord | None:
        """A layer with this content, wherever it stands."""
        return next((record for record in self._table.all() if record.diff_id == diff_id), None)

    def records(self, chain_id: str) -> list[LayerRecord]:
        """The layers of a chain, top first; [] for "". Raises: Internal when one is missing, or is its own parent."""
        found: dict[str, LayerRecord] = {}
        while chain_id:
            if chain_id in found:
                raise Internal(f"layer {chain_id} stands on itself")
            record = found[chain_id] = self.get(chain_id)
            chain_id = record.parent
        return list(found.values())

    def chain(self, chain_id: str) -> tuple[LayerRecord, ...]:
        """The layers of a chain, base first; () for ""."""
        return tuple(reversed(self.records(chain_id)))

    def numbers(self, chain_id: str) -> tuple[int, ...]:
        """The snapshots of a chain, top first."""
        found = self._chains.get(chain_id)
        if found is None:
            found = self._chains[chain_id] = tuple(record.snapshot for record in self.records(chain_id))
        return found

    def size_bytes(self, chain_id: str) -> int:
        return sum(record.size_bytes for record in self.records(chain_id))

    def hold(self, chain_id: str) -> Ref:
        """Keep a chain while work is under way; give the returned holder to `let_go`.

        Raises: Internal when the chain is not here: what is gone cannot be held.
        """
        if chain_id:
            self.get(chain_id)
        holder = Ref("work", str(next(self._holders)))
        self._held.add(holder)
        if chain_id:
            self._store.apply_now(self._store.reference(holder, Ref("layer", chain_id), passing=True))
        return holder

    def is_held(self, number: str) -> bool:
        """Whether `work:<number>` is work of this process that is still under way."""
        return Ref("work", number) in self._held

    def hold_more(self, holder: Ref, chain_id: str) -> None:
        """Have a holder from `hold` keep one more chain. Raises: Internal when it is not here."""
        self.get(chain_id)
        self._store.apply_now(self._store.reference(holder, Ref("layer", chain_id), passing=True))

    def let_go(self, holder: Ref) -> None:
        self._held.discard(holder)
        targets = self._store.targets(holder)
        self._store.apply_now(self._store.release(holder))
        for target in targets:
            if target.id in self._table:
                unused = self.unused_after(target.id, holder)
                self._store.apply_now(*self.forget(unused))
                self.discard(unused)

    @asynccontextmanager
    async def unpacking(
        self,
        stream: AsyncIterator[bytes] | Source | Callable[[], Iterator[bytes]],
        parent: str | Awaitable[str] = "",
        *,
        later: bool = False,
        threads: Executor | None = None,
    ) -> AsyncIterator[Staged]:
        """Unpack an archive, compressed or not, on top of `parent` (a chain id), and put it on the disk.

        stream: an async stream of bytes, a blocking source, or a function that makes a blocking iterator.
        parent: when it is still to come, it is awaited after unpacking: layers may arrive in any order.
        later: it may be `unsynced` then, and the caller calls `sync`, once for many layers.
        threads: where it is unpacked, when a client sets the pace of the stream; they are threads of `adopt_thread`.
        Raises: InvalidArgument for a bad archive, OSError (ENOSPC, …); nothing remains then.
        """
        below = parent if isinstance(parent, str) else ""
        number = self._driver.new_layer(self.get(below).snapshot if below else None)
        holder = self.hold(below)
        staged: Staged | None = None
        try:
            unpacked = await self._unpack(stream, number, later, threads or self._executor)
            if not isinstance(parent, str):
                parent = await parent
                if parent:
                    self.hold_more(holder, parent)
                    self._driver.adopt(number, self.get(parent).snapshot)
            chain_id = oci_image.chain_id(parent, unpacked.diff_id)
            unsynced = "" if unpacked.on_disk else boot_id()
            staged = Staged(number=number, parent=parent, chain_id=chain_id, unpacked=unpacked, unsynced=unsynced)
            yield staged
        finally:
            adopted = self._table.get(staged.chain_id) if staged is not None else None
            if adopted is None or adopted.snapshot != number:
                self._driver.remove(number)
            self.let_go(holder)

    async def _unpack(
        self,
        stream: AsyncIterator[bytes] | Source | Callable[[], Iterator[bytes]],
        number: int,
        later: bool,
        threads: Executor,
    ) -> unpack.Unpacked:
        unpack_here = functools.partial(_unpack_to, self._driver.path(number), later=later)
        if isinstance(stream, AsyncIterator):
            return await feed_thread(stream, threads, unpack_here, "upload of a layer")
        source = _IteratorSource(stream()) if callable(stream) else stream
        # a cancelled request: the snapshot is the thread's until it ends
        return await to_its_end(asyncio.get_running_loop().run_in_executor(threads, unpack_here, source))

    async def recorded(self, number: int, parent: str) -> Staged:
        """Describe what was written to the snapshot `number` over `parent` as a layer, where it stands.

        Nothing is copied. For drivers that are `overlaid`; nobody writes there any more. Not synced: see `sync`. The
        snapshot stays the caller's until `adopt` or `keep` has made a record of it.
        Raises: InvalidArgument, OSError (ENOSPC, …).
        """
        unpacked = await asyncio.get_running_loop().run_in_executor(
            self._executor, _record, self._driver.path(number), self._driver.settle, number
        )
        self._driver.adopt(number, self.get(parent).snapshot if parent else None)
        chain_id = oci_image.chain_id(parent, unpacked.diff_id)
        return Staged(number=number, parent=parent, chain_id=chain_id, unpacked=unpacked, unsynced=boot_id())

    async def sync(self, chain_id: str) -> None:
        """Return when the files of all layers of a chain are on the disk. Costs nothing when they are already."""
        async with self._syncing:
            if not any(record.unsynced for record in self.records(chain_id)):
                return
            waiting = [record for record in self._table.all() if record.unsynced]
            await asyncio.get_running_loop().run_in_executor(self._executor, _sync, self._driver.root)
            there = [record for record in waiting if self._table.get(record.id) is record]
            self._store.apply_now(*(self._table.put(replace(record, unsynced="")) for record in there))

    def adopt(self, staged: Staged) -> list[Op]:
        """The operations that make a staged layer real; [] when an equal one exists already. Apply at once."""
        if staged.chain_id in self._table:
            return []
        holder = Ref("layer", staged.chain_id)
        record = LayerRecord(
            id=staged.chain_id,
            diff_id=staged.unpacked.diff_id,
            parent=staged.parent,
            snapshot=staged.number,
            size_bytes=staged.unpacked.size_bytes,
            tar_bytes=staged.unpacked.tar_bytes,
            unsynced=staged.unsynced,
        )
        ops = [self._table.put(record)]
        if staged.parent:
            ops.append(self._store.reference(holder, Ref("layer", staged.parent)))
        return ops

    def keep(self, staged: Staged, holder: Ref) -> None:
        """Make a staged layer real at once, for work that needs several; `holder` (from `hold`) keeps it."""
        self._store.apply_now(*self.adopt(staged), self._store.reference(holder, Ref("layer", staged.chain_id)))

    def unused_after(self, chain_id: str, holder: Ref | None) -> list[LayerRecord]:
        """Return the layers that nobody needs once `holder` has released `chain_id`, top first. Pure.

        holder: None when nobody releases anything.
        """
        gone = []
        while chain_id and not self._store.holders(Ref("layer", chain_id)) - {holder}:
            record = self._table.get(chain_id)
            if record is None or record in gone:  # one that cannot be read ends the chain
                break
            gone.append(record)
            holder, chain_id = Ref("layer", chain_id), record.parent
        return gone

    def forget(self, records: list[LayerRecord]) -> list[Op]:
        """The operations that drop these records; apply, then `discard` their directories."""
        ops = []
        for record in records:
            self._driver.fresh.add(record.snapshot)  # its directory is ours to discard, and no stray
            ops += [self._table.delete(record.id), self._store.release(Ref("layer", record.id))]
        return ops

    def discard(self, records: list[LayerRecord]) -> None:
        for record in records:
            self._chains.pop(record.id, None)
            self._driver.remove(record.snapshot)

    def replay(self, record: LayerRecord) -> Generator[bytes, None, None]:
        """The layer's archive, byte for byte, verified. Blocking.

        Raises, at its end: Internal when the directory no longer gives what its diff_id says.
        """
        directory_fd = os.open(self._driver.path(record.snapshot), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        digest = Digest()
        try:
            with buffers.kept():
                for chunk in tarsplit.replay(directory_fd):
                    digest.update(chunk)
                    yield chunk
            found = digest.finish()
            if found != record.diff_id:
                raise Internal(
                    f"layer {record.id} is damaged: its files in {self._driver.path(record.snapshot)} give {found}, "
                    f"not {record.diff_id}; remove the images that use it and pull or load them again"
                )
        finally:
            digest.finish()
            os.close(directory_fd)


@contextmanager
def holding(layers: Layers, *chain_ids: str) -> Iterator[Ref]:
    """Keep chains, "" for none, until the end of the block. Raises: Internal when one is not here."""
    holder = layers.hold("")
    try:
        for chain_id in filter(None, chain_ids):
            layers.hold_more(holder, chain_id)
        yield holder
    finally:
        layers.let_go(holder)


def is_whole(layers: Layers, chain_id: str) -> bool:
    """Whether all layers of a chain are here."""
    try:
        layers.records(chain_id)
    except Internal:
        return False
    return True


@functools.cache
def boot_id() -> str:
    """This boot of the machine, as the kernel names it."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def restacked(number: int, parent: str, record: LayerRecord) -> Staged:
    """Describe a copy of a layer's directory, made as snapshot `number`, that is to stand on another parent."""
    unpacked = unpack.Unpacked(diff_id=record.diff_id, tar_bytes=record.tar_bytes, size_bytes=record.size_bytes)
    chain_id = oci_image.chain_id(parent, record.diff_id)
    return Staged(number=number, parent=parent, chain_id=chain_id, unpacked=unpacked, unsynced=boot_id())


class _IteratorSource:
    """A blocking iterator of chunks as a source."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self) -> bytes:
        for chunk in self._chunks:
            if chunk:
                return chunk
        return b""


def _record(path: str, settle: Callable[[int], None], number: int) -> unpack.Unpacked:
    """Drop what a snapshot needed only while it was written to, and describe the rest as a layer. Blocking."""
    settle(number)
    layer_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return recording.record(layer_fd)
    finally:
        os.close(layer_fd)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        filesystems.syncfs(fd)
    finally:
        os.close(fd)


def _unpack_to(path: str, source: Source, *, later: bool) -> unpack.Unpacked:
    """Unpack below `path`, onto the disk. Blocking."""
    layer_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk = os.fstatvfs(layer_fd)
        with buffers.kept():
            return unpack.unpack(decompressed(source, limit_bytes=disk.f_blocks * disk.f_frsize), layer_fd, later=later)
    finally:
        os.close(layer_fd)
