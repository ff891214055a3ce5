"""`--squash`: everything that a build added to its base becomes one layer.

The steps stay in the history, without layers.

The layer is the final file system, as far as one of the squashed layers touched it, and whiteouts for what is gone.
Source: moby's image/squash as documented; history as it writes it (`merge ID to BASE`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sampan.engine.archives import streams, tar, tar_writer
from sampan.engine.builder.exporters.files import header
from sampan.engine.builder.files.service import FileService
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.engine.images.records import Image
from sampan.engine.images.service import Images
from sampan.engine.layers.layers import Layers
from sampan.engine.layers.records import LayerRecord
from sampan.engine.layers.unpack import OPAQUE, WHITEOUT, clean
from sampan.spec import oci_image, ustar

CHUNK = streams.CHUNK


async def squash(images: Images, files: FileService, image_id: str, base: Image | None) -> str:
    """Make the squashed image. Returns its id, `image_id` itself when there is nothing to squash."""
    image = images.resolve(image_id)
    below = base.layers if base is not None else ()
    added = list(reversed(images.layers.records(image.chain_id)))[len(below) :]
    if not added:
        return image_id
    holder = images.layers.hold(image.chain_id)
    try:
        archive = _Archive(images.layers, files, image.chain_id, added)
        parent = base.chain_id if base is not None else ""
        async with images.layers.unpacking(archive, parent=parent) as staged:
            found = document(image, base, staged.unpacked.diff_id)
            return await images.publisher.publish_image(
                oci_image.encode(found), staged=[staged], parent=base.id if base is not None else ""
            )
    finally:
        images.layers.let_go(holder)


def document(image: Image, base: Image | None, diff_id: str) -> dict[str, Any]:
    """Return the squashed image's configuration document. Pure."""
    below: Sequence[Any] = (base.config.get("history") or []) if base is not None else []
    own = [{**entry, "empty_layer": True} for entry in (image.config.get("history") or [])[len(below) :]]
    words = f"merge {image.id} to {base.id}" if base is not None else f"create new from {image.id}"
    merged = {"created": image.created, "comment": words}
    layers = [*(base.layers if base is not None else ()), diff_id]
    return {
        **image.config,
        "history": [*below, *own, merged],
        "rootfs": {"type": "layers", "diff_ids": layers},
    }


class _Archive:
    """The layer as an archive, made in the thread that reads it."""

    def __init__(self, layers: Layers, files: FileService, chain_id: str, added: Sequence[LayerRecord]) -> None:
        self._layers, self._files = layers, files
        self._chain_id, self._added = chain_id, added

    def __call__(self) -> Iterator[bytes]:
        tree = self._files.layers(self._chain_id)
        try:
            touched: set[str] = set()
            opaque: set[str] = set()
            for record in self._added:
                _note(self._layers.replay(record), touched, opaque)
            yield from _members(tree, touched, opaque)
        finally:
            tree.close()


class _Source:
    """Chunks as something to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self) -> bytes:
        return next((chunk for chunk in self._chunks if chunk), b"")


def _note(chunks: Iterator[bytes], touched: set[str], opaque: set[str]) -> None:
    """Collect the paths that a layer has an entry for, and the directories whose base it hides."""
    reader = tar.Reader(tar.Input(_Source(chunks)))
    while (entry := reader.next()) is not None:
        path = clean(entry.name)
        directory, _, name = path.rpartition("/")
        if name == OPAQUE:
            opaque.add(directory)
        elif name.startswith(WHITEOUT):
            touched.add(f"{directory}/{name.removeprefix(WHITEOUT)}".lstrip("/"))
        elif path:
            touched.add(path)
        left = entry.stored_bytes
        while left:
            left -= len(reader.input.piece(left))
        reader.skip_padding(entry.stored_bytes)
        reader.input.recorded.clear()


def _members(tree: Tree, touched: set[str], opaque: set[str]) -> Iterator[bytes]:
    """The touched part of the final tree."""
    entries = tree.entries()
    inside = {path for path in touched if path in entries}
    holders: dict[str, str] = {}  # the content of a file that is not in the layer goes with the first link to it
    for path, entry in entries.items():
        if path not in inside:
            continue
        if entry.hardlink and entry.hardlink not in inside:
            content = holders.setdefault(entry.hardlink, path)
            entry = _as_file(entries, entry) if content == path else _linked(entry, content)
        yield from _member(tree, entry)
        if path in opaque and entry.kind == "d":
            yield tar_writer.header(f"{path}/{OPAQUE}".encode("utf-8", "surrogateescape"), mode=0o600)
    for path in sorted(touched - inside):
        directory, _, name = path.rpartition("/")
        if not directory or entries.get(directory) is None or entries[directory].kind == "d":
            gone = f"{directory}/{WHITEOUT}{name}".lstrip("/")
            if not directory or directory in entries:
                yield tar_writer.header(gone.encode("utf-8", "surrogateescape"), mode=0o600)
    yield ustar.END


def _as_file(entries: Mapping[str, TreeEntry], entry: TreeEntry) -> TreeEntry:
    """A hard link with the content that it stands for."""
    return TreeEntry(
        path=entry.path, kind="f", mode=stat.S_IMODE(entry.mode), uid=entry.uid, gid=entry.gid,
        size=entries[entry.hardlink].size, mtime_ns=entry.mtime_ns, xattrs=entry.xattrs,
    )  # fmt: skip


def _linked(entry: TreeEntry, to: str) -> TreeEntry:
    return TreeEntry(
        path=entry.path, kind="f", mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime_ns=entry.mtime_ns, hardlink=to
    )


def _member(tree: Tree, entry: TreeEntry) -> Iterator[bytes]:
    size = entry.size if entry.kind == "f" and not entry.hardlink else 0
    yield header(entry, size)
    left = size
    if size:
        with tree.open(entry.path) as file:
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk
        yield bytes(left + -size % ustar.BLOCK)
