"""Record what docker answers to single command lines: `python -m tests.compat.record_words DOCKER HOST`.

word_lines.txt has the lines, right and wrong; word_answers.json gets [line, exit code, stdout, stderr] of each. HOST is
the address of a Docker Engine 28.5 that has busybox:latest; DOCKER the 28.5 client. No line leaves anything behind, and
each runs in a scratch directory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.compat.cli_steps import normal, split

LINES = Path(__file__).with_name("word_lines.txt")
ANSWERS = Path(__file__).with_name("word_answers.json")
Answer = tuple[str, int, str, str]


def lines() -> list[str]:
    return [line for line in LINES.read_text().splitlines() if line and not line.startswith("#")]


def play(program: str, line: str, environment: dict[str, str], tmp: str) -> Answer:
    argv, text = split(line, tmp)
    done = subprocess.run(
        [program, *argv], input=text, capture_output=True, text=True, env=environment, timeout=60, check=False, cwd=tmp
    )
    return line, done.returncode, normal(done.stdout, tmp), normal(done.stderr, tmp)


def record(program: str, host: str) -> list[Answer]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "SAMPAN_"))}
    with tempfile.TemporaryDirectory() as tmp:
        environment = {**kept, "DOCKER_HOST": host, "DOCKER_CONFIG": f"{tmp}/client"}
        return [play(program, line, environment, tmp) for line in lines()]


def main() -> None:
    program, host = sys.argv[1:]
    text = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in record(program, host))
    ANSWERS.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
