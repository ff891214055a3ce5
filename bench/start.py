"""What sampand costs to start and to hold: from exec to the first answered ping; the memory of everything it starts.

    python -m bench.start [--rounds 20] [--source DIR]… [--buildx /path/of/docker-buildx]

A start is that of a new engine on an empty directory, supervisor and zygote with it; `again` is the same engine's next
one, on its data root. --source: another checkout's `src`, measured in turns with this one. Memory is proportional
(PSS): idle, then after a build of one RUN and one COPY through POST /build, and, where buildx is given, after one
through buildx.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import machine
from tests.support.engine import Engine
from tests.support.tars import tar_of

SOURCE = str(Path(__file__).resolve().parent.parent / "src")
DOCKERFILE = "FROM busybox\nRUN echo one > /one\nCOPY Dockerfile /\n"
SETTLE_S = 1.5
"""How long the processes fill their reserve after the first answer."""


class Measured(Engine):
    """An engine of one source tree whose start is timed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": self.source}

    def start_ms(self) -> float:
        """Milliseconds from exec to the first answered ping."""
        self.command()  # writes its configuration file
        began = time.perf_counter()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )
        while True:
            try:
                if self.request("GET", "/_ping").status == 200:
                    return (time.perf_counter() - began) * 1e3
            except OSError:
                pass
            if self.process.poll() is not None:
                raise SystemExit(self.log.read_text()[-4000:])
            time.sleep(0.002)


def starts(sources: list[str], rounds: int) -> None:
    """Print a row a source: new engines, then their second start. The first round warms up and does not count."""
    new: dict[str, list[float]] = {source: [] for source in sources}
    again: dict[str, list[float]] = {source: [] for source in sources}
    for turn in range(rounds + 1):
        for source in sources:
            engine = Measured(source)
            try:
                first = engine.start_ms()
                engine.stop()
                second = engine.start_ms()
            finally:
                engine.close()
            if turn:
                new[source].append(first)
                again[source].append(second)
    print("| ms | new engine | again |\n|---|---|---|")
    for source in sources:
        print(f"| {source} | {_spread(new[source])} | {_spread(again[source])} |")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} … {max(values):.0f})"


def memory(source: str, buildx: str) -> None:
    """Print what the processes of one engine hold, by their names."""
    engine = Measured(source)
    try:
        engine.start_ms()
        time.sleep(SETTLE_S)
        _held(f"{source} idle", engine)
        engine.import_busybox()
        answer = engine.request("POST", "/build", tar_of({"Dockerfile": DOCKERFILE.encode()}), t="bench")
        assert b"errorDetail" not in answer.raw, answer.raw
        time.sleep(SETTLE_S)
        _held("after a build by POST /build", engine)
        if buildx:
            (context := engine.directory / "context").mkdir()
            (context / "Dockerfile").write_text(DOCKERFILE.replace("one", "two"))
            command = [buildx, "build", "--builder=default", "--provenance=false", "-q", str(context)]
            subprocess.run(command, env=engine.environment, check=True, stdout=subprocess.DEVNULL)
            time.sleep(SETTLE_S)
            _held("after one by buildx", engine)
    finally:
        engine.close()


def _held(when: str, engine: Engine) -> None:
    held: Counter[str] = Counter()
    for pid, line in engine.pids().items():
        held[line.split()[0]] += machine.pss_kib(pid)
    parts = ", ".join(f"{name} {kib / 1024:.1f}" for name, kib in held.most_common())
    print(f"PSS {when}: {held.total() / 1024:.1f} MiB ({parts})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--source", action="append", default=[], help="`src` of another checkout")
    parser.add_argument("--buildx", default="", help="path of docker-buildx")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    starts([SOURCE, *options.source], options.rounds)
    memory(SOURCE, options.buildx)


if __name__ == "__main__":
    main()
