"""Images as files: `save` and `load`, docker-archive and OCI layout in one tar.

    blobs/sha256/<hex>   configs, layers (plain tar), OCI manifests, and per layer the old v1 description
    index.json, oci-layout           the OCI layout
    manifest.json, repositories      the docker-archive

Not here: the catalogue, unpacking. Invariants: what `save` writes is verified layer by layer while it is written;
`load` believes nothing: digests of layers are compared, names inside the archive lead nowhere else.

Source: OCI image-spec 1.1 image-layout.md; moby image/spec v1.2; archives written by Docker Engine 28.5.
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sampan.engine import platforms
from sampan.engine.archives import tar, tar_writer
from sampan.engine.archives.streams import Source, Truncated, decompressed
from sampan.engine.images import indexes
from sampan.engine.images.indexes import IndexedImage
from sampan.engine.images.records import Image
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.records import LayerRecord
from sampan.engine.layers.unpack import clean
from sampan.engine.platforms import Platform
from sampan.errors import Internal, InvalidArgument
from sampan.registry.manifests import Descriptor
from sampan.spec import codec, oci_image, times, ustar
from sampan.spec.reference import Reference

BLOBS = "blobs/sha256/"
MAX_MEMBERS = 100_000
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
_INDEXES = (oci_image.MEDIA_INDEX, oci_image.DOCKER_LIST)
_DOCUMENTS = ("index.json", "manifest.json", "oci-layout", "repositories")


# -- save -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """One image of an archive, under which names, and the ancestor that is in the archive too."""

    image: Image
    config: bytes
    names: tuple[Reference, ...]
    layers: tuple[LayerRecord, ...]  # base first
    parent: str = ""
    others: tuple[SavedImage, ...] = ()  # what its names hold for other platforms

    @property
    def member(self) -> IndexedImage:
        return IndexedImage(image=self.image, config_bytes=len(self.config), layers=self.layers)


@dataclass(slots=True)
class ArchivePlan:
    """Everything an archive will hold: names → bytes or a layer, with its time. Pure until `members` reads layers."""

    documents: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    layers: dict[str, tuple[LayerRecord, int]] = field(default_factory=dict)

    def blob(self, data: bytes, mtime_ns: int = 0) -> str:
        digest = oci_image.digest(data)
        self.documents.setdefault(BLOBS + digest.removeprefix("sha256:"), (data, mtime_ns))
        return digest


def plan(wanted: list[SavedImage]) -> ArchivePlan:
    """Decide the whole archive."""
    result = ArchivePlan()
    manifests: list[dict[str, Any]] = []
    index: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for one in wanted:
        for member in (one, *one.others):
            created = times.parse(member.image.created) if member.image.created else 0
            for layer in member.layers:
                result.layers.setdefault(BLOBS + layer.diff_id.removeprefix("sha256:"), (layer, created))
            if member is one:
                _v1_documents(result, one, created)
            result.blob(member.config, created)
        manifests.append(_docker_manifest(one))
        top = one.layers[-1].diff_id.removeprefix("sha256:") if one.layers else ""
        for name in one.names:
            repositories.setdefault(name.familiar_name(), {})[name.tag] = top
        index += _oci_entries(result, one)
    empty = not wanted
    oci_index = {"schemaVersion": 2, "mediaType": oci_image.MEDIA_INDEX, "manifests": None if empty else index}
    result.documents["index.json"] = (codec.encode(oci_index)[:-1], 0)
    result.documents["manifest.json"] = (codec.encode(None if empty else manifests), 0)
    result.documents["oci-layout"] = (b'{"imageLayoutVersion": "1.0.0"}', 0)
    if repositories:
        ordered = {name: dict(sorted(tags.items())) for name, tags in sorted(repositories.items())}
        result.documents["repositories"] = (codec.encode(ordered), 0)
    return result


def _docker_manifest(one: SavedImage) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "Config": BLOBS + one.image.id.removeprefix("sha256:"),
        "RepoTags": [name.familiar() for name in one.names] or None,
        "Layers": [BLOBS + layer.diff_id.removeprefix("sha256:") for layer in one.layers] or None,
    }
    if one.parent:
        manifest["Parent"] = one.parent
    sources = {layer.diff_id: _descriptor(oci_image.MEDIA_LAYER, layer) for layer in one.layers}
    if sources:
        manifest["LayerSources"] = dict(sorted(sources.items()))
    return manifest


def _descriptor(media_type: str, layer: LayerRecord) -> dict[str, Any]:
    return {"mediaType": media_type, "size": layer.tar_bytes, "digest": layer.diff_id}


def _oci_entries(result: ArchivePlan, one: SavedImage) -> list[dict[str, Any]]:
    """Store the OCI manifest; one index entry a name, or one without annotations."""
    raw, media_type = indexes.manifest(one.member), oci_image.MEDIA_MANIFEST
    if one.others:  # docker-archive has no place for them: that shows the first alone
        for other in one.others:
            result.blob(indexes.manifest(other.member))
        result.blob(raw)
        raw, media_type = indexes.index([one.member, *(other.member for other in one.others)]), oci_image.MEDIA_INDEX
    entry = {"mediaType": media_type, "digest": result.blob(raw), "size": len(raw)}
    annotated = [
        {"annotations": {"io.containerd.image.name": str(name), "org.opencontainers.image.ref.name": name.tag}}
        for name in one.names
    ]
    return [{**entry, **annotations} for annotations in annotated] or [entry]


def _v1_documents(result: ArchivePlan, one: SavedImage, created_ns: int) -> None:
    """The description that Docker 1.9 wrote beside each layer; the top one carries the image's configuration."""
    parent = ""
    chain = oci_image.chain_ids(layer.diff_id for layer in one.layers)
    empty = oci_image.run_config({})
    for position, chain_id in enumerate(chain):
        if position < len(chain) - 1:
            document: dict[str, Any] = {"created": "1970-01-01T00:00:00Z", "container_config": empty}
        else:
            keys = ("comment", "created", "container", "container_config", "docker_version", "author", "config")
            document = {key: one.image.config[key] for key in keys if one.image.config.get(key)}
            document.setdefault("container_config", empty)
            document |= {"architecture": one.image.architecture, "os": one.image.os}
        hashed = {**document, "layer_id": chain_id, **({"parent": f"sha256:{parent}"} if parent else {})}
        own = oci_image.digest(oci_image.encode(hashed)).removeprefix("sha256:")
        document["os"] = one.image.os  # not hashed below the top, so that ids are Docker's
        result.blob(codec.encode({"id": own, **({"parent": parent} if parent else {}), **document})[:-1], created_ns)
        parent = own


