"""Outline and targets, as BuildKit of Docker Engine 28.5 answered for the same Dockerfile."""

from __future__ import annotations

import base64
from typing import Any

from sampan.engine.builder import checking
from sampan.engine.builder.definition import Definition
from sampan.engine.builder.graph.values import Target
from sampan.engine.builder.ops import ScratchOp
from sampan.engine.builder.request import BuildRequest
from sampan.engine.platforms import HOST
from sampan.spec.dockerfile.stages import parse

TEXT = b"""# check=skip=none
ARG G=1
# base the base stage
FROM busybox AS base
# X an arg for x
ARG X=5
ARG G
RUN --mount=type=secret,id=s1,required=true --mount=type=secret,id=s2 --mount=type=ssh \
--mount=type=cache,target=/c,id=cc true
FROM busybox
ARG UNUSED
FROM base AS final
ARG Y
RUN --mount=type=cache,target=/d true
"""
FOUND = Definition(text=TEXT, filename="Dockerfile", dockerfile=parse(TEXT))
SOURCES = [base64.b64encode(TEXT).decode()]


def at(line: int) -> dict[str, Any]:
    return {"location": {"ranges": [{"start": {"line": line}, "end": {"line": line}}]}}


def request(**more: Any) -> BuildRequest:
    return BuildRequest(id="t", dialect="buildkit", **more)


def test_outline() -> None:
    assert checking.outline(FOUND, request()) == {
        "name": "final",
        "args": [
            {"name": "G", "value": "1", **at(2)},
            {"name": "X", "description": "an arg for x", "value": "5", **at(6)},
            {"name": "Y", **at(12)},
        ],
        "secrets": [{"name": "s1", "required": True, **at(8)}, {"name": "s2", **at(8)}],
        "ssh": [{"name": "default", **at(8)}],
        "sources": SOURCES,
    }
    given = checking.outline(FOUND, request(build_args={"X": "7"}))
    assert [row.get("value") for row in given["args"]] == ["1", "7", None]
    assert checking.outline(FOUND, request(target="base"))["description"] == "the base stage"


def test_targets() -> None:
    assert checking.targets(FOUND) == {
        "targets": [
            {"name": "base", "description": "the base stage", "base": "busybox", **at(4)},
            {"base": "busybox", **at(9)},
            {"name": "final", "default": True, "base": "base", **at(11)},
        ],
        "sources": SOURCES,
    }


def test_findings_know_what_base_images_set() -> None:
    text = b"FROM base\nRUN x\nENV A=$FROM_BASE B=$NOWHERE\n"
    found = Definition(text=text, filename="Dockerfile", dockerfile=parse(text))
    target = Target(
        vertex=ScratchOp(), platform=HOST, config={}, stages=(0,), environments={0: {"FROM_BASE": "1", "PATH": ""}}
    )
    seen = checking.warnings(found, checking.findings(found, request(), [target]))
    assert [(one.rule, one.message, one.ranges) for one in seen] == [
        ("UndefinedVar", "Usage of undefined variable '$NOWHERE'", ((3, 3),))
    ]
    assert checking.findings(found, request(), None) == []
