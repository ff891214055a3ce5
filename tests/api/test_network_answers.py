"""Networks are made, shown, joined, left and refused with the answers that Docker Engine 28.5 gives, story by story.

`network_answers.json` was recorded from the reference by `record_networks.py`. SAMPAN_TEST_SOCKET runs this on another
engine. What differs on purpose has its own answer here, and its row in docs/compatibility.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.network_steps import STORIES
from tests.api.record_networks import ANSWERS, play
from tests.support.engine import Engine

pytestmark = [pytest.mark.root]
RECORDED: dict[str, list[dict[str, Any]]] = json.loads(ANSWERS.read_text())

NOT_FOUND = (404, "No such container: xc1")
BAD_MAC = (400, "invalid MAC address 02:42:0a:e7:05:07:08:09")
PURPOSE: dict[str, list[tuple[int, str]]] = {
    "create": [(200, '"Config": [{"Subnet": "172.'), (200, '"Config": [{"Subnet": "<ula>')],
    "wrong addresses": [
        (400, "'::ffff:ae7:1/120' is not a valid IPv6 subnet"),
        (400, "invalid bridge name: a/b"),
        (400, "invalid bridge name: a b"),
    ],
    "endpoints": [(200, '"nb": {"IPAMConfig"'), (200, '"EndpointID": "", "Gateway": ""')],
    "addresses": [BAD_MAC, NOT_FOUND, BAD_MAC, NOT_FOUND],
    "running": [
        (200, '[{"Name": "nb"'),
        (200, '{"Name": "na"'),
        (200, '"MacAddress": "02:42:0a:e7:06:99"'),
        (500, "no available IPv4 addresses on this network's address pools (all 8 are taken): na (<na>)"),
        (400, "container sharing network namespace with another container or host cannot be connected"),
        (500, "container <xd1> is not connected to the network nb"),
    ],
    "reserved names": [(404, f"network {name} not found") for name in ("ingress", "default", "ingress", "default")],
}
"""Our answers to the lines that begin with `! `, in their order: the status, and what is in the body."""


@pytest.fixture(scope="module")
def alone(root: None, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in a network namespace of its own: which subnets are free is part of the answers."""
    if "SAMPAN_TEST_SOCKET" in os.environ:
        yield request.getfixturevalue("shared_engine")
        return
    own = Engine()
    own.wrapper = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
    try:
        own.start()
        own.import_busybox()
        yield own
    finally:
        own.close()


@pytest.mark.parametrize("story", list(STORIES))
def test_answers_are_dockers(alone: Engine, story: str) -> None:
    ours = play(str(alone.socket), story)
    assert [a["line"] for a in ours] == [a["line"] for a in RECORDED[story]]
    purpose = iter(PURPOSE.get(story, ()))
    for given, wanted in zip(ours, RECORDED[story], strict=True):
        if not given["line"].startswith("! "):
            assert given == wanted
        elif "SAMPAN_TEST_SOCKET" not in os.environ:
            status, text = next(purpose)
            assert given["status"] == status and text in json.dumps(given["body"]), given