def write(plan_: ArchivePlan, layers: Layers, now_ns: int) -> Iterator[bytes]:
    """The archive in chunks. Blocking. Raises: Internal when a layer is damaged or missing."""
    blobs = sorted({*plan_.layers, *(name for name in plan_.documents if name.startswith(BLOBS))})
    if blobs:
        for directory in ("blobs/", BLOBS):
            yield tar_writer.header(directory.encode(), kind=b"5", mode=0o755, mtime_ns=now_ns - now_ns % 10**9)
    for name in blobs + [name for name in _DOCUMENTS if name in plan_.documents]:
        if name in plan_.documents:
            data, mtime_ns = plan_.documents[name]
            size = len(data)
            yield tar_writer.header(name.encode(), size_bytes=size, mtime_ns=_whole(mtime_ns)) + data
        else:
            record, mtime_ns = plan_.layers[name]
            size = record.tar_bytes
            yield tar_writer.header(name.encode(), size_bytes=size, mtime_ns=_whole(mtime_ns))
            sent = 0
            for chunk in layers.replay(record):
                sent += len(chunk)
                yield chunk
            if sent != size:
                raise Internal(f"layer {record.id} is damaged: it has {sent} bytes instead of {size}")
        if size % ustar.BLOCK:
            yield ustar.padding(size)
    yield ustar.END


