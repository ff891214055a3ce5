"""The corpus as text: what is wrong with a Dockerfile and where, and the configuration that a good one makes."""

from __future__ import annotations

import pytest

from sampan.spec.dockerfile import instructions as i
from sampan.spec.dockerfile import stages
from sampan.spec.dockerfile.config import DialectName
from sampan.spec.dockerfile.errors import DockerfileError, excerpt
from tests.builder.entries import Entry, entries
from tests.unit.dockerfile.evaluate import configuration

WRONG_TEXTS = [entry for entry in entries("wrong") if entry.answer["phase"] == "parse"]
OTHERS = [*entries("good"), *(entry for entry in entries("wrong") if entry.answer["phase"] == "solve")]
MAKES_FILES = (i.Run, i.FilesInstruction, i.Workdir)


def name(entry: Entry) -> str:
    return entry.name


def test_the_corpus_is_as_large_as_it_claims() -> None:
    assert len(entries("good")) >= 90
    assert len(entries("wrong")) >= 70
    assert len(WRONG_TEXTS) >= 45


@pytest.mark.parametrize("entry", WRONG_TEXTS, ids=name)
def test_a_wrong_text_is_refused_at_the_same_line_in_the_same_words(entry: Entry) -> None:
    with pytest.raises(DockerfileError) as caught:
        stages.parse(entry.text)
    error = caught.value
    if "buildkit" in entry.doors:
        answer = entry.answer["buildkit"]
        assert error.message == answer["error"]
        shown = [line for r in error.ranges for line in range(r.start, r.end + 1)]
        assert shown == answer["lines"]
    if "classic" in entry.doors:
        assert error.classic == entry.answer["classic"]["error"]
    if error.ranges:
        assert f"\n {error.line:3d} | >>> " in excerpt(entry.text.decode(), error.ranges)


@pytest.mark.parametrize("entry", OTHERS, ids=name)
def test_what_is_only_wrong_later_is_read(entry: Entry) -> None:
    dockerfile = stages.parse(entry.text)
    assert dockerfile.stages
    for stage in dockerfile.stages:
        assert all(instruction.range.start >= 1 and instruction.source for instruction in stage.instructions)


def configures(entry: Entry) -> bool:
    """Whether an entry is one stage on the base image that makes a configuration and nothing else."""
    first, *more = stages.parse(entry.text).stages
    made = [instruction for instruction in first.instructions if isinstance(instruction, MAKES_FILES)]
    return not more and not made and bool(first.instructions) and first.base == "corpus:base"


CONFIGURED = [(entry, door) for entry in entries("good") if configures(entry) for door in entry.doors]


@pytest.mark.parametrize(("entry", "dialect"), CONFIGURED, ids=[f"{entry.name}-{door}" for entry, door in CONFIGURED])
def test_a_configuration_is_the_same(entry: Entry, dialect: DialectName) -> None:
    made = configuration(stages.parse(entry.text), dialect, entry.options.get("build_args", {}))
    assert made == entry.answer[dialect]["config"]


def test_enough_configurations_are_compared() -> None:
    assert len(CONFIGURED) >= 60
