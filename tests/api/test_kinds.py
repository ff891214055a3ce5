"""Every kind of value in every parameter is taken or refused as Docker Engine 28.5 does it, in its words.

`kinds_answers.json` was recorded from the reference by `record_kinds.py`. `OURS` are the differences, each with its
reason. SAMPAN_TEST_SOCKET runs this on another engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.record_kinds import TIMEOUT_S, ask, cases, stage, strike
from tests.support.engine import Engine, UnixConnection

RECORDED = json.loads((Path(__file__).parent / "kinds_answers.json").read_text())
CASES = cases()
OURS = {
    "POST /build squash": "squashing works here without the experimental mode",
    "POST /build platform": "a request with two faults is refused for the platform first",
    "POST /images/{name}/tag repo": "without a name Docker answers 200 and does nothing",
    "POST /images/{name}/tag tag": "without a name Docker answers 200 and does nothing",
    "GET /images/search limit": "Docker answers 200 and nothing to a negative limit",
    "POST /images/load quiet": "what no archive is, is refused in words of our own",
    "POST /images/load platform": "what no archive is, is refused in words of our own",
    "POST /images/prune filters": "a bad filter is a 400, not a 500",
}


@pytest.fixture(scope="module")
def connection(shared_engine: Engine) -> Iterator[UnixConnection]:
    made = UnixConnection(str(shared_engine.socket), TIMEOUT_S)
    stage(made)
    yield made
    strike(made)
    made.close()


def test_every_case_is_recorded() -> None:
    assert {key: len(row) for key, row in RECORDED["cases"].items()} == {key: len(c) for key, c in CASES.items()}


@pytest.mark.parametrize("key", CASES)
def test_values(connection: UnixConnection, key: str) -> None:
    expected = [tuple(RECORDED["answers"][place]) for place in RECORDED["cases"][key]]
    found = [ask(connection, case) for case in CASES[key]]
    differing = [
        (case["url"], case["body"], theirs, ours)
        for case, theirs, ours in zip(CASES[key], expected, found, strict=True)
        if theirs != ours
    ]
    assert bool(differing) == (key in OURS), differing
