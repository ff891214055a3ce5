"""The real docker-compose, again and again: `up` in one terminal and other commands from another, and each verb alone.

Nothing panics, nothing fails, and each command leaves the state that it is for. `SAMPAN_ROUNDS=20` makes it long.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.timeout(600)]

ROUNDS = int(os.environ.get("SAMPAN_ROUNDS", "3"))
FEWER_ROUNDS = ROUNDS if ROUNDS > 3 else 1  # of what takes long
PROJECT = """\
services:
  one:
    image: "rounds:one"
    build: {context: ., dockerfile_inline: "FROM busybox\\nCOPY content /content\\n"}
    command: ["sh", "-c", "trap 'exit 0' TERM; echo one; while :; do sleep 0.1; done"]
    stop_grace_period: 2s
    develop: {watch: [{path: content, action: sync, target: /content}]}
  two: {image: busybox, command: ["sleep", "1000"], stop_grace_period: 0s, depends_on: [one]}
"""
JOB = """\
services:
  job: {image: busybox, command: ["sh", "-c", "sleep 0.2; exit 3"]}
  beside: {image: busybox, command: ["sleep", "1000"], stop_grace_period: 0s}
"""


class Project:
    """One project's directory, and compose as a user runs it there."""

    def __init__(self, engine: Engine, directory: Path, text: str) -> None:
        self.engine = engine
        self.directory = directory
        self.name = engine.directory.name[-8:].lower().strip("_-") + "x"
        (directory / "compose.yaml").write_text(text)
        (directory / "content").write_text("first")
        plugins = clients.configured(directory / "client", buildx=clients.buildx(), compose=clients.compose())
        self.environment = {**os.environ, "DOCKER_HOST": engine.host, **plugins}
        self.command = ["docker", "compose", "-p", self.name, "--project-directory", str(directory)]

    def compose(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [*self.command, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        said = done.stdout + done.stderr
        assert done.returncode == status, (words, done.returncode, said[-3000:])
        _check(said)
        return done.stdout

    @contextmanager
    def beside(self, *words: str, ends: tuple[int, ...] | None = None) -> Iterator[Path]:
        """Run another compose meanwhile. ends: it ends by itself, with one of these; else it is ended."""
        output = self.directory / f"{words[0]}.out"
        with output.open("w") as file:
            running = subprocess.Popen(
                [*self.command, *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            yield output
            if ends is not None:
                assert running.wait(30) in ends, output.read_text()[-3000:]
        finally:
            if running.poll() is None:
                running.kill()
                running.wait()
        _check(output.read_text())

    def states(self) -> dict[str, str]:
        """{service: state} of all containers of the project."""
        found = self.engine.call("GET", "/containers/json", all=1)
        return {
            row["Labels"]["com.docker.compose.service"]: row["State"]
            for row in found
            if row["Labels"].get("com.docker.compose.project") == self.name
        }

    def run(self) -> bool:
        return self.states() == {"one": "running", "two": "running"}

    def ids(self) -> set[str]:
        return {row["Id"] for row in self.engine.call("GET", "/containers/json", all=1)}


def _check(text: str) -> None:
    for word in ("panic", "Traceback", "rror response", "SIGSEGV"):
        assert word not in text, text[-3000:]


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Project:
    return Project(engine, tmp_path, PROJECT)


def test_a_second_terminal_builds_again_and_takes_it_down(project: Project) -> None:
    for n in range(ROUNDS):
        with project.beside("up", ends=(0, 137)) as output:
            until(project.run, 30, "both run")
            before = project.ids()
            (project.directory / "content").write_text(f"round {n}")
            project.compose("up", "-d", "--build")
            assert project.run() and len(before & project.ids()) == 1, "one is new, two is as before"
            assert project.compose("exec", "-T", "one", "cat", "/content") == f"round {n}"
            project.compose("down")
            assert project.states() == {}
        assert "one-1" in output.read_text()


def test_each_verb_leaves_the_state_that_it_is_for(project: Project) -> None:
    for _ in range(FEWER_ROUNDS):
        project.compose("up", "-d", "--quiet-pull")
        assert project.run()
        with project.beside("logs", "-f") as logs, project.beside("events") as events:
            until(lambda: "one" in logs.read_text(), 10, "the log is followed")
            assert project.compose("ps", "-q").count("\n") == 2
            assert project.compose("exec", "-T", "two", "echo", "in") == "in\n"
            assert project.compose("run", "--rm", "-T", "two", "echo", "once") == "once\n"
            assert project.run()
            project.compose("restart")
            assert project.run()
            project.compose("pause")
            assert set(project.states().values()) == {"paused"}
            project.compose("unpause")
            assert project.run()
            project.compose("kill")
            assert set(project.states().values()) == {"exited"}
            project.compose("start")
            assert project.run()
            project.compose("stop")
            assert set(project.states().values()) == {"exited"}
            project.compose("rm", "-f")
            assert project.states() == {}
            project.compose("up", "-d")
            project.compose("rm", "-sf", "two")
            assert project.states() == {"one": "running"}
            project.compose("up", "-d", "--force-recreate")
            assert project.run()
            until(lambda: "container destroy" in events.read_text(), 10, "the events are followed")
        project.compose("down", "-t", "0")
        assert project.states() == {}


def test_an_end_aborts_the_others(engine: Engine, tmp_path: Path) -> None:
    project = Project(engine, tmp_path, JOB)
    for _ in range(FEWER_ROUNDS):
        project.compose("up", "--abort-on-container-exit", status=3)
        assert project.states() == {"job": "exited", "beside": "exited"}
        project.compose("up", "--exit-code-from", "job", status=3)
        assert project.states() == {"job": "exited", "beside": "exited"}
        project.compose("down")
        assert project.states() == {}


def test_a_watch_brings_changes_in(project: Project) -> None:
    with project.beside("up", "--watch"):
        until(project.run, 30, "both run")
        until(lambda: "atch enabled" in (project.directory / "up.out").read_text(), 20, "it watches")
        for n in range(FEWER_ROUNDS):
            (project.directory / "content").write_text(f"change {n}")
            until(
                lambda n=n: project.compose("exec", "-T", "one", "cat", "/content") == f"change {n}",  # type: ignore[misc]
                10,
                "the change is inside",
            )
        project.compose("down")
