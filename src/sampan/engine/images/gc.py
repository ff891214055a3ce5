"""At the start: compare records with directories, repair what can be, name what cannot.

After kill -9 or power loss there may be directories that no record names (unpacking, committing, a container being
created, a removal) and work that held layers. The other way round, a record without its directory or blob, means that
somebody else removed files: it is named, and the image stays listed only if it can be read.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from sampan.engine.store import Ref
from sampan.errors import Internal, InvalidArgument

if TYPE_CHECKING:
    from sampan.engine.images.service import Images


def check(images: Images) -> list[str]:
    """Repair, and return what could not be: one sentence a problem. Blocking; before any other use of the service."""
    problems: list[str] = []
    _power_loss(images)
    _end_old_work(images)
    problems += _images(images)
    problems += _directories(images)
    _content(images)
    return problems


def _power_loss(images: Images) -> None:
    """Layers that were not on the disk when the machine went down, with the nameless images made of them."""
    lost = images.layers.lost()
    if not lost:
        return
    gone = {layer.id for layer in lost}
    store, catalog = images.store, images.catalog
    for layer in lost:
        for holder in store.holders(Ref("layer", layer.id)):
            if holder.noun == "image" and not any(holder.id in tag.members for tag in catalog.tags.all()):
                store.apply_now(catalog.images.delete(holder.id), store.release(holder))
                catalog.changed(holder.id)
            elif holder.noun != "layer" or holder.id not in gone:
                store.apply_now(store.release(holder, Ref("layer", layer.id)))
    store.apply_now(*images.layers.forget(lost))
    images.layers.discard(lost)


def _end_old_work(images: Images) -> None:
    """Holders `work:<n>` belong to a process that is gone; layers that only they held go too."""
    store, layers = images.store, images.layers
    stale = {h for layer in layers.all() for h in store.holders(Ref("layer", layer.id)) if h.noun == "work"}
    store.apply_now(*(store.release(holder) for holder in stale))
    for layer in layers.all():
        if layer.id in layers:
            unused = layers.unused_after(layer.id, None)
            store.apply_now(*layers.forget(unused))
            layers.discard(unused)


def _images(images: Images) -> list[str]:
    """Images whose config cannot be read are dropped from the catalogue, with their names."""
    problems = []
    catalog, store = images.catalog, images.store
    for record in catalog.images.all():
        try:
            chain_id = catalog.get(record.id).chain_id
            images.layers.records(chain_id)
        except (Internal, InvalidArgument) as e:
            tags = [tag for tag in catalog.tags.all() if record.id in tag.members]
            names = [tag.id for tag in tags]
            problems.append(
                f"image {record.id} ({', '.join(names) or 'no name'}) cannot be read: {e.message}; "
                f"it is dropped: import, load or pull it again"
            )
            store.apply_now(
                catalog.images.delete(record.id),
                store.release(Ref("image", record.id)),
                *(catalog.without(tag, record.id) for tag in tags),
            )
            catalog.changed(record.id)
    for tag in catalog.tags.all():
        for member in tag.members:
            if member not in catalog.images and (known := catalog.tags.get(tag.id)) is not None:
                store.apply_now(catalog.without(known, member))
    catalog.changed()
    if problems:
        _end_old_work(images)
    return problems


def _directories(images: Images) -> list[str]:
    """Snapshots without a record go to the trash; records without a snapshot are named."""
    problems = []
    there = images.driver.numbers()
    wanted = {layer.snapshot: f"layer {layer.id}" for layer in images.layers.all()}
    wanted |= {snapshot.snapshot: f"container {snapshot.id}" for snapshot in images.roots.all()}
    for number in there - wanted.keys():
        images.driver.remove(number)
    for number, owner in sorted(wanted.items()):
        if number not in there or not os.path.isdir(f"{images.driver.path(number)}/fs"):
            problems.append(f"the directory {images.driver.path(number)} of {owner} is missing: {_remedy(owner)}")
    return problems


def _remedy(owner: str) -> str:
    if owner.startswith("container"):
        return "the container cannot start any more; remove it"
    return "remove the images that use it, then import, load or pull them again"


def _content(images: Images) -> None:
    images.content.sweep(images.wanted_blobs())
    for name in os.listdir(images.content.ingest):
        shutil.rmtree(os.path.join(images.content.ingest, name), ignore_errors=True)
