"""A container that stops whatever enters it, with an exec caught in there: the engine goes on as with any other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.timeout(180)]

STOPPER = "while :; do kill -STOP -1; done"


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds, f"{what} took {time.monotonic() - begin:.1f} s"


def caught(engine: Engine) -> str:
    """A running container in which an exec has been stopped before its execve."""
    container = engine.run("sh", "-c", STOPPER)
    for _ in range(50):  # one may be through before it is hit
        made = engine.call("POST", f"/containers/{container}/exec", {"Cmd": ["true"], "AttachStdout": True})
        starting = threading.Thread(target=_start, args=(engine, made["Id"]), daemon=True)
        starting.start()
        starting.join(1)
        if starting.is_alive():
            return container
    raise AssertionError("no exec was caught")


def _start(engine: Engine, exec_id: str) -> None:
    try:
        engine.request("POST", f"/exec/{exec_id}/start", {"Detach": False})
    except OSError:  # the engine was ended meanwhile
        pass


def test_it_is_looked_at_signalled_stopped_and_removed(engine: Engine) -> None:
    container = caught(engine)
    with within(10, "top"):
        assert len(engine.call("GET", f"/containers/{container}/top", ps_args="-o pid,stat,args")["Processes"]) >= 2
    with within(10, "kill"):
        engine.call("POST", f"/containers/{container}/kill", signal="USR1")
    with within(15, "stop"):
        engine.call("POST", f"/containers/{container}/stop", t=1)
    assert engine.inspect(container)["State"]["ExitCode"] == 137
    engine.remove(container)

    container = caught(engine)
    with within(10, "rm -f"):
        engine.call("DELETE", f"/containers/{container}", force=1)


def test_supervisor_and_daemon_start_again_beside_it(engine: Engine) -> None:
    container = caught(engine)
    other = engine.run("sleep", "1000")
    engine.kill()
    os.kill(engine.pid_of("sampan-supervisor"), signal.SIGKILL)
    with within(15, "the start of daemon and supervisor"):
        engine.start()
    assert engine.inspect(container)["State"]["Running"]
    assert engine.inspect(other)["State"]["Running"]
    with within(10, "top"):
        engine.call("GET", f"/containers/{container}/top", ps_args="-o pid,args")
    with within(10, "rm -f"):
        engine.call("DELETE", f"/containers/{container}", force=1)
