"""Symbolic links inside a tree: they are followed as if the tree were the root. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.engine.builder.trees import TreeEntry
from sampan.errors import InvalidArgument

LINKS = 255


def real(entries: Mapping[str, TreeEntry], path: str, *, follow: bool = True) -> str:
    """Return a path without links; "" is the root. follow: the last part as well.

    What does not exist is returned as it would be called. Raises: InvalidArgument for a loop.
    """
    todo, found, followed = path.split("/")[::-1], "", 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            found = found.rpartition("/")[0]
            continue
        here = f"{found}/{part}" if found else part
        entry = entries.get(here)
        if entry is not None and entry.kind == "l" and (todo or follow):
            followed += 1
            if followed > LINKS:
                raise InvalidArgument("too many links")
            if entry.link.startswith("/"):
                found = ""
            todo += entry.link.split("/")[::-1]
            continue
        found = here
    return found
