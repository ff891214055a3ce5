"""Patterns of clients: Go's syntax, and no text makes one of them take long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sampan.engine.builder.buildkit import listing as builds
from sampan.engine.builder.buildkit.protos import control_pb2 as pb
from sampan.engine.containers import listing, logopts
from sampan.engine.containers.records import Container
from sampan.engine.images.views import path_match
from sampan.errors import Internal, InvalidArgument
from sampan.spec import go_patterns
from sampan.spec.engine_api.container import ContainerConfig

EVIL = ("(a+)+$", "(a|aa)+$", "(a|a?)+$", "(.*a){25}$", "(.*)*\\z", "([a-z]+)*$")
TEXT = "a" * 60 + "-"


@pytest.mark.parametrize("pattern", EVIL)
def test_no_pattern_takes_long(pattern: str) -> None:
    began = time.monotonic()
    go_patterns.searcher(pattern)(TEXT)
    c = Container(id="ab" * 32, name=TEXT, created_ns=1, config=ContainerConfig(labels={TEXT: "v"}))
    for name in ("id", "name"):
        tests = listing.tests({name: [pattern]}, **ASK)
        listing.passes(c, tests)
    attributes: dict[str, Any] = {"id": c.id, "name": "n", "image": "i", "image_id": ""}
    logopts.attributes({"labels-regex": pattern, "env-regex": pattern}, labels={TEXT: ""}, env=[TEXT], **attributes)
    record = pb.BuildHistoryRecord(Ref=TEXT)
    builds.wanted(pb.BuildHistoryRequest(Filter=[f"ref~={pattern.replace(',', '')}"]))(record)
    path_match("a*" * 30 + "b", TEXT * 4)
    assert time.monotonic() - began < 1


ASK: dict[str, Any] = {
    "find": lambda ref: None,
    "image_ids": lambda ref: frozenset(),
    "health": lambda c: "none",
    "networks": lambda c: (set(), set()),
    "ports": lambda c: listing.ports_of({}),
}


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("^web-[0-9]+$", "web-17", True),
        (r"\Aa\z", "a", True),
        ("(?i)WEB", "a web", True),
        ("[[:digit:]]", "a1", True),
        ("^b", "ab", False),
        ("", "", True),
    ],
)
def test_the_syntax_is_gos(pattern: str, text: str, found: bool) -> None:
    assert go_patterns.searcher(pattern)(text) is found


@pytest.mark.parametrize("pattern", ["[", "(?=a)", r"(a)\1", "a{1001}", "((a{100}){100}){100}", "\udc80"])
def test_what_is_no_pattern_is_refused_or_matches_nothing(pattern: str) -> None:
    with pytest.raises(go_patterns.BadPattern):
        go_patterns.searcher(pattern)
    assert go_patterns.any_of([pattern, "^x$"])("x")
    assert not go_patterns.any_of([pattern])("a")
    attributes: dict[str, Any] = {"labels": {"a": ""}, "env": [], "id": "", "name": "", "image": "", "image_id": ""}
    with pytest.raises(InvalidArgument, match="error parsing regexp"):
        logopts.attributes({"labels-regex": pattern}, **attributes)


def test_images_globs() -> None:
    assert path_match("lib*/bus?box", "library/busybox") and path_match(r"a\*[b-d]", "a*c")
    assert not path_match("*", "a/b") and not path_match("a[^b]", "ab")
    with pytest.raises(Internal, match="syntax error in pattern"):
        path_match("a[", "ab")
