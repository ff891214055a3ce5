"""The name service's pure parts: what it knows, what it answers, what it refuses."""

from __future__ import annotations

import socket
from pathlib import Path

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.engine.networks import names
from sampan.engine.networks.records import EndpointRecord, NetworkRecord, SandboxRecord
from sampan.spec.engine_api.network import EndpointSettings
from sampan.supervisor.kept.files import Damaged
from sampan.supervisor.kept.held import Holder
from sampan.supervisor.names import table
from sampan.supervisor.names.answers import Answers, Question
from sampan.supervisor.names.hostservers import HostFile, HostServers
from sampan.supervisor.names.table import NameTable, NetworkNames, SandboxNames


def sandbox(id: str, ipv4: str, *answers_to: str, network: str = "net", ipv6: str = "", **links: str) -> SandboxNames:
    on = NetworkNames(id=network, name=network, names=answers_to, ipv4=ipv4, ipv6=ipv6, links=links)
    return SandboxNames(id=id, port=4000, namespace=7, boot="b", networks=(on,))


def asked(name: str, type_: str = "A") -> bytes:
    return bytes(dnslib.DNSRecord.question(name, type_).pack())


def told(answer: bytes | Question | None) -> list[str]:
    assert isinstance(answer, bytes)
    return [str(record.rdata) for record in dnslib.DNSRecord.parse(answer).rr]


HEADER = asked("web")[:12]


@pytest.fixture
def known() -> NameTable:
    made = NameTable()
    made.put(sandbox("one", "10.0.0.2", "one", "web", db="two"))
    made.put(sandbox("two", "10.0.0.3", "two", "web", ipv6="fd00::3"))
    made.put(sandbox("three", "10.1.0.2", "three", network="other"))
    return made


def test_who_answers_to_a_name(known: NameTable) -> None:
    one = known.sandboxes["one"]
    assert known.addresses(one, b"two") == ["10.0.0.3", "fd00::3"]
    assert known.addresses(one, b"WEB") == ["10.0.0.2", "10.0.0.3", "fd00::3"]
    assert known.addresses(one, b"db") == known.addresses(one, b"db.net") == ["10.0.0.3", "fd00::3"]
    assert known.addresses(known.sandboxes["two"], b"db") is None, "a link is for who has it"
    assert known.addresses(one, b"three") is None
    assert known.name_of(one, "10.0.0.3") == "two.net"


def test_what_is_dropped_is_gone(known: NameTable) -> None:
    known.drop("two")
    known.drop("two")
    one = known.sandboxes["one"]
    assert known.addresses(one, b"two") is None and known.addresses(one, b"web") == ["10.0.0.2"]
    assert known.name_of(one, "10.0.0.3") is None


def test_answers_in_turn_and_by_version(known: NameTable) -> None:
    answers, one = Answers(known), known.sandboxes["one"]
    first = {told(answers.answer(one, asked("web")))[0] for _ in range(4)}
    assert first == {"10.0.0.2", "10.0.0.3"}
    assert told(answers.answer(one, asked("web", "AAAA"))) == ["fd00::3"]
    assert told(answers.answer(one, asked("one", "AAAA"))) == [], "no such address, and no error"
    assert isinstance(answers.answer(one, asked("three")), Question)


def test_a_change_is_answered(known: NameTable) -> None:
    answers, one = Answers(known), known.sandboxes["one"]
    assert told(answers.answer(one, asked("two"))) == ["10.0.0.3"]
    known.put(sandbox("two", "10.0.0.9", "two"))
    answers.changed()
    assert told(answers.answer(one, asked("two"))) == ["10.0.0.9"]


def test_an_answer_fits(known: NameTable) -> None:
    for n in range(60):
        known.put(sandbox(f"many{n}", f"10.0.1.{n}", "many"))
    answers, one = Answers(known), known.sandboxes["one"]
    short = answers.answer(one, asked("many"))
    assert isinstance(short, bytes) and len(short) <= 512 and dnslib.DNSRecord.parse(short).header.tc
    assert len(told(answers.answer(one, asked("many"), stream=True))) == 60


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: HEADER + tail))
def test_any_packet_is_answered_or_dropped(packet: bytes) -> None:
    made = NameTable()
    made.put(sandbox("one", "10.0.0.2", "one", "web"))
    answer = Answers(made).answer(made.sandboxes["one"], packet)
    assert answer is None or isinstance(answer, Question) or answer[:2] == packet[:2]


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(repr).map(str.encode))
def test_any_file_is_read_or_refused(text: bytes) -> None:
    try:
        table.decode(text)
    except Damaged:
        pass


def test_a_file_is_read_as_it_was_written() -> None:
    made = sandbox("one", "10.0.0.2", "one", "web", db="two")
    assert table.decode(table.encode(made)) == made


def test_what_the_engine_says_of_a_sandbox() -> None:
    settings = EndpointSettings(links=["two:db"], gw_priority=0)
    user = EndpointRecord(
        id="e", network_id="n", network="net", ipv4="10.0.0.2/24", gateway4="10.0.0.1", settings=settings,
        dns_names=["one", "web"],
    )  # fmt: skip
    default = EndpointRecord(id="f", network_id="b", network="bridge", ipv4="172.17.0.2/16", gateway4="172.17.0.1")
    record = SandboxRecord(
        id="c", sandbox_id="s", key="k", mode="net", pid=7, names_port=4000, endpoints=[user, default]
    )
    networks = {
        "n": NetworkRecord(id="n", name="net", driver="bridge", created="", internal=True),
        "b": NetworkRecord(id="b", name="bridge", driver="bridge", created=""),
    }
    said = names.describe(record, networks.get, (), lambda network: True)
    assert said.networks == (
        NetworkNames(id="n", name="net", names=("one", "web"), ipv4="10.0.0.2", links={"db": "two"}),
    )
    assert said.forwards and said.servers == () and said.host == ("172.17.0.1",)
    networks["b"] = networks["n"]
    assert not names.describe(record, networks.get, (), lambda network: True).forwards
    assert names.wanted([user]) and not names.wanted([default])


def test_the_supervisor_does_no_more_for_a_name_service_than_it_must(tmp_path: Path) -> None:
    """Who has taken it over does not delete what is no sandbox's file."""
    directory, outside = tmp_path / "names", tmp_path / "outside.json"
    directory.mkdir()
    outside.write_text("")
    (directory / "known.json").write_text("")
    holder = Holder(str(directory), 2, {"servers": HostFile().servers})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        for id in ("../outside", "known\0", "", "unknown"):
            theirs.send(f"ended {id}".encode())
            assert holder.handle(ours, lambda: None)
        assert outside.exists() and (directory / "known.json").exists()
        socket.send_fds(theirs, [b"keep known"], [0, 0])
        theirs.send(b"ended known")
        assert holder.handle(ours, lambda: None) and len(holder) == 1
        assert holder.handle(ours, lambda: None) and len(holder) == 0
        assert not (directory / "known.json").exists()
        theirs.send(b"servers")
        assert holder.handle(ours, lambda: None)
        assert theirs.recv(256).split()[0] == b"servers"


def test_the_hosts_resolvers_are_addresses() -> None:
    asked: list[bool] = []
    servers = HostServers(("192.0.2.1",), lambda: asked.append(True))
    assert servers.get() == ("192.0.2.1",) and not asked, "they are fresh"
    servers.put(["resolver.example", "192.0.2.2", "fe80::1%eth0", ""])
    assert servers.get() == ("192.0.2.2", "fe80::1%eth0")
