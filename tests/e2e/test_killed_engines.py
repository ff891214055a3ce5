"""Engines that were killed: the next one takes away what they left in the network, and touches nobody else's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root]


@pytest.fixture
def inside() -> Iterator[list[str]]:
    """Give the command that enters a network namespace which the engines of a test have for themselves."""
    with subprocess.Popen(["unshare", "-n", "sleep", "600"]) as holder:
        own = Path("/proc/self/ns/net").readlink()
        until(lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() != own, 10, "a namespace")
        yield ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        holder.kill()


def bridges(inside: list[str]) -> dict[str, str]:
    """Return the bridges of a namespace with their aliases."""
    argv = [*inside, "ip", "-j", "-d", "link", "show", "type", "bridge"]
    listed = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout or "[]")
    return {link["ifname"]: link.get("ifalias", "") for link in listed if link}


def test_bridges_of_a_killed_engine_go_with_the_next_start(inside: list[str]) -> None:
    engines = [Engine() for _ in range(4)]
    living, killed, running, last = engines
    for engine in engines:
        engine.wrapper = inside
    subprocess.run([*inside, "ip", "link", "add", "docker0", "type", "bridge"], check=True)
    try:
        for engine in (living, killed, running):
            engine.start()
            engine.call("POST", "/networks/create", {"Name": "own"})
        running.import_busybox()
        running.run("sleep", "600", name="kept")
        before = bridges(inside)
        assert before.keys() >= {"docker0", "sampan0", "sampan1", "sampan2"} and len(before) == 7
        killed.kill()
        running.kill()  # but its container runs on
        last.start()
        after = bridges(inside)
        assert len(after) == 6, "two are gone, one is new"
        assert after["sampan1"] != before["sampan1"], "the name and the subnet are free again"
        gone = before.keys() - after.keys()
        assert len(gone) == 1 and next(iter(gone)).startswith("br-")
        running.start()
        assert running.inspect("kept")["State"]["Running"] and bridges(inside).keys() >= after.keys()
        killed.start()
        assert [n["Name"] for n in killed.call("GET", "/networks")] == ["bridge", "host", "none", "own"]
        assert len(bridges(inside)) == 8, "who comes back has its networks again"
    finally:
        for engine in engines:
            engine.close()
    assert bridges(inside).keys() == {"docker0"}
