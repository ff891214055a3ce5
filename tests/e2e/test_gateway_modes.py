"""Who reaches whom on bridge networks of every kind, beside what Docker Engine 28.5.2 lets through.

gateway_answers.json is its record (gateway_modes.py made it): of the first network everything, of the others what
differs from that.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.e2e import gateway_modes
from tests.kernel.net_host import apart
from tests.support.engine import Engine

ANSWERS = json.loads(Path(__file__).with_name("gateway_answers.json").read_text())

QUICK = ("nat", "routed", "isolated", "trusted", "only IPv6")
NAMES = tuple(gateway_modes.NETWORKS) if os.environ.get("SAMPAN_GATEWAYS") == "all" else QUICK


def test_who_reaches_whom_is_as_in_docker(root: None) -> None:
    apart(_compare)


def _compare() -> None:
    with gateway_modes.World() as world:
        engine = Engine()
        try:
            engine.start()
            engine.import_busybox()
            ours = gateway_modes.differences(gateway_modes.play(engine, world, NAMES))
        finally:
            engine.close()
    differing = {
        (name, question): (ours[name].get(question), ANSWERS[name].get(question))
        for name in NAMES
        for question in ours[name].keys() | ANSWERS[name].keys()
        if ours[name].get(question) != ANSWERS[name].get(question)
    }
    assert not differing
    assert len(ANSWERS["nat"]) > 120
