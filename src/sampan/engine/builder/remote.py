"""A main context that is a URL: a git repository, an archive, or a Dockerfile alone; and the Dockerfile in it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sampan.engine.archives.streams import MAGIC
from sampan.engine.builder import definition
from sampan.engine.builder.failures import BadAddress, BuildFailure, of_source
from sampan.engine.builder.graph import contexts
from sampan.engine.builder.narrowed import NarrowedSession
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import BuildRequest, is_true
from sampan.engine.builder.solver.solver import Solver
from sampan.engine.builder.trees import Tree
from sampan.errors import Internal, SampanError

_USTAR_AT = 257
_HEAD_BYTES = 512


async def localised(request: BuildRequest, client: NarrowedSession, progress: Progress, solver: Solver) -> BuildRequest:
    """Return the request with the Dockerfile of its remote context, unless it has one.

    Raises: Internal, what a download raises.
    """
    source = contexts.parse(request.contexts.get(contexts.MAIN, "local:context"))
    if source.kind not in ("git", "http"):
        return request

    async def tree(vertex: Vertex) -> Tree:
        try:
            solved = await solver.solve([vertex], session=client, progress=progress)
        except SampanError as e:
            said = isinstance(e, BuildFailure) and not isinstance(e.cause, BadAddress)
            if request.dialect != "classic" and source.kind == "git" and isinstance(e, BuildFailure) and said:
                raise Internal(f"failed to read dockerfile: {of_source(e)}") from e
            if request.dialect != "classic" or source.kind != "http":
                raise
            raise Internal(f"error downloading remote context {source.value}: {e.message}") from e
        found = solved[vertex].tree
        assert found is not None
        return found

    if source.kind == "http":
        download = await tree(contexts.http(source.value))
        (name,) = download.entries()
        head = await asyncio.to_thread(_head, download, name)
        if not is_archive(head):
            changed = {**request.contexts, contexts.MAIN: f"http-file:{source.value}"}
            text = await asyncio.to_thread(definition.read, download, name)
            return replace(request, contexts=changed, dockerfile=request.dockerfile or text)
    if request.dockerfile is not None:
        return request
    keep = is_true(request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR"))
    files = await tree(contexts.remote_tree(source, keep_git_dir=keep))
    text = await asyncio.to_thread(definition.read, files, request.filename)
    if text is None:
        raise Internal(f"failed to read dockerfile: open {request.filename}: no such file or directory")
    return replace(request, dockerfile=text)


def _head(tree: Tree, name: str) -> bytes:
    with tree.open(name) as file:
        return file.read(_HEAD_BYTES)


def is_archive(head: bytes) -> bool:
    """Return whether a file that begins so is a tar archive, compressed or not."""
    compressed = any(head.startswith(magic) for magic in MAGIC.values())
    return compressed or head[_USTAR_AT : _USTAR_AT + 5] == b"ustar"
