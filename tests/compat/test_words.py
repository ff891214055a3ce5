"""Single command lines, right and wrong: standard output, standard error and exit code are docker's.

word_answers.json holds what docker 28.5.2 answered on Docker Engine 28.5.2 (record_words.py). What differs stands in
OURS or ENGINE with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat import record_words
from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]
RECORDED: list[record_words.Answer] = [tuple(answer) for answer in json.loads(record_words.ANSWERS.read_text())]

OURS = {
    "context use": "docker gives cobra's bare words there and no usage",
    "cp /nope nope-c:/x": "docker doubles the slash",
    "run --rm --gpus foo busybox": "docker reads a bare word as a count",
    "run --rm --platform foo busybox": "the engine reads the platform here, not the client",
    "info --format {{.Foo}}": "docker names its Go type, and prints an empty line first",
    "version --format {{.Foo}}": "docker names its Go type, and prints an empty line first",
    "version --format {{.Server.Foo}}": "docker names its Go type, and prints an empty line first",
    "context export default -": "docker exports a context that only flags and environment make",
}
ENGINE = {  # not the command line: the engine's answer differs
    "run --rm --ip foo busybox": "the address is looked at when the container starts",
    "run --rm --ip 10.1.1.1 busybox": "the address is looked at when the container starts",
    "ps --filter health=foo": "another word in the text",
    "ps --filter exited=foo": "Go's reason is missing",
    "ps --filter is-task=foo": "taken",
    "network create --ip-range 10.1.0.0/16 --subnet 10.1.0.0/24 nope-n": "another reason",
    "network connect nope-n nope-c": "the network is looked up first",
    "network disconnect nope-n nope-c": "the network is looked up first",
    "network ls --filter name=^none$ --format {{.Name}}/{{.Driver}}/{{.Scope}}": "the name is no pattern",
}


def test_the_corpus_is_what_was_recorded() -> None:
    assert [answer[0] for answer in RECORDED] == record_words.lines()
    assert len(RECORDED) >= 300 and OURS.keys() | ENGINE.keys() <= {answer[0] for answer in RECORDED}


def test_every_line_is_answered_as_docker_does(shared_engine: Engine, tmp_path: Path) -> None:
    environment = {**shared_engine.environment, "DOCKER_CONFIG": str(tmp_path / "client")}
    unlike = []
    for recorded in RECORDED:
        line, code, out, err = recorded
        ours = record_words.play(str(BIN / "sampan"), line, environment, str(tmp_path))
        wanted = (line, code, out, err.replace("\nSRun ", "\nRun "))  # a slip of docker's
        if ours != wanted and line not in OURS and line not in ENGINE:
            unlike.append({"docker": wanted, "ours": ours})
    assert not unlike, json.dumps(unlike, indent=1)
