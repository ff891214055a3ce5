"""What a builder reads files from: one read-only tree, whatever it came from.

A context is a `Tree`: the client's archive, the files of a session, a git checkout, a download. A file system made of
layers is one too, for COPY --from. Not here: how each is read (files/, clients/).

Invariants: paths are relative, without leading slash, `.` or `..`; the root is "". Entries never change while the tree
is open. Nothing outside the tree is ever reached: symbolic links are values, and whoever follows them does it inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """One file of a tree.

    mode: permission bits with setuid, setgid, sticky. kind: f d l c b p (as tar and find call them).
    """

    path: str
    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    link: str = ""  # symlink target as written
    hardlink: str = ""  # path of the entry that holds the content
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class Tree(Protocol):
    """Blocking; call in a thread. Closed by its owner."""

    def entries(self) -> Mapping[str, TreeEntry]:
        """Return every entry but the root by path, a directory before what it holds."""

    def digest(self, path: str) -> str:
        """Return `sha256:…` of a regular file's content."""

    def open(self, path: str) -> BinaryIO:
        """Return a regular file's content. Raises: NotFound."""

    def directory(self) -> str:
        """Return the tree as a directory of the host, for bind mounts; made on first use, removed by `close`."""

    def close(self) -> None: ...
