"""One layer on its way to a registry: compressed by a thread while it is sent, and again where a connection broke.

Nothing is kept in between: the same layer gives the same bytes, so an upload that is resumed at byte n compresses again
and leaves out the first n. Not here: whether the registry has the layer already (push.py), HTTP (sampan.registry).

Source: OCI distribution-spec 1.1 "Pushing blobs".
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from sampan.engine.archives.gzipped import gzipped
from sampan.engine.archives.streams import DEPTH, Digest
from sampan.engine.images.reports import INTERVAL_S, Report, retry_words
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.records import LayerRecord
from sampan.errors import Internal
from sampan.registry import manifests, transport
from sampan.registry.manifests import Descriptor
from sampan.registry.refusals import Refused
from sampan.registry.repository import Repository, count_down
from sampan.spec import oci_image

SMALL_BYTES = 4 * 1024 * 1024  # a layer of this size is compressed in memory and sent by one request
ATTEMPTS = 5
BACKOFF_S = 0.5


@dataclass(frozen=True, slots=True)
class Whole:
    """The compressed layer, known once all of it was made."""

    digest: str
    size: int


class Upload:
    """One layer to one repository."""

    def __init__(
        self, layers: Layers, streaming: Executor, place: Repository, record: LayerRecord, report: Report
    ) -> None:
        self._layers, self._streaming = layers, streaming
        self._place = place
        self._record = record
        self._report = report
        self._name = record.diff_id.removeprefix("sha256:")[:12]
        self._loop = asyncio.get_running_loop()

    async def run(self) -> Descriptor:
        """Send it. Raises: Refused, Internal (the layer is damaged; it broke too often)."""
        small = self._record.tar_bytes <= SMALL_BYTES
        whole = await (self._at_once() if small else self._stream())
        self._report.line(self._name, "Pushed")
        return Descriptor(manifests.DOCKER_LAYER, whole.digest, whole.size)

    async def _at_once(self) -> Whole:
        """For a small layer."""

        def make() -> tuple[bytes, Whole]:
            raw = b"".join(gzipped(self._layers.replay(self._record)))
            return raw, Whole(oci_image.digest(raw), len(raw))

        raw, whole = await self._loop.run_in_executor(self._streaming, make)
        self._bar(self._record.tar_bytes)
        await self._place.put_blob(raw, whole.digest)
        return whole

    async def _stream(self) -> Whole:
        upload = await self._place.begin_upload()
        at, failures = 0, 0
        whole: Whole | None = None
        while True:
            making = _Pass(self._layers, self._streaming, self._record, at)
            try:
                size = whole.size - at if whole is not None else None
                upload = await self._place.append(upload, self._shown(making), at=at, size=size)
                whole = whole or await making.whole()
                break
            except (Internal, Refused, *transport.FAILURES) as e:
                if making.failure is not None:
                    raise making.failure from e
                failures += 1
                if not _passing(e) or failures >= ATTEMPTS:
                    raise
            finally:
                await making.close()
            await count_down(BACKOFF_S * 2 ** (failures - 1), self._retrying)
            if whole is None:
                whole = await self._loop.run_in_executor(self._streaming, self._measure)
            at, upload = await self._where(upload, whole)
            if at == whole.size:
                break
        await self._place.finish_upload(upload, whole.digest)
        return whole

    def _measure(self) -> Whole:
        """Compress the layer for its size and digest only: a resumed upload says how much is to come. Blocking."""
        digest = Digest()
        try:
            for chunk in gzipped(self._layers.replay(self._record)):
                digest.update(chunk)
            return Whole(digest.finish(), digest.size_bytes)
        finally:
            digest.finish()

    async def _where(self, upload: str, whole: Whole) -> tuple[int, str]:
        """How far an interrupted upload came; from the beginning in a new one when the registry has forgotten it."""
        try:
            at, upload = await self._place.uploaded(upload)
        except Refused:
            return 0, await self._place.begin_upload()
        return min(at, whole.size), upload

    async def _shown(self, making: _Pass) -> AsyncGenerator[bytes, None]:
        """The chunks of a pass, reported from time to time."""
        shown = 0.0
        async for chunk in making.chunks():
            now = time.monotonic()
            if now - shown >= INTERVAL_S:
                shown = now
                self._bar(making.read)
            yield chunk

    def _retrying(self, seconds: int) -> None:
        self._report.line(self._name, retry_words(seconds))

    def _bar(self, read: int) -> None:
        self._report.bar(self._name, "Pushing", read, max(self._record.size_bytes, 1))


class _Pass:
    """The compressed layer from byte `at` on, made once, by a thread, a few chunks ahead of who takes them."""

    def __init__(self, layers: Layers, streaming: Executor, record: LayerRecord, at: int) -> None:
        self._plain = layers.replay(record)
        self._skip = at
        self._loop = asyncio.get_running_loop()
        self._made: asyncio.Queue[bytes | memoryview | None] = asyncio.Queue()
        self._room = threading.Semaphore(DEPTH)
        self._stopped = False
        self._taken = False
        self.read = 0  # bytes of the layer's archive
        self.failure: BaseException | None = None
        self._work = self._loop.run_in_executor(streaming, self._make)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The chunks, to the layer's end or until `close`: the HTTP client may hold on to this after a failure."""
        while (chunk := await self._made.get()) is not None and not self._stopped:
            self._room.release()
            yield chunk  # type: ignore[misc]  # a memoryview is as good
        self._taken = True
        if self.failure is not None:
            raise self.failure

    async def whole(self) -> Whole:
        """What was made. Raises: what making it raised, Internal when nobody wanted all of it."""
        if not self._taken:
            raise Internal("the registry answered before it had the whole layer")
        return await self._work

    async def close(self) -> None:
        self._stopped = True
        self._room.release()
        self._made.put_nowait(None)
        with suppress(BaseException):
            await self._work

    def _counted(self) -> Generator[bytes, None, None]:
        for chunk in self._plain:
            self._check()
            self.read += len(chunk)
            yield chunk

    def _check(self) -> None:
        if self._stopped:
            raise Internal("the upload was given up")

    def _make(self) -> Whole:
        """Compress the layer, and give each chunk away as soon as somebody wants it. Blocking."""
        digest = Digest()
        try:
            for chunk in gzipped(self._counted()):
                digest.update(chunk)
                skipped = min(self._skip, len(chunk))
                self._skip -= skipped
                if skipped < len(chunk):
                    self._room.acquire()
                    self._check()
                    self._give(memoryview(chunk)[skipped:] if skipped else chunk)
            return Whole(digest.finish(), digest.size_bytes)
        except BaseException as e:
            self.failure = e
            raise
        finally:
            self._plain.close()
            digest.finish()
            self._give(None)

    def _give(self, chunk: bytes | memoryview | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._made.put_nowait, chunk)


def _passing(error: BaseException) -> bool:
    """Whether another attempt may do better."""
    if isinstance(error, Refused):
        return error.passing
    return not isinstance(error, Internal) or error.__cause__ is not None
