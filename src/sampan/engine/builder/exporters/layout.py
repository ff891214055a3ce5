"""An OCI image layout as a directory: `blobs/sha256/…`, index.json, oci-layout.

For `type=oci`, and for exported caches.

Blobs go to files as they come; sizes and digests are known before the first is sent. Equal content gives equal bytes.
Source: OCI image-spec 1.1 image-layout.md.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import zstandard

from sampan.engine.archives import tar_writer
from sampan.engine.archives.gzipped import gzipped
from sampan.engine.builder.files.target import remove
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.records import LayerRecord
from sampan.errors import InvalidArgument
from sampan.registry.manifests import Descriptor
from sampan.spec import codec, oci_image, ustar

BLOBS = "blobs/sha256"
CHUNK = 1024 * 1024
_SUFFIX = {"uncompressed": "", "gzip": "+gzip", "zstd": "+zstd"}
Compress = Callable[[Iterator[bytes]], Iterator[bytes]]


class Layout:
    """One layout under `scratch`. Blocking. Close it when it was sent."""

    def __init__(self, scratch: str) -> None:
        self.path = tempfile.mkdtemp(prefix="layout-", dir=scratch)
        os.makedirs(os.path.join(self.path, BLOBS), mode=0o755)
        self._layers: dict[tuple[str, str], Descriptor] = {}

    def close(self) -> None:
        remove(self.path)

    def document(self, value: Mapping[str, Any] | bytes, media_type: str) -> Descriptor:
        """Store JSON, or bytes as they are."""
        raw = value if isinstance(value, bytes) else codec.encode(value)[:-1]
        digest = oci_image.digest(raw)
        self._write(os.path.join(BLOBS, digest.removeprefix("sha256:")), raw)
        return Descriptor(media_type, digest, len(raw))

    def layer(self, layers: Layers, record: LayerRecord, compression: str) -> Descriptor:
        """Store a layer. Raises: InvalidArgument for a compression that is none, Internal when it is damaged."""
        if (record.diff_id, compression) not in self._layers:
            fd, path = tempfile.mkstemp(dir=self.path)
            digest, size = hashlib.sha256(), 0
            with os.fdopen(fd, "wb") as file:
                for chunk in compressed(layers.replay(record), compression):
                    digest.update(chunk)
                    size += file.write(chunk)
            os.chmod(path, 0o644)
            os.rename(path, os.path.join(self.path, BLOBS, digest.hexdigest()))
            media_type = oci_image.MEDIA_LAYER + _SUFFIX[compression]
            self._layers[record.diff_id, compression] = Descriptor(media_type, f"sha256:{digest.hexdigest()}", size)
        return self._layers[record.diff_id, compression]

    def finish(self, manifests: list[dict[str, Any]]) -> None:
        """Write the index."""
        index = {"schemaVersion": 2, "mediaType": oci_image.MEDIA_INDEX, "manifests": manifests}
        self._write("index.json", codec.encode(index)[:-1])
        self._write("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')

    def _write(self, name: str, raw: bytes) -> None:
        path = os.path.join(self.path, name)
        with open(path, "wb") as file:
            file.write(raw)
        os.chmod(path, 0o644)

    def tar(self) -> Iterator[bytes]:
        """Yield the layout as an archive, in order, without times."""
        for directory in ("blobs/", f"{BLOBS}/"):
            yield tar_writer.header(directory.encode(), kind=b"5", mode=0o755)
        names = [f"{BLOBS}/{name}" for name in sorted(os.listdir(os.path.join(self.path, BLOBS)))]
        for name in [*names, "index.json", "oci-layout"]:
            path = os.path.join(self.path, name)
            size = os.path.getsize(path)
            yield tar_writer.header(name.encode(), size_bytes=size)
            with open(path, "rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
            yield ustar.padding(size)
        yield ustar.END


def check_compression(compression: str) -> None:
    """Refuse a compression that is none. Raises: InvalidArgument."""
    if compression not in _SUFFIX:
        raise InvalidArgument(f'unsupported layer compression type: "{compression}"')


def compressed(chunks: Iterator[bytes], compression: str) -> Iterator[bytes]:
    """Yield an archive, compressed. Raises: InvalidArgument."""
    check_compression(compression)
    if compression == "gzip":
        yield from gzipped(chunks)
    elif compression == "zstd":
        packer = zstandard.ZstdCompressor(level=3).compressobj()
        for chunk in chunks:
            if piece := packer.compress(chunk):
                yield piece
        yield packer.flush()
    else:
        yield from chunks


def as_object(descriptor: Descriptor, **more: Any) -> dict[str, Any]:
    """Return a descriptor as JSON."""
    return {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size, **more}
