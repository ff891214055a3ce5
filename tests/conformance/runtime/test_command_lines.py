"""The whole command line against runc's: status, output, errors and files of each line that was recorded.

A line whose answer is another by decision has `differs` in the recording: {because, answer}; record_command_lines.py
renews the recording.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.command_lines import Player, lines
from tests.conformance.runtime.forking import ForkingRuntime

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "command_lines.json").read_text())


@pytest.fixture(scope="module")
def player(root: None, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    runtime = ForkingRuntime()
    player = Player(runtime, tmp_path_factory.mktemp("lines"), rootfs)
    yield player
    player.close()
    runtime.close()


def test_every_line_is_recorded() -> None:
    recorded = [(entry["state"], entry["words"], entry["more"]) for entry in RECORDED]
    assert recorded == [tuple(line) for line in lines()]
    assert all(entry["differs"]["because"] for entry in RECORDED if "differs" in entry)


@pytest.mark.parametrize("group", sorted({(shlex.split(entry["words"]) or [""])[0] for entry in RECORDED}))
def test_answers_are_runc_s(player: Player, group: str) -> None:
    wrong = []
    for entry in RECORDED:
        if (shlex.split(entry["words"]) or [""])[0] != group:
            continue
        answer = player.play(entry["state"], entry["words"], entry["more"])
        expected = entry["differs"]["answer"] if "differs" in entry else entry["answer"]
        if answer != expected:
            wrong.append((entry["state"], entry["words"], entry["more"], expected, answer))
    assert not wrong, "\n".join(f"{len(wrong)} lines:\n{line}" for line in wrong)
