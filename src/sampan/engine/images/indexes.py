"""Several platforms under one name, as documents: each image's OCI manifest, the index over them, the API's form.

The manifests are those of an archive: layers as plain tars, so that they follow from the images alone. Pure.

Source: OCI image-spec 1.1 manifest.md, image-index.md; Engine API 1.51 ImageManifestSummary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sampan.engine import platforms
from sampan.engine.images.records import Image
from sampan.engine.layers.records import LayerRecord
from sampan.engine.platforms import Platform
from sampan.spec import codec, oci_image


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedImage:
    """One image of a name that holds several."""

    image: Image
    config_bytes: int
    layers: tuple[LayerRecord, ...]  # base first


def manifest(member: IndexedImage) -> bytes:
    """The OCI manifest of an image whose layers are not compressed."""
    document = {
        "schemaVersion": 2,
        "mediaType": oci_image.MEDIA_MANIFEST,
        "config": {"mediaType": oci_image.MEDIA_CONFIG, "digest": member.image.id, "size": member.config_bytes},
        "layers": [
            {"mediaType": oci_image.MEDIA_LAYER, "digest": layer.diff_id, "size": layer.tar_bytes}
            for layer in member.layers
        ],
    }
    return codec.encode(document)[:-1]


def descriptor(raw: bytes, media_type: str, platform: Platform) -> dict[str, Any]:
    """An index's entry for a manifest."""
    return {
        "mediaType": media_type,
        "digest": oci_image.digest(raw),
        "size": len(raw),
        "platform": platform_object(platform),
    }


def platform_object(platform: Platform) -> dict[str, str]:
    shown = {"architecture": platform.architecture, "os": platform.os}
    return shown | ({"variant": platform.variant} if platform.variant else {})


def _described(member: IndexedImage) -> dict[str, Any]:
    return descriptor(manifest(member), oci_image.MEDIA_MANIFEST, platforms.of(member.image.config))


def index(members: Sequence[IndexedImage]) -> bytes:
    """The OCI index over some images."""
    document = {
        "schemaVersion": 2,
        "mediaType": oci_image.MEDIA_INDEX,
        "manifests": [_described(member) for member in members],
    }
    return codec.encode(document)[:-1]


def summary(member: IndexedImage, containers: Sequence[str]) -> dict[str, Any]:
    """ImageManifestSummary. What takes room is the unpacked layers; of content there is only the configuration."""
    entry = _described(member)
    unpacked = member.image.size
    return {
        "ID": entry["digest"],
        "Descriptor": entry,
        "Available": True,
        "Size": {"Content": member.config_bytes, "Total": member.config_bytes + unpacked},
        "Kind": "image",
        "ImageData": {
            "Platform": entry["platform"],
            "Containers": list(containers),
            "Size": {"Unpacked": unpacked},
        },
    }
