"""Byte streams between the event loop and the worker threads, and inside a worker: feed, drain, digest, decompress.

Bounded everywhere: a producer waits when the consumer is behind, so memory does not depend on the stream's length.
Not here: what the bytes mean.

Source: RFC 1952 (gzip), the xz and bzip2 formats, RFC 8878 (zstd); CVE-2017-14992 (bombs).
"""

from __future__ import annotations

import asyncio
import bz2
import hashlib
import io
import lzma
import os
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import zstandard
from isal import igzip_lib, isal_zlib

from sampan.engine.background import beside
from sampan.errors import InvalidArgument

T = TypeVar("T")

CHUNK = 1024 * 1024
FED = CHUNK // 4  # what the loop hands to a worker at once, and a worker to the loop
DIGEST_IDLE_S = 1.0
DEPTH = 3  # chunks in flight between two threads: what waits here counts for every layer of every pull

MAX_RATIO = 10_000  # gzip cannot exceed 1032; zstd and bzip2 of plain zeros can
RATIO_FROM_BYTES = 1024**3  # below this much output a ratio means nothing
XZ_MEMORY_BYTES = 512 * 1024 * 1024
ZSTD_WINDOW_BYTES = 128 * 1024 * 1024

# format name → first bytes
MAGIC = {
    "gzip": b"\x1f\x8b\x08",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zstd": b"\x28\xb5\x2f\xfd",
}
_INVALID: tuple[type[Exception], ...] = (isal_zlib.error, OSError, lzma.LZMAError, ValueError)  # type: ignore[assignment]
_ZSTD_SKIPPABLE = (b"\x2a\x4d\x18", 0x50, 0x5F)  # little-endian 0x184D2A5?


class Source(Protocol):
    """What worker code reads from: the next bytes, at most a few MiB, or b"" at the end."""

    def read(self) -> bytes: ...


class Truncated(InvalidArgument):
    """The stream ended inside something."""

    def __init__(self) -> None:
        super().__init__("unexpected EOF")


class Feed:
    """An async byte stream, readable from one worker thread. `pump` runs on the loop; `read` blocks the worker."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(DEPTH)
        self._ended: bytes | BaseException | None = None

    async def pump(self) -> None:
        """Move the stream into the queue until its end; cancel when the worker is done."""
        parts: list[bytes] = []
        held = 0
        try:
            async for part in self._stream:
                parts.append(part)
                held += len(part)
                if held >= FED:
                    await self._room.acquire()
                    self._queue.put(b"".join(parts) if len(parts) > 1 else parts[0])
                    parts, held = [], 0
            if held:
                self._queue.put(b"".join(parts))
            self._queue.put(b"")
        except BaseException as e:
            self._queue.put(e if isinstance(e, Exception) else Truncated())
            raise

    def end(self) -> None:
        """Let the worker go if it still reads: for a pump that was cancelled, perhaps before it began."""
        self._queue.put(Truncated())

    def read(self) -> bytes:
        """The next chunk; b"" at the end. Raises: what the stream raised; Truncated when it was cancelled."""
        if self._ended is None:
            item = self._queue.get()
            if isinstance(item, bytes) and item:
                if not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._room.release)
                return item
            self._ended = item
        if isinstance(self._ended, bytes):
            return b""
        raise self._ended


async def feed_thread(
    stream: AsyncIterator[bytes], executor: Executor | None, work: Callable[[Feed], T], what: str
) -> T:
    """Run blocking `work` in a thread on a source that an async stream fills, and return what it returns.

    executor: None for the loop's own. what: words for the log. A cancelled caller ends the stream for the thread, which
    then sees Truncated, and waits for the thread's end: what the thread uses may be closed afterwards.
    Raises: what `work` raises; what the stream raised reaches it through the source.
    """
    feed = Feed(stream)
    running = asyncio.get_running_loop().run_in_executor(executor, work, feed)
    try:
        async with beside(feed.pump(), what, quiet=True):
            return await asyncio.shield(running)
    finally:
        feed.end()  # a pump that was cancelled before it began has not said so
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # the caller has it, or has left


async def drain(chunks: Iterator[bytes], executor: Executor | None = None) -> AsyncGenerator[bytes, None]:
    """Run a blocking iterator in threads and yield what it yields, one batch ahead.

    A thread is taken for one batch only, so a consumer that stops reading holds none, and the others go on.
    The iterator is closed in a thread when the consumer stops early.
    """
    loop = asyncio.get_running_loop()
    batches = _Batches(chunks)
    ahead = loop.run_in_executor(executor, batches.take)
    try:
        while True:
            batch = await asyncio.shield(ahead)
            if batch.more:
                ahead = loop.run_in_executor(executor, batches.take)
            for chunk in batch.chunks:
                yield chunk
            if batch.failure is not None:
                raise batch.failure
            if not batch.more:
                return
    finally:
        batches.stopped = True
        await asyncio.shield(loop.run_in_executor(executor, batches.close))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Chunks that an iterator gave, and what came after them: more, its end, or a failure."""

    chunks: Sequence[bytes]
    more: bool
    failure: BaseException | None = None


