"""`make bench`: what Sampan's operations cost, next to a Docker Engine when one is given, case by case interleaved.

    python bench/run.py [--vs /path/of/docker.sock] [--cases run,exec] [--n 20] [--socket S] [--json out.json]

Without --socket an engine of its own is started on a scratch directory. Machines are noisy: what counts is the
ratio A/B of one interleaved run. Both engines need busybox:latest; the engine of our own gets it imported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support import machine
from tests.support.engine import Engine, UnixConnection
from tests.support.tars import tar_of

LABEL = "sampan-bench"
NETWORK = "sampan-bench"
LINE = "the quick brown fox jumps over the lazy dog 0123456789 abcdefghij"
LOG_BYTES = 64 << 20
HIGHER_IS_BETTER = ("log_write_mb_s", "logs_mb_s", "import_mb_s", "save_mb_s")
SLOW = ("storm10", "logs_mb_s", "log_write_mb_s", "import_mb_s", "save_mb_s")


class Peer:
    """One engine under measurement, over one keep-alive connection, as a client library would use it."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.connection = UnixConnection(socket_path, timeout_s=300)
        self.kept: dict[str, Any] = {}

    def call(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **query: str
    ) -> bytes:
        """One request; raises on an error status; returns the body."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        self.connection.request(
            method, f"/v1.41{path}" + ("?" + urllib.parse.urlencode(query) if query else ""), body, sent
        )
        answer = self.connection.getresponse()
        raw = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {raw[:200]!r}")
        return raw

    def create(self, *command: str, **host: Any) -> str:
        exposed: dict[str, Any] = {port: {} for port in host.get("PortBindings", ())}
        config = {"Image": "busybox", "Cmd": list(command), "Labels": {LABEL: "1"}, "HostConfig": host}
        config["ExposedPorts"] = exposed  # a binding of a port that is not exposed publishes nothing
        return str(json.loads(self.call("POST", "/containers/create", config))["Id"])

    def start(self, container: str) -> None:
        self.call("POST", f"/containers/{container}/start")

    def wait(self, container: str) -> None:
        code = json.loads(self.call("POST", f"/containers/{container}/wait"))["StatusCode"]
        assert code == 0, code

    def remove(self, container: str) -> None:
        self.call("DELETE", f"/containers/{container}", force="1", v="1")

    def run(self, **host: Any) -> None:
        container = self.create("true", **host)
        self.start(container)
        self.wait(container)
        self.remove(container)

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what `make` made the first time this case ran."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def clean(self) -> None:
        for found in json.loads(self.call("GET", "/containers/json", all="1", filters=json.dumps({"label": [LABEL]}))):
            self.remove(found["Id"])
        if "network" in self.kept:
            self.call("DELETE", f"/networks/{NETWORK}")
        if "save" in self.kept:
            self.call("DELETE", "/images/sampan-bench-save:x", force="1")


def ms(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def rate(size: int, work: Callable[[], Any]) -> float:
    """MiB per second."""
    return size / 2**20 / (ms(work) / 1e3)


def run(peer: Peer) -> float:
    """create, start, wait, remove on the default bridge network"""
    return ms(peer.run)


def run_nonet(peer: Peer) -> float:
    """the same without a network"""
    return ms(lambda: peer.run(NetworkMode="none"))


def run_user(peer: Peer) -> float:
    """the same on a user-defined network, with its name service"""
    network = peer.keep("network", lambda: peer.call("POST", "/networks/create", {"Name": NETWORK}) and NETWORK)
    return ms(lambda: peer.run(NetworkMode=network))


def connect(peer: Peer) -> float:
    """a running container connected to a user-defined network, and disconnected"""
    peer.keep("network", lambda: peer.call("POST", "/networks/create", {"Name": NETWORK}) and NETWORK)
    container = peer.keep("long", lambda: started(peer, "sleep", "3600"))

    def once() -> None:
        for verb in ("connect", "disconnect"):
            peer.call("POST", f"/networks/{NETWORK}/{verb}", {"Container": container})

    return ms(once)


def run_port(peer: Peer) -> float:
    """the same with one published TCP port"""
    return ms(lambda: peer.run(PortBindings={"80/tcp": [{"HostPort": ""}]}))


def storm10(peer: Peer) -> float:
    """ten such runs at once, wall time of all"""
    peers = [Peer(peer.socket_path) for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        return ms(lambda: list(pool.map(Peer.run, peers)))


def exec_true(peer: Peer) -> float:
    """exec of `true` with its output attached, create to exit code"""
    container = peer.keep("long", lambda: started(peer, "sleep", "3600"))

    def once() -> None:
        config = {"Cmd": ["true"], "AttachStdout": True, "AttachStderr": True}
        exec_id = json.loads(peer.call("POST", f"/containers/{container}/exec", config))["Id"]
        peer.call("POST", f"/exec/{exec_id}/start", {"Detach": False, "Tty": False})
        assert json.loads(peer.call("GET", f"/exec/{exec_id}/json"))["ExitCode"] == 0

    return ms(once)


def started(peer: Peer, *command: str) -> str:
    container = peer.create(*command)
    peer.start(container)
    return container


def stop(peer: Peer) -> float:
    """stop of a container whose first process obeys SIGTERM"""
    container = started(peer, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.01; done")
    time.sleep(0.15)
    took = ms(lambda: peer.call("POST", f"/containers/{container}/stop"))
    peer.remove(container)
    return took


def ping(peer: Peer) -> float:
    return ms(lambda: peer.call("GET", "/_ping"))


def inspect(peer: Peer) -> float:
    container = peer.keep("dead", lambda: peer.create("true"))
    return ms(lambda: peer.call("GET", f"/containers/{container}/json"))


def ps200(peer: Peer) -> float:
    """list with 200 containers present"""
    peer.keep("many", lambda: [peer.create("true") for _ in range(200)])
    return ms(lambda: peer.call("GET", "/containers/json", all="1"))


def write_log(peer: Peer) -> str:
    container = peer.create("sh", "-c", f"yes '{LINE}' | head -c {LOG_BYTES}", NetworkMode="none")
    peer.start(container)
    peer.wait(container)
    return container


def log_write_mb_s(peer: Peer) -> float:
    """a container writing 64 MiB of lines to its json-file log"""
    began = time.perf_counter()
    container = write_log(peer)
    took = time.perf_counter() - began
    peer.remove(container)
    return LOG_BYTES / 2**20 / took


def logs_mb_s(peer: Peer) -> float:
    """the same log read back through the API"""
    container = peer.keep("log", lambda: write_log(peer))
    return rate(LOG_BYTES, lambda: peer.call("GET", f"/containers/{container}/logs", stdout="1"))


def load_tar(peer: Peer, raw: bytes, name: str) -> None:
    answer = peer.call(
        "POST", "/images/create", raw, headers={"Content-Type": "application/x-tar"}, fromSrc="-", repo=name, tag="x"
    )
    assert b"errorDetail" not in answer, answer


def import_mb_s(peer: Peer) -> float:
    """import of a 125 MiB tar of 4,000 files"""
    blob = os.urandom(32 * 1024 - 8)
    raw = peer.keep("tar", lambda: tar_of({f"d{i % 40}/f{i}": blob + i.to_bytes(8, "big") for i in range(4000)}))
    speed = rate(len(raw), lambda: load_tar(peer, raw, "sampan-bench-import"))
    peer.call("DELETE", "/images/sampan-bench-import:x", force="1")
    return speed


def save_mb_s(peer: Peer) -> float:
    """save of an image with one layer of 128 MiB"""
    size = 128 << 20
    peer.keep("save", lambda: load_tar(peer, tar_of({"blob": os.urandom(size)}), "sampan-bench-save"))
    return rate(size, lambda: peer.call("GET", "/images/sampan-bench-save:x/get"))


CASES: dict[str, Callable[[Peer], float]] = {
    "run": run,
    "run_nonet": run_nonet,
    "run_user": run_user,
    "connect": connect,
    "run_port": run_port,
    "storm10": storm10,
    "exec": exec_true,
    "stop": stop,
    "ping": ping,
    "inspect": inspect,
    "ps200": ps200,
    "log_write_mb_s": log_write_mb_s,
    "logs_mb_s": logs_mb_s,
    "import_mb_s": import_mb_s,
    "save_mb_s": save_mb_s,
}


def measure(peers: list[Peer], case: str, n: int) -> list[list[float]]:
    """Run one case on every peer in turn; the first round warms up and does not count."""
    rounds = max(3, n // 4) if case in SLOW else n
    values: list[list[float]] = [[] for _ in peers]
    for turn in range(rounds + 1):
        for peer, kept in zip(peers, values):
            value = CASES[case](peer)
            if turn:
                kept.append(value)
    return values


def report(case: str, values: list[list[float]]) -> str:
    """One Markdown row: medians, then the ratio."""
    medians = [statistics.median(v) for v in values]
    cells = [f"{m:.2f} ({min(v):.2f} … {max(v):.2f})" for m, v in zip(medians, values)]
    if len(medians) == 2:
        cells.append(f"{medians[0] / medians[1]:.3f}")
    return f"| {case} | " + " | ".join(cells) + " |"


def memory(engine: Engine) -> None:
    """Print the proportional memory of the idle engine's processes and of ten idle containers."""
    base = {line.split()[0]: machine.pss_kib(pid) for pid, line in engine.pids().items()}
    print("\nPSS, idle: " + ", ".join(f"{name} {kib / 1024:.1f} MiB" for name, kib in sorted(base.items())))
    containers = [engine.run("sleep", "3600") for _ in range(10)]
    shims = [pid for pid, line in engine.pids().items() if line.startswith("sampan-shim") and "(waiting)" not in line]
    inits = [engine.inspect(c)["State"]["Pid"] for c in containers]
    total = sum(machine.pss_kib(pid) for pid in [*shims, *inits])
    print(f"PSS per running idle container (shim and process): {total / 10 / 1024:.2f} MiB")
    for container in containers:
        engine.remove(container)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", help="socket of a Docker Engine to compare with")
    parser.add_argument("--socket", help="measure this engine instead of starting one")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--n", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    own = None if options.socket else Engine().start()
    results = {}
    try:
        if own:
            own.import_busybox()
        peers = [Peer(options.socket or str(own.socket if own else ""))] + ([Peer(options.vs)] if options.vs else [])
        print("| case | Sampan: median (min … max) |" + (" Docker | ratio |" if options.vs else ""))
        print("|---|---|" + ("---|---|" if options.vs else ""))
        for case in options.cases.split(","):
            results[case] = measure(peers, case, options.n)
            print(report(case, results[case]), flush=True)
        for peer in peers:
            peer.clean()
        if own:
            memory(own)
    finally:
        if own:
            own.close()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
