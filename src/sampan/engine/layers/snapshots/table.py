"""The storage drivers of this engine, by the name that `--storage-driver` takes.

A new driver is one line here, and one file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sampan.engine.layers.snapshots.copies import Btrfs, Vfs
from sampan.engine.layers.snapshots.driver import SnapshotDriver
from sampan.engine.layers.snapshots.fuse import FuseOverlayfs
from sampan.engine.layers.snapshots.overlay2 import Overlay2

DEFAULT = Overlay2.name

DriverFactory = Callable[[str, str, Sequence[str]], SnapshotDriver]
"""Opens a driver on (data root, directory of the snapshots, storage-opts). Raises: Internal for bad options."""

DRIVERS: dict[str, DriverFactory] = {
    Overlay2.name: Overlay2,
    Vfs.name: Vfs,
    Btrfs.name: Btrfs,
    FuseOverlayfs.name: FuseOverlayfs,
}

NEVER_GUESSED = frozenset({Vfs.name})  # drivers that must be asked for, whatever lies in the data root, as in dockerd
