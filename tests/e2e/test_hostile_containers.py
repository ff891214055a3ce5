"""A container that stops whatever enters it, with an exec caught in there: the engine goes on as with any other."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from tests.support.engine import Engine, until

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


# --- each kind of container that does what it can --------------------------------------------------------------------

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "stops everything": (STOPPER, {}),
    "forks up to its limit": ("f() { f | f & }; f; while :; do sleep 1; done", {"PidsLimit": 64}),
    "fills its memory": (
        """trap '' TERM; while :; do awk 'BEGIN { x = "0123456789abcdef"; while (1) x = x x }'; done""",
        {"Memory": 24 << 20, "MemorySwap": 24 << 20},
    ),
    "freezes itself": (
        "echo ready; d=/sys/fs/cgroup/freezer; echo FROZEN >$d/freezer.state || echo 1 >/sys/fs/cgroup/cgroup.freeze;"
        " sleep 1000",
        {"Privileged": True, "CgroupnsMode": "private"},
    ),
    "reaps nobody": ("for i in $(seq 300); do (exec true) & done; exec sleep 1000", {}),
    "ignores TERM": ("trap '' TERM INT HUP; while :; do sleep 1; done", {}),
    "unmounts /proc and /dev": ("umount -l /proc; umount -l /dev; sleep 1000", {"Privileged": True}),
    "removes its files": ("rm -rf /bin/[!sr]* /etc /lib /usr /var; while :; do :; done", {"NanoCpus": 200_000_000}),
    "is a deep tree": (
        'f() { if [ $1 -gt 0 ]; then sh -c "$body" f $(($1 - 1)); else exec sleep 1000; fi; };'
        " export body='if [ $1 -gt 0 ]; then sh -c \"$body\" f $(($1 - 1)); else exec sleep 1000; fi'; f 400",
        {},
    ),
    "exhausts inotify and keys": (
        "while inotifyd true /tmp:c & do usleep 5000; done 2>/dev/null; sleep 1000",
        {"PidsLimit": 200},
    ),
}
LONG = bool(os.environ.get("SAMPAN_ROUNDS"))
ALWAYS = ("forks up to its limit", "fills its memory", "freezes itself", "unmounts /proc and /dev")
LIMITS_S = {"stop": 20.0, "exec": 35.0, "update": 35.0}  # of calls that may have to wait for the container
LIMIT_S = 12.0


@pytest.mark.parametrize("kind", KINDS if LONG else ALWAYS)
def test_each_call_answers_whatever_a_container_does(shared_engine: Engine, kind: str) -> None:
    """It may be refused; it may not hang, take others with it, or leave a container that cannot be removed."""
    engine = shared_engine
    script, host = KINDS[kind]
    other = engine.run("sleep", "1000", NetworkMode="none")
    container = engine.run("sh", "-c", script, **{"NetworkMode": "none", **host})
    made: list[str] = []
    try:
        until(lambda: _runs(engine, container), 5, "it is at it")

        def call(what: str, method: str, path: str, body: object = None, **query: Any) -> None:
            with within(LIMITS_S.get(what, LIMIT_S), f"{what} of one that {kind}"):
                answer = engine.request(method, path, body, **query)
            assert answer.status < 600 and not (answer.status == 500 and b"Traceback" in answer.raw), answer.raw
            if what == "commit" and answer.status == 201:
                made.append(answer.json["Id"])

        at = f"/containers/{container}"
        threading.Thread(target=_run_exec, args=(engine, container), daemon=True).start()
        call("top", "GET", f"{at}/top", ps_args="-o pid,args")
        call("stats", "GET", f"{at}/stats", stream="0", **{"one-shot": "1"})
        call("pause", "POST", f"{at}/pause")
        call("unpause", "POST", f"{at}/unpause")
        call("update", "POST", f"{at}/update", {"CpuShares": 512})
        call("cp", "GET", f"{at}/archive?path=/tmp")
        call("commit", "POST", "/commit", {}, container=container)
        call("inspect", "GET", f"{at}/json")
        call("kill", "POST", f"{at}/kill", signal="USR1")
        with within(LIMIT_S, "what is asked of another"):
            assert engine.call("GET", f"/containers/{other}/top", ps_args="-o pid,args")["Processes"]
            assert _run_exec(engine, other) == 200
        call("stop", "POST", f"{at}/stop", t=1)
        assert engine.inspect(container)["State"]["Status"] == "exited"
        call("start", "POST", f"{at}/start")
        call("kill", "POST", f"{at}/kill")
        assert engine.inspect(container)["State"]["Status"] == "exited"
        engine.request("POST", f"{at}/start")
        call("rm -f", "DELETE", at, force=1)
        assert engine.request("GET", f"{at}/json").status == 404
    finally:
        engine.request("DELETE", f"/containers/{container}", force=1)
        engine.remove(other)
        for image in made:
            engine.call("DELETE", f"/images/{image}", force=1)


def _runs(engine: Engine, container: str) -> bool:
    return bool(engine.inspect(container)["State"]["Running"])


def _removed(engine: Engine, container: str) -> bool:
    return engine.request("DELETE", f"/containers/{container}", force=1).status in (204, 404)


def _run_exec(engine: Engine, container: str) -> int:
    answer = engine.request("POST", f"/containers/{container}/exec", {"Cmd": ["true"], "AttachStdout": True})
    if answer.status == 201:
        try:
            answer = engine.request("POST", f"/exec/{answer.json['Id']}/start", {"Detach": False})
        except OSError:  # it has been ended meanwhile
            return 0
    return answer.status


def test_processes_killed_at_random_beside_them_converge(engine: Engine) -> None:
    """kill -9 of shim, supervisor and sampand while containers of every kind run: all can be removed afterwards."""
    dice = random.Random(7)
    containers = [engine.run("sh", "-c", script, **{"NetworkMode": "none", **host}) for script, host in KINDS.values()]
    for _ in range(20 if LONG else 3):
        victim = dice.choice(["sampan-shim", "sampan-supervisor", "sampan-zygote", "sampand"])
        if victim == "sampand":
            engine.kill()
            engine.start()
        else:
            found = [pid for pid, title in engine.pids().items() if title.startswith(victim)]
            if found:
                os.kill(dice.choice(found), signal.SIGKILL)
    until(lambda: engine.request("GET", "/containers/json").status == 200, 10, "it answers")
    for container in containers:
        until(partial(_removed, engine, container), 25, "rm -f")
    assert engine.call("GET", "/containers/json", all=1) == []
    other = engine.run("true", NetworkMode="none")
    assert engine.wait(other) == 0
