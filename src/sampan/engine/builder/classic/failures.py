"""What failed, in the classic builder's words. Source: observed on Docker Engine 28.5.2."""

from __future__ import annotations

from sampan.engine.builder.failures import StepFailed
from sampan.engine.builder.files.selection import MissingSource
from sampan.engine.builder.ops import Copy, FileOp, LocalOp
from sampan.errors import Internal, InvalidArgument, SampanError


class CommandFailed(Internal):
    """A RUN command ended with `code`, which the stream's errorDetail carries."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def translated(error: SampanError) -> SampanError:
    """The error as the classic door tells it."""
    if isinstance(error, StepFailed):
        if error.exit_status < 0:
            return Internal(error.refusal or error.message)
        command = " ".join(error.process)
        return CommandFailed(
            f"The command '{command}' returned a non-zero code: {error.exit_status}", error.exit_status
        )
    if isinstance(error, MissingSource):
        return Internal(_missing(error))
    words = getattr(error, "classic", error.message)
    if words == error.message:
        return error
    return InvalidArgument(words) if isinstance(error, InvalidArgument) else Internal(words)


def _missing(error: MissingSource) -> str:
    vertex = getattr(error, "vertex", None)
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
