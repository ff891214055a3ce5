"""Build checks, against what BuildKit's linter found in the same texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.spec.dockerfile import checkrules, checks, stages
from sampan.spec.dockerfile.errors import DockerfileError
from sampan.spec.dockerfile.ignore import Ignore

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "checks.json").read_text())
NEED_MORE_THAN_TEXT = {"InvalidBaseImagePlatform", "CopyIgnoredFile"}


def found(text: str, **options: Any) -> list[dict[str, Any]]:
    warnings = checks.check(stages.parse(text), **options)
    made = [
        {
            "rule": warning.rule,
            "detail": warning.detail,
            "description": warning.description,
            "url": warning.url,
            "lines": [[line, line] for r in warning.ranges for line in range(r.start, r.end + 1)],
        }
        for warning in warnings
    ]
    return sorted(made, key=lambda w: (w["lines"], w["rule"], w["detail"]))


@pytest.mark.parametrize("case", RECORDED, ids=[repr(case["dockerfile"][:60]) for case in RECORDED])
def test_the_same_is_found(case: dict[str, Any]) -> None:
    if "check options" in case["error"] or case["error"].startswith("dockerfile parse error"):
        with pytest.raises(DockerfileError) as refused:
            found(case["dockerfile"])
        assert refused.value.message == case["error"]
        return
    assert found(case["dockerfile"]) == case["warnings"]


def test_every_rule_was_found_somewhere() -> None:
    seen = {warning["rule"] for case in RECORDED for warning in case["warnings"]}
    assert seen == set(checkrules.RULES) - NEED_MORE_THAN_TEXT


def test_a_finding_fails_the_build_where_the_file_says_so() -> None:
    dockerfile = stages.parse("# check=error=true\nFROM x as y\nCMD z\n")
    assert checkrules.options(dockerfile).error
    error = checkrules.failure(checks.check(dockerfile))
    assert error.message == "lint violation found for rules: FromAsCasing, JSONArgsRecommended"


def test_what_a_base_image_sets_is_no_undefined_variable() -> None:
    text = "FROM x\nENV A=$GOPATH\n"
    assert [w["rule"] for w in found(text)] == ["UndefinedVar"]
    assert found(text, environments={0: {"PATH": "/bin", "GOPATH": "/go"}}) == []


def test_only_wanted_stages_are_walked() -> None:
    text = "FROM x AS a\nENV A=$N\nFROM a\nENV B=$A C=$M\n"
    assert [w["lines"] for w in found(text, stages=[1])] == [[[4, 4]]]


def test_ignored_sources_are_found_when_asked_for() -> None:
    text = "FROM x\nCOPY secret a/b ./c /\nCOPY --from=y secret /\n"
    assert found(text, ignore=Ignore(["secret", "c"])) == []
    warnings = found(text, ignore=Ignore(["secret", "c"]), override="experimental=CopyIgnoredFile")
    assert [w["detail"] for w in warnings] == ['Attempting to COPY file "secret" that is excluded by .dockerignore']


def test_a_finding_for_whoever_knows_the_images() -> None:
    warning = checkrules.warning("InvalidBaseImagePlatform", [], "busybox", "linux/arm64", "linux/amd64")
    assert warning.short() == (
        'InvalidBaseImagePlatform: Base image busybox was pulled with platform "linux/arm64",'
        ' expected "linux/amd64" for current build'
    )
