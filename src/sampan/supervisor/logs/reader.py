"""Read a container's log back: tail, since, until, follow; rotated and compressed files included. For the daemon's
event loop.

Reading is in bulk: a quarter of a MiB is read (from the page cache), decoded and framed at a time, then the loop gets
its turn. Following uses inotify on the log's directory, watched before the files are opened. A rotation shows as
`<path>` moved to `<path>.1`; the old file is read to its end through the descriptor held, then as many files are
stepped over as rotations were seen: nothing is lost or repeated.

Invariants: no polling; the only blocking work is reading files (decompression runs in a thread).
A line longer than 16 KiB is several records (lines.py) of one time. It counts once for tail, and what stands in front
of a line, its time say, stands there once.

Source: inotify(7); Docker Engine 28.5 for the meaning of tail (before since) and the form of lines. Docker counts and
stamps each record of a long line.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import shutil
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import quote_plus

from sampan.errors import Internal
from sampan.linux import inotify
from sampan.spec.times import rfc3339_nano
from sampan.supervisor.logs.decoders import Decoder, LogRecord, decoder

_CHUNK_BYTES = 256 * 1024
_TAIL_BYTES = 256 * 1024
_RECORD_BYTES = 16 * 1024 * 1024  # more than a record of 16 KiB takes, with its attributes and escapes
_HEADER = struct.Struct(">BxxxI")
_STREAMS = {"stdout": 1, "stderr": 2}
_WATCH = inotify.IN_MODIFY | inotify.IN_MOVED_TO | inotify.IN_CREATE | inotify.IN_DELETE_SELF


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which records, in which form, and for how long."""

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0  # 0: no bound
    until_ns: int = 0
    tail: int | None = None  # as many lines at most, counted before `since` is looked at; None: all
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    raw: bool = False  # without stdcopy headers, for containers with a terminal


