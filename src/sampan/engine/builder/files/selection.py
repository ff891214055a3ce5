"""What a COPY or ADD means by its patterns: which entries of a tree, and what they are called where they land. Pure.

Checksums (checksum.py) and copies (copy.py) both ask here, so what is hashed is what is copied.

    a file, link, device     lands as `name`, or as what the destination says
    a directory              its contents land below the destination (`inside`), as BuildKit and Docker copy
    --parents                the same of a pivot directory, of which only what the pattern says

Source: Dockerfile reference, COPY and ADD; Go's path/filepath Match; measured on the reference engine.
"""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol, runtime_checkable

from sampan.engine.builder.failures import MissingSource
from sampan.engine.builder.files import links, wildcards
from sampan.engine.builder.ops import Copy
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.errors import InvalidArgument
from sampan.spec.dockerfile.ignore import Ignore

Below = tuple[str, TreeEntry]  # path below the item, what is there


@runtime_checkable
class Walking(Protocol):
    """A tree that can list a part of itself."""

    def walk(self, directory: str) -> Iterator[Below]:
        """Return everything below a directory, by its path in the tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One source. entry: what it is, None for the tree's root. directory: `inside` lands, not the entry itself."""

    path: str
    name: str
    entry: TreeEntry | None
    directory: bool
    inside: Sequence[Below] = ()
    chosen: bool = False  # only a part of the directory: --parents


def select(tree: Tree, copy: Copy) -> list[Item]:
    """Return the sources of a copy, in the order in which they are copied.

    A plain name must be there; wildcards may match nothing, but a required copy must copy something.
    Raises: MissingSource, InvalidArgument (a loop of links, a malformed pattern).
    """
    selection = _Selection(tree, copy)
    items = [item for pattern in copy.patterns for item in selection.items(pattern)]
    if not items and copy.required and copy.patterns:
        raise MissingSource(copy.patterns[0], wildcard=True)
    return items


class _Selection:
    def __init__(self, tree: Tree, copy: Copy) -> None:
        self._tree = tree
        self._entries = tree.entries()
        self._copy = copy
        self._sorted: list[str] | None = None
        self._exclude = Ignore(copy.exclude) if copy.exclude else None

    def items(self, pattern: str) -> Iterator[Item]:
        if self._copy.parents:
            yield self._with_parents(pattern)
            return
        cleaned = posixpath.normpath("/" + pattern).lstrip("/")
        parts = cleaned.split("/")
        plain = next((i for i, part in enumerate(parts) if wildcards.has_wildcard(part)), None)
        if plain is None:
            yield self._item(cleaned, pattern, wildcard=False)
            return
        found = list(self._matching("/".join(parts[:plain]), "/".join(parts[plain:]), pattern))
        for path in found:
            yield self._item(path, pattern, wildcard=True)

    def _matching(self, above: str, pattern: str, written: str) -> Iterator[str]:
        """Paths below a directory that match, in the order of a walk."""
        expression = wildcards.compiled(pattern)
        if expression is None:
            raise InvalidArgument(f"invalid includepatterns: [{written}]: syntax error in pattern")
        base = links.real(self._entries, above, follow=self._copy.follow) if above else ""
        found = [path for path, _ in self._below(base) if expression.match(path)]
        prefix = f"{base}/" if base else ""
        for path in sorted(found, key=lambda path: path.split("/")):
            yield prefix + path

    def _item(self, path: str, pattern: str, *, wildcard: bool) -> Item:
        real = links.real(self._entries, path, follow=self._copy.follow)
        name = path.rpartition("/")[2]
        entry = self._entries.get(real)
        if entry is None and real:
            raise MissingSource(path if wildcard else pattern, wildcard=wildcard)
        if entry is None or entry.kind == "d":
            inside = self._below(real)
            if self._exclude is not None:
                exclude = self._exclude
                inside = _with_ancestors([b for b in inside if not exclude.excludes(b[0])], inside)
            return Item(path=real, name=name, entry=entry, directory=True, inside=inside)
        return Item(path=real, name=name, entry=entry, directory=False)

    def _with_parents(self, pattern: str) -> Item:
        """What matches below the pivot `/./`, each with the directories that lead to it."""
        above, pivot, below = pattern.lstrip("/").partition("/./")
        if not pivot:
            above, below = "", pattern
        above = posixpath.normpath("/" + above).lstrip("/")
        below = posixpath.normpath("/" + below).lstrip("/")
        base = links.real(self._entries, above, follow=self._copy.follow) if above else ""
        entry = self._entries.get(base)
        if base and (entry is None or entry.kind != "d"):
            raise MissingSource(pattern)
        everything = self._below(base)
        include = Ignore([below]) if below else None
        exclude = self._exclude
        kept = [
            b
            for b in everything
            if (include is None or include.excludes(b[0])) and (exclude is None or not exclude.excludes(b[0]))
        ]
        if not kept and (self._copy.required or not wildcards.has_wildcard(below)):
            raise MissingSource(pattern, wildcard=wildcards.has_wildcard(below))
        inside = _with_ancestors(kept, everything)
        return Item(path=base, name="", entry=entry, directory=True, inside=inside, chosen=True)

    def _below(self, directory: str) -> list[Below]:
        """Everything below a directory, sorted, by its path there."""
        if isinstance(self._tree, Walking):
            cut = len(directory) + 1 if directory else 0
            return sorted(((path[cut:], e) for path, e in self._tree.walk(directory)), key=itemgetter(0))
        if self._sorted is None:
            self._sorted = sorted(self._entries)
        entries = self._entries
        if not directory:
            return [(path, entries[path]) for path in self._sorted]
        prefix = directory + "/"
        start, end = bisect_left(self._sorted, prefix), bisect_left(self._sorted, directory + "0")  # "0" follows "/"
        cut = len(prefix)
        return [(path[cut:], entries[path]) for path in self._sorted[start:end]]


def _with_ancestors(kept: list[Below], everything: Iterable[Below]) -> list[Below]:
    """What was kept, and the directories that it is in."""
    paths = {path for path, _ in kept}
    missing = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in paths and parent not in missing:
            missing.add(parent)
            parent = parent.rpartition("/")[0]
    return [b for b in everything if b[0] in paths or b[0] in missing] if missing else kept
