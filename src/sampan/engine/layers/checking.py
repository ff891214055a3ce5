"""Whether the directories of layers and roots are those that the records name. Decides nothing, changes nothing."""

from __future__ import annotations

import os

from sampan.engine import findings
from sampan.engine.findings import Finding
from sampan.engine.layers import layers as layers_module
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.records import LayerRecord
from sampan.engine.layers.roots import Roots
from sampan.engine.layers.snapshots.driver import SnapshotDriver


def lost(layers: Layers) -> list[LayerRecord]:
    """Layers of an earlier boot whose files were never synced, and what stands on them: they do not exist."""
    boot = layers_module.boot_id()
    gone: set[str] = set()
    found = []
    for record in sorted(layers.all(), key=lambda record: _depth(layers, record)):
        if record.unsynced not in ("", boot) or record.parent in gone:
            gone.add(record.id)
            found.append(record)
    return found


def _depth(layers: Layers, record: LayerRecord) -> int:
    """How many layers there are up to this one; 0 for what stands on nothing that can be read."""
    return len(layers.records(record.id)) if layers_module.is_whole(layers, record.id) else 0


def check(driver: SnapshotDriver, layers: Layers, roots: Roots) -> list[Finding]:
    """Directories without a record, by number, and records without their directory. Blocking.

    A directory that work under way has made and no record names yet is no finding.
    """
    owners = {layer.snapshot: ("layer", layer.id) for layer in layers.all()}
    owners |= {root.snapshot: ("snapshot", root.id) for root in roots.all()}
    there = driver.numbers()
    wanted = {str(number) for number in owners.keys() | driver.fresh}
    paths = {str(number): driver.path(number) for number in there}
    found = findings.strays("snapshot", paths, wanted, "moved to the trash")
    for number, (kind, id) in owners.items():
        if number not in there or not os.path.isdir(f"{driver.path(number)}/fs"):
            remedy = (
                "remove the images that use it, then import, load or pull them again"
                if kind == "layer"
                else "the container cannot start any more: remove it"
            )
            found.append(findings.missing(kind, id, driver.path(number), remedy))
    return found
