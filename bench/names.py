"""What the name service answers: questions a second, their times, and what it weighs with many sandboxes.

    python bench/names.py [--vs /path/of/docker.sock] [--clients 50] [--questions 20000] [--sandboxes 500]

Both engines answer the same questions in turn, from clients in a container's namespace. sandboxes: containers on 20
networks of our own engine before its process is weighed (PSS); 0 leaves that out. Run as root; both engines need
busybox:latest, which ours gets imported.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dnslib

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import pair
from sampan.linux.namespaces import CLONE_NEWNET, setns
from tests.support.engine import Engine

NETWORK = "bench-names"
TIMEOUT_S = 2.0


def ask(pid: int, name: str, clients: int, questions: int) -> tuple[float, list[float]]:
    """Ask from one process inside a container; returns questions a second, and the times in seconds.

    Each client has a socket and one question on its way; a question that is lost counts as `TIMEOUT_S`.
    """
    with open(f"/proc/{pid}/ns/net", "rb") as namespace:
        setns(namespace.fileno(), CLONE_NEWNET)
    packet = bytes(dnslib.DNSRecord.question(name).pack())
    poll = select.epoll()
    sent: dict[int, float] = {}
    times: list[float] = []
    peers: dict[int, socket.socket] = {}
    for _ in range(clients):
        peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        peer.connect(("127.0.0.11", 53))
        peers[peer.fileno()] = peer
        poll.register(peer, select.EPOLLIN)
    begun = time.perf_counter()
    for fd, peer in peers.items():
        sent[fd] = time.perf_counter()
        peer.send(packet)
    asked = clients
    while len(times) < questions:
        for fd, _ in poll.poll(TIMEOUT_S):
            peers[fd].recv(512)
            times.append(time.perf_counter() - sent[fd])
            if asked < questions:
                sent[fd] = time.perf_counter()
                peers[fd].send(packet)
                asked += 1
            else:
                sent.pop(fd)
        late = [fd for fd, at in sent.items() if time.perf_counter() - at > TIMEOUT_S]
        for fd in late:
            times.append(TIMEOUT_S)
            sent.pop(fd)
    return questions / (time.perf_counter() - begun), times


def measure(engine: Engine, clients: int, questions: int) -> tuple[float, list[float]]:
    """Make two containers, and ask in one for the other, from a thread that ends with its namespace."""
    engine.call("POST", "/networks/create", {"Name": NETWORK})
    try:
        for name in ("bench-one", "bench-two"):
            engine.run("sleep", "1000", name=name, NetworkMode=NETWORK)
        with ThreadPoolExecutor(1) as pool:
            pid = engine.inspect("bench-one")["State"]["Pid"]
            return pool.submit(ask, pid, "bench-two", clients, questions).result()
    finally:
        for name in ("bench-one", "bench-two"):
            engine.request("DELETE", f"/containers/{name}", force="1")
        engine.request("DELETE", f"/networks/{NETWORK}")


def weigh(engine: Engine, sandboxes: int) -> float:
    """Return the PSS of the name service with so many sandboxes, in MiB."""
    for n in range(20):
        engine.call("POST", "/networks/create", {"Name": f"bench-{n}"})

    def run(n: int) -> None:
        engine.run("sleep", "1000", NetworkMode=f"bench-{n % 20}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(sandboxes)))
    pid = int((engine.exec_root / "names" / "names.pid").read_text())
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--vs", default="")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--sandboxes", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("needs root", file=sys.stderr)
        return 1
    with pair.engines(given.vs) as engines:
        for _ in range(given.rounds):
            for name, engine in engines.items():
                rate, times = measure(engine, given.clients, given.questions)
                middle, last = statistics.median(times), statistics.quantiles(times, n=100)[98]
                print(f"{name:8} {rate:8.0f}/s  median {middle * 1e3:6.2f} ms  p99 {last * 1e3:6.2f} ms", flush=True)
        if given.sandboxes:
            print(f"sampan   {weigh(engines['sampan'], given.sandboxes):.1f} MiB PSS with {given.sandboxes} sandboxes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
