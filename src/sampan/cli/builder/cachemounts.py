"""`--cache-mount-export` and `-import`: what RUN --mount=type=cache keeps, as one archive a mount in a directory.

So a CI machine that is new each time begins with the caches of the last one. File names are the mounts' ids, `/` as
%2F.
"""

from __future__ import annotations

import os

from sampan.cli.image.load import opened, pieces
from sampan.cli.session import CommandError
from sampan.errors import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.engine import EngineClient

SUFFIX = ".tar"
ARCHIVE = "/build/cache-mounts/archive"


def take(engine: EngineClient, directory: str) -> None:
    """Write every cache mount of the engine. A file is there whole or not at all."""
    try:
        os.makedirs(directory, exist_ok=True)
        for mount in engine.get("/build/cache-mounts") or ():
            path = os.path.join(directory, mount["ID"].replace("%", "%25").replace("/", "%2F") + SUFFIX)
            response = engine.open("GET", ARCHIVE, {"id": mount["ID"]})
            with open(f"{path}.part", "wb") as file:
                for chunk in response.chunks():
                    file.write(chunk)
            engine.finish(response)
            os.replace(f"{path}.part", path)
    except OSError as e:
        raise CommandError(f"cannot write the cache mounts: {e.filename}: {words(e)}") from e


def bring(engine: EngineClient, directory: str) -> None:
    """Fill cache mounts from a directory; one that does not exist has nothing to give."""
    if not os.path.isdir(directory):
        return
    for name in sorted(os.listdir(directory)):
        if not name.endswith(SUFFIX):
            continue
        fd = opened(os.path.join(directory, name))
        try:
            mount = name.removesuffix(SUFFIX).replace("%2F", "/").replace("%25", "%")
            headers = [("Content-Type", "application/x-tar")]
            engine.finish(engine.open("PUT", ARCHIVE, {"id": mount}, headers=headers, raw=pieces(fd)))
        finally:
            os.close(fd)
