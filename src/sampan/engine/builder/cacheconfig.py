"""An exported build cache as a document: which keys it has, and which layers they stand for. Pure.

    records   a step's cache key → the layer that it ended with
    layers    blobs, each with the one below

`moby.buildkit.cache.v0` inside an image's configuration (inline) is the list of records alone; their layers are the
image's own, by number. Keys are ours, so another builder reads the document and finds nothing for itself in it.
Source: BuildKit's cache config (mediaType application/vnd.buildkit.cacheconfig.v0) as buildx 0.29 exports it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sampan.errors import InvalidArgument
from sampan.registry.manifests import Descriptor
from sampan.spec import codec, times

MEDIA_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
INLINE = "moby.buildkit.cache.v0"
_OWN = "sampan"  # what our records say beyond BuildKit's


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigRecord:
    """One step. layer: the number of its top layer, -1 for none. empty: the step changed nothing."""

    key: str
    layer: int
    time_ns: int
    empty: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One layer. parent: the number of the layer below, -1 for none."""

    diff_id: str
    parent: int
    descriptor: Descriptor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    records: tuple[ConfigRecord, ...]
    layers: tuple[Blob, ...]

    def chain(self, layer: int) -> list[Blob]:
        """Return the layers of a state, bottom first.

        Raises: InvalidArgument for layers that stand on each other in a circle.
        """
        found: list[Blob] = []
        while layer >= 0:
            if layer >= len(self.layers) or len(found) > len(self.layers):
                raise InvalidArgument("invalid cache config: a layer that is none")
            found.append(self.layers[layer])
            layer = self.layers[layer].parent
        return found[::-1]


def encode(config: CacheConfig) -> bytes:
    """Return the document, keys and order fixed."""
    layers = []
    for blob in config.layers:
        assert blob.descriptor is not None
        about = {"mediaType": blob.descriptor.media_type, "diffID": blob.diff_id, "size": blob.descriptor.size}
        layers.append({"blob": blob.descriptor.digest, "parent": blob.parent, "annotations": about})
    return codec.encode({"layers": layers, "records": [_record(kept) for kept in config.records]})[:-1]


def inline(records: Iterable[ConfigRecord]) -> str:
    """Return what stands in an image's configuration, as Go writes bytes in JSON."""
    return base64.b64encode(codec.encode([_record(kept) for kept in records])[:-1]).decode()


def _record(kept: ConfigRecord) -> dict[str, Any]:
    record: dict[str, Any] = {"digest": kept.key}
    if kept.layer >= 0:
        record = {"layers": [{"layer": kept.layer, "createdAt": times.rfc3339_nano(kept.time_ns)}], **record}
    own = {"description": kept.description, "time": kept.time_ns, **({"empty": True} if kept.empty else {})}
    return {**record, _OWN: own}


def decode(raw: bytes, blobs: Mapping[str, Descriptor]) -> CacheConfig:
    """Return the document; blobs: what the manifest lists, by digest. Raises: InvalidArgument."""
    document = _parse(raw)
    if not isinstance(document, dict):
        raise InvalidArgument("invalid cache config: not an object")
    layers = []
    for item in _objects(document.get("layers")):
        about = item.get("annotations")
        about = about if isinstance(about, dict) else {}
        descriptor = blobs.get(str(item.get("blob")))
        parent = item.get("parent", 0)
        if descriptor is None or not isinstance(parent, int) or not isinstance(about.get("diffID"), str):
            raise InvalidArgument("invalid cache config: a layer without blob, diffID or parent")
        layers.append(Blob(diff_id=about["diffID"], parent=parent, descriptor=descriptor))
    return CacheConfig(records=_records(document.get("records")), layers=tuple(layers))


def decode_inline(
    config: Mapping[str, Any], diff_ids: Sequence[str], blobs: Sequence[Descriptor | None]
) -> CacheConfig:
    """Return the records inside an image's configuration; none when it has none. Raises: InvalidArgument."""
    try:
        raw = base64.b64decode(str(config.get(INLINE) or ""), validate=True)
    except binascii.Error as e:
        raise InvalidArgument(f"invalid inline cache: {e}") from e
    records = _records(_parse(raw)) if raw else ()
    layers = tuple(
        Blob(diff_id=diff_id, parent=number - 1, descriptor=blob)
        for number, (diff_id, blob) in enumerate(zip(diff_ids, blobs, strict=True))
    )
    return CacheConfig(records=records, layers=layers)


def _parse(raw: bytes) -> Any:
    try:
        return codec.plain(raw)
    except ValueError as e:
        raise InvalidArgument(f"invalid cache config: {e}") from e


def _objects(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value or [], list) or not all(isinstance(item, dict) for item in value or []):
        raise InvalidArgument("invalid cache config: not a list of objects")
    return list(value or [])


def _records(value: Any) -> tuple[ConfigRecord, ...]:
    found = []
    for item in _objects(value):
        own = item.get(_OWN)
        results = _objects(item.get("layers"))
        if not isinstance(own, dict) or not isinstance(item.get("digest"), str):
            continue  # another builder's
        layer = results[0].get("layer", 0) if results else -1
        time_ns = own.get("time")
        if not isinstance(time_ns, int):
            try:
                time_ns = times.parse(str(results[0].get("createdAt"))) if results else 0
            except ValueError as e:
                raise InvalidArgument(f"invalid cache config: {e}") from e
        found.append(
            ConfigRecord(
                key=item["digest"],
                layer=layer if isinstance(layer, int) else -1,
                time_ns=time_ns,
                empty=own.get("empty") is True,
                description=str(own.get("description") or ""),
            )
        )
    return tuple(found)
