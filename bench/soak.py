"""A thousand containers in a row, and what of the kernel's and ours has grown by then.

    python -m bench.soak [--count 1000] [--svg docs/soak.svg]

Each sample counts what an engine could leak: mounts, namespaces, cgroups, veths, nft elements, and per process of ours
descriptors, threads and private memory. `growth` compares the end with the first quarter, when everything is warm.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from tests.support.engine import Engine

Sample = dict[str, float]
NAMES = ("sampand", "sampan-supervisor", "sampan-zygote")
MEMORY_SLACK_KIB = 1024
CGROUPS = Path("/sys/fs/cgroup")
KINDS = ("net", "mnt", "pid", "ipc", "uts")


def sample(engine: Engine, made: set[str]) -> Sample:
    """Count everything that may not grow after the containers `made`; what other engines have does not count."""
    counts: Sample = {"containers": len(made), "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines())}
    counts["namespaces"] = len(namespaces(engine.pids()))
    counts["cgroups"] = sum(path.name in made for root in CGROUPS.glob("*/sampan") for path in root.iterdir())
    bridge = engine.call("GET", "/networks/bridge")["Options"]["com.docker.network.bridge.name"]
    counts["links"] = len(list(Path(f"/sys/class/net/{bridge}/brif").iterdir()))
    table = ["nft", "list", "table", "inet", bridge]
    counts["nft bytes"] = len(subprocess.run(table, capture_output=True, check=False).stdout)
    for pid, line in engine.pids().items():
        name = line.split()[0]
        if name in NAMES:
            counts[f"{name} descriptors"] = len(os.listdir(f"/proc/{pid}/fd"))
            counts[f"{name} threads"] = len(os.listdir(f"/proc/{pid}/task"))
            counts[f"{name} KiB"] = private_kib(pid)
    return counts


def namespaces(pids: Iterable[int]) -> set[str]:
    """Return every namespace that these processes are in, or hold by a descriptor."""
    found = set()
    for pid in pids:
        links = [f"/proc/{pid}/ns/{kind}" for kind in KINDS]
        try:
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
            found |= {target for link in links if (target := os.readlink(link)).partition(":")[0] in KINDS}
        except OSError:
            continue  # it has just ended
    return found


def private_kib(pid: int) -> int:
    """Return the memory that only this process uses, in KiB."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[key].split()[0]) for key in ("Private_Clean", "Private_Dirty"))


def soak(engine: Engine, *, count: int, every: int) -> list[Sample]:
    """Create, start, await and remove `count` containers one after the other, with a port each; sample now and then."""
    samples: list[Sample] = []
    made: set[str] = set()
    for done in range(1, count + 1):
        container = engine.run("true", PortBindings={"80/tcp": [{"HostPort": ""}]})
        assert engine.wait(container) == 0
        engine.remove(container)
        made.add(container)
        if done % every == 0:
            samples.append(settled(engine, made))
    return samples


def settled(engine: Engine, made: set[str], *, within_s: float = 3.0) -> Sample:
    """Sample when the kernel's own deferred work (namespaces, links) has come to rest: the least of several looks."""
    best = sample(engine, made)
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        time.sleep(0.05)
        again = sample(engine, made)
        rest = all(again[key] >= best.get(key, 0) for key in ("links", "namespaces", "cgroups"))
        best = {key: min(value, best.get(key, value)) for key, value in again.items()}
        if rest:
            break
    return best


def growth(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """Return {what: (early, late)} for all that grew: counts by more than one, memory by more than the slack."""
    quarter = samples[: max(1, len(samples) // 4)]
    grown = {}
    for key in samples[-1]:
        if key == "containers":
            continue
        early, late = max(s.get(key, 0) for s in quarter), min(s.get(key, 0) for s in samples[-2:])
        if late - early > (MEMORY_SLACK_KIB if key.endswith("KiB") else 1):
            grown[key] = (early, late)
    return grown


def svg(samples: list[Sample]) -> str:
    """Draw each series relative to its largest value, one small plot a series."""
    keys = [key for key in samples[-1] if key != "containers"]
    width, height, columns = 300, 110, 3
    rows = -(-len(keys) // columns)
    size = f'width="{width * columns}" height="{height * rows}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    last = samples[-1]["containers"]
    for i, key in enumerate(keys):
        x0, y0 = 20 + width * (i % columns), 24 + height * (i // columns)
        values = [s.get(key, 0) for s in samples]
        top = max(values) or 1
        points = " ".join(
            f"{x0 + s['containers'] / last * 250:.1f},{y0 + 70 - v / top * 60:.1f}" for s, v in zip(samples, values)
        )
        out.append(f'<text x="{x0}" y="{y0}">{key}: {values[0]:g} → {values[-1]:g}</text>')
        out.append(
            f'<path d="M{x0},{y0 + 70}h250" stroke="#bbb"/>'
            f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> int:
    from tests.support.engine import Engine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    engine = Engine().start()
    try:
        engine.import_busybox()
        began = time.monotonic()
        samples = soak(engine, count=options.count, every=max(1, options.count // 20))
        elapsed = time.monotonic() - began
    finally:
        engine.close()
    for key in samples[-1]:
        if key != "containers":
            print(f"{key:32s} {samples[0].get(key, 0):10g} → {samples[-1][key]:10g}")
    print(f"{options.count} containers in {elapsed:.1f} s; grown: {growth(samples) or 'nothing'}")
    if options.svg:
        options.svg.write_text(svg(samples))
    return 1 if growth(samples) else 0


if __name__ == "__main__":
    sys.exit(main())
