"""What was built: one record a build, its status stream, its provenance. Bounded, read back by `docker buildx history`.

    store table `build_history`           records
    data-root/builder/history/<sha256>    blobs by digest: status streams (responses, each after its length), provenance

Blobs are written first and named by their content; what no record names is removed at start.
Source: BuildKit's history queue as seen on the wire; its defaults of 50 builds and two days.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from google.protobuf.message import DecodeError

from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.store import Record, Store
from sampan.errors import Internal, NotFound

log = logging.getLogger(__name__)

KEPT = 50
KEPT_S = 48 * 3600
MOST = 500
KEPT_BYTES = 256 * 1024 * 1024
"""What the blobs of builds that are not pinned may take together."""
WAITING = 1024
"""So many events are kept for a client that does not read."""
STATUS_TYPE = "application/vnd.buildkit.status.v0"
PROVENANCE_TYPE = "application/vnd.in-toto+json"
IMAGE_TYPE = "application/vnd.docker.container.image.v1+json"


class HistoryRecord(Record, kw_only=True):
    """`id`: the build's reference. document: the serialised BuildHistoryRecord. blobs: what belongs to it."""

    document: bytes
    created_ns: int
    pinned: bool = False
    blobs: list[str] = []


class History:
    """Finished builds, newest last."""

    def __init__(self, store: Store, directory: str) -> None:
        self._store = store
        self._table = store.table("build_history", HistoryRecord)
        self._directory = directory
        self._listeners: set[asyncio.Queue[pb.BuildHistoryEvent]] = set()

    def start(self) -> None:
        """Remove blobs that no record names."""
        try:
            found = os.listdir(self._directory)
        except FileNotFoundError:
            return
        if self._table.aside:
            return
        named = {blob for record in self._table.all() for blob in record.blobs}
        for name in found:
            if name not in named:
                os.unlink(os.path.join(self._directory, name))

    def write(self, data: bytes) -> str:
        """Keep a blob; returns its digest. Raises: OSError."""
        digest = hashlib.sha256(data).hexdigest()
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        path = os.path.join(self._directory, digest)
        with open(f"{path}.tmp", "wb") as file:
            file.write(data)
        os.rename(f"{path}.tmp", path)
        return "sha256:" + digest

    def blob(self, digest: str) -> bytes:
        """Read a blob. Raises: NotFound."""
        name = digest.removeprefix("sha256:")
        if len(name) != 64 or not name.isalnum():
            raise NotFound(f"content {digest}: not found")
        try:
            with open(os.path.join(self._directory, name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise NotFound(f"content {digest}: not found") from None

    def add(self, record: pb.BuildHistoryRecord, blobs: Iterable[str]) -> None:
        """Remember a finished build and forget the oldest ones beyond the limits."""
        made = HistoryRecord(
            id=record.Ref,
            document=record.SerializeToString(),
            created_ns=record.CreatedAt.ToNanoseconds(),
            blobs=[digest.removeprefix("sha256:") for digest in blobs],
        )
        self._store.apply_now(self._table.put(made))
        self.announce(pb.COMPLETE, record)
        self._trim()

    def get(self, ref: str) -> pb.BuildHistoryRecord | None:
        found = self._table.get(ref)
        return _read(found) if found is not None else None

    def all(self) -> Iterator[pb.BuildHistoryRecord]:
        """Return every finished build, oldest first."""
        for record in sorted(self._table.all(), key=lambda record: record.created_ns):
            try:
                yield _read(record)
            except Internal as e:  # it hides no other
                log.warning("%s", e.message)

    def responses(self, ref: str) -> list[bytes]:
        """Return the status stream of a finished build. Raises: NotFound."""
        record = self.get(ref)
        if record is None or not record.HasField("logs"):
            raise NotFound(f"no such job {ref}")
        data, at, found = self.blob(record.logs.digest), 0, []
        while at + 4 <= len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            found.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        return found

    def pin(self, ref: str, pinned: bool) -> None:
        """Keep a build's record for ever, or no longer. Raises: NotFound."""
        found = self._table.get(ref)
        if found is None:
            raise NotFound(f"failed to retrieve bucket: record {ref} not found")
        document = _read(found)
        document.pinned = pinned
        changed = HistoryRecord(
            id=ref,
            document=document.SerializeToString(),
            created_ns=found.created_ns,
            pinned=pinned,
            blobs=found.blobs,
        )
        self._store.apply_now(self._table.put(changed))

    def delete(self, ref: str) -> None:
        """Forget a build; a missing one is already so."""
        found = self._table.get(ref)
        if found is None:
            return
        self._store.apply_now(self._table.delete(ref))
        named = {blob for record in self._table.all() for blob in record.blobs}
        for blob in found.blobs:
            if blob not in named:
                try:
                    os.unlink(os.path.join(self._directory, blob))
                except FileNotFoundError:
                    pass
        self.announce(pb.DELETED, pb.BuildHistoryRecord(Ref=ref))

    def announce(self, type: pb.BuildHistoryEventType.ValueType, record: pb.BuildHistoryRecord) -> None:
        event = pb.BuildHistoryEvent(type=type, record=record)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()  # the oldest
            queue.put_nowait(event)

    async def listen(self, wanted: Callable[[pb.BuildHistoryRecord], bool]) -> AsyncIterator[pb.BuildHistoryEvent]:
        """Yield what happens from now on."""
        queue: asyncio.Queue[pb.BuildHistoryEvent] = asyncio.Queue(WAITING)
        self._listeners.add(queue)
        try:
            while True:
                event = await queue.get()
                if wanted(event.record):
                    yield event
        finally:
            self._listeners.discard(queue)

    def _trim(self) -> None:
        loose = sorted((one for one in self._table.all() if not one.pinned), key=lambda record: record.created_ns)
        oldest = time.time_ns() - KEPT_S * 10**9
        size = 0
        for number, record in enumerate(reversed(loose)):
            size += sum(self._size(blob) for blob in record.blobs)
            late = number >= KEPT and record.created_ns < oldest
            if late or number >= MOST or (number and size > KEPT_BYTES):
                self.delete(record.id)

    # -- space --------------------------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """Return what the blobs take that may be forgotten. Blocking, short: at most a few hundred files."""
        blobs = {blob for record in self._table.all() if not record.pinned for blob in record.blobs}
        return sum(map(self._size, blobs))

    def forget(self) -> None:
        """Delete every build that is not pinned. Blocking, short."""
        for record in self._table.all():
            if not record.pinned:
                self.delete(record.id)

    def _size(self, blob: str) -> int:
        try:
            return os.stat(os.path.join(self._directory, blob)).st_size
        except FileNotFoundError:
            return 0


def _read(record: HistoryRecord) -> pb.BuildHistoryRecord:
    """Decode the document of a record. Raises: Internal."""
    try:
        return pb.BuildHistoryRecord.FromString(record.document)
    except DecodeError as e:
        raise Internal(f"the record of build {record.id} cannot be read: {e}") from e


def stream(responses: Iterable[bytes]) -> bytes:
    """Return a status stream as one blob."""
    return b"".join(len(one).to_bytes(4, "big") + one for one in responses)
