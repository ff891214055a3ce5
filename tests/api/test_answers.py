"""Bad input gets the status and the words that Docker Engine 28.5 gives, and changes nothing.

`answers.json` was recorded from the reference by `record.py`. SAMPAN_TEST_SOCKET runs this on another engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.api.record import ask
from tests.support.engine import Engine

ANSWERS = json.loads((Path(__file__).parent / "answers.json").read_text())


def name(case: dict[str, Any]) -> str:
    body = "" if case["body"] is None else case["body"][:60]
    return f"{case['method']} {case['path']} {body}".strip()


@pytest.mark.parametrize("case", ANSWERS, ids=name)
def test_answer(shared_engine: Engine, case: dict[str, Any]) -> None:
    assert ask(str(shared_engine.socket), case) == case["answer"]


def test_nothing_changed(shared_engine: Engine) -> None:
    """Runs last in this file: what the cases above asked for was refused as a whole."""
    for path in ("/containers/json?all=1", "/volumes"):
        found = shared_engine.request("GET", path).json
        items = found if isinstance(found, list) else found["Volumes"]
        assert not items
