"""A result as an image archive for the client: `type=docker` (what `docker load` reads) and `type=oci`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from sampan.engine.archives import streams
from sampan.engine.builder.exporters import image
from sampan.engine.builder.exporters.layout import Layout, as_object
from sampan.engine.builder.files.dirtree import DirTree
from sampan.engine.builder.request import Output, is_true
from sampan.engine.builder.session import Session
from sampan.engine.builder.steps import Shown
from sampan.engine.images import archive
from sampan.engine.images.records import Image
from sampan.engine.images.service import Images
from sampan.engine.platforms import Platform
from sampan.spec import oci_image
from sampan.spec.reference import Reference

Documents = Mapping[Platform, Mapping[str, Any]]


async def docker(
    images: Images, documents: Documents, names: Sequence[Reference], output: Output, session: Session, step: Shown
) -> str:
    """Send a docker archive, of one platform. Returns the image's id."""
    (only,) = documents.values()
    made = _image(only)
    config = oci_image.encode(dict(made.config))
    layers = tuple(reversed(images.layers.records(made.chain_id)))
    wanted = archive.SavedImage(image=made, config=config, names=tuple(names), layers=layers)
    created = image.newest_ns([made.config])
    with step.doing("sending tarball"):
        chunks = streams.drain(archive.write(archive.plan([wanted]), images.layers, created), images.streaming)
        await session.put_file(chunks, image.metadata(output), exporter=output.exporter)
    return made.id


def _image(document: Mapping[str, Any]) -> Image:
    """The image that a document describes, as the archive's writer wants it."""
    encoded = oci_image.encode(dict(document))
    config = oci_image.decode(encoded)
    layers = oci_image.diff_ids(config)
    chain = oci_image.chain_ids(layers)
    return Image(
        id=oci_image.digest(encoded),
        config=config,
        repo_tags=(),
        repo_digests=(),
        parent="",
        created=config["created"],
        size=0,
        architecture=config["architecture"],
        os=config["os"],
        layers=layers,
        chain_id=chain[-1] if chain else "",
    )


async def oci(
    images: Images,
    documents: Documents,
    names: Sequence[Reference],
    output: Output,
    session: Session,
    step: Shown,
    *,
    scratch: str,
    indexed: bool,
) -> str:
    """Send an OCI layout, as an archive or (`tar=false`) as a directory. Returns the digest of what index.json names.

    indexed: that is an index of platforms, even of one.
    """
    layout = await asyncio.to_thread(Layout, scratch)
    try:
        with step.doing("exporting layers"):
            digest = await asyncio.get_running_loop().run_in_executor(
                images.streaming, _fill, layout, images, documents, names, output, indexed
            )
        if not is_true(output.attrs.get("tar"), otherwise=True):
            tree = DirTree(layout.path)
            try:
                with step.doing("copying files"):
                    await session.put_tree(tree, exporter=output.exporter)
            finally:
                tree.close()
        else:
            with step.doing("sending tarball"):
                chunks = streams.drain(layout.tar(), images.streaming)
                await session.put_file(chunks, image.metadata(output), exporter=output.exporter)
        return digest
    finally:
        await asyncio.to_thread(layout.close)


def _fill(
    layout: Layout, images: Images, documents: Documents, names: Sequence[Reference], output: Output, indexed: bool
) -> str:
    """Blocking: blobs, manifests, for several platforms their index, and index.json."""
    entries = [_manifest(layout, images, platform, found, output) for platform, found in documents.items()]
    top = entries[0]
    if indexed:
        index = {"schemaVersion": 2, "mediaType": oci_image.MEDIA_INDEX, "manifests": entries}
        index |= annotated(output, "index")
        top = as_object(layout.document(index, oci_image.MEDIA_INDEX))
    created = next(iter(documents.values()))["created"]
    listed = []
    wanted: Sequence[Reference | None] = names or [None]
    for name in wanted:
        found = {"org.opencontainers.image.created": created}
        if name is not None:
            found |= {"io.containerd.image.name": str(name), "org.opencontainers.image.ref.name": name.tag}
        found |= annotated(output, "manifest-descriptor").get("annotations", {})
        listed.append({**top, "annotations": dict(sorted(found.items()))})
    layout.finish(listed)
    digest: str = top["digest"]
    return digest


def _manifest(
    layout: Layout, images: Images, platform: Platform, document: Mapping[str, Any], output: Output
) -> dict[str, Any]:
    """One platform's manifest; its descriptor."""
    made = _image(document)
    compression = output.attrs.get("compression", "gzip")
    records = reversed(images.layers.records(made.chain_id))
    layers = [as_object(layout.layer(images.layers, record, compression)) for record in records]
    config = layout.document(oci_image.encode(dict(made.config)), oci_image.MEDIA_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci_image.MEDIA_MANIFEST,
        "config": as_object(config),
        "layers": layers,
        **annotated(output, "manifest", platform),
    }
    found = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        found["variant"] = platform.variant
    return as_object(layout.document(manifest, oci_image.MEDIA_MANIFEST), platform=found)


def annotated(output: Output, kind: str, platform: Platform | None = None) -> dict[str, Any]:
    """Return the annotations that an output asks for, for one kind of document.

    They are attributes: `annotation.KEY`, `annotation-index.KEY`, `annotation[linux/amd64].KEY`.
    """
    prefixes = {"annotation", "annotation-manifest"} if kind == "manifest" else {f"annotation-{kind}"}
    found: dict[str, str] = {}
    for key, value in output.attrs.items():
        head, dot, name = key.partition(".")
        where, _, chosen = head.partition("[")
        if dot and where in prefixes and (not chosen or chosen.rstrip("]") == str(platform)):
            found[name] = value
    return {"annotations": dict(sorted(found.items()))} if found else {}
