"""Every Dockerfile of the corpus through both doors of a whole engine: the image, or the error, that Docker Engine
gives.

Compared are the configuration, the tree (types, modes, owners, sizes, digests, links) and what is gone from the base;
of a wrong one the message, and at BuildKit's door the lines it points at. What Docker's classic builder refuses for
want of BuildKit, ours builds: the image is BuildKit's then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builder import entries
from tests.builder.entries import Entry
from tests.support.engine import Engine

TAG = "corpus:result"
pytestmark = pytest.mark.root


def through(door: str, kind: str) -> list[Entry]:
    return [entry for entry in entries.entries(kind) if door in entry.doors]


def name(entry: Entry) -> str:
    return entry.name


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine().start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def base(engine: Engine) -> dict[str, list[Any]]:
    return entries.import_base(engine)


@pytest.fixture(scope="module")
def buildx() -> None:
    entries.buildx()


def check_image(engine: Engine, base: dict[str, list[Any]], expected: dict[str, Any]) -> None:
    made = {"config": entries.config(engine, TAG), **entries.difference(base, entries.tree(engine, TAG))}
    assert made["config"] == expected["config"]
    assert made["deleted"] == expected["deleted"]
    ours, theirs = made["tree"], expected["tree"]
    assert {p: (ours.get(p), theirs.get(p)) for p in {*ours, *theirs} if ours.get(p) != theirs.get(p)} == {}


@pytest.mark.parametrize("entry", through("classic", "good"), ids=name)
def test_a_good_one_at_the_classic_door(
    engine: Engine, base: dict[str, list[Any]], entry: Entry, tmp_path: Path
) -> None:
    error, _ = entries.build_classic(engine, entry, entries.materialise(entry, tmp_path), TAG)
    assert error == ""
    expected = entry.answer["classic"]
    if entries.REFUSAL in expected.get("error", ""):
        expected = entry.answer["buildkit"]
        expected["config"].pop("ArgsEscaped", None)
    check_image(engine, base, expected)


@pytest.mark.usefixtures("buildx")
@pytest.mark.parametrize("entry", through("buildkit", "good"), ids=name)
def test_a_good_one_at_buildkits_door(engine: Engine, base: dict[str, list[Any]], entry: Entry, tmp_path: Path) -> None:
    error, _ = entries.build_buildx(engine, entry, entries.materialise(entry, tmp_path), TAG)
    assert error == ""
    check_image(engine, base, entry.answer["buildkit"])


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("entry", through("classic", "wrong"), ids=name)
def test_a_wrong_one_at_the_classic_door(engine: Engine, entry: Entry, tmp_path: Path) -> None:
    error, phase = entries.build_classic(engine, entry, entries.materialise(entry, tmp_path), TAG)
    if entry.options.get("message", True):
        assert error == entry.answer["classic"]["error"]
    assert error
    assert phase == entry.options.get("answered", entry.answer["phase"])


@pytest.mark.usefixtures("base", "buildx")
@pytest.mark.parametrize("entry", through("buildkit", "wrong"), ids=name)
def test_a_wrong_one_at_buildkits_door(engine: Engine, entry: Entry, tmp_path: Path) -> None:
    error, lines = entries.build_buildx(engine, entry, entries.materialise(entry, tmp_path), TAG)
    if entry.options.get("lines", True):
        assert lines == entry.answer["buildkit"]["lines"]
    if entry.options.get("message", True):
        assert error == entry.answer["buildkit"]["error"]
    assert error


def test_the_answers_are_of_this_corpus() -> None:
    """An entry without an answer, or with one of another engine's DNS, would compare nothing."""
    for entry in [*entries.entries("good"), *entries.entries("wrong")]:
        answer = entry.answer
        assert set(entry.doors) <= set(answer), entry.name
        for door in entry.doors:
            assert "error" in answer[door] or "tree" in answer[door], entry.name
            assert not re.search(r"no such host|lookup ", answer[door].get("error", "")), entry.name
