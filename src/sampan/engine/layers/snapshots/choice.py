"""Which storage driver an engine uses, and where it keeps what is its own.

The default driver's directories are `snapshots` and `content` in the data root, its records those without a prefix.
Each other driver has `drivers/<name>/…` and records of its own: what one driver made is hidden and untouched while
another one is chosen. Where none is chosen, the data root's earlier one is taken, as dockerd does.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from sampan.engine.layers.snapshots.driver import SnapshotDriver
from sampan.engine.layers.snapshots.table import DEFAULT, DRIVERS, NEVER_GUESSED
from sampan.errors import Internal


def home(data_root: str, name: str) -> str:
    """The directory that holds `snapshots` and `content` of a driver."""
    return data_root if name == DEFAULT else os.path.join(data_root, "drivers", name)


def _earlier(data_root: str) -> str:
    """The one driver whose layers are here, the default when there are none. Raises: Internal for several."""
    found = sorted(name for name in DRIVERS.keys() - NEVER_GUESSED if _used(f"{home(data_root, name)}/snapshots"))
    if len(found) > 1:
        raise Internal(
            f"{data_root} contains several valid graphdrivers: {', '.join(found)}; "
            "cleanup or explicitly choose storage driver (-s <DRIVER>)"
        )
    return found[0] if found else DEFAULT


def _used(snapshots: str) -> bool:
    try:
        return any(name.isdecimal() for name in os.listdir(snapshots))
    except FileNotFoundError:
        return False


def open_driver(name: str, data_root: str, options: Sequence[str]) -> SnapshotDriver:
    """The driver called `name`, "" for the one that the data root was used with, else the default.

    Raises: Internal for an unknown one, for bad options, and when several could be meant.
    """
    name = name or _earlier(data_root)
    if name not in DRIVERS:
        raise Internal(f"driver not supported: {name}")
    own = home(data_root, name)
    if own != data_root:
        os.makedirs(os.path.dirname(own), mode=0o700, exist_ok=True)
        os.makedirs(own, mode=0o700, exist_ok=True)
    return DRIVERS[name](data_root, os.path.join(own, "snapshots"), options)
