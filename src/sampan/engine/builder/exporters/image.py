"""A result as an image of this engine: its documents, its names, the events, and `push=true`.

Not here: archives and directories for the client (archive.py, files.py). Invariant: a name never means half of a
result: of several platforms all images are there before it points to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sampan.engine.builder.request import Output
from sampan.engine.builder.steps import Shown
from sampan.engine.images import push
from sampan.engine.images.service import Images
from sampan.engine.platforms import Platform
from sampan.errors import InvalidArgument
from sampan.registry.auth import Credentials
from sampan.spec import oci_image, reference, times
from sampan.spec.reference import Reference

Documents = Mapping[Platform, Mapping[str, Any]]


def names(tags: Iterable[str], output: Output) -> list[Reference]:
    """Return the names of a result as written: the request's, and the output's `name` (several with commas).

    Raises: InvalidArgument.
    """
    wanted = [*tags, *(name for name in output.attrs.get("name", "").split(",") if name)]
    found: dict[Reference, Reference] = {}
    for text in wanted:
        name = reference.parse(text.strip())
        if name.digest:
            raise InvalidArgument(f'invalid tag "{text}": a name with a digest')
        found.setdefault(name.tagged(), name)
    return list(found.values())


async def publish(
    images: Images, documents: Documents, wanted: Sequence[Reference], step: Shown
) -> dict[Platform, str]:
    """Store the images and name them. Returns their ids."""
    encoded = {platform: oci_image.encode(dict(found)) for platform, found in documents.items()}
    ids = {platform: oci_image.digest(raw) for platform, raw in encoded.items()}
    with step.doing("exporting layers"):
        pass  # they are layers already
    *others, last = encoded
    for platform in [*others, last]:
        with step.doing(f"writing image {ids[platform]}"):
            if platform is last:
                beside = [ids[other] for other in others]
                named = [name.tagged() for name in wanted]
                await images.publisher.publish_image(encoded[platform], names=named, beside=beside)
            else:
                await images.publisher.publish_image(encoded[platform])
    for name in wanted:
        with step.doing(f"naming to {name}"):
            images.publisher.publish_event("tag", ids[last], name.tagged().familiar())
    for image_id in ids.values():
        images.publisher.publish_event("create", image_id, image_id)
    return ids


async def send(images: Images, name: Reference, credentials: Credentials, step: Shown) -> None:
    """Push one name. Raises: what a push raises."""
    with step.doing(f"pushing {name}"):
        wanted = push.request(images.catalog, name.familiar_name(), name.tag, None)
        async for _ in images.transfer.push(wanted, credentials):
            pass


def metadata(output: Output) -> dict[str, str]:
    """Return what the client is told beside a file."""
    return {key: output.attrs[key] for key in ("dest",) if key in output.attrs}


def newest_ns(configs: Iterable[Mapping[str, Any]]) -> int:
    return max((times.parse(config["created"]) for config in configs if config.get("created")), default=0)
