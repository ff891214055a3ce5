"""What an engine leaves on the machine: nothing, after containers came and went, and after it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import soak
from tests.support import machine
from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]


def test_an_engine_leaves_nothing() -> None:
    with machine.leaves_nothing(within_s=10):
        engine = Engine().start()
        try:
            engine.import_busybox()
            engine.run("sleep", "3600", PortBindings={"80/tcp": [{"HostPort": ""}]})
            stopped = engine.run("true")
            engine.wait(stopped)
        finally:
            engine.close()


def test_containers_in_a_row_leave_nothing(engine: Engine) -> None:
    """Growth is judged between the first quarter and the end: what is warm by then must not grow any more."""
    samples = soak.soak(engine, count=200, every=25)
    grown = soak.growth(samples)
    assert not grown, grown


@pytest.mark.parametrize("title", ["sampand", "sampan-supervisor", "sampan-zygote", "sampan-shim"])
def test_every_process_says_what_it_is(engine: Engine, title: str) -> None:
    container = engine.run("sleep", "3600")

    lines: list[str] = []

    def is_alone() -> bool:
        titles = engine.pids().values()
        lines[:] = [line for line in titles if line.split()[0] == title and "(waiting)" not in line]
        return len(lines) == 1

    until(is_alone, 5, f"one {title}")  # a fork bears its parent's title for a moment
    (line,) = lines
    assert str(engine.exec_root) in line
    assert title != "sampan-shim" or container[:12] in line


def test_memory_of_idle_containers(engine: Engine) -> None:
    """Ten idle containers: 2.7 MiB of proportional memory each, with room for what machines differ in."""
    containers = [engine.run("sleep", "3600") for _ in range(10)]
    shims = [pid for pid, line in engine.pids().items() if line.startswith("sampan-shim") and "(waiting)" not in line]
    assert len(shims) == len(containers)
    inits = [engine.inspect(c)["State"]["Pid"] for c in containers]
    assert sum(machine.pss_kib(pid) for pid in [*shims, *inits]) / len(containers) <= 3328


@pytest.mark.parametrize("path", ["/exec/nope/start", "/containers/nope/attach?stream=1", "/containers/nope/start"])
def test_a_refused_takeover_keeps_no_connection(shared_engine: Engine, path: str) -> None:
    """A client that was told no and closes its connection leaves no descriptor in the daemon."""
    directory = Path(f"/proc/{shared_engine.pid_of('sampand')}/fd")
    before = len(list(directory.iterdir()))
    for _ in range(20):
        assert shared_engine.request("POST", path, {} if "start" in path and "exec" in path else None).status == 404
    until(lambda: len(list(directory.iterdir())) <= before + 1, 5, "the connections are closed")
