"""Manifests and indexes: bytes that were hashed already, read strictly. Pure.

One text has one meaning: the media type says what it is, its fields must agree, and what could be read as both a
manifest and an index is refused (CVE-2021-41190). Schema 1 is refused in Docker's words; attestations are no images.

Source: OCI image-spec 1.1 manifest.md, image-index.md; distribution "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sampan.errors import InvalidArgument
from sampan.spec import codec, oci_image, reference

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
SCHEMA1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
MANIFESTS = frozenset({oci_image.MEDIA_MANIFEST, oci_image.DOCKER_MANIFEST})
INDEXES = frozenset({oci_image.MEDIA_INDEX, oci_image.DOCKER_LIST})
ACCEPT = ", ".join(
    [
        oci_image.DOCKER_MANIFEST,
        oci_image.DOCKER_LIST,
        oci_image.MEDIA_MANIFEST,
        oci_image.MEDIA_INDEX,
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/json",
    ]
)
CONFIGS = frozenset({DOCKER_CONFIG, oci_image.MEDIA_CONFIG, "application/octet-stream", "text/html", ""})
LAYERS = frozenset(
    {
        DOCKER_LAYER,
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        *(
            oci_image.MEDIA_LAYER.replace("layer", kind) + compression
            for kind in ("layer", "layer.nondistributable")
            for compression in ("", "+gzip", "+zstd")
        ),
    }
)
ATTESTATION = "vnd.docker.reference.type"
MAX_BYTES = 4 * 1024 * 1024  # of a manifest; what the distribution-spec asks registries to take at least
MAX_CONFIG_BYTES = 8 * 1024 * 1024
MAX_LAYERS = 1024
MAX_BLOB_BYTES = 2**60
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    media_type: str
    digest: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and its layers as they are stored, base first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One image of an index. Platform fields are "" when the index does not say."""

    descriptor: Descriptor
    os: str
    architecture: str
    variant: str


@dataclass(frozen=True, slots=True)
class Index:
    media_type: str
    entries: tuple[IndexEntry, ...]  # without attestations


def parse(raw: bytes, content_type: str, name: str) -> Manifest | Index:
    """Read a manifest. `name`: the reference, for Docker's words. Raises: InvalidArgument."""
    if len(raw) > MAX_BYTES:
        raise InvalidArgument(f"the manifest of {name} has more than {MAX_BYTES} bytes")
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        document = codec.plain(raw)
    except ValueError as e:
        raise InvalidArgument(f"invalid manifest of {name}: {e}") from e
    if not isinstance(document, dict):
        raise InvalidArgument(f"invalid manifest of {name}: not a JSON object")
    if media_type in SCHEMA1 or document.get("schemaVersion") == 1:
        raise InvalidArgument(
            "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest "
            f"the author of {name} to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More "
            "information at https://docs.docker.com/go/deprecated-image-specs/"
        )
    kind = _kind(document, media_type, name)
    if kind in INDEXES:
        return Index(kind, tuple(_entries(document, name)))
    return _manifest(document, kind, name)


def _kind(document: Mapping[str, Any], content_type: str, name: str) -> str:
    """Return the one media type of a document: header, field and content agree. Raises: InvalidArgument."""
    own = document.get("mediaType") or ""
    if not isinstance(own, str):
        raise InvalidArgument(f"invalid manifest of {name}: mediaType is no string")
    known = MANIFESTS | INDEXES
    if content_type in known and own and own != content_type:
        raise InvalidArgument(f"invalid manifest of {name}: it calls itself {own!r}, the registry {content_type!r}")
    index, manifest = "manifests" in document, "config" in document or "layers" in document
    if (index and manifest) or "fsLayers" in document:
        raise InvalidArgument(f"invalid manifest of {name}: it can be read as more than one kind")
    kind = content_type if content_type in known else own
    if kind not in known:
        if own or content_type not in ("", "application/json", "text/plain", "application/octet-stream"):
            raise InvalidArgument(f"unsupported manifest media type {own or content_type!r} of {name}")
        kind = oci_image.MEDIA_INDEX if index else oci_image.MEDIA_MANIFEST
    if document.get("schemaVersion") != 2:
        raise InvalidArgument(f"invalid manifest of {name}: unknown schemaVersion {document.get('schemaVersion')!r}")
    if (kind in INDEXES) == manifest:
        raise InvalidArgument(f"invalid manifest of {name}: its fields are not those of {kind}")
    return kind


