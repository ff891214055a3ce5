"""The name service on a whole engine: what containers of users' networks resolve, and that it goes on.

names_answers.json holds the answers of Docker Engine 28.5.2 to the same questions in the same world
(names_questions.py records them).
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dnslib
import pytest

from sampan.linux import capabilities, landlock
from tests.e2e import names_questions
from tests.support import dns
from tests.support.engine import Engine, until

ANSWERS = json.loads(Path(__file__).with_name("names_answers.json").read_text())

LOOPBACK = "127.0.0.77"  # of the host, where a stub resolver may listen

BETTER = {
    ("q-one", "bigudp.example A edns 512"),
    ("q-one", "q-two.Q-NET A"),
    ("q-one", "q-two.Q-NET AAAA"),
}
"""Where the answer is another than Docker's, on purpose: docs/compatibility.md says why."""


def test_answers_are_those_of_docker(shared_engine: Engine) -> None:
    ours = names_questions.play(shared_engine)
    differing = {
        (name, what): (ours[name][what], theirs)
        for name, what, theirs in ANSWERS
        if ours[name][what] != theirs and (name, what) not in BETTER
    }
    assert not differing


def test_questions_of_every_kind_are_recorded() -> None:
    asked = {what for _, what, _ in ANSWERS}
    for kind, least in {
        r" A$": 30, r" AAAA$": 15, r" (MX|TXT|SRV|ANY|NS|SOA|CNAME|PTR|HTTPS|NAPTR|CAA)$": 14, r"edns \d+$": 9,
        r" tcp$": 5, r"^[^a-z]*[A-Z]{2}": 1, r"\. A": 1, r"\w\.\w[^ ]* A": 8, r"^x{63}": 1, r"^\d+\.\d+.* PTR$": 6,
    }.items():  # fmt: skip
        found = {what for what in asked if re.search(kind, what)}
        assert len(found) >= least, (kind, found)
    assert len(asked) >= 60
    told = {(what, shown["code"], bool(shown["answer"])) for name, what, shown in ANSWERS if name == "q-one"}
    assert ("web AAAA", "NOERROR", False) in told, "a name with an address of the other version alone is known"


@pytest.fixture
def pair(engine: Engine) -> Iterator[tuple[Engine, dns.Inside]]:
    """An engine with two containers on one network, pair-one and pair-two; a thread inside the first."""
    engine.call("POST", "/networks/create", {"Name": "pair"})
    for name in ("pair-one", "pair-two"):
        run(engine, name, "pair")
    inside = dns.Inside(engine.call("GET", "/containers/pair-one/json")["State"]["Pid"])
    yield engine, inside
    inside.close()
    log = (engine.exec_root / "supervisor.log").read_text()
    assert "Traceback" not in log and "Operation not permitted" not in log
    assert ("more rights" in log) == (landlock.abi() < 4), "what a kernel cannot take away is said"


def run(engine: Engine, name: str, network: str, **host: Any) -> None:
    engine.run("sleep", "1000", name=name, NetworkMode=network, **host)


def address(engine: Engine, name: str, network: str) -> str:
    found: str = engine.call("GET", f"/containers/{name}/json")["NetworkSettings"]["Networks"][network]["IPAddress"]
    return found


def inside_of(engine: Engine, name: str, *command: str) -> str:
    return engine.cli("docker", "exec", name, *command).stdout


def names_pid(engine: Engine) -> int:
    return int((engine.exec_root / "names" / "names.pid").read_text())


def test_a_change_is_seen_by_the_next_question(pair: tuple[Engine, dns.Inside]) -> None:
    engine, inside = pair
    where = [address(engine, "pair-two", "pair")]
    for n in range(5):
        engine.call("POST", "/containers/pair-two/rename", name=f"other-{n}")
        assert inside.addresses(f"other-{n}") == where
        engine.call("POST", f"/containers/other-{n}/rename", name="pair-two")
        assert inside.addresses("pair-two") == where and not inside.addresses(f"other-{n}")
    run(engine, "late", "bridge")
    settings = {"Aliases": ["by-alias"]}
    for _ in range(5):
        engine.call("POST", "/networks/pair/connect", {"Container": "late", "EndpointConfig": settings})
        assert inside.addresses("by-alias") == [address(engine, "late", "pair")]
        engine.call("POST", "/networks/pair/disconnect", {"Container": "late"})
        assert inside.addresses("by-alias") == []
    engine.call("POST", "/containers/pair-two/kill")
    assert inside.addresses("pair-two") == []
    engine.call("POST", "/containers/pair-two/start")
    assert inside.addresses("pair-two") == [address(engine, "pair-two", "pair")]


