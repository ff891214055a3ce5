"""Layers on their way in: each is fetched once, however many pulls want it, and unpacked while it arrives.

    join ──▶ LayerDownload (one a chain id): wait for a slot ─▶ stream ─▶ verify, unpack ─▶ the layer below ─▶ record
                 ▲ joined by every pull that wants the layer; ends early when the last one leaves

Not here: which layers an image has (pull.py), HTTP (sampan.registry). Invariants: a layer gets its record only when its
blob had the digest and size of the manifest and its content the diff_id of the configuration; slots are the engine's.
Layers may be unsynced: publishing the image (service.py) puts all of them on the disk at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from sampan.engine.background import Background, beside
from sampan.engine.images.known import KnownBlobs
from sampan.engine.images.reports import INTERVAL_S, Report, retry_words
from sampan.engine.layers.layers import Layers, Staged
from sampan.errors import Internal, InvalidArgument, SampanError, Unavailable
from sampan.registry.manifests import Descriptor
from sampan.registry.repository import Repository

ATTEMPTS = 3  # of one pull for one layer, when flights of others fail


class Slots:
    """At most `limit` at a time, first come first served; 0 means no limit, which may change at any time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> bool:
        return self._limit == 0 or self._taken < self._limit

    def resize(self, limit: int) -> None:
        self._limit = limit
        self._admit()

    def _admit(self) -> None:
        while self._queue and self.free:
            waiting = self._queue.popleft()
            if not waiting.done():
                self._taken += 1
                waiting.set_result(None)

    def release(self) -> None:
        self._taken -= 1
        self._admit()

    async def take(self) -> None:
        if self.free and not self._queue:
            self._taken += 1
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self.release()
            raise

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        await self.take()
        try:
            yield
        finally:
            self.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedLayer:
    """A layer that an image needs: what it is here, and what the registry calls it."""

    chain_id: str
    diff_id: str
    blob: Descriptor
    source: str  # domain/path of the repository that gives it

    @property
    def id(self) -> str:
        """How progress messages name it."""
        return self.blob.digest.removeprefix("sha256:")[:12]


class Watcher:
    """One who waits for layers: keeps them by its `holder`, and is told how they come along."""

    def __init__(self, layers: Layers, report: Report | None) -> None:
        self.holder = layers.hold("")
        self.report = report


class LayerDownload:
    """One layer under way. `task` ends when the layer has its record, or cannot have one."""

    def __init__(self, wanted: WantedLayer) -> None:
        self.wanted = wanted
        self.watchers: set[Watcher] = set()
        self.task: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None

    def line(self, status: str) -> None:
        for watcher in self.watchers:
            if watcher.report is not None:
                watcher.report.line(self.wanted.id, status)

    def bar(self, status: str, current: int, total: int) -> None:
        for watcher in self.watchers:
            if watcher.report is not None:
                watcher.report.bar(self.wanted.id, status, current, total)


