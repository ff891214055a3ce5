"""COPY --link: a layer that was made on nothing is laid over a base, without a copy of its files.

Directories that the copy only goes through, and its destination, are as they are in the base: the layer has them as
plain 0755 of root, and would otherwise take /tmp its sticky bit, and a user his home. Where they differ, the layer that
is laid over is another one than the one made on nothing, so it is hashed again, once for each base.

Source: BuildKit's merge of snapshots, as observed on Docker Engine 28.5.2.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from sampan.engine.background import thread_to_its_end
from sampan.engine.builder.files.service import FileService
from sampan.engine.builder.ops import Copy, FileOp, Mkfile
from sampan.engine.builder.solver.layers import empty_layer, on_top
from sampan.engine.builder.state import LayerChain
from sampan.engine.builder.trees import TreeEntry
from sampan.engine.images.service import Images
from sampan.engine.layers import tarsplit
from sampan.engine.layers.layers import restacked
from sampan.engine.store import Ref
from sampan.spec import oci_image

REMEMBERED = 4096  # layers that were hashed again


def implied(op: FileOp) -> list[str]:
    """Return the directories that a copy goes through and those that it goes to, parents first. Pure."""
    found: dict[str, None] = {}
    for action in op.actions:
        dest = action.dest if isinstance(action, Copy) else action.path if isinstance(action, Mkfile) else ""
        parts = [part for part in posixpath.normpath("/" + dest).split("/") if part]
        found |= {"/".join(parts[: count + 1]): None for count in range(len(parts))}
    return list(found)


class Linking:
    """Lays layers over bases. On the loop's thread."""

    def __init__(self, images: Images, files: FileService) -> None:
        self._images, self._files = images, files
        self._known: dict[tuple[str, str], LayerChain] = {}  # (base, layer) → what was hashed again

    async def lay_over(self, op: FileOp, base: LayerChain, layer: LayerChain, holder: Ref) -> LayerChain:
        """Return the one layer of `layer` on top of `base`."""
        layers, driver = self._images.layers, self._images.driver
        if not layer.diff_ids:
            return await empty_layer(self._images, base, holder)
        if not base.diff_ids:
            return layer
        (diff_id,) = layer.diff_ids
        source = driver.path(layers.get(layer.chain_id).snapshot)
        kept: Mapping[str, TreeEntry] = {}
        if driver.overlaid:
            known = self._known.get((base.chain_id, layer.chain_id))
            if known is not None and known.chain_id in layers:
                layers.hold_more(holder, known.chain_id)
                return known
            kept = await thread_to_its_end(partial(self._differing, base.chain_id, f"{source}/fs", implied(op)))
        chain_id = oci_image.chain_id(base.chain_id, diff_id)
        if not kept and chain_id in layers:
            layers.hold_more(holder, chain_id)
            return LayerChain(diff_ids=(*base.diff_ids, diff_id), chain_id=chain_id)
        number = driver.new_layer(layers.get(base.chain_id).snapshot)
        used = False
        try:
            await thread_to_its_end(partial(_link_tree, source, driver.path(number), kept))
            if kept:
                staged = await layers.recorded(number, base.chain_id)
            else:
                staged = restacked(number, base.chain_id, layers.get(layer.chain_id))
            layers.keep(staged, holder)
            used = layers.get(staged.chain_id).snapshot == number
        finally:
            if not used:
                driver.remove(number)
        made = on_top(base, staged)
        if kept:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[base.chain_id, layer.chain_id] = made
        return made

    def _differing(self, base: str, root: str, paths: Sequence[str]) -> dict[str, TreeEntry]:
        """Thread: those of these directories that the base has otherwise than the layer at `root`, as the base says."""
        found: dict[str, TreeEntry] = {}
        tree = self._files.layers(base)
        try:
            entries = tree.entries()
            for path in paths:
                below = entries.get(path)
                try:
                    own = os.lstat(f"{root}/{path}")
                except FileNotFoundError:
                    continue
                if below is None or below.kind != "d" or not stat.S_ISDIR(own.st_mode):
                    continue
                if (below.mode, below.uid, below.gid) != (stat.S_IMODE(own.st_mode), own.st_uid, own.st_gid):
                    found[path] = below
        finally:
            tree.close()
        return found


def _link_tree(source: str, target: str, kept: Mapping[str, TreeEntry]) -> None:
    """The files of one layer's directory as hard links in another's: layers never change. Blocking.

    Entries of `fs` get the same directories with the same attributes. kept: directories that get others; the layer is
    described anew then.
    """
    source_fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(source_fd):
            if name == "fs":
                _link_directory(source_fd, target_fd, "fs", made=True)
            elif name == "shadow":
                os.mkdir(name, 0o700, dir_fd=target_fd)
                _link_directory(source_fd, target_fd, name, made=True)
            elif name == tarsplit.NAME and not kept:
                os.link(name, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        for path, entry in reversed(list(kept.items())):
            fd = os.open(f"{target}/fs/{path}", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                mtime_ns = os.fstat(fd).st_mtime_ns
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(fd)
    finally:
        os.close(source_fd)
        os.close(target_fd)


def _link_directory(source_parent: int, target_parent: int, name: str, *, made: bool = False) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    source_fd = os.open(name, flags, dir_fd=source_parent)
    try:
        if not made:
            os.mkdir(name, 0o700, dir_fd=target_parent)
        target_fd = os.open(name, flags, dir_fd=target_parent)
        try:
            with os.scandir(source_fd) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        _link_directory(source_fd, target_fd, entry.name)
                    else:
                        os.link(
                            entry.name, entry.name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False
                        )
            if not made:
                _copy_attributes(source_fd, target_fd)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _copy_attributes(source_fd: int, target_fd: int) -> None:
    status = os.fstat(source_fd)
    os.fchown(target_fd, status.st_uid, status.st_gid)
    os.fchmod(target_fd, status.st_mode & 0o7777)
    with suppress(OSError):
        for name in os.listxattr(source_fd):
            os.setxattr(target_fd, name, os.getxattr(source_fd, name))
    os.utime(target_fd, ns=(status.st_atime_ns, status.st_mtime_ns))