def _whole(ns: int) -> int:
    return ns - ns % 10**9


# -- load -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """One image that an archive offers: its config, its layers as files, its names."""

    config: bytes
    descriptor: Descriptor  # of `manifest`
    manifest: bytes  # the configuration where the archive has no manifests
    layers: tuple[str, ...]  # members of the archive, base first
    names: tuple[str, ...]
    parent: str = ""
    index: str = ""  # digest of the index inside the archive that lists it beside other platforms


class Spooled:
    """An archive's files in a temporary directory, under numbers: names in the archive never reach the file system."""

    def __init__(self, ingest: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="load-", dir=ingest)
        self._files: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._uses: Counter[str] = Counter()  # of a file as a layer

    def expect(self, offers: Iterable[Offered]) -> None:
        """Note how often each file will be a layer."""
        for offer in offers:
            for member in offer.layers:
                with suppress(InvalidArgument):  # a missing one fails its own image
                    self._uses[self.path(member)] += 1

    def used(self, path: str) -> None:
        """A layer's file was needed once; after the last time it goes, so that no flush writes it to the disk."""
        self._uses[path] -= 1
        if not self._uses[path]:
            os.unlink(path)

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def fill(self, source: Source) -> None:
        """Blocking: read the whole archive. Raises: InvalidArgument, OSError."""
        disk = os.statvfs(self._directory)
        plain = decompressed(source, limit_bytes=disk.f_blocks * disk.f_frsize)
        reader = tar.Reader(tar.Input(plain))
        count = 0
        while (entry := reader.next()) is not None:
            count += 1
            if count > MAX_MEMBERS:
                raise InvalidArgument(f"the archive has more than {MAX_MEMBERS} members")
            name = clean(entry.name)
            if entry.type == tar.REGULAR and entry.regions is None:
                self._spool(name, entry.size_bytes, reader, count)
            elif entry.type == tar.SYMLINK:
                self._links[name] = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), entry.link))[1:]
            elif entry.type == tar.HARDLINK:
                self._links[name] = clean(entry.link)
            elif entry.type != tar.DIRECTORY:
                raise InvalidArgument(f'unexpected member "{entry.name}" in an image archive')
            reader.input.recorded.clear()

    def _spool(self, name: str, size: int, reader: tar.Reader, count: int) -> None:
        path = os.path.join(self._directory, str(count))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            left = size
            while left:
                piece = reader.input.piece(left)
                left -= len(piece)
                while piece:
                    piece = piece[os.write(fd, piece) :]
        finally:
            os.close(fd)
        reader.skip_padding(size)
        self._files[name] = path

    def path(self, name: str) -> str:
        """The file of a member. Raises: InvalidArgument in the reference's words, naming the member only."""
        member = clean(name)
        for _ in range(8):
            if member in self._files:
                return self._files[member]
            if member not in self._links:
                break
            member = self._links[member]
        raise InvalidArgument(f"open {name}: no such file or directory")

    def has(self, name: str) -> bool:
        return name in self._files or name in self._links

    def document(self, name: str) -> bytes:
        """A small member in memory."""
        path = self.path(name)
        size = os.stat(path).st_size
        if size > MAX_DOCUMENT_BYTES:
            raise InvalidArgument(f"{name} of the archive has {size} bytes, more than {MAX_DOCUMENT_BYTES}")
        with open(path, "rb") as file:
            return file.read()

    def offers(self, target: Platform | None) -> list[Offered]:
        """What the archive offers, by manifest.json, else by index.json. Of an image for several platforms, which only
        the index can tell: the one that suits `target` best, or without a target all that are here.

        Raises: InvalidArgument.
        """
        if self.has("manifest.json") and not self._several_platforms():
            return [self._docker(item) for item in self._list("manifest.json")]
        if self.has("index.json"):
            return [self._oci(*item) for item in self._oci_manifests(target)]
        raise InvalidArgument("invalid archive: it holds neither manifest.json nor index.json")

    def _list(self, name: str) -> list[dict[str, Any]]:
        raw = self.document(name)
        try:
            items = codec.plain(raw)
        except ValueError as e:
            if "truncated" in str(e):
                raise Truncated() from e
            raise InvalidArgument(f"invalid {name}: {e}") from e
        if items is None:
            return []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise InvalidArgument(f"invalid {name}: not a list of objects")
        return items

    def _docker(self, item: dict[str, Any]) -> Offered:
        config, layers, names = item.get("Config"), item.get("Layers") or [], item.get("RepoTags") or []
        if not isinstance(config, str) or not _strings(layers) or not _strings(names):
            raise InvalidArgument("invalid manifest.json: Config, Layers or RepoTags has the wrong type")
        parent = item.get("Parent")
        raw = self.document(config)
        return Offered(
            config=raw,
            descriptor=Descriptor(oci_image.MEDIA_CONFIG, oci_image.digest(raw), len(raw)),
            manifest=raw,
            layers=tuple(layers),
            names=tuple(names),
            parent=parent if isinstance(parent, str) else "",
        )

    def _several_platforms(self) -> bool:
        """Whether index.json lists an index, of which manifest.json shows one platform only."""
        if not self.has("index.json"):
            return False
        return any(entry.get("mediaType") in _INDEXES for entry in self._entries("index.json"))

    def _entries(self, document: str) -> list[dict[str, Any]]:
        """The descriptors of an index, its fields of their types. Raises: InvalidArgument."""
        entries = self._object(document).get("manifests") or []
        if not isinstance(entries, list):
            raise InvalidArgument(f"invalid {document}: manifests is no list")
        for entry in entries:
            if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
                raise InvalidArgument(f"invalid {document}: a manifest without a digest")
            annotations = entry.get("annotations") or {}
            if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
                raise InvalidArgument(f"invalid {document}: annotations of the wrong type")
        return entries

    def _oci_manifests(self, target: Platform | None) -> list[tuple[str, tuple[str, ...], str]]:
        """(digest of a manifest, names, digest of its index) of every image in index.json, nested indexes included."""
        found: dict[str, list[str]] = {}
        above: dict[str, str] = {}
        pending = [("index.json", "", 0, "")]
        while pending:
            document, inherited, depth, listed_in = pending.pop(0)
            entries = self._entries(document)
            for entry in _suitable(entries, target, best=depth > 0):
                if target is None and depth > 0 and not self._whole(entry["digest"]):
                    continue  # the index lists what the archive was not given
                annotations = entry.get("annotations") or {}
                name = annotations.get("io.containerd.image.name") or inherited
                digest = entry["digest"]
                if entry.get("mediaType") in _INDEXES and depth < 3:
                    pending.append((self._described(entry), name, depth + 1, digest))
                else:
                    self._described(entry)
                    found.setdefault(digest, [])
                    above.setdefault(digest, listed_in)
                    if name and name not in found[digest]:
                        found[digest].append(name)
        return [(digest, tuple(names), above[digest]) for digest, names in found.items()]

    def _whole(self, digest: str) -> bool:
        """Whether a manifest and all that it names are in the archive."""
        if not self.has(self._blob(digest)):
            return False
        manifest = self._object(self._blob(digest))
        layers = manifest.get("layers") or []
        if not isinstance(layers, list):
            return False
        named = [manifest.get("config"), *layers]
        digests = [item.get("digest") for item in named if isinstance(item, dict)]
        return all(isinstance(item, str) and self.has(self._blob(item)) for item in digests)

    def _oci(self, digest: str, names: tuple[str, ...], index: str) -> Offered:
        manifest = self._object(self._blob(digest))
        try:
            config = self._described(manifest["config"])
            layers = tuple(self._described(layer) for layer in manifest.get("layers") or [])
        except (KeyError, TypeError) as e:
            raise InvalidArgument(f"invalid manifest {digest}: config or layers are missing") from e
        raw = self.document(config)
        if oci_image.digest(raw) != manifest["config"]["digest"]:
            raise InvalidArgument(f"invalid config {manifest['config']['digest']}: its content has another digest")
        text = self.document(self._blob(digest))
        media_type = str(manifest.get("mediaType") or oci_image.MEDIA_MANIFEST)
        descriptor = Descriptor(media_type, digest, len(text))
        return Offered(config=raw, descriptor=descriptor, manifest=text, layers=layers, names=names, index=index)

    def _object(self, name: str) -> dict[str, Any]:
        raw = self.document(name)
        if name.startswith(BLOBS) and oci_image.digest(raw) != f"sha256:{name.removeprefix(BLOBS)}":
            raise InvalidArgument(f"invalid {name}: its content has another digest")
        try:
            value = codec.plain(raw)
        except ValueError as e:
            raise InvalidArgument(f"invalid {name}: {e}") from e
        if not isinstance(value, dict):
            raise InvalidArgument(f"invalid {name}: not a JSON object")
        if "manifests" in value and ("config" in value or "layers" in value):
            # one text, two readings: what was checked must be what is used (CVE-2021-41190)
            raise InvalidArgument(f"invalid {name}: it is both an index and a manifest")
        return value

    def _described(self, descriptor: dict[str, Any]) -> str:
        """The member that a descriptor names, which must be as long as that says. Raises: InvalidArgument, KeyError."""
        name, size = self._blob(descriptor["digest"]), descriptor.get("size")
        if self.has(name) and size is not None:
            found = os.stat(self.path(name)).st_size
            if found != size:
                raise InvalidArgument(f"invalid {name}: it has {found} bytes, its descriptor says {size}")
        return name

    @staticmethod
    def _blob(digest: str) -> str:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise InvalidArgument(f"invalid digest {digest!r}")
        return BLOBS + digest.removeprefix("sha256:")


