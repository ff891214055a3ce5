"""What attaching a container costs beside many others: 500 containers on 20 networks with 1,000 published ports.

    python -m bench.ports [--containers 500] [--networks 20] [--rounds 200]

Run it as root. It makes a network namespace of its own, and works on the networks service itself: sandboxes, links,
addresses and rules are real, processes in them are not there. Prints, from an empty host to a full one, the firewall's
rules and elements, memory of its own, and the medians of attach and detach with a published port, in milliseconds and
as a ratio to the empty host, with the processor time of both, which other programs change less; then what a thousand
UDP ports of one container take. bench/names.py says what the name service weighs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import re
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sampan.engine.networks.service import Networks
from sampan.linux.nftables import OUTPUT_JSON
from sampan.spec.engine_api.network import NetworkCreateRequest
from tests.kernel.net_host import Host, apart, attach, container_id

STAGES = 4


async def round_trip(networks: Networks, mode: str, rounds: int) -> tuple[float, float, float]:
    """Return the medians of attach and of detach, in seconds, and the processor time of one attach and detach."""
    attached, detached, spent = [], [], time.process_time()
    for _ in range(rounds):
        begun = time.perf_counter()
        await attach(networks, "measured", mode=mode, ports={"80/tcp": "60001"})
        attached.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        await networks.detach(container_id("measured"))
        detached.append(time.perf_counter() - begun)
    return statistics.median(attached), statistics.median(detached), (time.process_time() - spent) / rounds


async def measure(asked: argparse.Namespace) -> None:
    with Host() as host:
        async with host.networks() as networks:
            for n in range(asked.networks):
                await networks.create(NetworkCreateRequest(name=f"n{n}"))
            empty = None
            for stage in range(STAGES + 1):
                first, last = (asked.containers * s // STAGES for s in (max(stage - 1, 0), stage))
                for n in range(first, last):
                    ports = {"80/tcp": str(10000 + n), "53/udp": str(10000 + n)}
                    await attach(networks, f"c{n}", mode=f"n{n % asked.networks}", ports=ports)
                now = await round_trip(networks, "n0", asked.rounds)
                empty = empty or now
                rules, elements = _held(host)
                print(
                    f"{last:4} containers {2 * last:5} ports  {rules:4} rules {elements:5} elements"
                    f"  {_memory_mib():6.1f} MiB"
                    f"  attach {now[0] * 1e3:5.2f} ms ({now[0] / empty[0]:.2f})"
                    f"  detach {now[1] * 1e3:5.2f} ms ({now[1] / empty[1]:.2f})"
                    f"  processor, both {now[2] * 1e3:5.2f} ms ({now[2] / empty[2]:.2f})",
                    flush=True,
                )
            before, processes = _held(host), _processes()
            many = {f"{port}/udp": str(port) for port in range(20000, 21000)}
            begun = time.perf_counter()
            await attach(networks, "row", mode="n0", ports=many)
            spent, after = time.perf_counter() - begun, _held(host)
            print(
                f"1,000 UDP ports in a row  {spent * 1e3:.1f} ms  {after[0] - before[0]} rules"
                f"  {after[1] - before[1]} elements  {_processes() - processes} processes"
            )
            for name in ("row", *(f"c{n}" for n in range(asked.containers))):
                await networks.detach(container_id(name))


def _held(host: Host) -> tuple[int, int]:
    """Return how many rules and how many elements of sets and maps all tables have."""
    listed = json.loads(host.nft.run("list ruleset", flags=OUTPUT_JSON))["nftables"]
    rules = sum("rule" in item for item in listed)
    kinds = [item[kind] for item in listed for kind in ("set", "map") if kind in item]
    return rules, sum(len(kind.get("elem", ())) for kind in kinds)


def _memory_mib() -> float:
    """Return what this process, which stands for sampand, has for itself."""
    found = re.search(r"^Private_Dirty:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else 0.0


def _processes() -> int:
    """Return how many processes there are in this network namespace."""
    own, found = Path("/proc/self/ns/net").readlink(), 0
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            found += link.readlink() == own
    return found


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
