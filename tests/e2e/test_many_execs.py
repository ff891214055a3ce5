"""Many execs at once: each starts, gets its input and its status, and what it leaves behind goes on.

SAMPAN_EXECS=150 runs as many. Words and framing as Docker Engine 28.5.2 answered.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.test_streams import exec_of, rest, upgraded
from tests.support.engine import Engine, until

pytestmark = pytest.mark.root

EXECS = int(os.environ.get("SAMPAN_EXECS", "40"))


@pytest.fixture
def box(shared_engine: Engine) -> Iterator[str]:
    name = "many-execs"
    shared_engine.cli("docker", "run", "-d", "--init", "--name", name, "busybox", "sleep", "100000")
    yield name
    shared_engine.cli("docker", "rm", "-f", name)


def frame(stream: int, text: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


@pytest.mark.parametrize("tty", [False, True])
def test_by_the_api(shared_engine: Engine, box: str, tty: bool) -> None:
    def one(number: int) -> tuple[bytes, int]:
        id = exec_of(shared_engine, box, "sh", "-c", "read line; echo got $line; exit 7", tty=tty)
        client = upgraded(shared_engine, f"/exec/{id}/start", json.dumps({"Tty": tty}))
        client.sendall(b"%d\n" % number)
        answer = rest(client)
        return answer, shared_engine.call("GET", f"/exec/{id}/json")["ExitCode"]

    with ThreadPoolExecutor(EXECS) as pool:
        found = list(pool.map(one, range(EXECS)))
    for number, (answer, status) in enumerate(found):
        line = b"got %d\n" % number
        assert answer == (b"%d\r\ngot %d\r\n" % (number, number) if tty else frame(1, line)), (number, answer)
        assert status == 7


def test_by_docker(shared_engine: Engine, box: str) -> None:
    command = ["docker", "-H", shared_engine.host, "exec", "-i", box, "sh", "-c", "cat; exit 7"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(EXECS)
    ]
    for number, one in enumerate(running):
        out, err = one.communicate(b"%d" % number, timeout=60)
        assert (one.returncode, out, err) == (7, b"%d" % number, b"")


def test_what_they_leave_goes_on(shared_engine: Engine, box: str) -> None:
    script = "(i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); sleep 0.1; done; echo done > /tmp/left-$0) & exit 0"

    def one(number: int) -> None:
        id = exec_of(shared_engine, box, "sh", "-c", script, str(number))
        client = upgraded(shared_engine, f"/exec/{id}/start", "{}")
        client.settimeout(30)
        client.recv(100)
        client.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    counted = ("docker", "exec", box, "sh", "-c", "ls /tmp/left-* 2>/dev/null | wc -l")
    until(lambda: shared_engine.cli(*counted).stdout.strip() == "8", 30, "all of them have come to their end")


def test_an_error_behind_the_takeover_comes_in_its_framing(shared_engine: Engine, box: str) -> None:
    """As the reference does it: on standard output, with its framing by `start`, and the status says the same."""

    def one(tty: bool) -> tuple[bytes, int]:
        id = exec_of(shared_engine, box, "/nope", tty=tty)
        answer = rest(upgraded(shared_engine, f"/exec/{id}/start", json.dumps({"Tty": tty})))
        return answer, shared_engine.call("GET", f"/exec/{id}/json")["ExitCode"]

    words = (
        b"OCI runtime exec failed: exec failed: unable to start container process: exec: "
        b'"/nope": stat /nope: no such file or directory\r\n'
    )
    assert one(False) == (frame(1, words), 127)
    assert one(True) == (words, 127)


def test_instances_that_nobody_starts_are_forgotten(shared_engine: Engine, box: str) -> None:
    before = exec_of(shared_engine, box, "true")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: exec_of(shared_engine, box, "true"), range(1024)))
    assert shared_engine.request("GET", f"/exec/{before}/json").status == 404
    assert len(shared_engine.inspect(box)["ExecIDs"]) == 1024


def test_many_clients_that_vanish_from_a_silent_attach(shared_engine: Engine, box: str) -> None:
    daemon = f"/proc/{shared_engine.pid_of('sampand')}"
    shim = f"/proc/{shared_engine.pid_of('sampan-shim ' + shared_engine.inspect(box)['Id'][:12])}"
    count = 2 * EXECS

    def held() -> list[int]:
        return [len(os.listdir(f"{process}/fd")) for process in (daemon, shim)]

    before = held()
    clients = [upgraded(shared_engine, f"/containers/{box}/attach?stream=1&stdout=1") for _ in range(count)]
    assert all(now >= then + count for now, then in zip(held(), before, strict=True))
    for client in clients:
        client.close()
    until(lambda: all(n <= b + 4 for n, b in zip(held(), before, strict=True)), 10, "descriptors come back")
