"""What the store keeps about layers: values only.

References in the store: a layer holds its parent layer; `snapshot:<container id>` holds the layer it stands on.
"""

from __future__ import annotations

from sampan.engine.store import Record


class LayerRecord(Record, kw_only=True):
    """`id` is the chain id: sha256 over the diff ids from the base up to here."""

    diff_id: str
    parent: str = ""  # chain id of the layer below
    snapshot: int  # its directory is snapshots/<snapshot>
    size_bytes: int = 0  # of its files
    tar_bytes: int = 0  # of its archive
    unsynced: str = ""  # the boot in which it was made, until its files are known to be on the disk


class SnapshotRecord(Record, kw_only=True):
    """The writable directory of a container; `id` is the container's."""

    snapshot: int
    chain_id: str = ""  # of the layer below; "" stands on nothing
