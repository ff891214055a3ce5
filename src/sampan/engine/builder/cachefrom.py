"""`--cache-from`: steps that another engine has done. Looked up by key; layers come when a step needs them, not before.

A source that cannot be read is no failure of the build: it has nothing to offer, and the client is told why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from sampan.engine import platforms
from sampan.engine.archives import streams
from sampan.engine.background import first_failure
from sampan.engine.builder import cacheconfig
from sampan.engine.builder.bases import Bases
from sampan.engine.builder.cacheconfig import Blob, CacheConfig
from sampan.engine.builder.definition import read
from sampan.engine.builder.narrowed import NarrowedSession
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import CacheEnd
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.solver.cache import Cache
from sampan.engine.builder.solver.imported import ImportedCache
from sampan.engine.builder.steps import shown
from sampan.engine.builder.trees import Tree
from sampan.engine.images.downloads import WantedLayer, Watcher
from sampan.engine.images.pull import choose
from sampan.engine.images.service import Images
from sampan.engine.store import Ref
from sampan.errors import Internal, InvalidArgument, NotFound, SampanError
from sampan.registry import endpoints, manifests, repository
from sampan.registry.manifests import Descriptor, Index
from sampan.registry.repository import Repository
from sampan.spec import codec, oci_image, reference

BLOBS = "blobs/sha256/"


async def open_source(
    end: CacheEnd,
    *,
    images: Images,
    cache: Cache,
    bases: Bases,
    session: NarrowedSession,
    progress: Progress,
    build: str,
) -> ImportedCache | None:
    """Return one --cache-from; None for one that has nothing to give."""
    ref = end.attrs.get("ref") or end.attrs.get("src") or end.attrs.get("context") or ""
    try:
        with shown(progress, build, f"importing cache manifest from {ref}"):
            if end.type == "local":
                return await _directory(end, images, cache, session)
            if end.type in ("registry", "inline"):
                return _here(ref, images, cache) or await _registry(ref, images, cache, bases)
            raise InvalidArgument(f"unknown cache importer: {end.type}")
    except SampanError:
        return None  # the step says why


# -- an image of this engine --------------------------------------------------------------------------------------


def _here(ref: str, images: Images, cache: Cache) -> ImportedCache | None:
    """The inline cache of an image that is here already."""
    try:
        image = images.resolve(ref)
    except (NotFound, InvalidArgument):
        return None
    if cacheconfig.INLINE not in image.config:
        return None

    async def obtain(blobs: list[Blob], holder: Ref) -> None:
        chain = oci_image.chain_ids(blob.diff_id for blob in blobs)
        if chain:
            images.layers.get(chain[-1])
            images.layers.hold_more(holder, chain[-1])

    config = cacheconfig.decode_inline(image.config, image.layers, [None] * len(image.layers))
    return ImportedCache(images, cache, config, obtain)


# -- a registry -----------------------------------------------------------------------------------------------------


async def _registry(ref: str, images: Images, cache: Cache, bases: Bases) -> ImportedCache:
    """A cache manifest, or an image with an inline cache. Raises: what the registry raises."""
    name = reference.parse(ref).tagged()
    settings = images.registries.settings
    schemes = endpoints.own(name.domain, name.path, settings)
    credentials = await bases.credentials(name.domain)
    place = await repository.connect(images.registries.transport, schemes, credentials, settings)
    found = await place.manifest(name.digest or name.tag, digest=name.digest)
    document = _object(found.raw)
    if "manifests" in document and "layers" not in document:
        index = manifests.parse(found.raw, found.media_type, str(name))
        assert isinstance(index, Index)
        entry = choose(index.entries, platforms.HOST)
        if entry is None:
            raise NotFound(f"no cache for {platforms.HOST} in {name}")
        document = _object((await place.manifest(entry.descriptor.digest)).raw)
    config = await _config(document, place.small_blob)

    async def obtain(blobs: list[Blob], holder: Ref) -> None:
        await _download(images, place, name.name, blobs, holder)

    return ImportedCache(images, cache, config, obtain)


async def _config(document: dict[str, Any], blob: Callable[[Descriptor], Awaitable[bytes]]) -> CacheConfig:
    """The cache config that a manifest names. Raises: InvalidArgument."""
    try:
        wanted = _descriptor(document["config"])
        layers = [_descriptor(item) for item in document.get("layers") or []]
    except (KeyError, TypeError) as e:
        raise InvalidArgument(f"invalid cache manifest: {e}") from e
    raw = await blob(wanted)
    if oci_image.digest(raw) != wanted.digest:
        raise InvalidArgument(f"invalid cache config {wanted.digest}: its content has another digest")
    if wanted.media_type == cacheconfig.MEDIA_CONFIG:
        return cacheconfig.decode(raw, {layer.digest: layer for layer in layers})
    image = oci_image.decode(raw)
    diff_ids = oci_image.diff_ids(image)
    if len(diff_ids) != len(layers):
        raise InvalidArgument("layers from manifest don't match image configuration")
    return cacheconfig.decode_inline(image, diff_ids, layers)


def _descriptor(value: Any) -> Descriptor:
    digest, size = value["digest"], value["size"]
    if not isinstance(digest, str) or not manifests.is_digest(digest) or not isinstance(size, int) or size < 0:
        raise InvalidArgument("invalid cache manifest: a descriptor without digest or size")
    return Descriptor(str(value.get("mediaType") or ""), digest, size)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        return codec.plain_object(raw)
    except ValueError as e:
        raise InvalidArgument(f"invalid cache manifest: {e}") from e


async def _download(images: Images, place: Repository, source: str, blobs: list[Blob], holder: Ref) -> None:
    """Fetch the layers that are not here, each once in the engine, and hold the top one."""
    chain = oci_image.chain_ids(blob.diff_id for blob in blobs)
    wanted = []
    for chain_id, blob in zip(chain, blobs):
        assert blob.descriptor is not None
        wanted.append(WantedLayer(chain_id=chain_id, diff_id=blob.diff_id, blob=blob.descriptor, source=source))
    watcher = Watcher(images.layers, None)
    try:
        async with asyncio.TaskGroup() as group:
            for number, layer in enumerate(wanted):
                below = wanted[number - 1] if number else None
                group.create_task(images.registries.downloads.obtain(layer, place, watcher, below))
        if chain:
            images.layers.hold_more(holder, chain[-1])
    except BaseExceptionGroup as e:
        raise Internal(f"a layer of the cache cannot be fetched: {first_failure(e)}") from e
    finally:
        images.layers.let_go(watcher.holder)


# -- a directory of the client ----------------------------------------------------------------------------------------


async def _directory(end: CacheEnd, images: Images, cache: Cache, session: NarrowedSession) -> ImportedCache:
    """An OCI layout; `context` is what the client calls the directory. Raises: NotFound, InvalidArgument."""
    tree = await session.local(LocalRequest(name=end.attrs.get("context", "cache")))
    session.owned.append(tree)
    raw = await asyncio.to_thread(read, tree, "index.json")
    if raw is None:
        raise NotFound("could not read cache: no index.json")
    wanted = end.attrs.get("tag", "latest")
    entries = [entry for entry in _object(raw).get("manifests") or [] if isinstance(entry, dict)]
    named = [e for e in entries if (e.get("annotations") or {}).get("org.opencontainers.image.ref.name") == wanted]
    digest = end.attrs.get("digest") or (str(named[0].get("digest")) if named else "")
    if not manifests.is_digest(digest):
        raise NotFound(f"could not read cache: no manifest {wanted}")

    async def blob(of: Descriptor) -> bytes:
        found = await asyncio.to_thread(read, tree, BLOBS + of.digest.removeprefix("sha256:"))
        if found is None or oci_image.digest(found) != of.digest:
            raise InvalidArgument(f"blob {of.digest} of the cache is missing or damaged")
        return found

    config = await _config(_object(await blob(Descriptor("", digest, 0))), blob)

    async def obtain(blobs: list[Blob], holder: Ref) -> None:
        await _unpack(images, tree, blobs, holder)

    return ImportedCache(images, cache, config, obtain)


async def _unpack(images: Images, tree: Tree, blobs: list[Blob], holder: Ref) -> None:
    """Unpack the layers that are not here, one on the other.

    Raises: InvalidArgument when one is not what it should be.
    """
    below = ""
    for blob in blobs:
        assert blob.descriptor is not None
        chain_id = oci_image.chain_id(below, blob.diff_id)
        if chain_id not in images.layers:
            path = BLOBS + blob.descriptor.digest.removeprefix("sha256:")
            async with images.layers.unpacking(partial(_chunks, tree, path), parent=below) as staged:
                if staged.chain_id != chain_id:
                    raise InvalidArgument(f"blob {blob.descriptor.digest} of the cache is not the layer {blob.diff_id}")
                images.layers.keep(staged, holder)
        else:
            images.layers.hold_more(holder, chain_id)
        below = chain_id


def _chunks(tree: Tree, path: str) -> Iterator[bytes]:
    with tree.open(path) as file:
        while chunk := file.read(streams.CHUNK):
            yield chunk
