"""`--cache-from IMAGE` in the classic dialect: a step whose whole history an image has is taken from that image. Pure.

An image counts as far as its history says the same, entry for entry, on the same base. Whoever names an image here
trusts whoever made it: nothing but its words is compared, which is why no other image ever is (CVE-2024-24557).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sampan.engine.builder.graph.values import HistoryEntry, ResolvedImage
from sampan.engine.builder.request import CacheEnd
from sampan.engine.builder.state import LayerChain, Solved
from sampan.engine.images.records import Image
from sampan.engine.images.service import Images
from sampan.errors import InvalidArgument, NotFound
from sampan.spec import oci_image, times


def trusted(images: Images, ends: Iterable[CacheEnd]) -> list[Image]:
    """Return the images that a request names, as far as they are here."""
    found = []
    for end in ends:
        try:
            found.append(images.resolve(end.attrs.get("ref", "")))
        except (NotFound, InvalidArgument):
            continue
    return found


def find(offered: Iterable[Image], base: ResolvedImage | None, entries: Sequence[HistoryEntry]) -> Solved | None:
    """Return the state after these entries from the first image that has them.

    entries: of the stage so far, with what was copied named.
    """
    below = base.config if base is not None else {"rootfs": {}}
    layers = oci_image.diff_ids(dict(below))
    before = [entry.get("created_by", "") for entry in below.get("history") or []]
    wanted = [*before, *(entry.created_by for entry in entries)]
    for image in offered:
        history = (image.config.get("history") or [])[: len(wanted)]
        if image.layers[: len(layers)] != layers or [entry.get("created_by", "") for entry in history] != wanted:
            continue
        count = sum(1 for entry in history if not entry.get("empty_layer"))
        diff_ids = image.layers[:count]
        if len(diff_ids) != count:
            continue
        chain = oci_image.chain_ids(diff_ids)
        created = history[-1].get("created") or ""
        state = LayerChain(diff_ids=diff_ids, chain_id=chain[-1] if chain else "")
        return Solved(state=state, time_ns=times.parse(created) if created else 0, cached=True)
    return None
