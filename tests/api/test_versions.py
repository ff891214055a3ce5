"""What each version of the API sends and gets differs from the newest as in Docker Engine 28.5.2.

`versions.json` was recorded from the reference by `record_versions.py`; only what a version changes is compared. Each
request is made at the versions beside a change; SAMPAN_EVERY_VERSION=1 makes it at every one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.record_versions import MINORS, NEWEST, REQUESTS, Room, Shape, shape
from tests.support.engine import Engine

RECORDED: dict[str, dict[str, Shape]] = json.loads((Path(__file__).parent / "versions.json").read_text())


OURS = {
    "exec start with a console size": "a size without a terminal is refused, not dropped",
}


UNKNOWN = {".RuncCommit.Expected"}  # this engine's runtime is its own, and has no commit to tell


@pytest.fixture(scope="module")
def room(shared_engine: Engine) -> Iterator[Room]:
    made = Room(shared_engine)
    yield made
    made.close()


def expected(name: str, minor: int) -> Shape:
    """Return how the reference's answer at a version differs from the newest's."""
    for span, difference in RECORDED[name].items():
        first, last = (int(version.partition(".")[2]) for version in span.split("-"))
        if first <= minor <= last:
            return difference
    return {}


def minors(name: str) -> list[int]:
    every = list(MINORS[:-1])
    if os.environ.get("SAMPAN_EVERY_VERSION"):
        return every
    steps = [m for m in every[1:] if expected(name, m) != expected(name, m - 1)]
    return sorted({every[0], every[-1], *steps, *(step - 1 for step in steps)})


def test_every_request_is_recorded() -> None:
    assert list(RECORDED) == list(REQUESTS)


@pytest.mark.parametrize("name", REQUESTS)
def test_versions(room: Room, name: str) -> None:
    newest = shape(REQUESTS[name](room, NEWEST))
    wrong = {}
    for minor in minors(name):
        mine = shape(REQUESTS[name](room, f"1.{minor}"))
        paths = sorted({*mine, *newest})
        found = {path: mine.get(path) for path in paths if mine.get(path) != newest.get(path)}
        wanted = {
            path: there
            for path, there in expected(name, minor).items()
            if path not in UNKNOWN and (there is not None or path in newest)
        }
        if found != wanted:
            wrong[f"1.{minor}"] = {"reference": wanted, "found": found}
    assert bool(wrong) == (name in OURS), wrong


@pytest.mark.parametrize("version", ["1.23", "1.52", "1.0", "2.0", "9"])
def test_versions_that_are_not_spoken(shared_engine: Engine, version: str) -> None:
    answer = shared_engine.request("GET", "/info", version=version)
    limit = (
        "new. Maximum supported API version is 1.51" if version in ("1.52", "2.0", "9") else "old. Minimum supported"
    )
    assert (answer.status, f"client version {version} is too {limit}" in answer.raw.decode()) == (400, True)
