"""Kill -9 any process of ours with ten containers running: the others run on, no line is lost, everything reconnects.

Source: the guarantees of ARCHITECTURE.md, "Crash-proof".
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.support import machine
from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

COUNT = "i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done"
RECONNECT_S = 2.0


class Fleet:
    """Ten running containers: four that count into their logs, five that idle, one that ends with 7 when told to."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.counters = [engine.run("sh", "-c", COUNT, NetworkMode="none") for _ in range(4)]
        self.idlers = [engine.run("sleep", "3600") for _ in range(5)]
        self.mortal = engine.run("sh", "-c", "trap 'exit 7' TERM; while :; do usleep 5000; done", NetworkMode="none")
        self.before = {c: engine.inspect(c)["State"] for c in self.all}

    @property
    def all(self) -> list[str]:
        return [*self.counters, *self.idlers, self.mortal]

    def end_mortal(self) -> None:
        """Make the mortal exit with 7 without going through the engine."""
        os.kill(self.before[self.mortal]["Pid"], signal.SIGTERM)
        until(lambda: not os.path.exists(f"/proc/{self.before[self.mortal]['Pid']}"), 5, "the mortal is gone")

    def same(self, containers: list[str]) -> bool:
        """True when these containers are the very processes that were started."""
        for container in containers:
            now, then = self.engine.inspect(container)["State"], self.before[container]
            if (now["Running"], now["Pid"], now["StartedAt"]) != (True, then["Pid"], then["StartedAt"]):
                return False
        return True

    def wrote_more(self, container: str, lines: int) -> bool:
        return len(self.engine.logs(container).split()) > lines

    def check_alive(self, containers: list[str]) -> None:
        """The containers are the same processes, can be entered, and those that count have not lost a line."""
        assert self.same(containers)
        for container in containers:
            if container in self.counters:
                lines = self.engine.logs(container).split()
                assert [int(line) for line in lines] == list(range(len(lines)))
                until(partial(self.wrote_more, container, len(lines)), 5, "the counter still writes")
        done = self.engine.cli("sampan", "exec", containers[-1], "echo", "in")
        assert done.stdout == "in\n"


@contextmanager
def reconnected(engine: Engine, fleet: Fleet, but: list[str]) -> Iterator[None]:
    """Time from the block's end until every container but `but` is seen running and can be entered."""
    yield
    began = time.monotonic()
    alive = [c for c in fleet.all if c not in but]
    until(lambda: fleet.same(alive), 10, "containers are seen running")
    until(lambda: engine.cli("sampan", "exec", alive[0], "true", check=False).returncode == 0, 10, "exec works")
    assert time.monotonic() - began < RECONNECT_S


@pytest.fixture
def fleet(engine: Engine) -> Fleet:
    return Fleet(engine)


def test_kill_sampand(engine: Engine, fleet: Fleet) -> None:
    engine.kill()
    fleet.end_mortal()
    with reconnected(engine, fleet, [fleet.mortal]):
        engine.start()
    state = engine.inspect(fleet.mortal)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 7)
    fleet.check_alive(fleet.counters + fleet.idlers)


def test_kill_supervisor(engine: Engine, fleet: Fleet) -> None:
    victim = engine.pid_of("sampan-supervisor")
    with reconnected(engine, fleet, [fleet.mortal]):
        os.kill(victim, signal.SIGKILL)
        fleet.end_mortal()
    until(lambda: engine.inspect(fleet.mortal)["State"]["Status"] == "exited", RECONNECT_S, "the exit is known")
    assert engine.inspect(fleet.mortal)["State"]["ExitCode"] == 7
    assert engine.pid_of("sampan-supervisor") != victim
    fleet.check_alive(fleet.counters + fleet.idlers)


def test_kill_sampand_and_supervisor(engine: Engine, fleet: Fleet) -> None:
    engine.kill()
    os.kill(engine.pid_of("sampan-supervisor"), signal.SIGKILL)
    fleet.end_mortal()
    with reconnected(engine, fleet, [fleet.mortal]):
        engine.start()
    assert engine.inspect(fleet.mortal)["State"]["ExitCode"] == 7
    fleet.check_alive(fleet.counters + fleet.idlers)


def test_kill_zygote(engine: Engine, fleet: Fleet) -> None:
    victim = engine.pid_of("sampan-zygote")
    with reconnected(engine, fleet, []):
        os.kill(victim, signal.SIGKILL)
    engine.remove(engine.run("true"))
    until(lambda: engine.pid_of("sampan-zygote") != victim, RECONNECT_S, "another zygote is there")
    fleet.check_alive(fleet.counters + fleet.idlers)


def test_kill_shim(engine: Engine, fleet: Fleet) -> None:
    container = fleet.idlers[0]
    pid = fleet.before[container]["Pid"]
    shim = next(p for p, title in engine.pids().items() if title.startswith(f"sampan-shim {container[:12]}"))
    os.kill(shim, signal.SIGKILL)
    until(
        lambda: engine.inspect(container)["State"]["Status"] == "exited", RECONNECT_S, "the container is reported dead"
    )
    assert engine.inspect(container)["State"]["ExitCode"] == 137
    until(lambda: not os.path.exists(f"/proc/{pid}"), RECONNECT_S, "its process is gone")
    until(lambda: not any(container in path for path in machine.census().cgroups), RECONNECT_S, "its cgroups are gone")
    fleet.check_alive(fleet.counters + fleet.idlers[1:])
    engine.call("POST", f"/containers/{container}/start")
    assert engine.inspect(container)["State"]["Running"]


def test_kill_everything_but_the_shims(engine: Engine, fleet: Fleet) -> None:
    engine.kill()
    for title in ("sampan-supervisor", "sampan-zygote"):
        os.kill(engine.pid_of(title), signal.SIGKILL)
    with reconnected(engine, fleet, []):
        engine.start()
    fleet.check_alive(fleet.counters + fleet.idlers)


def test_a_policy_starts_again_after_everything_was_lost(engine: Engine) -> None:
    """As after a power cut. It is a start of the daemon's, no restart of the policy's: nothing is counted, as in
    Docker.
    """
    container = engine.run("sleep", "3600", NetworkMode="none", RestartPolicy={"Name": "always"})
    before = engine.inspect(container)["State"]["Pid"]
    engine.kill()
    for title in ("sampan-supervisor", "sampan-zygote", f"sampan-shim {container[:12]}"):
        os.kill(engine.pid_of(title), signal.SIGKILL)
    engine.start()
    until(lambda: engine.inspect(container)["State"]["Pid"] not in (0, before), RECONNECT_S, "it runs again")
    found = engine.inspect(container)
    assert (found["State"]["Status"], found["RestartCount"]) == ("running", 0)
