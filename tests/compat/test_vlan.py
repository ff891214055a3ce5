"""Networks with the drivers macvlan and ipvlan, and configuration networks, by the command line.

vlan_answers.json holds what docker 28.5.2 answered on Docker Engine 28.5.2 (record_vlan.py); what differs stands in
OURS with the reason.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat import record_vlan
from tests.compat.record_words import Answer
from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]
RECORDED: list[Answer] = [tuple(answer) for answer in json.loads(record_vlan.ANSWERS.read_text())]
OURS = {
    "run --rm --network vl-a --ip 10.244.2.77 busybox ip route": "the address is looked at when the container starts",
}
NAMED = ": this kernel has no "  # what we say after Docker's bare "operation not supported"


def test_the_corpus_is_what_was_recorded() -> None:
    assert [answer[0] for answer in RECORDED] == record_vlan.lines()
    assert sum(line.startswith("network create") for line, *_ in RECORDED) >= 60
    assert OURS.keys() <= {answer[0] for answer in RECORDED}


def test_every_line_is_answered_as_docker_does(shared_engine: Engine, tmp_path: Path) -> None:
    with record_vlan.parents():
        played = record_vlan.answers(str(BIN / "sampan"), shared_engine.host, str(tmp_path))
    unlike = []
    for recorded, ours in zip(RECORDED, played, strict=True):
        line, code, out, err = ours
        same = [recorded] if recorded[0] not in OURS else [recorded, ours]
        if recorded[3].endswith("operation not supported\n") and NAMED in err:
            ours = line, code, out, err.partition(NAMED)[0] + "\n"
        if ours not in same:
            unlike.append({"docker": recorded, "ours": ours})
    assert not unlike, json.dumps(unlike, indent=1)
