"""A state's file system as a tree: its layers, one over the other, without a mount and without the stubs of containers.

Layers never change, so what is known of one stays true: digests are kept by layer (`Digests`), and a directory is only
listed when somebody asks for what is in it. COPY --from a large image therefore costs what it copies.

A layer is a difference in overlayfs' form: a character device 0:0 hides a name of the layers below, a directory with
trusted.overlay.opaque = y hides all of what they have there.

Source: kernel Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

from sampan.engine.builder.files import dirtree, inodes
from sampan.engine.builder.files.target import remove, unfold
from sampan.engine.builder.trees import TreeEntry
from sampan.engine.layers.snapshots.trees import is_whiteout, opaque
from sampan.errors import NotFound
from sampan.linux import saferoot

MAX_DIGESTS = 500_000
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Digests:
    """Content digests of files in layers: (chain id of the layer, path) → digest. Forgets the oldest beyond a bound."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}

    def get(self, layer: str, path: str) -> str | None:
        return self._known.get((layer, path))

    def put(self, layer: str, path: str, digest: str) -> None:
        if len(self._known) >= MAX_DIGESTS:
            for key in list(self._known)[: MAX_DIGESTS // 10]:
                self._known.pop(key, None)
        self._known[layer, path] = digest


class LayerTree:
    """A `Tree` over layers. The caller keeps the layers while it is open."""

    def __init__(self, layers: Sequence[tuple[str, str]], scratch: str, digests: Digests | None = None) -> None:
        """layers: (name that stays true, directory of the difference), top first. scratch: for `directory`."""
        self._names = [name for name, _ in layers]
        self._roots: list[int] = []
        self._scratch = scratch
        self._digests = Digests() if digests is None else digests
        self._held: dict[str, dict[str, TreeEntry]] = {}  # directory → its entries by path
        self._parts: dict[str, tuple[int, ...]] = {"": tuple(range(len(layers)))}  # directory → layers that make it
        self._layer: dict[str, int] = {}  # file → the layer that has it
        self._links: dict[tuple[int, int], str] = {}
        self._unfolded = ""
        for _, path in layers:
            self._roots.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))

    def entries(self) -> Mapping[str, TreeEntry]:
        return _Lazy(self)

    def find(self, path: str) -> TreeEntry | None:
        """Return one entry, without listing more than the directories above it."""
        above = ""
        for index, _ in enumerate(parts := path.split("/")):
            inside = self._listed(above)
            here = "/".join(parts[: index + 1])
            entry = inside.get(here)
            if entry is None or index == len(parts) - 1:
                return entry
            if entry.kind != "d":
                return None
            above = here
        return None

    def walk(self, directory: str) -> Iterator[tuple[str, TreeEntry]]:
        """Yield everything below a directory, by path, a directory before what it holds."""
        pending = [directory]
        while pending:
            for path, entry in self._listed(pending.pop()).items():
                yield path, entry
                if entry.kind == "d":
                    pending.append(path)

    def digest(self, path: str) -> str:
        layer = self._layer_of(path)
        known = self._digests.get(self._names[layer], path)
        if known is None:
            known = dirtree.file_digest(dirtree.open_file(self._roots[layer], path))
            self._digests.put(self._names[layer], path, known)
        return known

    def open(self, path: str) -> BinaryIO:
        return os.fdopen(dirtree.open_file(self._roots[self._layer_of(path)], path), "rb")

    def copy_to(self, path: str, fd: int) -> None:
        """Write a regular file's content to the empty file `fd`; holes stay holes. Raises: NotFound, OSError."""
        dirtree.copy_from(dirtree.open_file(self._roots[self._layer_of(path)], path), fd)

    def directory(self) -> str:
        if not self._unfolded:
            self._unfolded = unfold(self, self._scratch)
        return self._unfolded

    def close(self) -> None:
        for fd in self._roots:
            os.close(fd)
        self._roots = []
        if self._unfolded:
            remove(self._unfolded)
            self._unfolded = ""

    def _layer_of(self, path: str) -> int:
        if path not in self._layer and self.find(path) is None:
            raise NotFound(f"{path}: no such file")
        layer = self._layer.get(path)
        if layer is None:
            raise NotFound(f"{path}: not a regular file")
        return layer

    def _listed(self, directory: str) -> dict[str, TreeEntry]:
        """The entries of one directory, whose own parents are listed."""
        known = self._held.get(directory)
        if known is None:
            known = self._held[directory] = self._list(directory)
        return known

    def _list(self, directory: str) -> dict[str, TreeEntry]:
        hidden: set[str] = set()
        found: dict[str, TreeEntry] = {}
        merged: dict[str, list[int]] = {}  # directories that lower layers may add to
        for layer in self._parts.get(directory, ()):
            try:
                fd = saferoot.open_in_root(self._roots[layer], directory or "/", _READ, xdev=False)
            except OSError as e:
                if e.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                raise
            try:
                self._list_layer(layer, fd, directory, hidden, found, merged)
                if directory and opaque(fd):
                    break
            finally:
                os.close(fd)
        for path, layers in merged.items():
            self._parts[path] = tuple(layers)
        return dict(sorted(found.items()))

    def _list_layer(
        self,
        layer: int,
        fd: int,
        directory: str,
        hidden: set[str],
        found: dict[str, TreeEntry],
        merged: dict[str, list[int]],
    ) -> None:
        for name in os.listdir(fd):
            path = f"{directory}/{name}" if directory else name
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if name not in hidden:
                hidden.add(name)
                if is_whiteout(status):
                    continue
                hardlink = ""
                if stat.S_ISREG(status.st_mode):
                    self._layer[path] = layer
                    if status.st_nlink > 1:
                        first = self._links.setdefault((status.st_dev, status.st_ino), path)
                        hardlink = first if first != path else ""
                entry = inodes.entry(path, status, fd, name, hardlink)
                if entry is not None:
                    found[path] = entry
                    if entry.kind == "d":
                        merged[path] = [layer]
            elif path in merged:
                if stat.S_ISDIR(status.st_mode):
                    merged[path].append(layer)
                else:
                    self._parts[path] = tuple(merged.pop(path))  # something else lies below: nothing more shows


class _Lazy(Mapping[str, TreeEntry]):
    """All entries of a tree, each found when it is asked for."""

    def __init__(self, tree: LayerTree) -> None:
        self._tree = tree

    def __getitem__(self, path: str) -> TreeEntry:
        entry = self._tree.find(path) if path else None
        if entry is None:
            raise KeyError(path)
        return entry

    def __iter__(self) -> Iterator[str]:
        return (path for path, _ in self._tree.walk(""))

    def __len__(self) -> int:
        return sum(1 for _ in self)
