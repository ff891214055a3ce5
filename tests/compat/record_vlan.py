"""Record what docker answers about macvlan, ipvlan and configuration networks.

    python -m tests.compat.record_vlan DOCKER HOST

vlan_lines.txt has the lines; vlan_answers.json gets [line, exit code, stdout, stderr] of each, in order: a line may
depend on those before it, and together they leave nothing behind. HOST is the address of a Docker Engine 28.5 in this
network namespace that has busybox:latest; DOCKER the 28.5 client. The recording was made on a kernel with macvlan and
without dummy, 8021q and ipvlan.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.compat.record_words import Answer, play

LINES = Path(__file__).with_name("vlan_lines.txt")
ANSWERS = Path(__file__).with_name("vlan_answers.json")


def lines() -> list[str]:
    return [line for line in LINES.read_text().splitlines() if line and not line.startswith("#")]


@contextlib.contextmanager
def parents() -> Iterator[None]:
    """The links that the lines name: the two ends of a pair."""
    subprocess.run(["ip", "link", "add", "vlp0", "type", "veth", "peer", "name", "vlp1"], check=True)
    try:
        for name in ("vlp0", "vlp1"):
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "link", "del", "vlp0"], check=True)


def answers(program: str, host: str, tmp: str) -> list[Answer]:
    """Play all lines."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "SAMPAN_"))}
    environment = {**kept, "DOCKER_HOST": host, "DOCKER_CONFIG": f"{tmp}/client"}
    return [_timeless(play(program, line, environment, tmp)) for line in lines()]


def _timeless(answer: Answer) -> Answer:
    line, code, out, err = answer
    return line, code, re.sub(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", out), err


def main() -> None:
    program, host = sys.argv[1:]
    with tempfile.TemporaryDirectory() as tmp, parents():
        text = ",\n".join(json.dumps(answer, ensure_ascii=False) for answer in answers(program, host, tmp))
    ANSWERS.write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
