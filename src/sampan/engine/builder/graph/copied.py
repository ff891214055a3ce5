"""What a classic COPY or ADD says it copied: `file:HASH`, `dir:HASH`, `multi:HASH`.

Blocking: it hashes what it names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from sampan.engine.builder.files.checksum import checksum
from sampan.engine.builder.files.selection import select
from sampan.engine.builder.graph.values import HistoryEntry
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.trees import Tree


def named(entry: HistoryEntry, trees: Mapping[Vertex, Tree]) -> HistoryEntry:
    """Return a classic COPY or ADD with `file:…`, `dir:…` or `multi:…` in its text.

    Blocking: it hashes what is copied.
    """
    if "{}" not in entry.created_by or not entry.copied:
        return entry
    kinds, sums = [], []
    for copy in entry.copied:
        tree = trees[copy.source]
        for pattern in copy.patterns:
            one_of_them = replace(copy, patterns=(pattern,), required=False)
            if not select(tree, one_of_them):
                continue  # a pattern that matches nothing, beside others
            found = tree.entries().get(pattern.strip("/").removeprefix("./"))
            whole = pattern.strip("/") in ("", ".")
            several = any(c in pattern for c in "*?[") and found is None
            kinds.append(
                "multi" if several else "dir" if whole or (found is not None and found.kind == "d") else "file"
            )
            sums.append(checksum(tree, one_of_them).removeprefix("sha256:"))
    one = len(kinds) == 1
    digest = sums[0] if one else hashlib.sha256("".join(sums).encode()).hexdigest()
    shown = f"{kinds[0] if one else 'multi'}:{digest}"
    return replace(entry, created_by=entry.created_by.replace("{}", shown, 1))
