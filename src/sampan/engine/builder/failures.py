"""Why a build failed, and of what: the errors of its steps, and `BuildFailure`, which says where they belong.

    SampanError
    ├── BuildFailure          any error, with its step and its lines of a Dockerfile
    ├── StepFailed      500   a RUN command that failed or could not be run
    ├── MissingSource   404   a COPY of what is not there
    ├── BadAddress      400   a source whose address is none
    ├── NoCommit        500   a repository without the commit that a source names
    ├── WrongCommit     400   a commit that is not what its checksum says
    ├── WrongDigest     400   a download that is not what its checksum says
    ├── BadAnswer       400   a download that its server refused
    ├── NotAllowed      403   an entitlement that client or daemon did not give
    └── DockerfileError 400   spec/dockerfile/errors.py

Whoever solves a vertex or reads a Dockerfile adds what it knows of the place; the doors tell it, each in its own words.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sampan.engine.builder.ops import Copy, FileOp, GitOp, HttpOp, ImageOp, RunOp, ScratchOp, Vertex
from sampan.engine.builder.progress import Progress, Step
from sampan.errors import Forbidden, Internal, InvalidArgument, NotFound, SampanError
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.go_values import quote

Lines = tuple[tuple[int, int], ...]
"""First and last lines of a Dockerfile, counted from 1."""


class StepFailed(Internal):
    """A RUN command ended with another status than 0, or could not be run at all.

    exit_status: as a shell counts (128 + signal), -1 when it never ran: `refusal` says why then, in Docker's words.
    process: its arguments. tail: the last lines of its output. image_id: an image of the file system as the step left
    it, when the build asked to keep that. oom_killed: the kernel ended it for want of memory.
    """

    def __init__(
        self,
        process: Sequence[str],
        exit_status: int,
        *,
        tail: bytes = b"",
        refusal: str = "",
        oom_killed: bool = False,
    ) -> None:
        self.process = tuple(process)
        self.exit_status = exit_status
        self.tail = tail
        self.refusal = refusal
        self.oom_killed = oom_killed
        self.image_id = ""
        super().__init__(self._words())

    def _words(self) -> str:
        command = " ".join(self.process)
        reason = self.refusal or f"exit code: {self.exit_status}"
        if self.oom_killed:
            reason += ": it used more memory than it may (OOM killed)"
        return f"process {quote(command)} did not complete successfully: {reason}"


class NotAllowed(Forbidden):
    """A step wants an entitlement that the build does not have: `network.host` or `security.insecure`."""


class MissingSource(NotFound):
    """A pattern of a COPY that names nothing. The message is BuildKit's; the classic door words it by `pattern`."""

    def __init__(self, pattern: str, *, wildcard: bool = False) -> None:
        super().__init__(f'"{posixpath.normpath("/" + pattern.lstrip("/"))}": not found')
        self.pattern = pattern
        self.wildcard = wildcard


class WrongDigest(InvalidArgument):
    """A download is not what its checksum says."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(f"digest mismatch {found}: {wanted}")


class BadAddress(InvalidArgument):
    """What a source names is no address of a repository."""


class NoCommit(Internal):
    """A repository that cannot be reached, or has no such ref."""


class WrongCommit(InvalidArgument):
    """A commit is not what the checksum of its address says."""

    def __init__(self, wanted: str, found: str) -> None:
        super().__init__(f"expected checksum to match {wanted}, got {found}")


class BadAnswer(InvalidArgument):
    """A server answered a download with another status than 200. said: the beginning of its body."""

    def __init__(self, url: str, status: int, reason: str, said: str) -> None:
        super().__init__(f"invalid response status {status}")
        self.classic = f"failed to GET {url} with status {status} {reason}: {said}"


class BuildFailure(SampanError):
    """An error of a build, with the place that it belongs to. Message and status are those of its cause.

    cause: the error itself, never another BuildFailure. vertex: the step, None for none. lines: of the Dockerfile.
    source, filename: that Dockerfile; source None when it is not known.
    """

    def __init__(
        self,
        cause: SampanError,
        *,
        vertex: Vertex | None = None,
        lines: Lines = (),
        source: bytes | None = None,
        filename: str = "",
    ) -> None:
        super().__init__(cause.message)
        self.cause = cause
        self.status = cause.status
        self.vertex = vertex
        self.lines = lines
        self.source = source
        self.filename = filename


def cause_of(error: BaseException) -> BaseException:
    """Return what went wrong, without the place."""
    return error.cause if isinstance(error, BuildFailure) else error


@contextmanager
def located(source: bytes, filename: str) -> Iterator[None]:
    """Say of every error in the block which Dockerfile it belongs to. Raises: BuildFailure."""
    try:
        yield
    except BuildFailure as e:
        raise BuildFailure(e.cause, vertex=e.vertex, lines=e.lines, source=source, filename=filename) from e
    except SampanError as e:
        ranges = e.ranges if isinstance(e, DockerfileError) else ()
        lines = tuple((range_.start, range_.end) for range_ in ranges)
        raise BuildFailure(e, lines=lines, source=source, filename=filename) from e


def in_words(failure: BuildFailure, build: str, progress: Progress) -> BuildFailure:
    """Return a failed step in BuildKit's words, and show the step as failed where nothing was shown before.

    Two kinds have words of their own: a COPY of what is not there (in a tree, which is hashed, or in a file system),
    and a download that failed.
    """
    vertex, cause = failure.vertex, failure.cause
    if isinstance(vertex, HttpOp | GitOp):
        words = of_source(failure)
    elif isinstance(cause, MissingSource) and isinstance(vertex, FileOp):
        copies = [one for one in vertex.actions if isinstance(one, Copy) and cause.pattern in one.patterns]
        if copies and isinstance(copies[0].source, FileOp | RunOp | ImageOp | ScratchOp):
            words = reason = f"lstat /{cause.pattern.strip('/')}: no such file or directory"
        else:
            reason = f"failed to calculate checksum of ref {build}: {cause.message}"
            words = f"failed to compute cache key: {reason}"
        _show(vertex, reason, progress)
    elif isinstance(cause, MissingSource) and isinstance(vertex, RunOp):
        words = f"failed to compute cache key: failed to calculate checksum of ref {build}: {cause.message}"
    else:
        return failure
    return BuildFailure(Internal(words), vertex=vertex, lines=failure.lines)


def of_source(failure: BuildFailure) -> str:
    """Return what is wrong with a download or a repository, in BuildKit's words: it asks for their keys first."""
    early = isinstance(failure.cause, NoCommit | WrongCommit) if isinstance(failure.vertex, GitOp) else True
    if isinstance(failure.cause, WrongDigest) or not early:
        return failure.message
    return f"failed to load cache key: {failure.message}"


def _show(vertex: FileOp, reason: str, progress: Progress) -> None:
    """Tell of a step that begins and fails."""
    now = time.time_ns()
    progress.step(Step.of(vertex, started_ns=now))
    progress.step(Step.of(vertex, started_ns=now, completed_ns=now, error=reason))
