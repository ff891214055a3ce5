"""What a failed build tells the doors: which lines of which Dockerfile, and BuildKit's words for what a step did not find."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.engine.builder.files.selection import MissingSource
from sampan.engine.builder.ops import Copy, FileOp, HttpOp, ImageOp, RunOp, ScratchOp
from sampan.engine.builder.progress import Progress, Step
from sampan.errors import Internal, SampanError


@contextmanager
def located(text: bytes, filename: str) -> Iterator[None]:
    """Give errors that know their lines the Dockerfile that these are of."""
    try:
        yield
    except SampanError as e:
        ranges = getattr(e, "ranges", ())
        lines = tuple(r if isinstance(r, tuple) else (r.start, r.end) for r in ranges)
        e.__dict__.update(lines=lines, source=text, filename=filename)
        raise


def in_words(error: SampanError, build: str, progress: Progress) -> SampanError:
    """What a failed step is in BuildKit's words; its step is shown as failed where nothing was before.

    A COPY of what is not there: of a tree that is hashed, or of a file system. A download that failed.
    """
    vertex = getattr(error, "vertex", None)
    if isinstance(vertex, HttpOp):
        words = f"failed to load cache key: {error.message}"
    elif not isinstance(error, MissingSource) or not isinstance(vertex, FileOp):
        return error
    else:
        copies = [one for one in vertex.actions if isinstance(one, Copy) and error.pattern in one.patterns]
        now = time.time_ns()
        if copies and isinstance(copies[0].source, FileOp | RunOp | ImageOp | ScratchOp):
            words = reason = f"lstat /{error.pattern.strip('/')}: no such file or directory"
        else:
            reason = f"failed to calculate checksum of ref {build}: {error.message}"
            words = f"failed to compute cache key: {reason}"
        inputs = tuple(needed.digest for needed in vertex.inputs)
        name, key = vertex.label.name, vertex.digest
        progress.step(Step(key=key, name=name, inputs=inputs, started_ns=now, vertex=vertex))
        progress.step(
            Step(key=key, name=name, inputs=inputs, started_ns=now, completed_ns=now, error=reason, vertex=vertex)
        )
    found = Internal(words)
    found.__dict__.update(error.__dict__, message=words)
    return found
