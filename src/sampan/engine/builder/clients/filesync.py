"""Receiving a directory of the client: fsutil's packets on one stream of the session.

    client  STAT* STAT(empty)            every entry in walking order; an entry's number is its place in that order
    we      REQ(number)*                 regular files whose content we lack
    client  DATA(number, bytes)* DATA(number, empty)
    we      FIN        client  FIN

Contents go into one spool file (files/spool.py), hashed while they come in. What an earlier transfer of the same
directory has left is looked up by the bytes of the STAT packet itself (path, mode, size, mtime, owner, link, xattrs):
an unchanged tree of 20,000 files costs 20,000 look-ups and no transfer.

Invariants: paths are clean, relative and lie in a directory that came before; a known content is never overwritten.
Source: the packets of fsutil (types/wire.proto) and Go's os.FileMode, as seen on the wire of buildx 0.29.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError

from sampan.engine.builder.clients import rpc
from sampan.engine.builder.clients.http2 import Http2Connection, Stream, message
from sampan.engine.builder.clients.packs import Known, Pack, Snapshot
from sampan.engine.builder.files.spool import SpoolExtent
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.trees import TreeEntry
from sampan.errors import Internal, InvalidArgument, Unavailable
from sampan.spec.buildkit.filesync_pb2 import Packet, RawPacket, RawStat, Stat

METHOD = "/moby.filesync.v1.FileSync/DiffCopy"
FIN = message(Packet(type=Packet.PACKET_FIN).SerializeToString())
TYPES = {1 << 31: "d", 1 << 27: "l", 1 << 25: "p", 1 << 26 | 1 << 21: "c", 1 << 26: "b"}
TYPE_MASK = 1 << 31 | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21
SETUID, SETGID, STICKY = 1 << 23, 1 << 22, 1 << 20
STREAMED_BYTES = 256 * 1024
"""A file that is longer gets its region at once; shorter ones are put together in memory."""
THREAD_BYTES = 64 * 1024
"""A batch that is larger is taken in a thread."""
REPORT_S = 0.1
ENTRIES = 10_000_000
GROWTH_BYTES = 1024**3
"""By so much a file may grow while it is sent."""


async def receive(connection: Http2Connection, pack: Pack, known: Known, wanted: LocalRequest) -> Snapshot:
    """Transfer one directory into the pack and return what it holds.

    Raises: NotFound when the client has no directory of that name, Internal, Unavailable.
    """
    fields = rpc.metadata(
        dir_name=(wanted.name,),
        include_patterns=wanted.include,
        exclude_patterns=wanted.exclude,
        followpaths=wanted.follow,
    )
    report = wanted.report
    stream = connection.request(METHOD, fields)
    received = Receiver(pack, known)
    reported = 0.0
    try:
        while not received.finished:
            batch = await stream.batch()
            if not batch:
                rpc.check(stream)
                raise Internal(f"the client ended the transfer of {wanted.name} too early")
            if sum(map(len, batch)) > THREAD_BYTES:
                answer = await asyncio.to_thread(received.take, batch)
            else:
                answer = received.take(batch)
            if answer:
                stream.write(answer)
            if report is not None and (now := time.monotonic()) - reported > REPORT_S:
                reported = now
                report(received.bytes, False)
        await _until_end(stream)
        if report is not None:
            report(received.bytes, True)
        return received.snapshot()
    except ConnectionError as e:
        raise Unavailable(f"the client has gone: {e}") from e
    finally:
        stream.cancel()


async def _until_end(stream: Stream) -> None:
    while await stream.batch():
        pass
    rpc.check(stream)


class Receiver:
    """The state of one transfer; blocking, fed with packets in batches."""

    def __init__(self, pack: Pack, known: Known) -> None:
        self.bytes = 0
        self.finished = False
        self._pack = pack
        self._before = known
        self._known: Known = {}
        self._entries: dict[str, TreeEntry] = {}
        self._places: dict[str, SpoolExtent] = {}
        self._directories = {""}
        self._linked: list[TreeEntry] = []
        self._count = 0
        self._listed = False
        self._waiting: dict[int, _Content] = {}
        self._said_fin = False

    def take(self, packets: Iterable[bytes]) -> bytes:
        """Take packets and return ours, framed. Raises: InvalidArgument, Internal, OSError."""
        answer: list[bytes] = []
        before, listed = self._before, self._listed
        for raw in packets:
            self.bytes += len(raw)
            if not listed:
                found = before.get(raw)
                if found is not None:
                    self._add(raw, *found)
                    self._count += 1
                    continue
            try:
                packet = Packet.FromString(raw)
            except DecodeError:  # a name that is no UTF-8, or no packet at all
                self._entry(raw, read_stat(_raw_stat(raw)), answer)
                continue
            kind = packet.type
            if kind == Packet.PACKET_DATA:
                self._data(packet.ID, packet.data)
            elif kind == Packet.PACKET_STAT:
                if packet.HasField("stat") and not listed:
                    self._entry(raw, read_stat(packet.stat), answer)
                else:
                    self._listed = listed = True
            elif kind == Packet.PACKET_FIN:
                self.finished = True
            elif kind == Packet.PACKET_ERR:
                raise Internal(f"error from sender: {packet.data.decode(errors='replace')}")
        if self._listed and not self._waiting and not self._said_fin:
            self._said_fin = True
            self._pack.flush()
            answer.append(FIN)
        return b"".join(answer)

    def snapshot(self) -> Snapshot:
        for entry in self._linked:  # a tree gives a content under each of its names
            place = self._places.get(entry.hardlink)
            if place is not None:
                self._places[entry.path] = place
                self._entries[entry.path] = replace(entry, size=place.size)
        return Snapshot(self._pack, self._entries, self._places, self._known)

    def _add(self, raw: bytes, parent: str, entry: TreeEntry, place: SpoolExtent | None) -> None:
        path = entry.path
        if parent not in self._directories or path in self._entries:
            raise InvalidArgument(f"the client sent {path!r} out of order")
        self._entries[path] = entry
        if entry.kind == "d":
            self._directories.add(path)
        elif place is not None:
            self._places[path] = place
        if entry.hardlink:
            self._linked.append(entry)
        self._known[raw] = (parent, entry, place)

    def _entry(self, raw: bytes, entry: TreeEntry | None, answer: list[bytes]) -> None:
        number, self._count = self._count, self._count + 1
        if self._count > ENTRIES:
            raise InvalidArgument(f"the client sent more than {ENTRIES} entries")
        if entry is None:
            return
        parent = entry.path.rpartition("/")[0]
        if entry.kind != "f" or entry.hardlink:
            if entry.hardlink and entry.hardlink not in self._places:
                first = self._entries.get(entry.hardlink)
                if first is None or first.kind != "f":
                    raise InvalidArgument(f"the client sent a hard link {entry.path!r} to nothing")
            self._add(raw, parent, entry, None)
        elif not entry.size:
            self._add(raw, parent, entry, SpoolExtent(0, 0, EMPTY))
        else:
            self._add(raw, parent, entry, None)
            self._waiting[number] = _Content(raw, parent, entry)
            answer.append(request(number))

    def _data(self, number: int, data: bytes) -> None:
        content = self._waiting.get(number)
        if content is None:
            raise InvalidArgument(f"the client sent content {number} that nobody asked for")
        if data:
            content.feed(self._pack, data)
            return
        del self._waiting[number]
        place = content.finish(self._pack)
        entry = content.entry
        if place.size != entry.size:  # it changed while it was sent
            entry = replace_size(entry, place.size)
            self._entries[entry.path] = entry
            self._known.pop(content.raw, None)
        else:
            self._known[content.raw] = (content.parent, entry, place)
        self._places[entry.path] = place


class _Content:
    """One file on its way."""

    __slots__ = ("_at", "_chunks", "_digest", "_end", "_size", "entry", "parent", "raw")

    def __init__(self, raw: bytes, parent: str, entry: TreeEntry) -> None:
        self.raw, self.parent, self.entry = raw, parent, entry
        self._chunks: list[bytes] = []
        self._digest: Any = None
        self._at = self._end = self._size = 0

    def feed(self, pack: Pack, data: bytes) -> None:
        if self.entry.size <= STREAMED_BYTES and self._size + len(data) <= STREAMED_BYTES:
            self._chunks.append(data)
            self._size += len(data)
            return
        if self._digest is None:
            self._digest = hashlib.sha256()
            self._at = pack.reserve(max(self.entry.size, STREAMED_BYTES))
            self._end = self._at + max(self.entry.size, STREAMED_BYTES)
            early, self._chunks, self._size = b"".join(self._chunks), [], 0
            if early:
                self._put(pack, early)
        self._put(pack, data)

    def _put(self, pack: Pack, data: bytes) -> None:
        if self._size + len(data) > self.entry.size + GROWTH_BYTES:
            raise InvalidArgument(f"{self.entry.path} grew by more than {GROWTH_BYTES >> 20} MiB while it was sent")
        if self._at + self._size + len(data) > self._end:  # it grew while it was sent
            room = 2 * (self._size + len(data))
            self._at = pack.move(self._at, self._size, room)
            self._end = self._at + room
        self._digest.update(data)
        pack.write_at(self._at + self._size, data)
        self._size += len(data)

    def finish(self, pack: Pack) -> SpoolExtent:
        if self._digest is not None:
            return SpoolExtent(self._at, self._size, "sha256:" + self._digest.hexdigest())
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        return SpoolExtent(pack.append(data), len(data), "sha256:" + hashlib.sha256(data).hexdigest())


EMPTY = "sha256:" + hashlib.sha256(b"").hexdigest()


def request(number: int) -> bytes:
    """Return the framed REQ packet for an entry."""
    return message(Packet(type=Packet.PACKET_REQ, ID=number).SerializeToString())


def _raw_stat(raw: bytes) -> RawStat:
    """Return the entry of a packet whose names are no UTF-8. Raises: InvalidArgument for what is no such packet."""
    try:
        packet = RawPacket.FromString(raw)
    except DecodeError as e:
        raise InvalidArgument("the client sent what is no packet of a file transfer") from e
    return packet.stat


def replace_size(entry: TreeEntry, size: int) -> TreeEntry:
    return TreeEntry(
        path=entry.path,
        kind="f",
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=size,
        mtime_ns=entry.mtime_ns,
        xattrs=entry.xattrs,
    )


def read_stat(stat: Stat | RawStat) -> TreeEntry | None:
    """Return one entry of the client's directory; None for a socket, which no tree holds. Raises: InvalidArgument."""
    path, mode = os.fsdecode(stat.path), stat.mode
    parts = path.split("/")
    if not path or len(path) > 4096 or "\0" in path or "" in parts or "." in parts or ".." in parts:
        raise InvalidArgument(f"the client sent an unclean path {path!r}")
    kind = TYPES.get(mode & TYPE_MASK, "f" if not mode & TYPE_MASK else "")
    if not kind:
        return None
    bits = mode & 0o777
    if mode & (SETUID | SETGID | STICKY):
        bits |= (mode & SETUID and 0o4000) | (mode & SETGID and 0o2000) | (mode & STICKY and 0o1000)
    link = os.fsdecode(stat.linkname)
    return TreeEntry(
        path=path,
        kind=kind,
        mode=bits,
        uid=stat.uid,
        gid=stat.gid,
        size=stat.size if kind == "f" and not link else 0,
        mtime_ns=stat.modTime,
        link=link if kind == "l" else "",
        hardlink=_clean_link(link) if kind == "f" and link else "",
        device=(stat.devmajor, stat.devminor) if kind in "cb" else (0, 0),
        xattrs=dict(stat.xattrs) if stat.xattrs else NO_XATTRS,
    )


NO_XATTRS: dict[str, bytes] = {}


def _clean_link(link: str) -> str:
    return os.path.normpath("/" + link)[1:]