async def read(driver: str, path: str, query: Query, *, stopped: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Yield the log in big chunks of stdcopy frames, one frame a record (or raw bytes).

    A query that follows goes on until `stopped` is set (all that is on disk then is still delivered) or until its
    `until_ns` has passed.

    Raises: NotImplemented_ for a driver that cannot be read; OSError when the log cannot be opened; Internal when it is
    damaged.
    """
    log = _Log(path, decoder(driver), renderer(query))
    with ExitStack() as stack:
        watch = stack.enter_context(_Watch(path)) if query.follow else None
        files = await log.open_files(stack)
        async for chunk in log.emit_from(files, query.tail):
            yield chunk
        if watch and not log.past_until:
            stack.enter_context(watch.woken_by(stopped, query.until_ns))
            async for chunk in log.follow(files[-1], watch, stopped, query.until_ns):
                yield chunk


def renderer(query: Query) -> Callable[[list[LogRecord]], tuple[bytes, bool]]:
    """Build the function that turns records into what the client reads: (bytes, whether `until` has been passed)."""
    pack = _HEADER.pack
    since = rfc3339_nano(query.since_ns)[:-1] if query.since_ns else ""
    until = rfc3339_nano(query.until_ns)[:-1] if query.until_ns else ""
    wanted = {name: number for name, number in _STREAMS.items() if getattr(query, name)}
    plain = not (since or until or query.timestamps or query.details or query.raw)
    unfinished: dict[str, str] = {}  # stream → time of the line of which more pieces may come

    def fast(records: list[LogRecord]) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        append = parts.append
        for record in records:
            number = wanted.get(record.stream)
            if number:
                line = record.log.encode("utf-8", "surrogateescape")
                append(pack(number, len(line)))
                append(line)
        return b"".join(parts), False

    def full(records: list[LogRecord]) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        for record in records:
            inside = unfinished.pop(record.stream, None) == record.time
            if not record.log.endswith("\n"):
                unfinished[record.stream] = record.time
            when = record.time[:-1]  # without Z, fractions of any length compare as text
            if since and when < since:
                continue
            if until and when > until:
                return b"".join(parts), True
            number = wanted.get(record.stream)
            if not number:
                continue
            line = record.log.encode("utf-8", "surrogateescape")
            if query.details and not inside:
                line = _details(record.attrs) + b" " + line
            if query.timestamps and not inside:
                line = _fixed(when) + b" " + line
            if not query.raw:
                parts.append(pack(number, len(line)))
            parts.append(line)
        return b"".join(parts), False

    return fast if plain else full


def _fixed(when: str) -> bytes:
    """Write RFC 3339 with nine digits of fraction, as Docker prints times in front of lines."""
    return ((when if "." in when else when + ".").ljust(29, "0") + "Z").encode()


def _details(attrs: dict[str, str] | None) -> bytes:
    return ",".join(f"{quote_plus(k)}={quote_plus(v)}" for k, v in sorted((attrs or {}).items())).encode()


class LogTail:
    """Counts lines from the end of a log, by records shown to it newest first."""

    def __init__(self, count: int) -> None:
        self.wanted = count  # lines that are still to come
        self._begun: dict[str, str] = {}  # stream → time of a line of the tail whose first record may be further back

    @property
    def done(self) -> bool:
        return self.wanted <= 0 and not self._begun

    def take(self, record: LogRecord) -> bool:
        """Take the next older record; tell whether it belongs to the tail."""
        inside = self._begun.pop(record.stream, None) == record.time and not record.log.endswith("\n")
        if not inside:
            if self.wanted <= 0:
                return False
            self.wanted -= 1
        self._begun[record.stream] = record.time
        return True

    def skip(self, count: int, first: list[LogRecord]) -> None:
        """Take a block of which each record ends a line of the tail: how many, and the first of them."""
        self.wanted -= count
        self._begun = {record.stream: record.time for record in first}


@dataclass(slots=True)
class _LogFile:
    """An open log file and how far it has been read."""

    fd: int
    offset: int = 0

    def size(self) -> int:
        return os.fstat(self.fd).st_size


class _Log:
    """One log being read by one client."""

    def __init__(self, path: str, decoder_: Decoder, render: Callable[[list[LogRecord]], tuple[bytes, bool]]) -> None:
        self._path = path
        self._decoder = decoder_
        self._render = render
        self.past_until = False

    async def open_files(self, stack: ExitStack) -> list[_LogFile]:
        """Open every file of the log, oldest first, the live one last; consistent even while the shim rotates."""
        while True:
            with ExitStack() as attempt:
                live = _open(self._path, attempt)
                older = [await self._open_rotated(n, attempt) for n in self._rotated_numbers()]
                if os.stat(self._path).st_ino == os.fstat(live).st_ino:
                    stack.push(attempt.pop_all())
                    return [_LogFile(fd) for fd in older if fd is not None] + [_LogFile(live)]

    def _rotated_numbers(self) -> list[int]:
        directory, name = os.path.split(self._path)
        pattern = re.compile(re.escape(name) + r"\.(\d+)(?:\.gz)?")
        matches = (pattern.fullmatch(entry) for entry in os.listdir(directory or "."))
        return sorted({int(m[1]) for m in matches if m}, reverse=True)

    async def _open_rotated(self, number: int, stack: ExitStack) -> int | None:
        """Open `<path>.<number>`, compressed or not; None when it is gone (the rotation that took it is noticed by the
        caller).
        """
        path = f"{self._path}.{number}"
        for _ in range(3):  # it may be compressed between the two tries
            try:
                return _open(path, stack)
            except FileNotFoundError:
                pass
            try:
                return await asyncio.to_thread(_decompressed, f"{path}.gz", stack)
            except FileNotFoundError:
                continue
        return None

    async def emit_from(self, files: list[_LogFile], tail: int | None) -> AsyncIterator[bytes]:
        first = 0 if tail is None else await self._seek_last(files, tail)
        for file in files[first:]:
            async for chunk in self._emit(file):
                yield chunk
            if self.past_until:
                return

    async def _seek_last(self, files: list[_LogFile], count: int) -> int:
        """Set the offsets so that `count` lines remain. Returns the index of the first file to read."""
        tail = LogTail(count)
        for index in range(len(files) - 1, -1, -1):
            await self._seek_back(files[index], tail)
            if tail.done:
                return index
        return 0

    async def _seek_back(self, file: _LogFile, tail: LogTail) -> None:
        """Walk back from the file's end, a block at a time, until the tail is found or the file begins."""
        end = file.offset = file.size()
        size = _TAIL_BYTES
        while end > 0 and not tail.done:
            start = max(0, end - size)
            block = os.pread(file.fd, end - start, start)
            places = self._decoder.back(block, at_start=start == 0)
            if len(places) < 2:  # not one whole record, or not one at all: an unfinished one at the end of the file
                if start == 0:
                    return
                size = self._larger(size)
                continue
            size = _TAIL_BYTES
            whole = block[places[0] : places[-1]]
            count = len(places) - 1
            if count < tail.wanted and self._decoder.line_ends(whole) == count:
                tail.skip(count, self._decoder.decode(block[places[0] : places[1]]))
                first = places[0]
            else:
                first = self._first(tail, block, places)
            file.offset = start + first
            end = start + places[0]
            await asyncio.sleep(0)

    def _larger(self, size: int) -> int:
        """Return twice a size, for a record that does not fit. Raises: Internal when no record is so long."""
        if size >= _RECORD_BYTES:
            raise Internal(f"the log {self._path} is damaged: no record ends within {size} bytes")
        return size * 2

    def _first(self, tail: LogTail, block: bytes, places: list[int]) -> int:
        """Return where the tail's first record in this block begins; the block's end when it has none."""
        first = places[-1]
        for begin, finish in zip(places[-2::-1], places[:0:-1], strict=True):
            for record in self._decoder.decode(block[begin:finish]):
                if tail.take(record):
                    first = begin
            if tail.done:
                break
        return first

    async def _emit(self, file: _LogFile) -> AsyncIterator[bytes]:
        """Yield from the file's offset to its present end. An unfinished record at the end stays for the next call."""
        size = _CHUNK_BYTES
        while True:
            block = os.pread(file.fd, size, file.offset)
            whole = self._decoder.whole(block)
            if not whole:
                if len(block) < size:
                    return
                size = self._larger(size)
                continue
            file.offset += whole
            chunk, self.past_until = self._render(self._decoder.decode(block[:whole]))
            if chunk:
                yield chunk
            if self.past_until or len(block) < size:
                return
            await asyncio.sleep(0)

    async def follow(
        self, file: _LogFile, watch: _Watch, stopped: asyncio.Event | None, until_ns: int
    ) -> AsyncIterator[bytes]:
        with ExitStack() as stack:
            while True:
                ending = bool(stopped and stopped.is_set()) or bool(until_ns and time.time_ns() > until_ns)
                rotations = watch.rotations()
                if file.size() < file.offset:  # max-file=1: the file was emptied
                    file.offset = 0
                async for chunk in self._emit(file):
                    yield chunk
                if self.past_until:
                    return
                if rotations:
                    file = await self._step(rotations, watch, stack)
                    continue
                if ending:
                    return
                await watch.wait()

    async def _step(self, rotations: int, watch: _Watch, stack: ExitStack) -> _LogFile:
        """Open the file that followed the one just finished: `rotations` back from now, minus one."""
        while True:
            rotations += watch.rotations()
            with ExitStack() as attempt:
                if rotations == 1:
                    try:
                        fd: int | None = _open(self._path, attempt)
                    except FileNotFoundError:  # between rename and open
                        await watch.wait()
                        continue
                else:
                    fd = await self._open_rotated(rotations - 1, attempt)
                again = watch.rotations()
                if again:
                    rotations += again
                    continue
                if fd is None:  # so far behind that max-file took it
                    rotations -= 1
                    continue
                stack.close()
                stack.push(attempt.pop_all())
                watch.owe(rotations - 1)
                return _LogFile(fd)


class _Watch:
    """The log directory's inotify, counting rotations of one log; a context manager."""

    def __init__(self, path: str) -> None:
        self._directory, name = os.path.split(path)
        self._rotated = f"{name}.1"
        self._inotify = inotify.Inotify()
        self._pending = 0
        self._wake = asyncio.Event()

    def __enter__(self) -> _Watch:
        self._inotify.add_watch(self._directory or ".", _WATCH)
        return self

    def __exit__(self, *_: object) -> None:
        self._inotify.close()

    def rotations(self) -> int:
        """Return how many rotations happened since the last call (plus those still owed)."""
        while events := self._inotify.read():
            self._pending += sum(1 for e in events if e.mask & inotify.IN_MOVED_TO and e.name == self._rotated)
        count, self._pending = self._pending, 0
        return count

    def owe(self, count: int) -> None:
        self._pending += count

    def woken_by(self, stopped: asyncio.Event | None, until_ns: int) -> ExitStack:
        """Arrange that `wait` returns for file events, for `stopped`, and when `until_ns` comes."""
        loop = asyncio.get_running_loop()
        stack = ExitStack()
        loop.add_reader(self._inotify.fileno(), self._wake.set)
        stack.callback(loop.remove_reader, self._inotify.fileno())
        if stopped is not None:
            waiter = loop.create_task(stopped.wait())
            waiter.add_done_callback(lambda _: self._wake.set())
            stack.callback(waiter.cancel)
        if until_ns:
            timer = loop.call_later(max(0.0, (until_ns - time.time_ns()) / 1e9) + 0.001, self._wake.set)
            stack.callback(timer.cancel)
        return stack

    async def wait(self) -> None:
        await self._wake.wait()
        self._wake.clear()


def _open(path: str, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    stack.callback(os.close, fd)
    return fd


def _decompressed(path: str, stack: ExitStack) -> int:
    """Return a descriptor of an unlinked temporary file with the content of a .gz."""
    with gzip.open(path, "rb") as source:
        target = tempfile.TemporaryFile()
        stack.callback(target.close)
        shutil.copyfileobj(source, target, 1 << 20)
    target.flush()
    return target.fileno()