def _manifest(document: Mapping[str, Any], kind: str, name: str) -> Manifest:
    config = _descriptor(document.get("config"), name)
    if config.media_type not in CONFIGS:
        raise InvalidArgument(f'Encountered remote "{config.media_type}"({_class(config.media_type)}) when fetching')
    if config.size > MAX_CONFIG_BYTES:
        raise InvalidArgument(f"the configuration of {name} has more than {MAX_CONFIG_BYTES} bytes")
    listed = document.get("layers") or []
    if not isinstance(listed, list) or len(listed) > MAX_LAYERS:
        raise InvalidArgument(f"invalid manifest of {name}: layers is no list of at most {MAX_LAYERS}")
    layers = tuple(_descriptor(layer, name) for layer in listed)
    for layer in layers:
        if layer.media_type not in LAYERS:
            raise InvalidArgument(f"unsupported media type {layer.media_type!r} of layer {layer.digest}")
    return Manifest(kind, config, layers)


def _class(media_type: str) -> str:
    return "plugin" if media_type == "application/vnd.docker.plugin.v1+json" else "unknown"


def _entries(document: Mapping[str, Any], name: str) -> list[IndexEntry]:
    listed = document.get("manifests") or []
    if not isinstance(listed, list):
        raise InvalidArgument(f"invalid manifest of {name}: manifests is no list")
    found = []
    for item in listed:
        descriptor = _descriptor(item, name)
        annotations = item.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise InvalidArgument(f"invalid manifest of {name}: annotations are no object")
        if descriptor.media_type not in MANIFESTS | INDEXES or ATTESTATION in annotations:
            continue
        platform = item.get("platform") or {}
        if not isinstance(platform, dict):
            raise InvalidArgument(f"invalid manifest of {name}: a platform is no object")
        words = [platform.get(key) or "" for key in ("os", "architecture", "variant")]
        if not all(isinstance(word, str) for word in words):
            raise InvalidArgument(f"invalid manifest of {name}: a platform's field is no string")
        found.append(IndexEntry(descriptor, *words))
    return found


def _descriptor(value: Any, name: str) -> Descriptor:
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid manifest of {name}: a descriptor is missing")
    media_type, digest, size = value.get("mediaType") or "", value.get("digest"), value.get("size")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise InvalidArgument(f"invalid manifest of {name}: invalid digest {digest!r}")
    if not isinstance(media_type, str) or isinstance(size, bool) or not isinstance(size, int):
        raise InvalidArgument(f"invalid manifest of {name}: a descriptor has fields of the wrong type")
    if not 0 <= size <= MAX_BLOB_BYTES:
        raise InvalidArgument(f"invalid manifest of {name}: invalid size {size}")
    return Descriptor(media_type, digest, size)


def write(config: Descriptor, layers: tuple[Descriptor, ...]) -> bytes:
    """Return the schema 2 manifest that Docker pushes for these, to the byte."""
    document = {
        "schemaVersion": 2,
        "mediaType": oci_image.DOCKER_MANIFEST,
        "config": _object(config),
        "layers": [_object(layer) for layer in layers],
    }
    return msgspec.json.format(codec.encode(document)[:-1], indent=3)


def write_list(entries: list[dict[str, Any]]) -> bytes:
    """Return the manifest list over some manifests: entries with mediaType, digest, size and platform."""
    document = {"schemaVersion": 2, "mediaType": oci_image.DOCKER_LIST, "manifests": entries}
    return msgspec.json.format(codec.encode(document)[:-1], indent=3)


def _object(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "size": descriptor.size, "digest": descriptor.digest}


def is_digest(text: str) -> bool:
    """Return whether a text is a digest that we can verify while streaming."""
    return reference.is_digest(text) and text.startswith("sha256:")
