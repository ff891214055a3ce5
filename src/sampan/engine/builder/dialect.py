"""What differs between the two builders that the engine is: a value that a door hands in beside its request.

    solving.BUILDKIT         the Dockerfile is checked, all steps are solved, the exporters get the result
    classic.walk.dialect()   one instruction after the other is solved, and an image published after each

Not here: where the two read a Dockerfile differently. That is `BuildRequest.dialect`, a name that the graph decides by.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sampan.engine.builder.bases import Bases
from sampan.engine.builder.definition import Definition
from sampan.engine.builder.files.service import FileService
from sampan.engine.builder.graph.values import Target
from sampan.engine.builder.narrowed import NarrowedSession
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import BuildRequest, Built
from sampan.engine.builder.solver.solver import Solver
from sampan.engine.images.service import Images
from sampan.engine.platforms import Platform
from sampan.spec.dockerfile.config import DialectName


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedBuild:
    """A build whose graph is known, and what it takes to finish it. scratch: a directory for what is under way."""

    request: BuildRequest
    definition: Definition
    targets: Mapping[Platform, Target]
    session: NarrowedSession
    progress: Progress
    bases: Bases
    images: Images
    files: FileService
    solver: Solver
    scratch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One of the two builders.

    name: as in the request. finish: makes of a graph what the client asked for; it raises BuildFailure for what belongs
    to the Dockerfile or a step. checked: findings of the build checks are told, and end the build where the Dockerfile
    wants that. lenient: a base image that cannot be pulled for a platform may be here for another one. told: gets the
    messages of pulls, None where nobody is shown them.
    """

    name: DialectName
    finish: Callable[[ConvertedBuild], Awaitable[Built]]
    checked: bool = False
    lenient: bool = False
    told: Callable[[Mapping[str, Any]], None] | None = None
