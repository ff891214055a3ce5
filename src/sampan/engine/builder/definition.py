"""The Dockerfile of a build and the ignore patterns of its contexts, read from the client if the door did not bring them."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.engine.builder.graph import contexts, names
from sampan.engine.builder.narrowed import Narrowed
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import BuildRequest
from sampan.engine.builder.steps import shown
from sampan.engine.builder.trees import Tree
from sampan.errors import Internal, InvalidArgument, NotFound
from sampan.spec.dockerfile import ignore
from sampan.spec.dockerfile.stages import Dockerfile, parse

LIMIT_BYTES = 16 * 1024 * 1024
IGNORE = ".dockerignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A Dockerfile as text and as stages, and ignore patterns by name of local context."""

    text: bytes
    filename: str
    dockerfile: Dockerfile
    ignores: Mapping[str, tuple[str, ...]]


async def text(request: BuildRequest, session: Narrowed, progress: Progress) -> tuple[bytes, bytes | None]:
    """(the Dockerfile, the ignore file beside it or None). Raises: Internal when there is none."""
    if request.dockerfile is not None:
        return request.dockerfile, request.ignore
    name = posixpath.normpath(request.filename).lstrip("/")
    beside = f"{name}{IGNORE}"
    with shown(progress, request.id, names.definition(name)) as step:
        wanted = [name, beside, *(["dockerfile"] if name == "Dockerfile" else [])]
        tree = await session.local("dockerfile", follow=wanted, report=step.transfer("dockerfile"))
        try:
            found = await asyncio.to_thread(read, tree, name)
            if found is None and name == "Dockerfile":
                found = await asyncio.to_thread(read, tree, "dockerfile")
            if found is None:
                raise Internal(f"failed to read dockerfile: open {name}: no such file or directory")
            return found, await asyncio.to_thread(read, tree, beside)
        finally:
            await asyncio.to_thread(tree.close)


async def load(
    request: BuildRequest, session: Narrowed, progress: Progress, found: tuple[bytes, bytes | None]
) -> Definition:
    """Parse, and read the ignore files. Raises: DockerfileError."""
    raw, beside = found
    dockerfile = parse(raw)
    ignores = {}
    for key, value in request.contexts.items():
        source = contexts.parse(value)
        if source.kind != "local":
            continue
        main = key == contexts.MAIN
        patterns = beside if main else None
        if patterns is None and (main or value != "local:dockerfile"):
            patterns = await _ignore(request, session, progress, source.value, main=main)
        if patterns:
            ignores[source.value] = tuple(ignore.lines(patterns))
    return Definition(text=raw, filename=request.filename, dockerfile=dockerfile, ignores=ignores)


async def _ignore(
    request: BuildRequest, session: Narrowed, progress: Progress, context: str, *, main: bool
) -> bytes | None:
    """The .dockerignore of a context, None without one."""
    if request.dockerfile is not None and main:
        return None  # the door has looked
    name = f"[internal] load {IGNORE}" if main else f"[context {context}] load {IGNORE}"
    with shown(progress, request.id, name) as step:
        try:
            tree = await session.local(context, follow=[IGNORE], report=step.transfer("context"))
        except NotFound:
            if main:
                return None
            raise
        try:
            return await asyncio.to_thread(read, tree, IGNORE)
        finally:
            await asyncio.to_thread(tree.close)


def read(tree: Tree, path: str) -> bytes | None:
    """A small file of a tree, None if it is not there. Blocking. Raises: InvalidArgument when it is too large."""
    try:
        with tree.open(path) as file:
            data = file.read(LIMIT_BYTES + 1)
    except NotFound:
        return None
    if len(data) > LIMIT_BYTES:
        raise InvalidArgument(f"{path} is larger than {LIMIT_BYTES} bytes")
    return data
