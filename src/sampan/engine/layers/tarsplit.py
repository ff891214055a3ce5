"""What a layer's tar had besides file contents, so that the very same bytes can be produced again.

A layer's archive is not kept: its files are in the layer's directory already. This file keeps the rest (headers,
padding, trailer) and which payload goes where, so `replay` gives back the stream whose sha256 is the diff_id.
Cost: some 100 KiB for 4,000 files, against a second copy of the layer. See docs/adr/0005.

On disk, `snapshots/<n>/tar-split`:
    zstd frame: every byte of the archive that is no payload, in order
    zstd frame: msgpack [[raw_bytes, payload_bytes, path], …]: copy raw_bytes, then the file at
                path (below snapshots/<n>)
    trailer, 24 bytes little-endian: offset of the second frame u64, length of the archive u64, "sampants"
Invariant: payload paths hold no symlink and stay below `fs/` or `shadow/`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import zstandard

from sampan.engine.archives.streams import FED
from sampan.errors import Internal
from sampan.linux import saferoot

NAME = "tar-split"
_TRAILER = struct.Struct("<QQ8s")
_MAGIC = b"sampants"


class Recorder:
    """Collects while unpacking. `payload` is called in archive order; `moved` when a written file changes its place."""

    def __init__(self, directory_fd: int) -> None:
        fd = os.open(NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=directory_fd)
        self._file = os.fdopen(fd, "wb")
        self._compressor = zstandard.ZstdCompressor(level=1).compressobj()
        self._segments: list[tuple[int, int, str]] = []
        self._at: dict[str, list[int]] | None = None  # path → its segments, built when a file first moves
        self._length = 0

    def payload(self, raw: bytearray, size_bytes: int, path: str) -> None:
        """`raw` came before this payload of `size_bytes`, which is now at `path`. Empties `raw`."""
        if self._at is not None and path:
            self._at.setdefault(path, []).append(len(self._segments))
        self._segments.append((len(raw), size_bytes, path))
        self._length += len(raw) + size_bytes
        self._file.write(self._compressor.compress(bytes(raw)))
        raw.clear()

    def moved(self, old: str, new: str, *, tree: bool) -> None:
        """What was written at `old` (a file, or with `tree` everything below a directory) is at `new` now."""
        if self._at is None:
            self._at = {}
            for index, (_, _, path) in enumerate(self._segments):
                self._at.setdefault(path, []).append(index)
        if tree:
            prefix = old + "/"
            sources = [path for path in self._at if path.startswith(prefix)]
        else:
            sources = [old] if old in self._at else []
        for path in sources:
            indexes = self._at.pop(path)
            target = new + path[len(old) :]
            for index in indexes:
                raw_bytes, size_bytes, _ = self._segments[index]
                self._segments[index] = (raw_bytes, size_bytes, target)
            self._at.setdefault(target, []).extend(indexes)

    def finish(self, raw: bytearray, close: Callable[[int], None] = os.close) -> int:
        """Write the end; returns the length of the archive in bytes. close: takes the file's descriptor over."""
        if raw:
            self.payload(raw, 0, "")
        self._file.write(self._compressor.flush())
        offset = self._file.tell()
        index = msgspec.msgpack.Encoder().encode([(r, s, os.fsencode(p)) for r, s, p in self._segments])
        self._file.write(zstandard.ZstdCompressor(level=1).compress(index))
        self._file.write(_TRAILER.pack(offset, self._length, _MAGIC))
        self._file.flush()
        close(os.dup(self._file.fileno()))
        self._file.close()
        return self._length

    def abandon(self) -> None:
        self._file.close()


def replay(directory_fd: int) -> Iterator[bytes]:
    """Yield the archive of the layer in `directory_fd` (snapshots/<n>), in chunks of a quarter of a MiB.

    The caller compares the digest with the diff_id. Raises: Internal when parts are missing.
    """
    fd = os.open(NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory_fd)
    with os.fdopen(fd, "rb") as file:
        file.seek(0, os.SEEK_END)
        end = file.tell() - _TRAILER.size
        if end < 0:
            raise Internal("a layer's tar-split is damaged: too short")
        file.seek(end)
        offset, _, magic = _TRAILER.unpack(file.read(_TRAILER.size))
        if magic != _MAGIC or offset > end:
            raise Internal("a layer's tar-split is damaged: no trailer")
        file.seek(offset)
        try:
            index = zstandard.ZstdDecompressor().decompress(file.read(end - offset))
            segments = msgspec.msgpack.decode(index, type=list[tuple[int, int, bytes]])
            file.seek(0)
            with zstandard.ZstdDecompressor().stream_reader(file, closefd=False) as raw:
                yield from _assemble(directory_fd, segments, raw)
        except (zstandard.ZstdError, msgspec.MsgspecError, ValueError, OverflowError, NotADirectoryError) as e:
            raise Internal(f"a layer's tar-split is damaged: {e}") from e


def _assemble(
    directory_fd: int, segments: list[tuple[int, int, bytes]], raw: zstandard.ZstdDecompressionReader
) -> Iterator[bytes]:
    """Alternate between the recorded bytes and the files. Raises: Internal."""
    chunks = _Chunks()
    parent_fd, parent = -1, b""
    try:
        for raw_bytes, size_bytes, path in segments:
            yield from chunks.copy(raw_bytes, raw.readinto, "a layer's tar-split is damaged: headers are missing")
            if not size_bytes:
                continue
            directory, _, name = path.rpartition(b"/")
            if directory != parent or parent_fd < 0:
                if parent_fd >= 0:
                    os.close(parent_fd)
                    parent_fd = -1
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                parent_fd = saferoot.open_in_root(directory_fd, os.fsdecode(directory), flags, xdev=False)
                parent = directory
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent_fd)
            try:
                short = f"the layer's file {os.fsdecode(path)} is shorter than it was"
                yield from chunks.copy(size_bytes, partial(_read_into, fd), short)
            finally:
                os.close(fd)
        yield chunks.rest()
    except IsADirectoryError as e:
        raise Internal(f"the layer's file {os.fsdecode(path)} is a directory") from e
    except FileNotFoundError as e:
        raise Internal(f"the layer's file {os.fsdecode(path)} is missing") from e
    finally:
        if parent_fd >= 0:
            os.close(parent_fd)


def _read_into(fd: int, buffer: memoryview) -> int:
    return os.readv(fd, [buffer])


class _Chunks:
    """Gathers reads into full chunks, without a copy in between."""

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._buffer = bytearray(FED)
        self._view = memoryview(self._buffer)
        self._filled = 0

    def copy(self, size_bytes: int, readinto: Callable[[memoryview], int], when_short: str) -> Iterator[bytes]:
        """Take exactly `size_bytes` from `readinto`; yields a chunk each time one is full. Raises: Internal."""
        while size_bytes:
            got = readinto(self._view[self._filled : self._filled + min(size_bytes, FED - self._filled)])
            if not got:
                raise Internal(when_short)
            size_bytes -= got
            self._filled += got
            if self._filled == FED:
                full = self._buffer
                self._renew()
                yield full  # type: ignore[misc]  # a bytearray that nobody writes to any more

    def rest(self) -> bytes:
        return bytes(self._view[: self._filled])
