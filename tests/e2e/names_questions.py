"""The questions of test_names.py: asked in two containers of a small world, here and, to record them, on Docker Engine.

python -m tests.e2e.names_questions SOCKET > tests/e2e/names_answers.json
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dnslib

from tests.support import dns
from tests.support.engine import Engine

GATEWAY = "10.213.1.1"
_TYPES = ("MX", "TXT", "SRV", "ANY", "NS", "SOA", "CNAME", "PTR", "HTTPS", "NAPTR", "CAA")
_NAMES = (
    "q-one", "q-two", "web", "WEB", "web.", "multi.dot", "MULTI.dot", "q-three", "six", "second", "hosta", "q-in",
    "q-two.q-net", "web.q-net", "web.q-net2", "Q-TWO", "q-two.Q-NET", "db", "db.q-net",
)  # fmt: skip
_REVERSE = ("3.1.213.10", "2.2.213.10", "1.1.213.10", "9.1.213.10", "4.3.2.1", "1.0.0.127")
_OUTSIDE = (
    "www.example.com", "nx.example", "servfail.example", "refused.example", "empty.example", "big.example",
    "bigudp.example", "cut.example", "nosuch", "a.q-two", "q-two.a", "tasks.web", "x" * 63, "localhost", "127.0.0.1",
)  # fmt: skip
_RAW = {
    "no question": "123401000000000000000000",
    "two questions": "123401000002000000000000" + "0377656200000100010377656200" + "00010001",
    "a pointer to nothing": "123401000001000000000000" + "c00c00010001",
    "cut": "12340100000100000000000003776562",
}


def packets() -> Iterator[tuple[str, bytes, bool]]:
    """Yield (what it is, the question, by TCP)."""
    for name in _NAMES:
        for type_ in ("A", "AAAA"):
            yield f"{name} {type_}", question(name, type_), False
    for type_ in _TYPES:
        yield f"q-two {type_}", question("q-two", type_), False
    for address in _REVERSE:
        yield f"{address} PTR", question(address + ".in-addr.arpa", "PTR"), False
    for name in _OUTSIDE:
        yield f"{name} A", question(name, "A"), False
    for type_ in ("AAAA", "MX", "TXT", "SRV", "PTR"):
        yield f"www.example.com {type_}", question("www.example.com", type_), False
    for size in (512, 1232, 4096):
        yield f"www.example.com A edns {size}", question("www.example.com", "A", edns=size), False
        yield f"bigudp.example A edns {size}", question("bigudp.example", "A", edns=size), False
        yield f"q-two A edns {size}", question("q-two", "A", edns=size), False
    for name in ("q-two", "www.example.com", "big.example", "nx.example", "web"):
        yield f"{name} A tcp", question(name, "A"), True
    for name in ("q-two", "www.example.com"):
        yield f"{name} A, no recursion", question(name, "A", rd=0), False
    yield "status", question("q-two", "A", opcode=2), False
    for what, text in _RAW.items():
        yield what, bytes.fromhex(text), False


def question(name: str, type_: str, *, edns: int = 0, rd: int = 1, opcode: int = 0) -> bytes:
    """Return the packet of one question."""
    header = dnslib.DNSHeader(id=0x1234, rd=rd, opcode=opcode)
    asked = dnslib.DNSRecord(header, q=dnslib.DNSQuestion(name, getattr(dnslib.QTYPE, type_)))
    if edns:
        asked.add_ar(dnslib.EDNS0(udp_len=edns))
    return bytes(asked.pack())


@contextlib.contextmanager
def world(engine: Engine) -> Iterator[dict[str, int]]:
    """Three networks and four containers; yield their pids by name."""
    made: list[str] = []
    nets: dict[str, dict[str, Any]] = {
        "q-net": {"IPAM": {"Config": [{"Subnet": "10.213.1.0/24"}]}},
        "q-net2": {"IPAM": {"Config": [{"Subnet": "10.213.2.0/24"}, {"Subnet": "fd13::/64"}]}, "EnableIPv6": True},
        "q-net3": {"IPAM": {"Config": [{"Subnet": "10.213.3.0/24"}]}, "Internal": True},
    }
    try:
        for name, body in nets.items():
            engine.call("POST", "/networks/create", {"Name": name, **body})
        _run(engine, made, "q-two", "q-net", {"Aliases": ["web"], "IPAMConfig": {"IPv4Address": "10.213.1.3"}})
        one = {"Aliases": ["web", "Multi.dot"], "Links": ["q-two:db"]}
        _run(engine, made, "q-one", "q-net", {**one, "IPAMConfig": {"IPv4Address": "10.213.1.4"}}, Hostname="hosta")
        _run(engine, made, "q-three", "q-net2", {"Aliases": ["six"]})
        _run(engine, made, "q-in", "q-net3", {})
        second = {"Container": "q-one", "EndpointConfig": {"Aliases": ["second"]}}
        engine.call("POST", "/networks/q-net2/connect", second)
        yield {name: engine.call("GET", f"/containers/{name}/json")["State"]["Pid"] for name in made}
    finally:
        for name in made:
            engine.request("DELETE", f"/containers/{name}", force=1)
        for name in nets:
            engine.request("DELETE", f"/networks/{name}")


def _run(engine: Engine, made: list[str], name: str, network: str, settings: dict[str, Any], **config: str) -> None:
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "1000"],
        "HostConfig": {"NetworkMode": network, "Dns": [GATEWAY]},
        "NetworkingConfig": {"EndpointsConfig": {network: settings}},
        **config,
    }
    made.append(name)
    engine.call("POST", "/containers/create", body, name=name)
    engine.call("POST", f"/containers/{name}/start")


def play(engine: Engine) -> dict[str, dict[str, Any]]:
    """Ask everything; return by container and question what the answers show."""
    answers: dict[str, dict[str, Any]] = {}
    with world(engine) as pids, dns.upstream(GATEWAY):
        for name in ("q-one", "q-in"):
            inside = dns.Inside(pids[name])
            try:
                answers[name] = {what: dns.shown(inside.ask(packet, tcp=tcp)) for what, packet, tcp in packets()}
            finally:
                inside.close()
    return answers


if __name__ == "__main__":
    other = Engine()
    other.socket = Path(sys.argv[1])
    lines = [json.dumps([name, what, shown]) for name, all_ in play(other).items() for what, shown in all_.items()]
    print("[\n" + ",\n".join(lines) + "\n]")
