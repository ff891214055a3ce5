"""Containers' roots: the writable directory of each container over the layers it stands on.

Not here: which image that is (a root takes a chain id and asks no catalogue), the mount itself, which the container's
own mount namespace makes. Invariant: a root's record, its hold on the layers below and what its caller holds beside it
come and go in one transaction, so that whatever dies, there is no root without a record for longer than to the next
start, and no hold without a root.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar, TypeVarTuple, Unpack

from sampan.engine.archives import streams, tar_writer
from sampan.engine.layers import diff, sizes
from sampan.engine.layers.layers import Layers, holding
from sampan.engine.layers.records import SnapshotRecord
from sampan.engine.layers.snapshots.driver import SnapshotDriver
from sampan.engine.store import Op, Ref, Store
from sampan.errors import InvalidArgument, NotFound
from sampan.spec.oci_runtime import Mount

log = logging.getLogger("sampan.layers")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def nothing() -> list[Op]:
    """No operations beside the root's own."""
    return []


class Roots:
    """The roots of one data root's containers, by container id. Use on the event loop's thread."""

    def __init__(
        self, store: Store, driver: SnapshotDriver, layers: Layers, pool: Executor, streaming: Executor
    ) -> None:
        """pool: for work that waits for the disk only; streaming: for work that waits for a client as well."""
        self._store, self._driver, self._layers = store, driver, layers
        self._pool, self._streaming = pool, streaming
        self._table = store.table("snapshots", SnapshotRecord)

    def all(self) -> list[SnapshotRecord]:
        """The records of all roots."""
        return self._table.all()

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._table

    async def prepare(self, container_id: str, chain_id: str, beside: Callable[[], Iterable[Op]] = nothing) -> None:
        """Make the root of a container over a chain of layers, "" for none: directories and a record.

        Nothing is mounted. The record is durable with the next durable write, which is the container's own.
        beside: gives what is written in the same transaction. It is asked before anything is made and again when it
        was, and refuses by raising.
        Raises: OSError, what `beside` raises.
        """
        beside()
        lowers = self._layers.numbers(chain_id)
        if self._driver.instant:
            number = self._driver.new_container(lowers)
        else:
            holder = self._layers.hold(chain_id)
            try:
                number = await self._in_thread(self._driver.new_container, lowers)
            finally:
                self._layers.let_go(holder)
        try:
            ops = [self._table.put(SnapshotRecord(id=container_id, snapshot=number, chain_id=chain_id)), *beside()]
            if chain_id:
                ops.append(self._store.reference(Ref("snapshot", container_id), Ref("layer", chain_id)))
            self._store.apply_now(*ops)
        except BaseException:
            self._driver.remove(number)
            raise

    def remove(self, container_id: str, beside: Iterable[Op] = ()) -> None:
        """Throw a root away, and layers that nothing needs any more; one that is not there is already so.

        beside: what is written in the same transaction.
        """
        record = self._table.get(container_id)
        if record is None:
            return
        holder = Ref("snapshot", container_id)
        unused = self._layers.unused_after(record.chain_id, holder)
        gone = [self._table.delete(container_id), self._store.release(holder), *self._layers.forget(unused)]
        self._store.apply_now(*gone, *beside)
        self._driver.remove(record.snapshot)
        self._layers.discard(unused)

    def retain(self, container_ids: Collection[str], beside: Callable[[str], Iterable[Op]]) -> None:
        """Throw away the roots of all other containers: creations and removals that a crash interrupted."""
        for record in self._table.all():
            if record.id not in container_ids:
                log.info("removing the root of container %s, which does not exist", record.id)
                self.remove(record.id, beside(record.id))

    def is_lost(self, container_id: str) -> bool:
        """Whether a container's writable directory is not there, whatever its record says."""
        record = self._table.get(container_id)
        return record is not None and not os.path.isdir(self._driver.path(record.snapshot))

    def mounts(self, container_id: str) -> tuple[Mount, ...]:
        """The OCI mounts that make the container's root file system. Raises: NotFound."""
        record = self._get(container_id)
        return self._driver.mounts(record.snapshot, self._layers.numbers(record.chain_id))

    def graph_driver(self, container_id: str) -> Mapping[str, str]:
        """GraphDriver.Data of the container for inspect. Raises: NotFound."""
        record = self._get(container_id)
        return self._driver.data(record.snapshot, self._layers.numbers(record.chain_id), container=True) or {}

    def open_root(self, container_id: str, *, writable: bool) -> int:
        """A detached mount of a root: a descriptor that the caller closes. Raises: NotFound, OSError.

        writable: only while no container has it mounted.
        """
        record = self._get(container_id)
        return self._driver.open_root(record.snapshot, self._layers.numbers(record.chain_id), writable=writable)

    async def usage(self, container_id: str) -> tuple[int, int]:
        """(SizeRw, SizeRootFs) in bytes. Raises: NotFound, also when it goes meanwhile; OSError."""
        record = self._get(container_id)
        below = self._layers.size_bytes(record.chain_id)
        lowers = self._layers.numbers(record.chain_id)

        def work() -> int:
            try:
                with self._driver.changed(record.snapshot, lowers) as fd:
                    return _size(fd)
            except InvalidArgument:  # nested too deep to be told apart: then all that it can write to counts
                fd = os.open(self._driver.path(record.snapshot), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    return _size(fd)
                finally:
                    os.close(fd)

        with holding(self._layers, record.chain_id):
            try:
                size = await self._in_thread(work)
            except OSError:
                self._get(container_id)
                raise
        return size, size + below

    async def changes(self, container_id: str) -> list[tuple[int, str]]:
        """(0 modified, 1 added, 2 deleted; path) of everything that the container changed, sorted by path.

        Raises: NotFound, InvalidArgument, OSError.
        """
        record = self._get(container_id)
        lowers = self._layers.numbers(record.chain_id)

        def work() -> list[tuple[int, str]]:
            lower_fd = self._driver.open_lower(lowers)
            try:
                with self._driver.changed(record.snapshot, lowers) as upper_fd:
                    return diff.changes(upper_fd, lower_fd)
            finally:
                os.close(lower_fd)

        with holding(self._layers, record.chain_id):
            try:
                return await self._in_thread(work)
            except OSError:
                self._get(container_id)
                raise

    @asynccontextmanager
    async def changed(self, container_id: str) -> AsyncIterator[tuple[int, str]]:
        """What a container changed, as a directory in overlayfs' form: (its descriptor, chain id of the layers below).

        Nobody may write there meanwhile. Raises: NotFound, InvalidArgument, OSError.
        """
        record = self._get(container_id)
        changed = self._driver.changed(record.snapshot, self._layers.numbers(record.chain_id))
        fd = await self._in_thread(changed.__enter__)
        try:
            yield fd, record.chain_id
        finally:
            await self._in_thread(changed.__exit__, None, None, None)

    async def export(self, container_id: str) -> AsyncIterator[bytes]:
        """The container's whole file system as a tar archive; the container may run. Raises: NotFound, OSError."""
        root_fd = self.open_root(container_id, writable=False)
        try:
            async with aclosing(streams.drain(tar_writer.tree(root_fd), self._streaming)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            os.close(root_fd)

    def _get(self, container_id: str) -> SnapshotRecord:
        record = self._table.get(container_id)
        if record is None:
            raise NotFound(f"container {container_id} has no snapshot")
        return record

    async def _in_thread(self, work: Callable[[Unpack[Ts]], T], *arguments: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _size(directory_fd: int) -> int:
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        return sizes.tree_size(fd)
    finally:
        os.close(fd)
