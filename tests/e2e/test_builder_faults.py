"""Builds that are killed, cut off or starved: what remains is whole, and nothing else remains."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Answer, Engine, UnixConnection, until
from tests.support.tars import tar_of

pytestmark = pytest.mark.root


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine().start()
    try:
        engine.import_busybox()
        yield engine
    finally:
        engine.close()


def context(dockerfile: str, **files: bytes) -> bytes:
    return tar_of({"Dockerfile": dockerfile, **files})


def build(engine: Engine, dockerfile: str, **query: Any) -> tuple[Answer, list[dict[str, Any]]]:
    headers = {"Content-Type": "application/x-tar"}
    answer = engine.request("POST", "/build", context(dockerfile), headers=headers, **query)
    return answer, [json.loads(line) for line in answer.raw.splitlines() if line.strip()]


def built(engine: Engine, dockerfile: str, **query: Any) -> str:
    answer, messages = build(engine, dockerfile, **query)
    assert answer.status == 200 and not any("error" in message for message in messages), answer.raw
    return str(next(message["aux"]["ID"] for message in reversed(messages) if "aux" in message))


def begin(engine: Engine, dockerfile: str, **query: Any) -> UnixConnection:
    """Send a build and return at once."""
    connection = UnixConnection(str(engine.socket))
    path = "/v1.51/build?" + "&".join(f"{key}={value}" for key, value in query.items())
    connection.request("POST", path, context(dockerfile), {"Content-Type": "application/x-tar"})
    return connection


def steps(engine: Engine) -> list[str]:
    """The tasks of build steps that exist."""
    tasks = engine.exec_root / "tasks"
    return [task.name for task in tasks.iterdir() if _kind(task) == "build-step"] if tasks.is_dir() else []


def _kind(task: Path) -> str:
    try:
        return str(json.loads((task / "shim.json").read_text())["kind"])
    except FileNotFoundError:  # it is just going, which takes more than one step
        return "build-step"


def running(engine: Engine) -> bool:
    return any((engine.exec_root / "tasks" / step / "state.json").exists() for step in steps(engine))


def whole(engine: Engine) -> None:
    """Nothing of a build is under way, and records and disk agree."""
    until(lambda: not steps(engine), 10, "no step's task is left")
    directories = engine.exec_root / "builder"
    until(lambda: not [d for d in directories.glob("*") if d.name != "secrets"], 2, "no step's directory is left")
    assert engine.call("POST", "/system/fsck")["Findings"] == []


SLEEP = "FROM busybox\nRUN echo begun > /begun\nRUN sleep 1000\n"
MANY = "FROM busybox\n" + "".join(f"RUN echo {n} > /f{n}; dd if=/dev/zero of=/d{n} bs=100k count=1\n" for n in range(8))


def test_kill_9_in_the_middle_of_a_run(engine: Engine) -> None:
    connection = begin(engine, SLEEP, version="1")
    until(lambda: running(engine) and len(list((engine.data_root / "snapshots").glob("[0-9]*"))) >= 3, 20, "it runs")
    time.sleep(0.2)
    engine.kill()
    connection.close()
    engine.start()
    whole(engine)
    assert not [line for line in engine.pids().values() if "shim" in line and "waiting" not in line]
    assert "Using cache" in str(build(engine, SLEEP.replace("1000", "0"))[1]) or built(
        engine, SLEEP.replace("1000", "0")
    )


@pytest.mark.parametrize("after_s", [0.05, 0.12, 0.2, 0.3])
def test_kill_9_at_any_moment_of_a_build(engine: Engine, after_s: float) -> None:
    connection = begin(engine, MANY, t="app")
    time.sleep(after_s)  # the moment itself does not matter: any will do
    engine.kill()
    connection.close()
    engine.start()
    whole(engine)
    image = built(engine, MANY, t="app")
    engine.cli(
        "docker", "run", "--rm", "app", "sh", "-c", "for n in 0 1 2 3 4 5 6 7; do grep -q $n /f$n || exit 1; done"
    )
    assert image


def test_a_client_that_goes_away_ends_its_build_within_a_second(engine: Engine) -> None:
    connection = begin(engine, SLEEP, rm="1")
    until(lambda: running(engine), 20, "it runs")
    until(lambda: any("sleep" in line for line in _commands()), 20, "the command runs")
    connection.sock.close()
    connection.close()
    until(lambda: not steps(engine), 2, "its step is ended")
    whole(engine)


def _commands() -> list[str]:
    """The command lines of this machine that sleep as the builds here do."""
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    found.append(file.read().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return [line for line in found if "sleep 1000" in line]


def test_many_builds_at_once_and_one_that_fails(engine: Engine) -> None:
    answers: dict[str, Any] = {}

    def one(name: str, dockerfile: str) -> None:
        answers[name] = build(engine, dockerfile, t=name)

    jobs = {f"ok{n}": f"FROM busybox\nRUN echo same > /same\nRUN echo {n} > /n\n" for n in range(4)}
    jobs["bad"] = "FROM busybox\nRUN echo same > /same\nRUN exit 9\n"
    threads = [threading.Thread(target=one, args=job) for job in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = {name: [m for m in messages if "error" in m] for name, (_, messages) in answers.items()}
    assert [name for name, found in errors.items() if found] == ["bad"]
    assert errors["bad"][0]["errorDetail"]["code"] == 9
    whole(engine)


def test_images_and_cache_do_not_break_each_other(engine: Engine) -> None:
    dockerfile = "FROM busybox\nRUN echo kept > /kept\n"
    built(engine, dockerfile, t="app")
    engine.call("POST", "/build/prune", all="1")
    assert engine.cli("docker", "run", "--rm", "app", "cat", "/kept").stdout == "kept\n"
    built(engine, dockerfile, t="app")
    engine.call("DELETE", "/images/app", force="1")
    engine.call("POST", "/images/prune")
    built(engine, dockerfile, t="app")
    assert engine.cli("docker", "run", "--rm", "app", "cat", "/kept").stdout == "kept\n"
    engine.stop()
    engine.start()
    whole(engine)
    assert "Using cache" in str(build(engine, dockerfile)[1])


def test_the_network_and_tasks_of_steps_are_given_back(engine: Engine) -> None:
    built(engine, "FROM busybox\nRUN ip addr | grep -q eth0\nRUN true\n")
    until(lambda: not steps(engine), 5, "tasks are gone")
    network = engine.call("GET", "/networks/bridge")
    assert network["Containers"] == {}
