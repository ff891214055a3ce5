"""A main context that is a URL: an archive, a Dockerfile alone, or a git repository, and where its Dockerfile is then."""

from __future__ import annotations

from sampan.engine.builder.narrowed import Narrowed
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import BuildRequest
from sampan.engine.builder.solver.solver import Solver


async def localised(request: BuildRequest, client: Narrowed, progress: Progress, solver: Solver) -> BuildRequest:
    """The request with the Dockerfile of its remote context, if that has one. Raises: Internal, what a download raises."""
    return request
