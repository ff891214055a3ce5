"""The checksum of what a COPY would copy: its cache key. Equal for equal results, whatever tree they come from.

It covers the names as they land, kinds, modes, owners, extended attributes, link targets and contents; not times, as in
Docker, so that a fresh checkout finds what an older one built.

Source: Dockerfile reference, "Leverage build cache".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sampan.engine.builder.files.selection import Item, select
from sampan.engine.builder.ops import Copy
from sampan.engine.builder.trees import Tree, TreeEntry


def checksum(tree: Tree, copy: Copy) -> str:
    """Return `sha256:…` of the entries that `copy` takes from the tree. Blocking: contents may have to be read.

    Raises: MissingSource, InvalidArgument.
    """
    digest = hashlib.sha256()
    own = copy.owner is None
    for item in select(tree, copy):
        digest.update(_item(tree, item, own, copy.contents_only))
    return "sha256:" + digest.hexdigest()


def _item(tree: Tree, item: Item, own: bool, contents_only: bool) -> bytes:
    if not item.directory:
        assert item.entry is not None
        return _lines(tree, [(item.name, item.entry)], own)
    if not contents_only and item.entry is not None:
        return _lines(tree, [(item.name, item.entry)], own) + _lines(tree, item.inside, own)
    return b"directory\n" + _lines(tree, item.inside, own)


def _lines(tree: Tree, entries: Iterable[tuple[str, TreeEntry]], own: bool) -> bytes:
    """One line an entry. Names cannot hold a NUL."""
    content = tree.digest
    return "".join(
        [
            f"{name}\0{e.kind}{e.mode:o} {e.uid if own else 0} {e.gid if own else 0} {e.link}\0"
            f"{content(e.path) if e.kind == 'f' else e.device if e.kind in 'cb' else ''}"
            f"{_xattrs(e) if e.xattrs else ''}\n"
            for name, e in entries
        ]
    ).encode("utf-8", "surrogateescape")


def _xattrs(entry: TreeEntry) -> str:
    return "".join(f"\0{name}={value.hex()}" for name, value in sorted(entry.xattrs.items()))
