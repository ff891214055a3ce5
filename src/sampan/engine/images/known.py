"""Which registries have which layers: learned from every pull and push, so that a push need not send them again.

Not here: blobs themselves (a layer's files are kept, not its compressed archive). A note that is wrong costs one
request.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from sampan.engine.store import Record, Store
from sampan.registry import manifests
from sampan.registry.manifests import Descriptor

MAX_NOTES = 32  # a layer


class Note(msgspec.Struct, frozen=True):
    digest: str
    size: int  # bytes
    source: str  # domain/path of a repository that had it


class KnownRecord(Record, kw_only=True):
    """`id` is a layer's diff_id; the latest note comes first."""

    notes: tuple[Note, ...]


class KnownBlobs:
    """The table of one engine."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._table = store.table("known_blobs", KnownRecord)

    def note(self, diff_id: str, blob: Descriptor, source: str) -> None:
        """A repository has this layer as this blob. Only what a schema 2 manifest can name: gzip."""
        if not blob.media_type.endswith("gzip"):
            return
        note = Note(blob.digest, blob.size, source)
        old = self.notes(diff_id)
        if old[:1] == (note,):
            return
        notes = (note, *(other for other in old if other != note))[:MAX_NOTES]
        self._store.apply_now(self._table.put(KnownRecord(id=diff_id, notes=notes)))

    def notes(self, diff_id: str) -> tuple[Note, ...]:
        record = self._table.get(diff_id)
        return record.notes if record is not None else ()

    def sweep(self, diff_ids: Collection[str]) -> None:
        """Forget layers that are not here any more."""
        gone = [record.id for record in self._table.all() if record.id not in diff_ids]
        if gone:
            self._store.apply_now(*(self._table.delete(id) for id in gone))


def descriptor(note: Note) -> Descriptor:
    return Descriptor(manifests.DOCKER_LAYER, note.digest, note.size)
