"""The same Dockerfiles as both builders of Docker Engine 28.5 built: configuration, history, names of vertices, steps.

answers.json holds what the engine answered: the image's configuration document (hashes of copied files as `{}`) and the
lines of its progress. What is compared is everything the graph decides; layers and times are other rooms'.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sampan.engine.builder.graph import document
from sampan.engine.builder.graph.convert import convert
from sampan.engine.builder.graph.values import ResolvedImage, Target
from sampan.engine.builder.ops import FileOp, ImageOp, LocalOp, RunOp, ScratchOp, Vertex
from sampan.engine.builder.request import BuildRequest
from sampan.engine.platforms import HOST, Platform
from sampan.spec import reference
from sampan.spec.dockerfile.config import DialectName
from sampan.spec.dockerfile.stages import parse

ANSWERS = json.loads((Path(__file__).parent / "answers.json").read_text())
CASES = [(name, dialect) for name, builds in ANSWERS["builds"].items() for dialect in builds]


class Recorded:
    """The images of the recorded engine: busybox, and what the other cases built, under `built:<case>`."""

    def __init__(self, dialect: DialectName) -> None:
        self._dialect = dialect

    async def image(self, ref: str, platform: Platform, *, pull: bool) -> ResolvedImage:
        name = reference.parse(ref).familiar()
        if name.startswith("built:"):
            config = ANSWERS["builds"][name.removeprefix("built:")][self._dialect]["image"]
            return ResolvedImage(id="sha256:" + "1" * 64, config=config, ref=ref)
        return ResolvedImage(id="sha256:" + "2" * 64, config=ANSWERS["busybox"], ref=ref)


def converted(name: str, dialect: DialectName) -> tuple[Target, dict[str, Any]]:
    answer = ANSWERS["builds"][name][dialect]
    request = BuildRequest(
        id="test",
        dialect=dialect,
        build_args=answer.get("build_args", {}),
        labels=answer.get("labels", {}),
        target=answer.get("target", ""),
        platforms=(HOST,),
    )
    targets = asyncio.run(convert(parse(answer["dockerfile"]), request, Recorded(dialect)))
    return targets[HOST], answer


def vertices(vertex: Vertex) -> set[Vertex]:
    found: set[Vertex] = set()
    waiting = [vertex]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += one.inputs
    return found


@pytest.mark.parametrize(("name", "dialect"), CASES)
def test_configuration(name: str, dialect: DialectName) -> None:
    target, answer = converted(name, dialect)
    ours = document.run_config(target.config, dialect)
    theirs = answer["image"]["config"]
    ours.pop("Image", None)
    assert ours == theirs
    assert (target.author or None) == answer["image"].get("author")


@pytest.mark.parametrize(("name", "dialect"), CASES)
def test_history(name: str, dialect: DialectName) -> None:
    target, answer = converted(name, dialect)
    below = len(target.base.config["history"]) if target.base is not None else 0
    ours = [(one.created_by, one.comment, one.author) for one in target.history]
    theirs = answer["image"]["history"][below:]
    assert ours == [(one.get("created_by"), one.get("comment", ""), one.get("author", "")) for one in theirs]
    if dialect == "buildkit":  # every step makes a layer, even when it changes nothing; the classic builder finds out
        assert [one.vertex is None for one in target.history] == [bool(one.get("empty_layer")) for one in theirs]


@pytest.mark.parametrize("name", [name for name, dialect in CASES if dialect == "buildkit"])
def test_names(name: str) -> None:
    target, answer = converted(name, "buildkit")
    assert sorted({one.label.name for one in vertices(target.vertex)} - {""}) == answer["names"]


@pytest.mark.parametrize("name", [name for name, dialect in CASES if dialect == "classic"])
def test_steps(name: str) -> None:
    target, answer = converted(name, "classic")
    assert [step.text for step in target.steps if not step.trigger] == answer["steps"]
    assert target.steps[-1].stage_end


def test_cases_cover_all_kinds_of_vertices() -> None:
    kinds = {type(one) for name, dialect in CASES for one in vertices(converted(name, dialect)[0].vertex)}
    assert {FileOp, ImageOp, LocalOp, RunOp, ScratchOp} <= kinds
