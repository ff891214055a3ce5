"""What goes through networks: iperf3 between containers, from the host, and through a published port.

    python -m bench.throughput [--vs /path/of/docker.sock] [--seconds 3] [--rounds 3]

Run it as root; it needs the program iperf3 on the host, which runs in the containers' network namespaces. Both engines
need busybox:latest, which ours gets imported. Gbit/s of one TCP stream, and the ratio of the medians; the published
port is asked by the host at an address of its own, so the packets take the way of the port's rules.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import pair
from tests.support.engine import Engine, until

NETWORK = "bench-throughput"
SERVER, CLIENT = "bench-server", "bench-client"
PORT = 5201
WAYS = ("container to container", "host to container", "published port")


@contextmanager
def staged(engine: Engine) -> Iterator[tuple[int, str, int]]:
    """Yield the client's pid, the server's address and its published port; iperf3 listens in the server."""
    network = engine.call("POST", "/networks/create", {"Name": NETWORK})["Id"]
    try:
        ports = {f"{PORT}/tcp": [{"HostPort": ""}]}
        engine.run("sleep", "1000", name=SERVER, NetworkMode=NETWORK, PortBindings=ports)
        engine.run("sleep", "1000", name=CLIENT, NetworkMode=NETWORK)
        server, client = engine.inspect(SERVER), engine.inspect(CLIENT)
        address = server["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
        published = int(server["NetworkSettings"]["Ports"][f"{PORT}/tcp"][0]["HostPort"])
        inside = ["nsenter", f"--net=/proc/{server['State']['Pid']}/ns/net"]
        listening = subprocess.Popen(
            [*inside, "iperf3", "-s", "-p", str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            until(
                lambda: b":%d " % PORT in subprocess.check_output([*inside, "ss", "-tln"]),
                5,
                "iperf3 listens",
            )
            yield client["State"]["Pid"], address, published
        finally:
            listening.terminate()
            listening.wait()
    finally:
        for name in (SERVER, CLIENT):
            engine.request("DELETE", f"/containers/{name}", force="1")
        engine.request("DELETE", f"/networks/{network}")


def gbit_s(pid: int | None, address: str, port: int, seconds: int) -> float:
    """Send from the namespace of a process, or from the host; return what arrived, in Gbit/s."""
    inside = [] if pid is None else ["nsenter", f"--net=/proc/{pid}/ns/net"]
    command = [*inside, "iperf3", "-c", address, "-p", str(port), "-t", str(seconds), "-J"]
    done: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return float(done["end"]["sum_received"]["bits_per_second"]) / 1e9


def host_address() -> str:
    """Return an address of the host that is not loopback."""
    shown = json.loads(subprocess.check_output(["ip", "-j", "-4", "route", "get", "192.0.2.1"], text=True))
    return str(shown[0]["prefsrc"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vs", default="", help="socket of a Docker Engine to compare with")
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("iperf3"):
        print("needs root, and the program iperf3", file=sys.stderr)
        return 1
    with pair.engines(given.vs) as engines, ExitStack() as stack:
        found: list[dict[str, list[float]]] = [{way: [] for way in WAYS} for _ in engines]
        stages = [stack.enter_context(staged(engine)) for engine in engines.values()]
        for _ in range(given.rounds):
            for (pid, address, published), values in zip(stages, found, strict=True):
                values[WAYS[0]].append(gbit_s(pid, address, PORT, given.seconds))
                values[WAYS[1]].append(gbit_s(None, address, PORT, given.seconds))
                values[WAYS[2]].append(gbit_s(None, host_address(), published, given.seconds))
    for way in WAYS:
        medians = [statistics.median(values[way]) for values in found]
        ratio = f"  ratio {medians[0] / medians[1]:.3f}" if len(medians) > 1 else ""
        print(f"{way:24} " + "  ".join(f"{median:6.2f} Gbit/s" for median in medians) + ratio)
    return 0


if __name__ == "__main__":
    sys.exit(main())