class Downloads:
    """All layers under way in one engine. On the loop's thread."""

    def __init__(self, layers: Layers, known: KnownBlobs, concurrency: int) -> None:
        self._layers = layers
        self._known = known
        self._flights: dict[str, LayerDownload] = {}  # by chain id
        self._background = Background()
        self.slots = Slots(concurrency)

    async def close(self) -> None:
        """End what is under way."""
        await self._background.close()

    async def obtain(
        self, wanted: WantedLayer, repository: Repository, watcher: Watcher, below: WantedLayer | None
    ) -> None:
        """Return when the layer is here, held by the watcher. Raises what its fetch raised."""
        for attempt in range(ATTEMPTS):
            if wanted.chain_id in self._layers:
                self._layers.hold_more(watcher.holder, wanted.chain_id)
                return
            flight = self._flights.get(wanted.chain_id)
            own = flight is None
            if flight is None:
                flight = self._start(wanted, repository, below)
            flight.watchers.add(watcher)
            assert flight.task is not None
            try:
                await asyncio.wait({flight.task})
            finally:
                self._leave(flight, watcher)
            if flight.failure is None and not flight.task.cancelled():
                return
            if (own and not isinstance(flight.failure, _BelowFailed)) or attempt == ATTEMPTS - 1:
                raise flight.failure or asyncio.CancelledError()

    def _leave(self, flight: LayerDownload, watcher: Watcher) -> None:
        flight.watchers.discard(watcher)
        if not flight.watchers and flight.task is not None and not flight.task.done():
            self._flights.pop(flight.wanted.chain_id, None)  # who comes now begins anew
            flight.task.cancel()

    def _start(self, wanted: WantedLayer, repository: Repository, below: WantedLayer | None) -> LayerDownload:
        flight = LayerDownload(wanted)
        flight.task = self._background.spawn(self._fly(flight, repository, below), f"download of layer {wanted.id}")
        if flight.task is None:
            raise Unavailable("the engine is stopping")
        self._flights[wanted.chain_id] = flight
        return flight

    async def _fly(self, flight: LayerDownload, repository: Repository, below: WantedLayer | None) -> None:
        """The task of a flight; its failure is kept, not raised: whoever waits looks."""
        own = Watcher(self._layers, None)  # holds the layer until everybody who waits does
        try:
            async with beside(self._below(below, own), "waiting for the layer below", quiet=True) as under:
                await self._land(flight, repository, under, own)
        except Exception as e:
            flight.failure = e
        finally:
            if self._flights.get(flight.wanted.chain_id) is flight:
                del self._flights[flight.wanted.chain_id]
            self._layers.let_go(own.holder)

    async def _below(self, below: WantedLayer | None, watcher: Watcher) -> str:
        """The chain id of the layer below, once it is here."""
        if below is None:
            return ""
        flight = self._flights.get(below.chain_id)
        if flight is not None and flight.task is not None:
            flight.watchers.add(watcher)
            try:
                await asyncio.wait({flight.task})
            finally:
                self._leave(flight, watcher)
        if below.chain_id not in self._layers:
            raise _BelowFailed(below.chain_id)
        self._layers.hold_more(watcher.holder, below.chain_id)
        return below.chain_id

    async def _land(
        self, flight: LayerDownload, repository: Repository, under: asyncio.Task[str], own: Watcher
    ) -> None:
        """Fetch and unpack; where the same content stands on another layer already, copy it from there."""
        wanted = flight.wanted
        twin = self._earlier(flight)
        if twin is not None:
            await asyncio.wait({twin})
        record = self._layers.same_content(wanted.diff_id)
        if record is not None:
            self._layers.hold_more(own.holder, record.id)
            async with self._layers.unpacking(partial(self._layers.replay, record), parent=under, later=True) as staged:
                self._keep(flight, staged, own)
            return
        if not self.slots.free:
            flight.line("Waiting")
        arriving = _Arriving(flight, repository, self.slots)
        try:
            async with aclosing(arriving.chunks()) as chunks:
                async with self._layers.unpacking(chunks, parent=under, later=True) as staged:
                    self._keep(flight, staged, own)
        except InvalidArgument:
            await arriving.blame()  # what is no archive was, most likely, not what the manifest promised
            raise
        self._known.note(wanted.diff_id, wanted.blob, wanted.source)

    def _earlier(self, flight: LayerDownload) -> asyncio.Task[None] | None:
        """A flight with the same blob that began before this one; only earlier ones, so that none wait in a circle."""
        for other in self._flights.values():
            if other is flight:
                break
            if (other.wanted.diff_id, other.wanted.blob) == (flight.wanted.diff_id, flight.wanted.blob):
                return other.task
        return None

    def _keep(self, flight: LayerDownload, staged: Staged, own: Watcher) -> None:
        if staged.unpacked.diff_id != flight.wanted.diff_id:
            raise Internal(
                f"layers from manifest don't match image configuration: layer {flight.wanted.blob.digest} is "
                f"{staged.unpacked.diff_id}, not {flight.wanted.diff_id}"
            )
        self._layers.keep(staged, own.holder)
        size = flight.wanted.blob.size
        flight.bar("Extracting", size, size)
        flight.line("Pull complete")
        for watcher in flight.watchers:
            self._layers.hold_more(watcher.holder, flight.wanted.chain_id)


class _BelowFailed(SampanError):
    """The layer below did not come: the reason is that layer's own."""


class _Arriving:
    """The blob of a flight as a stream that reports itself; it has a slot from its first byte to its last."""

    def __init__(self, flight: LayerDownload, repository: Repository, slots: Slots) -> None:
        self._flight = flight
        self._repository = repository
        self._slots = slots
        self._complete = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        flight, blob = self._flight, self._flight.wanted.blob
        done, shown = 0, 0.0
        async with self._slots.slot(), aclosing(self._repository.blob(blob, self._retrying)) as chunks:
            async for chunk in chunks:
                done += len(chunk)
                now = time.monotonic()
                if now - shown >= INTERVAL_S:
                    flight.bar("Downloading", done, blob.size)
                    shown = now
                if done == blob.size:
                    flight.line("Verifying Checksum")
                yield chunk
        self._complete = True
        flight.line("Download complete")

    def _retrying(self, seconds: int) -> None:
        self._flight.line(retry_words(seconds))

    async def blame(self) -> None:
        """Raises: Unverified when the blob is not what its digest says.

        Reads it again if it was not read to its end.
        """
        if not self._complete:
            async with aclosing(self._repository.blob(self._flight.wanted.blob)) as chunks:
                async for _ in chunks:
                    pass
