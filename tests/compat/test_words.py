"""Single command lines, right and wrong: standard output, standard error and exit code are docker's.

word_answers.json holds what docker 28.5.2 answered on Docker Engine 28.5.2 (record_words.py). What differs stands in
OURS or ENGINE with the reason.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.compat import record_words
from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]
RECORDED: list[record_words.Answer] = [tuple(answer) for answer in json.loads(record_words.ANSWERS.read_text())]

AT_ONCE = "# these do not depend on each other: they are played at once"
HELP = "the words of the help are ours; tests/unit/cli/test_cli_help.py compares the rest"
OURS = {
    "context use": "docker gives cobra's bare words there and no usage",
    "context export default -": "has the engine's address in it",
    "context use nope-x nope-y": "docker gives cobra's bare words there and no usage",
    "completion bash x": "docker gives cobra's bare words there and no usage",
    "completion": "the shells differ",
    "completion foo": "the shells differ",
    "cp /nope nope-c:/x": "docker doubles the slash",
    "cp nope-c:x /nope/dir/": "both are missing: ours names the container, as without the slash at the end",
    "container": HELP, "image": HELP, "volume": HELP, "network": HELP, "context": HELP, "system": HELP,
    "manifest": HELP, "container --help": HELP, "container foo --help": HELP, "help container": HELP,
    "volume ls --help x": HELP,
    "builder": "not deprecated here",
    "builder foo": "not deprecated here",
    "network inspect none -f {{.Name.Foo}}": "docker has forgotten the type by then",
    "volume inspect -f {{.Foo}} nope-v": "docker prints an empty line before the error",
    "exec --detach-keys foo nope-c true": "ours reads the flags first",
    "run --rm -v a:/z:/y:ro:x busybox": "the engine reads it, in the words for every other bad one",
    "run --rm busybox:": "the engine reads it",
    "import - X": "the engine reads it",
    "start --checkpoint x nope-c": "there are no experimental features here",
    "logout localhost:1": "docker does not say whether it was logged in",
    "context create nope-y --docker from=nope-x": "one reason is enough",
    "context inspect --format {{.Foo}} default": "docker names its Go type",
    "system df -v --format '{{.Foo}}'": "refused by name",
}  # fmt: skip
ENGINE = {  # not the command line: the engine's answer differs
    "volume ls --format {{.Foo}}": "the template is tried on a volume, and another test may have left one",
    "ps --filter =x": "ours does not send a filter without a name",
    "network prune --filter until=foo -f": "read when there is a network to prune",
    "events --format {{.Foo}} --since 1 --until 2": "the template is tried on an event, and there is none",
    "run --rm --network container:nope-c --hostname x busybox": "the missing container is named first",
    "run --rm -v a:b busybox": "docker takes a destination that is not absolute",
    "run --rm --tmpfs /x:size=foo busybox true": "the words of another runtime",
    "run --rm --runtime io.containerd.nope.v1 busybox": "there are no shims of containerd",
}


def test_the_corpus_is_what_was_recorded() -> None:
    assert [answer[0] for answer in RECORDED] == record_words.lines()
    assert len(RECORDED) >= 700 and OURS.keys() | ENGINE.keys() <= {answer[0] for answer in RECORDED}


NAMES = [recorded[0] for recorded in RECORDED]
_LINES = record_words.LINES.read_text().splitlines()
APART = sum(bool(line) and not line.startswith("#") for line in _LINES[: _LINES.index(AT_ONCE)])
CHUNK = 100


@pytest.mark.parametrize("begin", range(0, len(RECORDED), CHUNK))
def test_every_line_is_answered_as_docker_does(shared_engine: Engine, tmp_path: Path, begin: int) -> None:
    environment = {**shared_engine.environment, "DOCKER_CONFIG": str(tmp_path / "client")}

    def play(line: str) -> record_words.Answer:
        return record_words.play(str(BIN / "sampan"), line, environment, str(tmp_path))

    chunk = RECORDED[begin : begin + CHUNK]
    one_by_one = max(0, APART - begin)
    with ThreadPoolExecutor(4) as threads:
        answers = [*map(play, NAMES[begin : begin + min(one_by_one, CHUNK)])]
        answers += threads.map(play, NAMES[begin + one_by_one : begin + CHUNK])
    unlike = []
    for (line, code, out, err), ours in zip(chunk, answers, strict=True):
        wanted = (line, code, out, err.replace("\nSRun ", "\nRun "))  # a slip of docker's
        if ours != wanted and line not in OURS and line not in ENGINE:
            unlike.append({"docker": wanted, "ours": ours})
    assert not unlike, json.dumps(unlike, indent=1)
