"""What attaching a container costs beside many others: 500 containers on 20 networks with 1,000 published ports.

    python -m bench.ports [--containers 500] [--networks 20] [--rounds 200]

Run it as root. It makes a network namespace of its own, and works on the networks service itself, without processes.
Prints milliseconds of attach and detach, with a published port, on an empty host and on the full one.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sampan.engine.networks.service import Networks
from sampan.spec.engine_api.network import NetworkCreateRequest
from tests.kernel.net_host import Host, apart, attach, container_id


async def round_trip(networks: Networks, mode: str, rounds: int) -> tuple[float, float]:
    """Return the medians of attach and of detach, in seconds."""
    attached, detached = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        await attach(networks, "measured", mode=mode, ports={"80/tcp": "60001"})
        attached.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        await networks.detach(container_id("measured"))
        detached.append(time.perf_counter() - begun)
    return statistics.median(attached), statistics.median(detached)


async def measure(asked: argparse.Namespace) -> None:
    with Host() as host:
        async with host.networks() as networks:
            await networks.create(NetworkCreateRequest(name="n0"))
            empty = await round_trip(networks, "n0", asked.rounds)
            for n in range(1, asked.networks):
                await networks.create(NetworkCreateRequest(name=f"n{n}"))
            for n in range(asked.containers):
                ports = {"80/tcp": str(10000 + n), "53/udp": str(10000 + n)}
                await attach(networks, f"c{n}", mode=f"n{n % asked.networks}", ports=ports)
            full = await round_trip(networks, "n0", asked.rounds)
            for what, one, other in zip(("attach", "detach"), empty, full, strict=True):
                print(f"{what}  empty {one * 1e3:.2f} ms  full {other * 1e3:.2f} ms  ratio {other / one:.2f}")
            many = {f"{port}/udp": str(port) for port in range(20000, 21000)}
            begun = time.perf_counter()
            await attach(networks, "row", mode="n0", ports=many)
            print(f"1,000 UDP ports in a row  {(time.perf_counter() - begun) * 1e3:.1f} ms")
            print(host.nft.run(f"list map inet {_table(host)} published_rows4").strip())
            for name in ("row", *(f"c{n}" for n in range(asked.containers))):
                await networks.detach(container_id(name))


def _table(host: Host) -> str:
    return next(line.split()[-1] for line in host.nft.run("list tables").splitlines() if line.endswith("sampan0"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=200)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)  # the names of these containers are nobody's to serve
    apart(lambda: asyncio.run(measure(asked)))


if __name__ == "__main__":
    main()