class _Batches:
    """A blocking iterator, taken in batches. `take` and `close` from any thread, one after the other."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._busy = threading.Lock()
        self.stopped = False

    def take(self) -> _Batch:
        found: list[bytes] = []
        held = 0
        with self._busy:
            try:
                while held < FED and not self.stopped:
                    found.append(next(self._chunks))
                    held += len(found[-1])
            except StopIteration:
                return _Batch(chunks=found, more=False)
            except BaseException as e:
                return _Batch(chunks=found, more=False, failure=e)
        return _Batch(chunks=found, more=True)

    def close(self) -> None:
        close = getattr(self._chunks, "close", None)
        if close is not None:
            with self._busy:
                close()


class Digest:
    """sha256 of a stream, computed in a thread of its own beside the one that uses the bytes.

    The thread ends while nothing comes, as for a client that does not read, and is made again by the next chunk.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._queue: queue.Queue[bytes | None] = queue.Queue(DEPTH)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.size_bytes = 0

    def update(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="images-digest", daemon=True)
                self._thread.start()
            self._queue.put(chunk)  # may wait for the thread, which asks for the lock only when the queue is empty

    def finish(self) -> str:
        """Stop and return `sha256:<hex>`. Idempotent."""
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()
        return f"sha256:{self._hash.hexdigest()}"

    def _run(self) -> None:
        while True:
            try:
                chunk = self._queue.get(timeout=DIGEST_IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._queue.empty():
                        self._thread = None
                        return
                continue
            if chunk is None:
                return
            self._hash.update(chunk)


def detect(start: bytes) -> str:
    """The compression of a stream that begins with `start`: a key of MAGIC, or "" for none."""
    for name, magic in MAGIC.items():
        if start.startswith(magic):
            return name
    magic, low, high = _ZSTD_SKIPPABLE
    if len(start) >= 4 and start[1:4] == magic and low <= start[0] <= high:
        return "zstd"
    return ""


class Peekable:
    """A source whose beginning can be looked at first."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._first: bytes | None = None

    def peek(self) -> bytes:
        """The first chunk, at least 16 bytes unless the stream is shorter."""
        if self._first is None:
            first = self._source.read()
            while len(first) < 16 and (more := self._source.read()):
                first += more
            self._first = first
        return self._first

    def read(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            if first:
                return first
        return self._source.read()


def decompressed(source: Source, *, limit_bytes: int) -> Source:
    """The plain stream of a possibly compressed one.

    limit_bytes: refuse to produce more than this. Raises, while reading: Truncated, InvalidArgument.
    """
    peekable = Peekable(source)
    kind = detect(peekable.peek())
    if not kind:
        return peekable
    if kind == "zstd":
        return _Zstd(peekable, limit_bytes)
    return _Stepwise(kind, peekable, limit_bytes)


class _Bounded:
    """Counts what went in and out of a decompressor, and stops a bomb."""

    def __init__(self, source: Source, limit_bytes: int) -> None:
        self._source = source
        self._limit = limit_bytes
        self._taken = 0
        self._given = 0

    def _take(self) -> bytes:
        chunk = self._source.read()
        self._taken += len(chunk)
        return chunk

    def _give(self, chunk: bytes) -> bytes:
        self._given += len(chunk)
        if self._given > self._limit:
            raise InvalidArgument(
                f"the uncompressed stream exceeds {self._limit} bytes, more than this disk could hold"
            )
        if self._given > RATIO_FROM_BYTES and self._given > self._taken * MAX_RATIO:
            raise InvalidArgument(f"the stream expands more than {MAX_RATIO} times: refused as a decompression bomb")
        return chunk


class _Stepwise(_Bounded):
    """gzip, bzip2 and xz: decompressors of the standard library's shape, members and streams one after the other."""

    def __init__(self, kind: str, source: Source, limit_bytes: int) -> None:
        super().__init__(source, limit_bytes)
        self._kind = kind
        self._step = self._new()
        self._pending = b""

    def _new(self) -> igzip_lib.IgzipDecompressor | bz2.BZ2Decompressor | lzma.LZMADecompressor:
        # the three share one interface: decompress(data, max_length), needs_input, eof, unused_data
        if self._kind == "gzip":
            return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        if self._kind == "bzip2":
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)

    def read(self) -> bytes:
        while True:
            if self._step.eof and not self._next_member():
                return b""
            data, self._pending = self._pending, b""
            if not data and self._step.needs_input:
                data = self._take()
                if not data:
                    raise Truncated()
            try:
                out = self._step.decompress(data, CHUNK)
            except _INVALID as e:
                raise InvalidArgument(f"{self._kind}: invalid data: {e}") from e
            if out:
                return self._give(out)

    def _next_member(self) -> bool:
        """Go on with a concatenated member; what is none ends the stream and is read to its end, as Docker does."""
        magic = MAGIC[self._kind]
        rest = self._step.unused_data.lstrip(b"\0")
        while len(rest) < len(magic) and (more := self._take()):
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(magic):
            while self._take():
                pass
            return False
        self._step = self._new()
        self._pending = rest
        return True


