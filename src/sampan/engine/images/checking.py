"""Whether images can be read and names mean something. Decides nothing, changes nothing."""

from __future__ import annotations

import os

from sampan.engine import findings
from sampan.engine.findings import Finding, Problem
from sampan.engine.images.catalog import Catalog
from sampan.engine.images.content import ContentStore
from sampan.engine.layers.layers import Layers
from sampan.errors import Internal, InvalidArgument


def check(catalog: Catalog, content: ContentStore, layers: Layers) -> list[Finding]:
    """Blobs that nothing names, images whose configuration or layers cannot be had, names of images that do not exist.

    Blocking. A blob that work under way has stored and no record names yet is no finding.
    """
    found = findings.strays("blob", content.all(), catalog.wanted_blobs() | content.fresh, "removed")
    for record in catalog.images.all():
        try:
            layers.records(catalog.reread(record.id).chain_id)
        except (Internal, InvalidArgument) as e:
            path = content.path(record.id)
            problem = Problem.DAMAGED if os.path.exists(path) else Problem.MISSING
            remedy = f"{e.message}: remove the image, then import, load or pull it again"
            found.append(
                Finding(kind="image", id=record.id, problem=problem, path=path, remedy=remedy, repairable=False)
            )
    for tag in catalog.tags.all():
        if lost := catalog.lost_members(tag):
            remedy = f"dropped: {', '.join(lost)} does not exist"
            found.append(Finding(kind="tag", id=tag.id, problem=Problem.MISSING, remedy=remedy))
    return found
