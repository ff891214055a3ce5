"""Which storage driver an engine uses, and where it keeps what is its own.

The default driver's directories are `snapshots` and `content` in the data root, its records those without a prefix. Each
other driver has `drivers/<name>/…` and records of its own: what one driver made is hidden and untouched while another
one is chosen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from sampan.engine.images.snapshots.copies import Btrfs, Vfs
from sampan.engine.images.snapshots.driver import Driver
from sampan.engine.images.snapshots.fuse import FuseOverlayfs
from sampan.engine.images.snapshots.overlay2 import Overlay2
from sampan.errors import Internal

DEFAULT = Overlay2.name
DRIVERS: dict[str, Callable[[str, str, Sequence[str]], Driver]] = {
    driver.name: driver for driver in (Overlay2, Vfs, Btrfs, FuseOverlayfs)
}


def home(data_root: str, name: str) -> str:
    """The directory that holds `snapshots` and `content` of a driver."""
    return data_root if name == DEFAULT else os.path.join(data_root, "drivers", name)


def open_driver(name: str, data_root: str, options: Sequence[str]) -> Driver:
    """The driver called `name`, "" for the default one. Raises: Internal for an unknown one and for bad options."""
    name = name or DEFAULT
    if name not in DRIVERS:
        raise Internal(f"driver not supported: {name}")
    own = home(data_root, name)
    if own != data_root:
        os.makedirs(os.path.dirname(own), mode=0o700, exist_ok=True)
        os.makedirs(own, mode=0o700, exist_ok=True)
    return DRIVERS[name](data_root, os.path.join(own, "snapshots"), options)
