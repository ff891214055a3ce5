"""A result as an image of this engine: its document, its names, the events.

Not here: archives and directories for the client (archive.py, files.py). Invariant: the image appears with all its names
in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sampan.engine.builder.request import Output
from sampan.engine.builder.steps import Shown
from sampan.engine.images.service import Images
from sampan.errors import InvalidArgument
from sampan.spec import oci_image, reference
from sampan.spec.reference import Reference


def names(tags: Iterable[str], output: Output) -> list[Reference]:
    """The names of a result: the request's, and the output's `name` (several with commas). Raises: InvalidArgument."""
    wanted = [*tags, *(name for name in output.attrs.get("name", "").split(",") if name)]
    found: list[Reference] = []
    for text in wanted:
        name = reference.parse(text.strip())
        if name.digest:
            raise InvalidArgument(f'invalid tag "{text}": a name with a digest')
        if name.tagged() not in found:
            found.append(name.tagged())
    return found


async def publish(
    images: Images, document: Mapping[str, Any], wanted: list[Reference], step: Shown | None = None
) -> str:
    """Store the image and name it. Returns its id."""
    encoded = oci_image.encode(dict(document))
    image_id = oci_image.digest(encoded)
    if step is None:
        await images.publish_image(encoded, names=wanted)
    else:
        with step.doing("exporting layers"):
            pass
        with step.doing(f"writing image {image_id}"):
            await images.publish_image(encoded, names=wanted)
        for name in wanted:
            with step.doing(f"naming to {name}"):
                pass
    for name in wanted:
        images.publish_event("tag", image_id, name.familiar())
    return image_id
