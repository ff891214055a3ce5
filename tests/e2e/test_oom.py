"""What the kernel's OOM killer does in a container is told while it runs, from the kernel's own notification."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.engine import Engine, until
from tests.support.machine import lacks

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.timeout(120)]

LIMIT: dict[str, Any] = {"Memory": 16 << 20, "MemorySwap": 16 << 20, "NetworkMode": "none"}
EAT = "tail -c 60000000 /dev/zero >/dev/null"  # tail keeps what it may have to print

FAULT = """awk 'BEGIN { x = "0123456789abcdef"; while (1) x = x x }'"""  # in user mode: there it waits for memory


@contextmanager
def events(engine: Engine, container: str) -> Iterator[list[str]]:
    """The actions that are told of a container, as they come; read them when something else has shown their time."""
    found: list[str] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.connect(str(engine.socket))
    filters = f"%7B%22container%22%3A%5B%22{container}%22%5D%7D"
    listener.sendall(f"GET /v1.51/events?since=0&filters={filters} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
    yield found
    listener.settimeout(0.5)
    try:
        for line in listener.makefile():
            if line.startswith("{"):
                found.append(json.loads(line)["Action"])
    except TimeoutError:
        pass
    finally:
        listener.close()


def killed(engine: Engine, container: str) -> bool:
    found: bool = engine.inspect(container)["State"]["OOMKilled"]
    return found


def test_a_child_that_is_killed_is_told_while_the_container_runs(shared_engine: Engine) -> None:
    """As the reference does: the event, and OOMKilled in a running container's state; it stays after a clean end."""
    engine = shared_engine
    container = engine.run("sh", "-c", f"[ -e /again ] || {{ >/again; {EAT}; }}; sleep 1000", **LIMIT)
    try:
        until(lambda: killed(engine, container), 10, "OOMKilled")
        assert engine.inspect(container)["State"]["Running"]
        with events(engine, container) as told:
            engine.call("POST", f"/containers/{container}/kill")
        assert told == ["create", "start", "oom", "kill", "die"]
        assert (killed(engine, container), engine.inspect(container)["State"]["ExitCode"]) == (True, 137)
        engine.call("POST", f"/containers/{container}/start")
        assert not killed(engine, container), "it is of the run before"
    finally:
        engine.remove(container)


def test_a_container_that_may_not_be_killed_tells_that_it_waits(shared_engine: Engine) -> None:
    engine = shared_engine
    container = engine.run("sh", "-c", f"{FAULT}; sleep 1000", **LIMIT, OomKillDisable=True)
    try:
        if not engine.inspect(container)["HostConfig"]["OomKillDisable"]:
            lacks("cgroup v2 cannot switch the OOM killer off")
        until(lambda: killed(engine, container), 10, "OOMKilled, as Docker calls it")
        assert engine.inspect(container)["State"]["Running"]
        engine.call("POST", f"/containers/{container}/kill")
        assert engine.inspect(container)["State"]["Status"] == "exited"
    finally:
        engine.remove(container)


def test_an_init_that_is_killed_has_137_and_says_why(shared_engine: Engine) -> None:
    engine = shared_engine
    for _ in range(5):
        container = engine.run("sh", "-c", f"exec {EAT}", **LIMIT)
        try:
            assert engine.wait(container) == 137
            assert killed(engine, container)
            with events(engine, container) as told:
                pass
            assert told.count("oom") == 1 and told[-1] == "die", told
        finally:
            engine.remove(container)


def test_a_child_is_told_of_at_once_and_by_a_restarted_daemon(engine: Engine) -> None:
    container = engine.run("sh", "-c", f"while [ ! -e /go ]; do usleep 5000; done; {EAT}; sleep 1000", **LIMIT)
    engine.kill()
    engine.start()
    made = engine.call("POST", f"/containers/{container}/exec", {"Cmd": ["touch", "/go"]})
    engine.call("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    until(lambda: killed(engine, container), 10, "OOMKilled")
    engine.kill()
    engine.start()
    assert killed(engine, container), "it is in the record"
