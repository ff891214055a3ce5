"""`cp`, line by line: exit code, message and both trees are as with docker 28.5.2 on Docker Engine 28.5.2.

copy_answers.json holds what was recorded (record_copies.py). What differs stands in OURS with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat import record_copies
from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]
RECORDED: list[record_copies.Answer] = [tuple(answer) for answer in json.loads(record_copies.ANSWERS.read_text())]

OURS = {
    "created: {l}/f {c}:/etc/hosts": "docker takes it, and the start writes over it: refused as for an exited one",
    "created: -L {c}:/w/loop {l}/new": "a link that leads to itself is copied as the link that it is",
    "created: {c}:/w/loop {l}/new": "a link that leads to itself is copied as the link that it is",
    "created: - {c}:/w <<< garbage": "says what is wrong",
    "created: - {c}:/w <<< xz": "docker needs the program xz",
    "created: - {c}:/w <<< dangling": "docker says that /w is missing",
    "created: - {c}:/w <<< attributes": "docker keeps user attributes and does not give them back",
    "created: - {c}:/w <<< cut": "a directory gets its time at the end",
    "created: {l}/f {c}:/t/new": "docker puts it below the tmpfs, where the container never sees it",
    "ro: {l}/f {c}:/t/new": "the tmpfs is not there, docker speaks of the root",
    "ro-running: {l}/f {c}:/t/new": "the tmpfs of a read-only container can be written to",
    "running: {l}/f {c}:/t/new": "docker's new tmpfs has the time of the image's directory",
    "running: {c}:/proc/1/comm -": "docker sees no /proc",
}


def _plays(program: str, line: str) -> bool:
    """Each line is played by one client: by docker where the engine has to do something of its own."""
    engines = not line.startswith("created:") or "<<<" in line
    return engines == (program == "docker")


@pytest.mark.parametrize("program", ["docker", "sampan"])
def test_every_line_copies_what_docker_copies(shared_engine: Engine, tmp_path: Path, program: str) -> None:
    environment = {**shared_engine.environment, "DOCKER_CONFIG": str(tmp_path / "client")}
    path = BIN / program
    player = record_copies.Player(str(path if path.exists() else program), shared_engine, environment, tmp_path)
    player.prepare()
    unlike = []
    try:
        for recorded in RECORDED:
            if not _plays(program, recorded[0]):
                continue
            ours = player.play(recorded[0])
            if ours != recorded and recorded[0] not in OURS:
                unlike.append({"docker": recorded, "ours": ours})
    finally:
        player.close()
    assert not unlike, json.dumps(unlike, indent=1)
