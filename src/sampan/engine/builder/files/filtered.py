"""A part of a tree: what .dockerignore leaves of it, or what is wanted of it. A view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO

from sampan.engine.builder.files import content
from sampan.engine.builder.files.target import remove, unfold
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.errors import NotFound
from sampan.spec.dockerfile.ignore import Ignore


class Filtered:
    """A `Tree` without what `exclude` matches and, if there is an `include`, with nothing but what it matches.

    Directories that lead to something that stays, stay. A name of a content whose first name is gone becomes the first.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        scratch: str | None = None,
        owned: bool = True,
    ) -> None:
        """scratch: where `directory` is made. owned: closing the view closes the tree. Patterns as .dockerignore's."""
        self._tree = tree
        self._owned = owned
        self._scratch = scratch
        self._include = Ignore(include) if include else None
        self._exclude = Ignore(exclude) if exclude else None
        self._entries: Mapping[str, TreeEntry] | None = None
        self._unfolded = ""

    def entries(self) -> Mapping[str, TreeEntry]:
        if self._entries is None:
            self._entries = self._filter(self._tree.entries())
        return self._entries

    def digest(self, path: str) -> str:
        return self._tree.digest(self._own(path))

    def open(self, path: str) -> BinaryIO:
        return self._tree.open(self._own(path))

    def copy_to(self, path: str, fd: int) -> None:
        """Write a regular file's content to the empty file `fd`. Raises: NotFound, OSError."""
        content.write(self._tree, self._own(path), fd)

    def directory(self) -> str:
        if self._include is None and self._exclude is None:
            return self._tree.directory()
        if not self._unfolded:
            self._unfolded = unfold(self, self._scratch)
        return self._unfolded

    def close(self) -> None:
        if self._unfolded:
            remove(self._unfolded)
            self._unfolded = ""
        if self._owned:
            self._tree.close()

    def _own(self, path: str) -> str:
        if path not in self.entries():
            raise NotFound(f"{path}: no such file")
        return path

    def _filter(self, entries: Mapping[str, TreeEntry]) -> Mapping[str, TreeEntry]:
        include, exclude = self._include, self._exclude
        if include is None and exclude is None:
            return entries
        kept = {
            path
            for path in entries
            if (include is None or include.excludes(path)) and (exclude is None or not exclude.excludes(path))
        }
        for path in list(kept):
            parent = path.rpartition("/")[0]
            while parent and parent not in kept:
                kept.add(parent)
                parent = parent.rpartition("/")[0]
        return {path: entry for path, entry in entries.items() if path in kept}