def test_a_container_connected_late_gets_the_name_service(pair: tuple[Engine, dns.Inside]) -> None:
    engine, _ = pair
    run(engine, "late", "bridge")
    before = inside_of(engine, "late", "cat", "/etc/resolv.conf")
    assert "127.0.0.11" not in before
    engine.call("POST", "/networks/pair/connect", {"Container": "late"})
    assert "nameserver 127.0.0.11" in inside_of(engine, "late", "cat", "/etc/resolv.conf")
    assert address(engine, "late", "pair") in inside_of(engine, "late", "cat", "/etc/hosts")
    assert address(engine, "pair-one", "pair") in inside_of(engine, "late", "nslookup", "pair-one")
    engine.call("POST", "/networks/pair/disconnect", {"Container": "late"})
    assert "pair" not in inside_of(engine, "late", "cat", "/etc/hosts")


def test_names_go_on_while_the_daemon_is_dead(pair: tuple[Engine, dns.Inside]) -> None:
    engine, inside = pair
    where = [address(engine, "pair-two", "pair")]
    service = names_pid(engine)
    engine.kill()
    assert inside.addresses("pair-two") == where
    os.kill(service, signal.SIGKILL)  # and the supervisor starts another, without the daemon
    until(lambda: inside.addresses("pair-two", timeout_s=0.2) == where, 3, "the name service is back")
    engine.start()
    assert inside.addresses("pair-two") == where
    run(engine, "third", "pair")
    assert inside.addresses("third") == [address(engine, "third", "pair")]


def test_a_killed_name_service_is_back_with_the_same_port(pair: tuple[Engine, dns.Inside]) -> None:
    engine, inside = pair
    where = [address(engine, "pair-two", "pair")]
    for _ in range(3):
        service = names_pid(engine)
        os.kill(service, signal.SIGKILL)
        until(lambda: inside.addresses("pair-two", timeout_s=0.2) == where, 3, "the name service is back")
        assert names_pid(engine) != service
        run(engine, "new", "pair")  # while it comes back, or just after
        until(lambda: inside.addresses("new") == [address(engine, "new", "pair")], 3, "new ones are known")
        engine.remove("new")


def test_questions_wait_for_a_killed_name_service(pair: tuple[Engine, dns.Inside]) -> None:
    """One datagram, one connection, sent while nobody is there, and not again: both are answered."""
    engine, inside = pair
    where = [address(engine, "pair-two", "pair")]
    question = bytes(dnslib.DNSRecord.question("pair-two").pack())
    for tcp in (False, True, False):
        killed = names_pid(engine)
        pidfd = os.pidfd_open(killed)
        os.kill(killed, signal.SIGKILL)
        assert select.select([pidfd], [], [], 3)[0], "it has ended"
        os.close(pidfd)
        answer = dnslib.DNSRecord.parse(inside.ask(question, tcp=tcp))
        assert [str(record.rdata) for record in answer.rr] == where
        assert names_pid(engine) != killed


