"""What the store keeps about images: values only.

References in the store: `image:<id>` holds its top `layer:<chain id>`; a layer holds its parent layer;
`snapshot:<container id>` holds the layer it stands on; `container:<id>` holds `image:<id>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sampan.engine.store import Record

ENGINE_VERSION = "28.5.2"  # what image configurations name as docker_version


class ImageRecord(Record, kw_only=True):
    """`id` is the digest of the config; the config itself is a blob of the content store."""

    parent: str = ""  # the image it was committed or built from
    tagged_at: str = ""  # RFC 3339
    used_at: str = ""  # RFC 3339: when a container was last made from it


class TagRecord(Record, kw_only=True):
    """`id` is the full reference, `docker.io/library/busybox:latest` or `…@sha256:…`.

    A name may hold several platforms: `image` is what it means when none is asked for, `others` the rest of them.
    """

    image: str
    others: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        return (self.image, *self.others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as the engine's other services see it. `config` is the decoded OCI image configuration: read-only."""

    id: str
    config: dict[str, Any]
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    parent: str
    created: str
    size: int
    architecture: str
    os: str
    layers: tuple[str, ...]  # diff ids, base first
    chain_id: str  # of the top layer; "" without layers
    tagged_at: str = ""
