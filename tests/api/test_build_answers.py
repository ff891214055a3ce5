"""The classic builder says, line for line, what Docker Engine 28.5 says.

`build_answers.json` was recorded from the reference by `record_build.py`. SAMPAN_TEST_SOCKET runs this on another
engine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.api.record_build import ask
from tests.support.engine import Engine

ANSWERS = json.loads((Path(__file__).parent / "build_answers.json").read_text())


# These we refuse before the first step is run, with the same words: what a Dockerfile says of itself need not be tried.
EARLIER = frozenset({"several to a file", "argument required", "outside the context"})


def joined(answer: dict[str, Any]) -> list[Any]:
    """The messages, text that follows text put together: how output is cut is a matter of time."""
    out: list[Any] = [answer["status"]]
    for message in answer["messages"]:
        if "stream" in message and isinstance(out[-1], str):
            out[-1] += message["stream"]
        else:
            out.append(message.get("stream", message))
    return out


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case["name"])
def test_answer(shared_engine: Engine, case: dict[str, Any]) -> None:
    found = ask(str(shared_engine.socket), case)
    if case["name"] in EARLIER and "SAMPAN_TEST_SOCKET" not in os.environ:
        assert (found["status"], found["messages"][-1]) == (200, case["answer"]["messages"][-1])
    else:
        assert joined(found) == joined(case["answer"])


def test_cancel_and_prune(shared_engine: Engine) -> None:
    """What is not running is cancelled already; pruning names filters that it does not know."""
    assert shared_engine.request("POST", "/build/cancel", id="nobody").status == 200
    assert shared_engine.request("POST", "/build/cancel").json == {"message": "build ID not provided"}
    refused = shared_engine.request("POST", "/build/prune", filters='{"nope":["x"]}')
    assert (refused.status, refused.json) == (400, {"message": "failed to prune build cache: invalid filter 'nope'"})
