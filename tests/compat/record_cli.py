"""Record what a docker client answers: `python -m tests.compat.record_cli DOCKER HOST` writes cli_answers.json.

HOST is the address of a Docker Engine 28.5 that has busybox:latest; DOCKER the 28.5 client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.compat.cli_steps import STORIES, normal, split

ANSWERS = Path(__file__).with_name("cli_answers.json")


def play(program: str, story: str, environment: dict[str, str], tmp: str) -> list[dict[str, object]]:
    """Run a story; what each line answered."""
    out: list[dict[str, object]] = []
    for line in STORIES[story].strip().splitlines():
        argv, text = split(line, tmp)
        done = subprocess.run(
            [program, *argv], input=text, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        answer = {
            "line": line,
            "exit": done.returncode,
            "out": normal(done.stdout, tmp),
            "err": normal(done.stderr, tmp),
        }
        out.append(answer)
    return out


def main() -> None:
    program, host = sys.argv[1:]
    answers = {}
    for story in STORIES:
        with tempfile.TemporaryDirectory() as tmp:
            kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "SAMPAN_"))}
            environment = {**kept, "DOCKER_HOST": host, "DOCKER_CONFIG": f"{tmp}/client"}
            answers[story] = play(program, story, environment, tmp)
    ANSWERS.write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
