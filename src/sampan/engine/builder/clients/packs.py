"""What was received of clients' directories, kept for their next builds: contents in one nameless file, and entries.

A pack only grows: a tree that is open reads regions that never change, whatever a later transfer adds. What is kept
lives as long as the process; nothing of it has a name on disk, so a crash, a reboot or a full disk leaves nothing.

Bounded: the least recently used directories are forgotten beyond `LIMIT_BYTES`, `LIMIT_COUNT` or `LIMIT_ENTRIES`, and
all of them on request.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from sampan.engine.builder.files.spool import SpooledTree, SpoolExtent, nameless
from sampan.engine.builder.trees import TreeEntry
from sampan.linux import copying

LIMIT_BYTES = 4 * 1024**3
LIMIT_COUNT = 32
LIMIT_ENTRIES = 200_000  # of all directories; each takes about half a KiB of memory
BUFFER_BYTES = 1024 * 1024
WASTE_BYTES = 64 * 1024 * 1024

Known = dict[bytes, tuple[str, TreeEntry, SpoolExtent | None]]
"""STAT packet → parent directory, entry, where its content lies (None: it has none)."""


class Pack:
    """A growing file of contents. Blocking; one writer at a time."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.fd = nameless(directory)
        self.size = 0
        self._buffer: list[bytes] = []
        self._buffered = 0

    def append(self, data: bytes) -> int:
        """Add a content; returns where. It is in the file after `flush`."""
        at = self.size
        self._buffer.append(data)
        self._buffered += len(data)
        self.size += len(data)
        if self._buffered >= BUFFER_BYTES:
            self.flush()
        return at

    def flush(self) -> None:
        """Write what is buffered. Raises: OSError (ENOSPC, …)."""
        if self._buffer:
            data, at = b"".join(self._buffer), self.size - self._buffered
            self._buffer, self._buffered = [], 0
            self.write_at(at, data)

    def reserve(self, size: int) -> int:
        """Set a region aside for a content whose parts come one by one."""
        self.flush()
        at, self.size = self.size, self.size + size
        return at

    def write_at(self, at: int, data: bytes) -> None:
        done = os.pwrite(self.fd, data, at)
        while done < len(data):
            done += os.pwrite(self.fd, data[done:], at + done)

    def move(self, at: int, size: int, room: int) -> int:
        """Copy a region to a new one of `room` bytes; returns where."""
        to = self.reserve(room)
        copying.copy_range(self.fd, self.fd, size, at, to)
        return to

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One transfer's result."""

    pack: Pack
    entries: Mapping[str, TreeEntry]
    places: dict[str, SpoolExtent]
    known: Known

    def tree(self) -> SpooledTree:
        """Return a tree of its own: the pack may be forgotten while it is open."""
        return SpooledTree(self.pack.directory, os.dup(self.pack.fd), self.entries, self.places)


@dataclass(slots=True)
class KeptDirectory:
    """One directory of one client. `lock`: one transfer at a time."""

    pack: Pack | None = None
    known: Known = field(default_factory=dict)
    used: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def forget(self) -> None:
        pack, self.pack, self.known = self.pack, None, {}
        if pack is not None:
            pack.close()


class Packs:
    """Every kept directory, by client and name."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._kept: dict[Hashable, KeptDirectory] = {}

    def get(self, key: Hashable) -> KeptDirectory:
        """Return what is kept under the key; the caller takes its lock and calls `begin`."""
        kept = self._kept.pop(key, None) or KeptDirectory()
        self._kept[key] = kept
        kept.used = time.monotonic()
        return kept

    def begin(self, kept: KeptDirectory) -> Pack:
        if kept.pack is None:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            kept.pack = Pack(self._directory)
        return kept.pack

    def keep(self, kept: KeptDirectory, snapshot: Snapshot) -> None:
        """Remember a transfer; drop a pack that is mostly waste, and the oldest beyond the limits."""
        kept.known = snapshot.known
        live = sum(place.size for place in snapshot.places.values())
        if snapshot.pack.size - live > max(live, WASTE_BYTES):
            kept.forget()
        for key, other in list(self._kept.items()):
            if len(self._kept) <= LIMIT_COUNT and self.bytes <= LIMIT_BYTES and self.entries <= LIMIT_ENTRIES:
                break
            if not other.lock.locked():
                other.forget()
                del self._kept[key]

    @property
    def bytes(self) -> int:
        """What the kept contents take on disk, at most."""
        return sum(kept.pack.size for kept in self._kept.values() if kept.pack is not None)

    @property
    def entries(self) -> int:
        return sum(len(kept.known) for kept in self._kept.values())

    def forget(self) -> int:
        """Drop everything that no transfer is using; returns the bytes."""
        before = self.bytes
        for key, kept in list(self._kept.items()):
            if not kept.lock.locked():
                kept.forget()
                del self._kept[key]
        return before - self.bytes

    def close(self) -> None:
        for kept in self._kept.values():
            kept.forget()
        self._kept.clear()
