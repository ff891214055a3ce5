"""What it costs that a process carries a published port: bytes a second each way, connections a second, round trips.

    python bench/carried.py [--vs /path/of/docker.sock] [--mib 2048] [--connections 2000] [--rounds 3]

The client is on the host and connects to ::1, which neither engine translates to a container that has IPv4 only: it is
Docker's docker-proxy against our carrier, in turns. The line `direct` is the container's own address. Run as root; both
engines need busybox:latest, which ours gets imported.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import pair
from sampan.linux.namespaces import CLONE_NEWNET, setns
from tests.support.engine import Engine

NAME, PORT, TIMEOUT_S = "bench-carried", 80, 60.0
PIECE = bytes(1 << 20)
TRIPS = 2000


def serve(pid: int) -> None:
    """In a child: serve in a container's namespace. The first byte says what: s(end), t(ake), e(cho)."""
    with open(f"/proc/{pid}/ns/net", "rb") as namespace:
        setns(namespace.fileno(), CLONE_NEWNET)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.create_server(("0.0.0.0", PORT), backlog=1024)
    while True:
        peer, _ = server.accept()
        word = peer.recv(1)
        if word == b"e":
            peer.sendall(word)
            peer.close()
        elif os.fork() == 0:
            handle(peer, word)
            os._exit(0)
        else:
            peer.close()


def handle(peer: socket.socket, word: bytes) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if word == b"s":
        for _ in range(int.from_bytes(peer.recv(4, socket.MSG_WAITALL), "big")):
            peer.sendall(PIECE)
    elif word == b"t":
        buffer = bytearray(1 << 20)
        while peer.recv_into(buffer):
            pass
        peer.sendall(b"t")
    else:
        while data := peer.recv(100):
            peer.sendall(data)


def connect(where: tuple[str, int], word: bytes) -> socket.socket:
    peer = socket.create_connection(where, timeout=TIMEOUT_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.sendall(word)
    return peer


def measure(where: tuple[str, int], mib: int, connections: int) -> list[float]:
    """Return MiB a second from and to the container, connections a second, and microseconds of a round trip."""
    buffer = bytearray(1 << 20)
    begun = time.perf_counter()
    with connect(where, b"s" + mib.to_bytes(4, "big")) as peer:
        while peer.recv_into(buffer):
            pass
    down = mib / (time.perf_counter() - begun)
    begun = time.perf_counter()
    with connect(where, b"t") as peer:
        for _ in range(mib):
            peer.sendall(PIECE)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b"t"
    up = mib / (time.perf_counter() - begun)
    begun = time.perf_counter()
    for _ in range(connections):
        with connect(where, b"e") as peer:
            assert peer.recv(1) == b"e"
    rate = connections / (time.perf_counter() - begun)
    times = []
    with connect(where, b"x") as peer:
        for _ in range(TRIPS):
            begun = time.perf_counter()
            peer.sendall(b"?")
            peer.recv(1)
            times.append(time.perf_counter() - begun)
    return [down, up, rate, statistics.median(times) * 1e6]


@contextmanager
def published(engine: Engine) -> Iterator[tuple[int, str]]:
    """A container that publishes `PORT`, and a server in it; yields the host's port and the container's address."""
    config: dict[str, object] = {"ExposedPorts": {f"{PORT}/tcp": {}}}
    child = 0
    try:
        engine.run("sleep", "10000", name=NAME, config=config, PublishAllPorts=True)
        found = engine.inspect(NAME)
        child = os.fork()
        if child == 0:
            serve(found["State"]["Pid"])
        six = [b for b in found["NetworkSettings"]["Ports"][f"{PORT}/tcp"] if b["HostIp"] == "::"]
        yield int(six[0]["HostPort"]), found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        engine.request("DELETE", f"/containers/{NAME}", force="1")


def wait_for(where: tuple[str, int]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with connect(where, b"e") as peer:
                if peer.recv(1) == b"e":
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise TimeoutError(f"nobody answers at {where}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--vs", default="")
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("needs root", file=sys.stderr)
        return 1
    with pair.engines(given.vs) as engines:
        for _ in range(given.rounds):
            for name, engine in engines.items():
                with published(engine) as (port, address):
                    for what, where in ((name, ("::1", port)), ("direct", (address, PORT))):
                        wait_for(where)
                        down, up, rate, trip = measure(where, given.mib, given.connections)
                        print(
                            f"{what:8} from {down:6.0f} MiB/s  to {up:6.0f} MiB/s  {rate:6.0f} connections/s  "
                            f"round trip {trip:5.0f} µs",
                            flush=True,
                        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
