"""The name service and those who mean ill: containers with broken questions and a thousand connections, resolvers that
lie. Whatever they do, the others get their answers, and the process has afterwards what it had before.

SAMPAN_FUZZ: how many damaged questions are sent, by UDP; a tenth of them by TCP.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dnslib
import pytest

from sampan.supervisor.names.served import MOST_CLIENTS
from tests.e2e import names_questions
from tests.support import dns
from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

DAMAGED = int(os.environ.get("SAMPAN_FUZZ", "3000"))
CONNECTIONS = 1000
GROWTH_KIB = 2048
LIES = ("wrongid", "wrongname", "noanswer", "cut", "rubbish", "hang", "servfail", "refused")


class Town:
    """Containers of one network on a whole engine, and its name service."""

    def __init__(self, engine: Engine, stack: contextlib.ExitStack) -> None:
        self.engine, self._stack = engine, stack
        engine.call("POST", "/networks/create", {"Name": "town"})
        stack.callback(engine.request, "DELETE", "/networks/town")
        self.bad, self.good = self.inside("town-bad"), self.inside("town-good")
        self.gateway: str = self.endpoint("town-bad")["Gateway"]
        self.where = [self.endpoint("town-good")["IPAddress"]]

    def inside(self, name: str, **host: Any) -> dns.Inside:
        self.engine.run("sleep", "1000", name=name, NetworkMode="town", **host)
        self._stack.callback(self.engine.remove, name)
        thread = dns.Inside(self.engine.inspect(name)["State"]["Pid"])
        self._stack.callback(thread.close)
        return thread

    def endpoint(self, name: str) -> dict[str, str]:
        found: dict[str, str] = self.engine.inspect(name)["NetworkSettings"]["Networks"]["town"]
        return found

    @property
    def pid(self) -> int:
        return int((self.engine.exec_root / "names" / "names.pid").read_text())

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory_kib(self) -> int:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{self.pid}/smaps_rollup").read_text(), re.MULTILINE)
        assert found is not None
        return int(found.group(1))


@pytest.fixture
def town(shared_engine: Engine) -> Iterator[Town]:
    with contextlib.ExitStack() as stack:
        made = Town(shared_engine, stack)
        pid = made.pid
        yield made
        assert made.pid == pid, "it has not ended meanwhile"
        log = (shared_engine.exec_root / "supervisor.log").read_text()
        assert "Traceback" not in log and "Operation not permitted" not in log


def damaged(dice: random.Random) -> bytes:
    """A question with some bytes changed, and an end cut off."""
    good = [names_questions.question("town-good", "A"), names_questions.question("3.0.0.10.in-addr.arpa", "PTR")]
    packet = bytearray(dice.choice(good))
    for _ in range(dice.randint(1, 6)):
        packet[dice.randrange(len(packet))] = dice.randrange(256)
    return bytes(packet[: dice.randint(0, len(packet))])


def test_damaged_questions_change_nothing(town: Town) -> None:
    dice = random.Random(5)

    def by_udp(count: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.connect(dns.SERVER)
            for _ in range(count):
                peer.send(damaged(dice))
                with contextlib.suppress(BlockingIOError):
                    peer.recv(1 << 16, socket.MSG_DONTWAIT)

    def by_tcp(count: int) -> None:
        for _ in range(count):
            with socket.socket() as peer:
                peer.connect(dns.SERVER)
                packet = damaged(dice)
                said = dice.choice([len(packet), 0, 1, 0xFFFF, dice.randrange(1 << 16)])
                with contextlib.suppress(OSError):
                    peer.send(said.to_bytes(2, "big") + packet + b"\0" * dice.choice([0, 1, 70000]))

    town.bad.run(lambda: by_udp(500))  # what is kept of questions is kept by now
    town.bad.run(lambda: by_tcp(20))
    assert town.good.addresses("town-good") == town.where
    fds, memory = town.descriptors(), town.memory_kib()
    town.bad.run(lambda: by_udp(DAMAGED))
    town.bad.run(lambda: by_tcp(DAMAGED // 10))
    for inside in (town.good, town.bad):
        assert inside.addresses("town-good") == town.where
        assert dnslib.DNSRecord.parse(inside.ask(names_questions.question("town-good", "A"), tcp=True)).rr
    until(lambda: town.descriptors() <= fds, 15, "no descriptor is left")
    assert town.memory_kib() - memory < GROWTH_KIB


def test_connections_of_one_sandbox_are_bounded(town: Town) -> None:
    """A thousand connections, silent or a byte at a time, cost 32 descriptors, and the neighbour notices nothing."""
    before, memory = town.descriptors(), town.memory_kib()
    peers: list[socket.socket] = []
    question = names_questions.question("town-good", "A")
    slow = len(question).to_bytes(2, "big") + question

    def connect() -> None:
        for n in range(CONNECTIONS):
            peer = socket.socket()
            peers.append(peer)
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                peer.connect(dns.SERVER)
            if n % 2:
                with contextlib.suppress(OSError):
                    peer.send(slow[:1])

    def more(at: int) -> None:
        for peer in peers[1::2]:
            with contextlib.suppress(OSError):
                peer.send(slow[at : at + 1])

    try:
        town.bad.run(connect)
        for at in range(1, 8):
            assert town.good.addresses("town-good") == town.where
            answer = dnslib.DNSRecord.parse(town.good.ask(question, tcp=True))
            assert [str(record.rdata) for record in answer.rr] == town.where
            assert town.bad.addresses("town-good") == town.where, "by UDP it has its answers, too"
            town.bad.run(lambda at=at: more(at))  # type: ignore[misc]
            assert town.descriptors() <= before + MOST_CLIENTS + 2
        assert town.memory_kib() - memory < GROWTH_KIB
    finally:
        for peer in peers:
            peer.close()
    until(lambda: town.descriptors() <= before, 15, "all are closed")
    assert dnslib.DNSRecord.parse(town.bad.ask(question, tcp=True)).rr


def test_an_upstream_that_lies_is_not_believed(town: Town) -> None:
    """What is no answer to the question is none: the next resolver is asked, by UDP and by TCP."""
    liar = town.gateway.rpartition(".")[0] + ".250"
    bridge = f"br-{town.engine.call('GET', '/networks/town')['Id'][:12]}"
    town.inside("town-asks", Dns=[liar, town.gateway])
    pid = town.engine.inspect("town-asks")["State"]["Pid"]
    both = [(kind, tcp) for kind in LIES for tcp in (False, True)]

    def ask(kind: str, tcp: bool) -> list[str]:
        inside = dns.Inside(pid)
        try:
            packet = bytes(dnslib.DNSRecord.question(f"{kind}.www.example").pack())
            return [str(record.rdata) for record in dnslib.DNSRecord.parse(inside.ask(packet, tcp=tcp)).rr]
        finally:
            inside.close()

    subprocess.run(["ip", "address", "add", f"{liar}/32", "dev", bridge], check=True)
    with dns.upstream(liar) as lying, dns.upstream(town.gateway, honest=True), ThreadPoolExecutor(len(both)) as pool:
        answers = dict(zip(both, pool.map(lambda one: ask(*one), both), strict=True))
        assert {name.partition(".")[0] for name, _ in lying.seen} == set(LIES), "all of them were told"
    assert {one: answer for one, answer in answers.items() if answer != ["192.0.2.7"]} == {}


def test_long_answers_and_chains_come_as_they_are(town: Town) -> None:
    town.inside("town-asks", Dns=[town.gateway])
    inside = dns.Inside(town.engine.inspect("town-asks")["State"]["Pid"])
    try:
        with dns.upstream(town.gateway):
            counts = {("chain", False): 10, ("chain", True): 10, ("huge", True): 3000, ("huge", False): 0}
            for (name, tcp), count in counts.items():
                packet = bytes(dnslib.DNSRecord.question(f"{name}.example").pack())
                answer = dnslib.DNSRecord.parse(inside.ask(packet, tcp=tcp))
                assert len(answer.rr) == count, (name, tcp)
                assert bool(answer.header.tc) == (name == "huge" and not tcp)
    finally:
        inside.close()
