"""The Dockerfile of a build and the ignore patterns of its contexts.

Both are read from the client, unless they came with the request.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from sampan.engine.builder.files import links
from sampan.engine.builder.graph import contexts, names
from sampan.engine.builder.narrowed import NarrowedSession
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import BuildRequest
from sampan.engine.builder.session import LocalRequest
from sampan.engine.builder.steps import shown
from sampan.engine.builder.trees import Tree
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec.dockerfile import ignore
from sampan.spec.dockerfile.stages import Dockerfile

LIMIT_BYTES = 16 * 1024 * 1024
IGNORE = ".dockerignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A Dockerfile as text and as stages. beside: the ignore file beside it, which goes before those of contexts."""

    text: bytes
    filename: str
    dockerfile: Dockerfile
    beside: bytes | None = None


async def text(request: BuildRequest, session: NarrowedSession, progress: Progress) -> tuple[bytes, bytes | None]:
    """Return (the Dockerfile, the ignore file beside it or None). Raises: Internal when there is none."""
    if request.dockerfile is not None:
        return request.dockerfile, request.ignore
    name = posixpath.normpath(request.filename).lstrip("/")
    beside = f"{name}{IGNORE}"
    with shown(progress, request.id, names.definition(name)) as step:
        wanted = (name, beside, *(["dockerfile"] if name == "Dockerfile" else []))
        tree = await session.local(
            LocalRequest(name="dockerfile", follow=wanted, fresh=True, report=step.transfer("dockerfile"))
        )
        try:
            found = await asyncio.to_thread(read, tree, name)
            if found is None and name == "Dockerfile":
                found = await asyncio.to_thread(read, tree, "dockerfile")
            if found is None:
                raise Internal(f"failed to read dockerfile: open {name}: no such file or directory")
            return found, await asyncio.to_thread(read, tree, beside)
        finally:
            await asyncio.to_thread(tree.close)


class Ignores:
    """The ignore patterns of a build's local contexts, read once, when they are asked for."""

    def __init__(self, found: Definition, request: BuildRequest, session: NarrowedSession, progress: Progress) -> None:
        self._found, self._request, self._session, self._progress = found, request, session, progress
        self._lock = asyncio.Lock()
        self.read: dict[str, tuple[str, ...]] | None = None

    async def __call__(self) -> Mapping[str, tuple[str, ...]]:
        """By name of context. Raises: NotFound for a context that is not there."""
        async with self._lock:
            if self.read is None:
                self.read = {name: patterns async for name, patterns in self._all()}
            return self.read

    async def _all(self) -> AsyncIterator[tuple[str, tuple[str, ...]]]:
        for key, value in self._request.contexts.items():
            source = contexts.parse(value)
            main = key == contexts.MAIN
            if source.kind != "local" or (not main and value == "local:dockerfile"):
                continue
            patterns = self._found.beside if main else None
            if patterns is None:
                patterns = await _ignore(self._request, self._session, self._progress, source.value, main=main)
            if patterns:
                yield source.value, tuple(ignore.lines(patterns))


async def _ignore(
    request: BuildRequest, session: NarrowedSession, progress: Progress, context: str, *, main: bool
) -> bytes | None:
    """The .dockerignore of a context, None without one."""
    if request.dockerfile is not None and main:
        return None  # the door has looked
    name = f"[internal] load {IGNORE}" if main else f"[context {context}] load {IGNORE}"
    with shown(progress, request.id, name) as step:
        try:
            wanted = LocalRequest(name=context, follow=(IGNORE,), fresh=True, report=step.transfer("context"))
            tree = await session.local(wanted)
        except NotFound:
            if main:
                return None
            raise
        try:
            return await asyncio.to_thread(read, tree, IGNORE)
        finally:
            await asyncio.to_thread(tree.close)


def read(tree: Tree, path: str) -> bytes | None:
    """Return a small file of a tree, None if it is not there. Links to it are followed inside the tree.

    Blocking. Raises: InvalidArgument when it is too large.
    """
    try:
        with tree.open(links.real(tree.entries(), path)) as file:
            data = file.read(LIMIT_BYTES + 1)
    except NotFound:
        return None
    if len(data) > LIMIT_BYTES:
        raise InvalidArgument(f"{path} is larger than {LIMIT_BYTES} bytes")
    return data
