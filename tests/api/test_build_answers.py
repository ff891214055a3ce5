"""The classic builder says, line for line, what Docker Engine 28.5 says.

`build_answers.json` was recorded from the reference by `record_build.py`. SAMPAN_TEST_SOCKET runs this on another engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.api.record_build import ask
from tests.support.engine import Engine

ANSWERS = json.loads((Path(__file__).parent / "build_answers.json").read_text())


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case["name"])
def test_answer(shared_engine: Engine, case: dict[str, Any]) -> None:
    assert ask(str(shared_engine.socket), case) == case["answer"]


def test_cancel_and_prune(shared_engine: Engine) -> None:
    """What is not running is cancelled already; pruning names filters that it does not know."""
    assert shared_engine.request("POST", "/build/cancel", id="nobody").status == 200
    assert shared_engine.request("POST", "/build/cancel").json == {"message": "build ID not provided"}
    refused = shared_engine.request("POST", "/build/prune", filters='{"nope":["x"]}')
    assert (refused.status, refused.json) == (400, {"message": "failed to prune build cache: invalid filter 'nope'"})
