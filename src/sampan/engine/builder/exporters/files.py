"""A result's files for the client: `type=local` (a directory) and `type=tar`.

Of several platforms each has a directory of its own, `linux_amd64/`. With SOURCE_DATE_EPOCH no file is younger.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO

from sampan.engine.archives import streams, tar_writer
from sampan.engine.builder.exporters import image
from sampan.engine.builder.request import Output, is_true
from sampan.engine.builder.session import Session
from sampan.engine.builder.steps import Shown
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.engine.images.service import Images
from sampan.engine.platforms import Platform
from sampan.errors import NotFound
from sampan.spec import ustar

CHUNK = 1024 * 1024
_KINDS = {"f": b"0", "l": b"2", "c": b"3", "b": b"4", "d": b"5", "p": b"6"}


class Exported:
    """Trees by directory name ("" for the root) as one. epoch_s: the newest time that a file may have."""

    def __init__(self, trees: Mapping[str, Tree], epoch_s: int | None) -> None:
        self._trees = trees
        self._limit_ns = None if epoch_s is None else epoch_s * 10**9
        self._entries: dict[str, TreeEntry] | None = None

    def entries(self) -> Mapping[str, TreeEntry]:
        if self._entries is None:
            self._entries = {
                entry.path: entry for name, tree in self._trees.items() for entry in self._below(name, tree)
            }
        return self._entries

    def _below(self, name: str, tree: Tree) -> Iterator[TreeEntry]:
        inside = f"{name}/" if name else ""
        newest = 0
        listed = []
        for entry in tree.entries().values():
            mtime_ns = entry.mtime_ns if self._limit_ns is None else min(entry.mtime_ns, self._limit_ns)
            newest = max(newest, mtime_ns)
            hardlink = inside + entry.hardlink if entry.hardlink else ""
            listed.append(replace(entry, path=inside + entry.path, hardlink=hardlink, mtime_ns=mtime_ns))
        if name:
            yield TreeEntry(path=name, kind="d", mode=0o755, mtime_ns=newest)
        yield from listed

    def _of(self, path: str) -> tuple[Tree, str]:
        if "" in self._trees:
            return self._trees[""], path
        name, _, rest = path.partition("/")
        if name not in self._trees:
            raise NotFound(f"{path}: no such file")
        return self._trees[name], rest

    def digest(self, path: str) -> str:
        tree, inner = self._of(path)
        return tree.digest(inner)

    def open(self, path: str) -> BinaryIO:
        tree, inner = self._of(path)
        return tree.open(inner)

    def directory(self) -> str:
        raise NotImplementedError("what is exported is no directory here")

    def close(self) -> None:
        for tree in self._trees.values():
            tree.close()


async def local(tree: Tree, output: Output, session: Session, step: Shown) -> None:
    """Send the files one by one."""
    begun = time.time_ns()
    step.part("copying files", started_ns=begun, done=False)
    await session.put_tree(tree, exporter=output.exporter)
    size = sum(entry.size for entry in tree.entries().values() if entry.kind == "f")
    step.part("copying files", size, started_ns=begun, done=True)


async def tar(images: Images, tree: Tree, output: Output, session: Session, step: Shown) -> None:
    """Send one archive."""
    with step.doing("sending tarball"):
        chunks = streams.drain(archive(tree), images.streaming)
        await session.put_file(chunks, image.metadata(output), exporter=output.exporter)


def archive(tree: Tree) -> Iterator[bytes]:
    """Yield a tree as a tar archive. Blocking."""
    for entry in tree.entries().values():
        size = entry.size if entry.kind == "f" and not entry.hardlink else 0
        yield header(entry, size)
        if not size:
            continue
        left = size
        with tree.open(entry.path) as file:
            while left and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk
        yield bytes(left + -size % ustar.BLOCK)
    yield ustar.END


def header(entry: TreeEntry, size: int) -> bytes:
    """Return the header of one entry."""
    name = entry.path.encode("utf-8", "surrogateescape") + (b"/" if entry.kind == "d" else b"")
    link = entry.hardlink or (entry.link if entry.kind == "l" else "")
    return tar_writer.header(
        name,
        kind=b"1" if entry.hardlink else _KINDS[entry.kind],
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size_bytes=size,
        mtime_ns=entry.mtime_ns,
        link=link.encode("utf-8", "surrogateescape"),
        device=entry.device,
        xattrs=dict(entry.xattrs),
    )


def directory_names(platforms: list[Platform], output: Output, *, several: bool) -> list[str]:
    """Return which directory each platform's files go to; `platform-split` decides, several platforms do else."""
    split = is_true(output.attrs.get("platform-split"), otherwise=several)
    return [str(platform).replace("/", "_") if split else "" for platform in platforms]