def _suitable(entries: list[dict[str, Any]], target: Platform | None, *, best: bool) -> list[dict[str, Any]]:
    """The manifests of an index that run on `target`; best: only the one that suits it most. Attestations never do.

    Without a target, all images of a nested index; at the top, those for this machine.
    """
    if target is None and best:
        return [entry for entry in entries if _is_image(entry)]
    target = target or platforms.HOST
    ranked = []
    for entry in entries:
        named = entry.get("platform")
        if not isinstance(named, dict) or not named.get("architecture"):
            ranked.append((0, entry))
            continue
        own = Platform(str(named.get("os") or "linux"), str(named["architecture"]), str(named.get("variant") or ""))
        rank = platforms.rank(target, own)
        if rank is not None:
            ranked.append((rank, entry))
    if best and ranked:
        return [min(ranked, key=lambda item: item[0])[1]]
    return [entry for _, entry in ranked]


def _is_image(entry: dict[str, Any]) -> bool:
    annotations, platform = entry.get("annotations") or {}, entry.get("platform") or {}
    attests = isinstance(annotations, dict) and "vnd.docker.reference.type" in annotations
    return not attests and isinstance(platform, dict) and platform.get("architecture") != "unknown"


def _strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def progress_bar(current: int, total: int) -> str:
    """The bar of Docker's progress lines: `[====>      ]    1.2MB/4.5MB`."""
    if total <= 0:
        return f"{human_size(current):>8}"
    share = min(50, current * 100 // total // 2)
    return f"[{'=' * share}>{' ' * (50 - share)}] {human_size(current):>8}/{human_size(total)}"


def human_size(size: float) -> str:
    """Four significant digits, decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.4g}{unit}"
        size /= 1000
    return f"{size:.4g}PB"
