"""What failed, in the classic builder's words. Source: observed on Docker Engine 28.5.2."""

from __future__ import annotations

import re

from sampan.engine.builder.failures import BadAnswer, BuildFailure, MissingSource, StepFailed, cause_of
from sampan.engine.builder.ops import Copy, FileOp, LocalOp, Mkdir, Vertex
from sampan.errors import CommandFailed, Internal, InvalidArgument, SampanError
from sampan.spec.dockerfile.errors import DockerfileError

_NOT_DIRECTORY = re.compile(r"mkdir (.*): not a directory")


def translated(error: SampanError) -> SampanError:
    """Return the error as the classic door tells it."""
    cause = cause_of(error)
    if isinstance(cause, StepFailed):
        if cause.exit_status < 0:
            return Internal(cause.refusal or cause.message)
        words = f"The command '{' '.join(cause.process)}' returned a non-zero code: {cause.exit_status}"
        return CommandFailed(words, cause.exit_status)
    if isinstance(cause, MissingSource):
        return Internal(_missing(cause, error.vertex if isinstance(error, BuildFailure) else None))
    if isinstance(cause, BadAnswer):
        return Internal(f"ADD failed: {cause.classic}")
    if isinstance(cause, InvalidArgument) and (found := _NOT_DIRECTORY.fullmatch(cause.message)):
        vertex = error.vertex if isinstance(error, BuildFailure) else None
        if isinstance(vertex, FileOp) and isinstance(vertex.actions[0], Mkdir):
            return Internal(f"Cannot mkdir: {found[1]} is not a directory")
    if isinstance(cause, DockerfileError) and cause.classic != cause.message:
        return InvalidArgument(cause.classic)
    return error


def _missing(error: MissingSource, vertex: Vertex | None) -> str:
    word = vertex.label.text.split(None, 1)[0].upper() if isinstance(vertex, FileOp) and vertex.label.text else "COPY"
    if error.wildcard:
        return f"{word} failed: no source files were specified"
    parts = error.pattern.split("/")
    if parts and parts[0] == "..":
        return f"{word} failed: forbidden path outside the build context: {error.pattern} ()"
    path = error.pattern.strip("/")
    copies = [action for action in vertex.actions if isinstance(action, Copy)] if isinstance(vertex, FileOp) else []
    if copies and not any(isinstance(copy.source, LocalOp) for copy in copies):
        return f"{word} failed: stat {path}: file does not exist"
    where = "file not found in build context or excluded by .dockerignore"
    return f"{word} failed: {where}: stat {path}: file does not exist"
