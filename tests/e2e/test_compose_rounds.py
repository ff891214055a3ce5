"""The real docker-compose: `up` in one terminal, a new image and `up -d` from another, `down`, again and again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support import clients
from tests.support.engine import Engine, until

ROUNDS = 3
PROJECT = """\
services:
  one: {image: "rounds:now", command: ["sleep", "1000"], stop_grace_period: 0s}
  two: {image: "rounds:now", command: ["sleep", "1000"], stop_grace_period: 0s}
"""


def test_rounds(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(PROJECT)
    environment = {**os.environ, "DOCKER_HOST": engine.host}
    command = [str(clients.compose()), "-p", "rounds", "--project-directory", str(tmp_path)]

    def running() -> set[str]:
        return {row["Image"] for row in engine.call("GET", "/containers/json")}

    def compose(*words: str) -> None:
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr[-3000:]

    engine.call("POST", "/images/busybox/tag", repo="rounds", tag="now")
    for n in range(ROUNDS):
        output = tmp_path / f"up-{n}"
        with output.open("w") as file:
            up = subprocess.Popen([*command, "up"], env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            until(lambda: len(engine.call("GET", "/containers/json")) == 2, 30, "both run")
            made = engine.call("POST", "/commit", {"Labels": {"n": str(n)}}, container="rounds-one-1", pause=0)["Id"]
            engine.call("POST", f"/images/{made}/tag", repo="rounds", tag="now")
            compose("up", "-d")
            assert running() == {"rounds:now"}
            compose("down")
            assert up.wait(30) in (0, 137), output.read_text()[-3000:]
        finally:
            if up.poll() is None:
                up.kill()
                up.wait()
        text = output.read_text()
        assert "panic" not in text and "Traceback" not in text, text[-3000:]
        assert not engine.call("GET", "/containers/json", all=1)
