"""What a client reads through the gateway without building: image configurations, and files of a remote source.

`docker buildx bake URL` reads its definition so: a git or http source, then files of it.
"""

from __future__ import annotations

import asyncio
import fnmatch
import posixpath

from sampan.engine.builder.buildkit.builds import Build, Builds
from sampan.engine.builder.clients.sending import to_stat
from sampan.engine.builder.clients.sessions import Sessions
from sampan.engine.builder.ops import GitOp, HttpOp, Vertex
from sampan.engine.builder.service import Builder
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.trees import Entry, Tree
from sampan.engine.platforms import Platform
from sampan.errors import Internal, NotFound, NotImplemented_
from sampan.spec import codec
from sampan.spec.buildkit.filesync_pb2 import Stat

FILE_BYTES = 16 * 1024 * 1024


class Reading:
    """Reads for the gateway; every call fetches what is not fetched yet."""

    def __init__(self, builder: Builder, sessions: Sessions, builds: Builds) -> None:
        self._builder = builder
        self._sessions = sessions
        self._builds = builds

    async def resolve(self, build: Build, ref: str, platform: Platform, *, pull: bool) -> tuple[str, str, bytes]:
        """(reference, digest, configuration) of an image, pulled if need be."""
        session = await self._sessions.get(build.session)
        found = await self._builder.resolve(ref, platform, session, pull=pull)
        return found.ref, found.digest or found.id, codec.encode(dict(found.config))

    async def file(self, build: Build, ref: str, path: str) -> bytes:
        """Raises: NotFound, Internal when it is too large."""

        def read(tree: Tree) -> bytes:
            with tree.open(_clean(path)) as file:
                data = file.read(FILE_BYTES + 1)
            if len(data) > FILE_BYTES:
                raise Internal(f"{path} is larger than {FILE_BYTES} bytes")
            return data

        async with _Source(self, build, ref) as tree:
            return await asyncio.to_thread(read, tree)

    async def directory(self, build: Build, ref: str, path: str, pattern: str) -> list[Stat]:
        """The entries of a directory whose name matches."""
        above = _clean(path)
        async with _Source(self, build, ref) as tree:
            entries = await asyncio.to_thread(tree.entries)
            below = [entry for name, entry in entries.items() if posixpath.dirname(name) == above]
            if not below and above and above not in entries:
                raise NotFound(f"{path}: no such file or directory")
            chosen = [one for one in below if not pattern or fnmatch.fnmatchcase(posixpath.basename(one.path), pattern)]
            return [_named(entry) for entry in chosen]

    async def stat(self, build: Build, ref: str, path: str) -> Stat:
        async with _Source(self, build, ref) as tree:
            found = (await asyncio.to_thread(tree.entries)).get(_clean(path))
            if found is None:
                raise NotFound(f"{path}: no such file or directory")
            return _named(found)

    async def fetch(self, build: Build, ref: str) -> Tree:
        """The tree of a reference that is a source. Raises: NotImplemented_ for a build's result."""
        asked = self._builds.asked(ref)
        source = asked.inputs.get("context", "")
        session = await self._sessions.get(asked.session)
        if source.startswith("local:"):
            return await session.local(LocalRequest(name=source.removeprefix("local:")))
        vertex = _vertex(source)
        solved = await self._builder.solver.solve([vertex], session=session, progress=build.log)
        tree = solved[vertex].tree
        assert tree is not None
        return tree


class _Source:
    """The tree of a reference for the length of a block."""

    def __init__(self, reading: Reading, build: Build, ref: str) -> None:
        self._reading, self._build, self._ref = reading, build, ref
        self._tree: Tree | None = None

    async def __aenter__(self) -> Tree:
        self._tree = await self._reading.fetch(self._build, self._ref)
        return self._tree

    async def __aexit__(self, *_: object) -> None:
        if self._tree is not None:
            await asyncio.to_thread(self._tree.close)


def _vertex(source: str) -> Vertex:
    """A remote context as a vertex: what ends in `.git`, or names git otherwise, is a repository."""
    url, _, fragment = source.partition("#")
    if url.endswith(".git") or url.startswith(("git://", "git@", "ssh://")):
        ref, _, subdir = fragment.partition(":")
        return GitOp(remote=url, ref=ref, subdir=subdir)
    if url.startswith(("http://", "https://")):
        return HttpOp(url=source, filename="context")
    raise NotImplemented_(f"files of {source} cannot be read")


def _clean(path: str) -> str:
    return posixpath.normpath(posixpath.join("/", path))[1:]


def _named(entry: Entry) -> Stat:
    stat = to_stat(entry)
    stat.path = posixpath.basename(entry.path)
    return stat
