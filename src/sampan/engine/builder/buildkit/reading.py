"""What a client reads through the gateway without building: image configurations, and files of a remote source.

`docker buildx bake URL` reads its definition so: a git or http source, then files of it.
"""

from __future__ import annotations

import asyncio
import fnmatch
import posixpath
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sampan.engine.builder.buildkit.builds import Build, Builds
from sampan.engine.builder.clients.sending import to_stat
from sampan.engine.builder.clients.sessions import Sessions
from sampan.engine.builder.files import links
from sampan.engine.builder.narrowed import NarrowedSession
from sampan.engine.builder.ops import GitOp, HttpOp, Vertex
from sampan.engine.builder.service import Builder
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.trees import Tree, TreeEntry
from sampan.engine.platforms import Platform
from sampan.errors import Internal, NotFound, NotImplemented_
from sampan.spec import codec
from sampan.spec.buildkit.filesync_pb2 import Stat

FILE_BYTES = 16 * 1024 * 1024


class Reading:
    """Reads images and sources for the gateway. Every call fetches what it needs, and lets go of it."""

    def __init__(self, builder: Builder, sessions: Sessions, builds: Builds) -> None:
        self._builder = builder
        self._sessions = sessions
        self._builds = builds

    async def resolve(self, build: Build, ref: str, platform: Platform, *, pull: bool) -> tuple[str, str, bytes]:
        """Return (reference, digest, configuration) of an image, pulled if need be."""
        session = await self._sessions.get(build.session)
        found = await self._builder.resolve(ref, platform, session, pull=pull)
        return found.ref, found.digest or found.id, codec.encode(dict(found.config))

    async def file(self, build: Build, ref: str, path: str) -> bytes:
        """Read a file of a reference. Raises: NotFound, Internal when it is too large."""

        def read(tree: Tree) -> bytes:
            with tree.open(links.real(tree.entries(), _clean(path))) as file:
                data = file.read(FILE_BYTES + 1)
            if len(data) > FILE_BYTES:
                raise Internal(f"{path} is larger than {FILE_BYTES} bytes")
            return data

        async with self._tree(build, ref) as tree:
            return await asyncio.to_thread(read, tree)

    async def directory(self, build: Build, ref: str, path: str, pattern: str) -> list[Stat]:
        """Return the entries of a directory whose name matches."""
        above = _clean(path)
        async with self._tree(build, ref) as tree:
            entries = await asyncio.to_thread(tree.entries)
            below = [entry for name, entry in entries.items() if posixpath.dirname(name) == above]
            if not below and above and above not in entries:
                raise NotFound(f"{path}: no such file or directory")
            chosen = [one for one in below if not pattern or fnmatch.fnmatchcase(posixpath.basename(one.path), pattern)]
            return [_named(entry) for entry in chosen]

    async def stat(self, build: Build, ref: str, path: str) -> Stat:
        async with self._tree(build, ref) as tree:
            found = (await asyncio.to_thread(tree.entries)).get(_clean(path))
            if found is None:
                raise NotFound(f"{path}: no such file or directory")
            return _named(found)

    @asynccontextmanager
    async def _tree(self, build: Build, ref: str) -> AsyncIterator[Tree]:
        """The tree of a reference that is a source, for the length of a block.

        Raises: NotImplemented_ for a build's result.
        """
        asked = self._builds.asked(ref)
        source = asked.inputs.get("context", "")
        client = NarrowedSession(await self._sessions.get(asked.session))
        solver = self._builder.solver
        try:
            if source.startswith("local:"):
                tree = await client.local(LocalRequest(name=source.removeprefix("local:")))
                client.owned.append(tree)
                yield tree
                return
            vertex = _vertex(source)
            found = (await solver.solve([vertex], session=client, progress=build.log))[vertex].tree
            assert found is not None
            yield found
        finally:
            await solver.release(client)
            await client.close()


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


def _named(entry: TreeEntry) -> Stat:
    stat = to_stat(entry)
    stat.path = posixpath.basename(entry.path)
    return stat
