"""`cp`, line by line: exit code, message and both trees are as with docker 28.5.2 on Docker Engine 28.5.2.

copy_answers.json holds what was recorded (record_copies.py). What differs stands in OURS with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat import record_copies
from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]
RECORDED: list[record_copies.Answer] = [tuple(answer) for answer in json.loads(record_copies.ANSWERS.read_text())]

OURS: dict[str, str] = {}


def test_the_corpus_is_what_was_recorded() -> None:
    assert [answer[0] for answer in RECORDED] == record_copies.lines()
    assert OURS.keys() <= {answer[0] for answer in RECORDED}


@pytest.mark.parametrize("program", ["docker", "sampan"])
def test_every_line_copies_what_docker_copies(shared_engine: Engine, tmp_path: Path, program: str) -> None:
    environment = {**shared_engine.environment, "DOCKER_CONFIG": str(tmp_path / "client")}
    path = BIN / program
    player = record_copies.Player(str(path if path.exists() else program), shared_engine, environment, tmp_path)
    player.prepare()
    unlike = []
    try:
        for recorded in RECORDED:
            ours = player.play(recorded[0])
            if ours != recorded and recorded[0] not in OURS:
                unlike.append({"docker": recorded, "ours": ours})
    finally:
        player.close()
    assert not unlike, json.dumps(unlike, indent=1)