def test_another_supervisor_holds_the_sockets(pair: tuple[Engine, dns.Inside]) -> None:
    """The name service outlives its supervisor, and the next one does for it what the first did."""
    engine, inside = pair
    where = [address(engine, "pair-two", "pair")]
    supervisor, service = engine.pid_of("sampan-supervisor"), names_pid(engine)
    sockets = held_by(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    assert inside.addresses("pair-two") == where
    until(lambda: engine.pid_of("sampan-supervisor") != supervisor, 10, "another supervisor")
    until(lambda: held_by(engine.pid_of("sampan-supervisor")) >= sockets, 10, "it holds the sockets")
    assert names_pid(engine) == service
    os.kill(service, signal.SIGKILL)  # one question alone: it waits in the socket
    answer = dnslib.DNSRecord.parse(inside.ask(bytes(dnslib.DNSRecord.question("pair-two").pack())))
    assert [str(record.rdata) for record in answer.rr] == where


def held_by(supervisor: int) -> int:
    """How many descriptors of sockets a process has."""
    fds = (os.path.join(f"/proc/{supervisor}/fd", fd) for fd in os.listdir(f"/proc/{supervisor}/fd"))
    return sum(os.readlink(fd).startswith("socket:") for fd in fds if os.path.lexists(fd))


def test_the_file_of_a_container_that_ends_without_the_daemon_goes(pair: tuple[Engine, dns.Inside]) -> None:
    engine, inside = pair
    pid = engine.call("GET", "/containers/pair-two/json")["State"]["Pid"]
    files = len(list((engine.exec_root / "names").glob("*.json")))
    engine.kill()
    os.kill(pid, signal.SIGKILL)
    until(lambda: len(list((engine.exec_root / "names").glob("*.json"))) == files - 1, 5, "its file has gone")
    assert inside.addresses("pair-two") == []
    engine.start()


def test_the_hosts_resolvers_are_followed(pair: tuple[Engine, dns.Inside], tmp_path: Path) -> None:
    """A question that goes to the host's resolvers goes to those of now; a name in the place of one is none."""
    engine, _ = pair
    gateway = engine.call("GET", "/containers/pair-one/json")["NetworkSettings"]["Networks"]["pair"]["Gateway"]
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("nameserver resolver.example\nnameserver 192.0.2.53\n")
    engine.stop()
    for title in ("sampan-names", "sampan-supervisor"):
        os.kill(engine.pid_of(title), signal.SIGKILL)
    engine.wrapper = ["unshare", "-m", "sh", "-c", f'mount --bind {resolv} /etc/resolv.conf; exec "$@"', "sh"]
    engine.start()
    run(engine, "asks", "pair")
    inside = dns.Inside(engine.call("GET", "/containers/asks/json")["State"]["Pid"])
    engine.call("POST", "/networks/create", {"Name": "inner", "Internal": True})
    run(engine, "inner-asks", "inner")
    run(engine, "own-dns", "pair", Dns=[LOOPBACK])
    within, own = (
        dns.Inside(engine.call("GET", f"/containers/{name}/json")["State"]["Pid"]) for name in ("inner-asks", "own-dns")
    )
    try:
        for resolver_at in (gateway, LOOPBACK):
            with dns.upstream(resolver_at) as resolver:
                resolv.write_text(f"nameserver {resolver_at}\n")
                until(lambda: inside.addresses("www.example.com") == ["192.0.2.7"], 20, "the new one is asked")
                heard = len(resolver.seen)
                assert heard
                assert within.addresses("secret.example.com") == [], "an internal network has none of the host's"
                assert own.addresses("secret.example.com") == [], "its own loopback is asked, not the host's"
                assert len(resolver.seen) == heard
    finally:
        for thread in (inside, within, own):
            thread.close()


def test_the_supervisor_holds_no_sockets_of_the_dead(pair: tuple[Engine, dns.Inside]) -> None:
    engine, _ = pair
    supervisor = engine.pid_of("sampan-supervisor")

    def held() -> int:
        return held_by(supervisor)

    before = held()
    for n in range(3):
        run(engine, f"gone-{n}", "pair")
    until(lambda: held() >= before + 6, 3, "they are held")
    os.kill(names_pid(engine), signal.SIGKILL)
    for n in range(3):
        engine.remove(f"gone-{n}")
    until(lambda: held() <= before, 5, "they are held no more")


def test_the_name_service_is_confined(pair: tuple[Engine, dns.Inside]) -> None:
    status = Path(f"/proc/{names_pid(pair[0])}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    most = capabilities.mask(["CAP_SYS_ADMIN", "CAP_NET_ADMIN"])
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(fields[name], 16) & ~most == 0, name
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_nothing_is_left_of_a_container(pair: tuple[Engine, dns.Inside]) -> None:
    engine, _ = pair
    service = names_pid(engine)

    def held() -> int:
        return len(os.listdir(f"/proc/{service}/fd"))

    def processes() -> int:
        fds = (os.path.join(f"/proc/{service}/fd", fd) for fd in os.listdir(f"/proc/{service}/fd"))
        return sum("pidfd" in os.readlink(fd) for fd in fds if os.path.lexists(fd))

    until(lambda: processes() == 2, 5, "it knows the processes of both")
    before, files = held(), len(list((engine.exec_root / "names").iterdir()))
    for n in range(5):
        run(engine, f"gone-{n}", "pair")
    for n in range(5):
        engine.remove(f"gone-{n}")
    assert held() == before and len(list((engine.exec_root / "names").iterdir())) == files


def test_a_container_can_have_port_53_itself(pair: tuple[Engine, dns.Inside]) -> None:
    engine, inside = pair
    pid = engine.call("GET", "/containers/pair-one/json")["State"]["Pid"]

    def bind() -> None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with socket.socket(socket.AF_INET, kind) as peer:
                peer.bind(("0.0.0.0", 53))

    other = dns.Inside(pid)
    try:
        other.run(bind)
    finally:
        other.close()
    assert inside.addresses("pair-two") == [address(engine, "pair-two", "pair")]


def test_the_host_has_a_name(pair: tuple[Engine, dns.Inside]) -> None:
    engine, inside = pair
    gateway = engine.call("GET", "/containers/pair-one/json")["NetworkSettings"]["Networks"]["pair"]["Gateway"]
    assert inside.addresses("host.docker.internal") == inside.addresses("gateway.docker.internal") == [gateway]


def test_a_resolver_that_hangs_costs_one_wait(pair: tuple[Engine, dns.Inside]) -> None:
    engine, _ = pair
    gateway = engine.call("GET", "/containers/pair-one/json")["NetworkSettings"]["Networks"]["pair"]["Gateway"]
    run(engine, "asks", "pair", Dns=["192.0.2.53", gateway])  # the first is nobody's: no answer
    inside = dns.Inside(engine.call("GET", "/containers/asks/json")["State"]["Pid"])
    try:
        with dns.upstream(gateway) as resolver:
            assert inside.addresses("www.example.com") == ["192.0.2.7"]
            assert inside.addresses("ftp.example.com") == ["192.0.2.7"]
            assert len(resolver.seen) == 2
    finally:
        inside.close()
