"""BuildKit's way from a graph to its results: solve every step of all targets, then export."""

from __future__ import annotations

import asyncio

from sampan.engine.builder import cachefrom, failures
from sampan.engine.builder.dialect import ConvertedBuild, Dialect
from sampan.engine.builder.exporters.results import Result
from sampan.engine.builder.failures import BuildFailure
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.request import Built
from sampan.engine.builder.solver.imported import ImportedCache
from sampan.engine.builder.state import Solved


async def finish(build: ConvertedBuild) -> Built:
    """Solve and export. Raises: BuildFailure for what belongs to the Dockerfile or a step, what exporters raise."""
    with failures.located(build.definition.text, build.request.filename):
        solved = await _solve(build)
    result = Result(
        images=build.images,
        files=build.files,
        request=build.request,
        session=build.session,
        progress=build.progress,
        bases=build.bases,
        scratch=build.scratch,
        targets=build.targets,
        solved=solved,
        made=build.solver.made(build.session),
    )
    return await result.export()


BUILDKIT = Dialect(name="buildkit", finish=finish, checked=True)


async def _solve(build: ConvertedBuild) -> dict[Vertex, Solved]:
    """Solve what the targets and their histories consist of."""
    targets, request = build.targets.values(), build.request
    wanted = [target.vertex for target in targets]
    wanted += [entry.vertex for target in targets for entry in target.history if entry.vertex is not None]
    sources = await _sources(build)
    try:
        return await build.solver.solve(
            list(dict.fromkeys(wanted)),
            session=build.session,
            progress=build.progress,
            on_error=request.on_error,
            entitlements=request.entitlements,
            cache_from=sources,
        )
    except BuildFailure as e:
        raise failures.in_words(e, request.id, build.progress) from e


async def _sources(build: ConvertedBuild) -> list[ImportedCache]:
    """Open what --cache-from names; a source that has nothing to offer is left out."""
    opened = await asyncio.gather(
        *(
            cachefrom.open_source(
                end,
                images=build.images,
                cache=build.solver.cache,
                bases=build.bases,
                session=build.session,
                progress=build.progress,
                build=build.request.id,
            )
            for end in build.request.cache_from
        )
    )
    return [source for source in opened if source is not None]
