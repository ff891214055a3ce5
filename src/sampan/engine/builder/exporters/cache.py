"""`--cache-to`: what the steps of a build gave, for other engines: inside the image, in a registry, as a directory.

mode=min: the steps whose layers are in the result; mode=max: all steps. Equal input gives an equal export.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sampan.engine.builder import cacheconfig
from sampan.engine.builder.bases import Bases
from sampan.engine.builder.cacheconfig import Blob, CacheConfig, ConfigRecord
from sampan.engine.builder.exporters.layout import Layout, as_object
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.request import CacheEnd
from sampan.engine.builder.session import Session
from sampan.engine.builder.solver.records import CacheRecord
from sampan.engine.builder.steps import Shown
from sampan.engine.images.reports import Report
from sampan.engine.images.service import Images
from sampan.engine.images.uploads import Upload
from sampan.engine.layers.records import LayerRecord
from sampan.registry import endpoints, repository
from sampan.registry.manifests import Descriptor
from sampan.spec import codec, oci_image, reference

Made = Mapping[Vertex, CacheRecord]


def inline(made: Made, diff_ids: Iterable[str]) -> dict[str, str]:
    """Return the field of an image's configuration that holds its records."""
    numbers = {chain_id: number for number, chain_id in enumerate(oci_image.chain_ids(diff_ids))}
    kept = [_kept(record, numbers[record.chain_id]) for record in _ordered(made) if record.chain_id in numbers]
    return {cacheconfig.INLINE: cacheconfig.inline(kept)}


def _kept(record: CacheRecord, layer: int) -> ConfigRecord:
    return ConfigRecord(
        key=record.key, layer=layer, time_ns=record.time_ns, empty=record.empty, description=record.description
    )


def _ordered(made: Made) -> list[CacheRecord]:
    return sorted({record.key: record for record in made.values()}.values(), key=lambda record: record.key)


def collect(
    images: Images, made: Made, chains: Iterable[str], mode: str
) -> tuple[list[ConfigRecord], list[LayerRecord]]:
    """Return the records and the layers that they need, each after the one below.

    chains: all chain ids of the result.
    """
    wanted = set(chains)
    records = [record for record in _ordered(made) if mode == "max" or record.chain_id in wanted]
    numbers: dict[str, int] = {"": -1}
    layers: list[LayerRecord] = []
    for record in records:
        for layer in reversed(images.layers.records(record.chain_id)):
            if layer.id not in numbers:
                numbers[layer.id] = len(layers)
                layers.append(layer)
    return [_kept(record, numbers[record.chain_id]) for record in records], layers


def config_of(kept: list[ConfigRecord], layers: list[LayerRecord], blobs: list[Descriptor]) -> CacheConfig:
    """Return the document of an export."""
    numbers = {"": -1, **{layer.id: number for number, layer in enumerate(layers)}}
    listed = [
        Blob(diff_id=layer.diff_id, parent=numbers[layer.parent], descriptor=blob)
        for layer, blob in zip(layers, blobs, strict=True)
    ]
    return CacheConfig(records=tuple(kept), layers=tuple(listed))


def manifest(config: Descriptor, blobs: Iterable[Descriptor]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": oci_image.MEDIA_MANIFEST,
        "config": as_object(config),
        "layers": [as_object(blob) for blob in dict.fromkeys(blobs)],
    }


async def to_registry(
    images: Images, made: Made, chains: Iterable[str], end: CacheEnd, bases: Bases, step: Shown
) -> None:
    """Push to `ref`. Raises: what a push raises."""
    name = reference.parse(end.attrs["ref"]).tagged()
    kept, layers = collect(images, made, chains, end.attrs.get("mode", "min"))
    settings = images.registries.settings
    schemes = endpoints.own(name.domain, name.path, settings)
    credentials = await bases.credentials(name.domain)
    place = await repository.connect(images.registries.transport, schemes, credentials, settings, push=True)
    blobs: list[Descriptor] = []
    for layer in layers:
        with step.doing(f"writing layer {layer.diff_id}"):
            async with images.registries.uploads.slot():
                blob = await Upload(images.layers, images.streaming, place, layer, Report()).run()
        blobs.append(Descriptor(oci_image.MEDIA_LAYER + "+gzip", blob.digest, blob.size))
    raw = cacheconfig.encode(config_of(kept, layers, blobs))
    config = Descriptor(cacheconfig.MEDIA_CONFIG, oci_image.digest(raw), len(raw))
    with step.doing(f"writing config {config.digest}"):
        if await place.has_blob(config.digest) is None:
            await place.put_blob(raw, config.digest)
    listed = codec.encode(manifest(config, blobs))[:-1]
    with step.doing(f"writing cache image manifest {oci_image.digest(listed)}"):
        await place.put_manifest(name.tag, listed, oci_image.MEDIA_MANIFEST)


async def to_directory(
    images: Images, made: Made, chains: Iterable[str], end: CacheEnd, session: Session, step: Shown, *, scratch: str
) -> None:
    """Send an OCI layout to the client: its `exporter` attribute says which of its outputs it is."""
    kept, layers = collect(images, made, chains, end.attrs.get("mode", "min"))
    layout = await asyncio.to_thread(Layout, scratch)

    def fill() -> None:
        blobs = [layout.layer(images.layers, layer, end.attrs.get("compression", "gzip")) for layer in layers]
        config = layout.document(cacheconfig.encode(config_of(kept, layers, blobs)), cacheconfig.MEDIA_CONFIG)
        top = layout.document(manifest(config, blobs), oci_image.MEDIA_MANIFEST)
        tag = end.attrs.get("tag", "latest")
        layout.finish([as_object(top, annotations={"org.opencontainers.image.ref.name": tag})])

    try:
        begun = time.time_ns()
        await asyncio.get_running_loop().run_in_executor(images.streaming, fill)
        step.part("writing layers", started_ns=begun, done=True)
        tree = DirTree(layout.path)
        try:
            await session.put_tree(tree, exporter=int(end.attrs.get("exporter", "0")))
        finally:
            tree.close()
    finally:
        await asyncio.to_thread(layout.close)
