"""A failure keeps its cause's kind and words, and learns its place on the way to the doors."""

from __future__ import annotations

import pytest

from sampan.engine.builder.buildkit.server import code_of
from sampan.engine.builder.classic.failures import translated
from sampan.engine.builder.failures import (
    BuildFailure,
    MissingSource,
    NotAllowed,
    StepFailed,
    cause_of,
    in_words,
    located,
)
from sampan.engine.builder.ops import Copy, FileOp, HttpOp, LocalOp, ScratchOp, Vertex, VertexLabel
from sampan.engine.builder.progress import Quiet, Step
from sampan.errors import CommandFailed, Internal, InvalidArgument, NotFound, SampanError
from sampan.spec.dockerfile.errors import DockerfileError, Range

LABEL = VertexLabel(name="[2/2] COPY x /", text="COPY x /", ranges=((2, 2),))


class Watch(Quiet):
    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, step: Step) -> None:
        self.steps.append(step)


def copy(source: Vertex, pattern: str = "x") -> FileOp:
    return FileOp(base=ScratchOp(), actions=(Copy(source=source, patterns=(pattern,), dest="/"),), label=LABEL)


@pytest.mark.parametrize(
    ("cause", "status"),
    [(NotFound("gone"), 404), (InvalidArgument("no"), 400), (NotAllowed("no"), 403), (StepFailed(["x"], 7), 500)],
)
def test_a_failure_answers_as_its_cause(cause: SampanError, status: int) -> None:
    failure = BuildFailure(cause, vertex=ScratchOp())
    assert (failure.status, failure.message, failure.cause) == (status, cause.message, cause)
    assert cause_of(failure) is cause and cause_of(cause) is cause
    assert code_of(failure) == code_of(StepFailed(["x"], 7)), "clients would show a status before the words"


def test_every_error_in_a_dockerfiles_block_knows_the_dockerfile() -> None:
    vertex = copy(LocalOp(context="context"))
    for error, lines, step in (
        (DockerfileError("no", [Range(3, 4), Range(6, 6)]), ((3, 4), (6, 6)), None),
        (NotFound("no"), (), None),
        (BuildFailure(NotFound("no"), vertex=vertex, lines=((2, 2),)), ((2, 2),), vertex),
    ):
        with pytest.raises(BuildFailure, match="no") as found, located(b"FROM x\n", "D"):
            raise error
        failure = found.value
        assert (failure.lines, failure.source, failure.filename) == (lines, b"FROM x\n", "D")
        assert failure.vertex is step and not isinstance(failure.cause, BuildFailure)
    with pytest.raises(KeyError), located(b"", ""):
        raise KeyError


def test_a_missing_source_is_said_as_buildkit_says_it() -> None:
    watch = Watch()
    cause = MissingSource("x")
    local = BuildFailure(cause, vertex=copy(LocalOp(context="context")), lines=((2, 2),))
    found = in_words(local, "ref", watch)
    reason = 'failed to calculate checksum of ref ref: "/x": not found'
    assert found.message == f"failed to compute cache key: {reason}" and (found.status, found.lines) == (500, ((2, 2),))
    assert [(step.name, bool(step.completed_ns), step.error) for step in watch.steps] == [
        (LABEL.name, False, ""),
        (LABEL.name, True, reason),
    ]
    inside = in_words(BuildFailure(cause, vertex=copy(copy(ScratchOp(), "y"))), "ref", watch)
    assert inside.message == "lstat /x: no such file or directory"
    download = BuildFailure(InvalidArgument("404"), vertex=HttpOp(url="http://x"))
    assert in_words(download, "ref", watch).message == "failed to load cache key: 404"
    for other in (BuildFailure(StepFailed(["x"], 1), vertex=ScratchOp()), BuildFailure(cause)):
        assert in_words(other, "ref", watch) is other


def test_the_classic_builder_says_it_in_its_own_way() -> None:
    failed = translated(BuildFailure(StepFailed(["/bin/sh", "-c", "false"], 3)))
    assert isinstance(failed, CommandFailed)
    assert (failed.code, failed.message) == (3, "The command '/bin/sh -c false' returned a non-zero code: 3")
    refused = translated(StepFailed(["x"], -1, refusal="no such user"))
    assert type(refused) is Internal and refused.message == "no such user"
    missing = translated(BuildFailure(MissingSource("x"), vertex=copy(LocalOp(context="context"))))
    where = "file not found in build context or excluded by .dockerignore"
    assert missing.message == f"COPY failed: {where}: stat x: file does not exist"
    words = translated(BuildFailure(DockerfileError("new", classic="old")))
    assert (type(words), words.message) == (InvalidArgument, "old")
    plain = BuildFailure(NotFound("as it is"))
    assert translated(plain) is plain


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ('sh -c "exit 4\\2"', r'"sh -c \"exit 4\\2\""'),
        ("echo a\tb\nc", r'"echo a\tb\nc"'),
        ("echo é", '"echo é"'),
    ],
)
def test_the_command_of_a_failed_step_is_quoted_as_go_does(command: str, words: str) -> None:
    assert StepFailed([command], 4).message == f"process {words} did not complete successfully: exit code: 4"