class _Zstd(_Bounded):
    """zstd, frame after frame, with a bounded window and bounded output steps."""

    def __init__(self, source: Source, limit_bytes: int) -> None:
        super().__init__(source, limit_bytes)
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        self._reader = decompressor.stream_reader(_Pieces(frames(self._take)), read_across_frames=True)  # type: ignore[arg-type]

    def read(self) -> bytes:
        try:
            return self._give(self._reader.read(CHUNK))
        except zstandard.ZstdError as e:
            raise InvalidArgument(f"zstd: invalid data: {e}") from e


def frames(take: Callable[[], bytes]) -> Iterator[bytes]:
    """The zstd frames of a stream, skippable ones too; what follows the last one is read and left out.

    The decompressor alone would not tell an end inside a frame from the end of the stream.
    take: gives the next bytes, b"" at the end. Raises: Truncated inside a frame. Source: RFC 8878, 3.1.
    """
    rest = b""

    def filled(size: int) -> bool:
        nonlocal rest
        while len(rest) < size and (more := take()):
            rest += more
        return len(rest) >= size

    def cut(size: int) -> Iterator[bytes]:
        nonlocal rest
        while size:
            if not rest and not filled(1):
                raise Truncated()
            piece, rest = rest[:size], rest[size:]
            size -= len(piece)
            yield piece

    while filled(4) and detect(rest) == "zstd":
        if rest[:4] != MAGIC["zstd"]:
            if not filled(8):
                raise Truncated()
            yield from cut(8 + int.from_bytes(rest[4:8], "little"))
            continue
        if not filled(5):
            raise Truncated()
        flags = rest[4]
        alone = flags >> 5 & 1
        yield from cut(5 + (not alone) + (0, 1, 2, 4)[flags & 3] + (alone, 2, 4, 8)[flags >> 6])
        last = 0
        while not last:
            if not filled(3):
                raise Truncated()
            block = int.from_bytes(rest[:3], "little")
            last, repeated = block & 1, block >> 1 & 3 == 1
            yield from cut(3 + (1 if repeated else block >> 3))
        yield from cut(4 if flags >> 2 & 1 else 0)
    while take():
        pass


class _Pieces(io.RawIOBase):
    """An iterator of bytes as the file object that zstandard wants: honours the size it asks for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._pieces, b"")
        if size < 0:
            size = len(self._rest)
        out, self._rest = self._rest[:size], self._rest[size:]
        return out


class FileSource:
    """A descriptor as a source. Does not own it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self) -> bytes:
        return os.read(self._fd, CHUNK)
