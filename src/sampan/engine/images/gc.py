"""At the start: compare records with directories, repair what can be, name what cannot.

After kill -9 or power loss there may be directories that no record names (unpacking, committing, a container being
created, a removal) and work that held layers. The other way round, a record without its directory or blob, means that
somebody else removed files: it is named, and the image stays listed only if it can be read.
"""

from __future__ import annotations

import os
import shutil

from sampan.engine.findings import Finding, Problem
from sampan.engine.images import checking as images_checking
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.content import ContentStore
from sampan.engine.layers import checking as layers_checking
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.storage import Storage
from sampan.engine.store import Ref, Store


def recover(storage: Storage, catalog: Catalog, content: ContentStore) -> list[str]:
    """Repair, and return what could not be: one sentence a problem. Blocking; before any other use of the services."""
    store, layers, driver = storage.store, storage.layers, storage.driver
    _power_loss(store, layers, catalog)
    _end_old_work(store, layers)
    if aside := store.aside():  # what these name is unknown: nothing counts as left over
        return [f"nothing is cleaned up while {len(aside)} records cannot be read: see `sampan system fsck`"]
    problems = _images(store, catalog, images_checking.check(catalog, content, layers))
    if problems:
        _end_old_work(store, layers)
    for finding in layers_checking.check(driver, layers, storage.roots):
        if finding.problem is Problem.UNREFERENCED:
            driver.remove(int(finding.id))
        else:
            owner = f"{'container' if finding.kind == 'snapshot' else finding.kind} {finding.id}"
            problems.append(f"the directory {finding.path} of {owner} is missing: {finding.remedy}")
    _content(catalog, content)
    return problems


def _power_loss(store: Store, layers: Layers, catalog: Catalog) -> None:
    """Drop layers that were not on the disk when the machine went down, with the nameless images made of them."""
    lost = layers_checking.lost(layers)
    if not lost:
        return
    gone = {layer.id for layer in lost}
    for layer in lost:
        for holder in store.holders(Ref("layer", layer.id)):
            if holder.noun == "image" and not any(holder.id in tag.members for tag in catalog.tags.all()):
                store.apply_now(catalog.images.delete(holder.id), store.release(holder))
                catalog.changed(holder.id)
            elif holder.noun != "layer" or holder.id not in gone:
                store.apply_now(store.release(holder, Ref("layer", layer.id)))
    store.apply_now(*layers.forget(lost))
    layers.discard(lost)


def _end_old_work(store: Store, layers: Layers) -> None:
    """Release holders `work:<n>`, which belong to a process that is gone; layers that only they held go too."""
    stale = {h for layer in layers.all() for h in store.holders(Ref("layer", layer.id)) if h.noun == "work"}
    store.apply_now(*(store.release(holder) for holder in stale))
    for layer in layers.all():
        if layer.id in layers:
            unused = layers.unused_after(layer.id, None)
            store.apply_now(*layers.forget(unused))
            layers.discard(unused)


def _images(store: Store, catalog: Catalog, found: list[Finding]) -> list[str]:
    """Drop images that cannot be read, with their names, and names of images that do not exist."""
    problems = []
    for finding in found:
        if finding.kind == "image":
            tags = [tag for tag in catalog.tags.all() if finding.id in tag.members]
            names = ", ".join(tag.id for tag in tags) or "no name"
            reason = finding.remedy.partition(": remove the image")[0]
            problems.append(
                f"image {finding.id} ({names}) cannot be read: {reason}; it is dropped: import, load or pull it again"
            )
            store.apply_now(
                catalog.images.delete(finding.id),
                store.release(Ref("image", finding.id)),
                *(catalog.without(tag, finding.id) for tag in tags),
            )
            catalog.changed(finding.id)
    for tag in catalog.tags.all():
        if lost := catalog.lost_members(tag):
            store.apply_now(catalog.without(tag, *lost))
    catalog.changed()
    return problems


def _content(catalog: Catalog, content: ContentStore) -> None:
    content.sweep(catalog.wanted_blobs())
    for name in os.listdir(content.ingest):
        shutil.rmtree(os.path.join(content.ingest, name), ignore_errors=True)
