"""Exporting: each output of a request gets the result of the build. One place decides which exporter that is."""

from __future__ import annotations

from collections.abc import Mapping

from sampan.engine.builder.exporters import image
from sampan.engine.builder.graph import document, names
from sampan.engine.builder.graph.values import Target
from sampan.engine.builder.ops import Vertex
from sampan.engine.builder.progress import Progress
from sampan.engine.builder.request import BuildRequest, Built
from sampan.engine.builder.session import Session
from sampan.engine.builder.state import Solved
from sampan.engine.builder.steps import shown
from sampan.engine.images.platforms import Platform
from sampan.engine.images.service import Images


async def export(
    images: Images,
    targets: Mapping[Platform, Target],
    solved: Mapping[Vertex, Solved],
    request: BuildRequest,
    session: Session,
    progress: Progress,
) -> Built:
    """Write every output. Raises: InvalidArgument for an output that cannot be, what the client raises."""
    documents = {
        platform: document.of_target(target, solved, dialect=request.dialect, epoch_s=request.epoch_s)
        for platform, target in targets.items()
    }
    made: dict[str, str] = {}
    response: dict[str, str] = {}
    for output in request.outputs:
        wanted = image.names(request.tags, output)
        with shown(progress, request.id, names.EXPORT) as step:
            for platform, found in documents.items():
                made[str(platform)] = await image.publish(images, found, wanted, step)
    if made:
        first = next(iter(made.values()))
        response |= {"containerimage.digest": first, "containerimage.config.digest": first}
    return Built(images=made, response=response)
