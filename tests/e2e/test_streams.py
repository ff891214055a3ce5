"""What the streams of a container and of its execs promise at their ends: an answer is never lost to input that the
program did not read, a client that vanishes is noticed, and the size of a terminal may be set at once.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.engine import Engine, until

_INPUT = b"\0" * 8_000_000
_FORMS = ("run", "exec", "start")


def upgraded(engine: Engine, path: str, body: str = "") -> socket.socket:
    """Open a stream and read its head."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(30)
    client.connect(str(engine.socket))
    client.sendall(
        f"POST {path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    return client


def rest(client: socket.socket) -> bytes:
    data = b""
    while piece := client.recv(65536):
        data += piece
    client.close()
    return data


def exec_of(engine: Engine, container: str, *command: str, tty: bool = False) -> str:
    asked = {"Cmd": list(command), "Tty": tty, "AttachStdin": True, "AttachStdout": True, "AttachStderr": True}
    id: str = engine.call("POST", f"/containers/{container}/exec", asked)["Id"]
    return id


@pytest.mark.parametrize("form", _FORMS)
def test_input_that_is_not_read_changes_nothing(shared_engine: Engine, form: str) -> None:
    script = ("sh", "-c", "echo out; exit 3")
    name = f"unread-{form}"
    docker = ["docker", "-H", shared_engine.host]
    if form == "exec":
        shared_engine.cli("docker", "run", "-d", "--name", name, "busybox", "sleep", "1000")
        command = [*docker, "exec", "-i", name, *script]
    elif form == "start":
        shared_engine.cli("docker", "create", "-i", "--name", name, "busybox", *script)
        command = [*docker, "start", "-ai", name]
    else:
        command = [*docker, "run", "-i", "--name", name, "busybox", *script]
    try:
        for _ in range(5):
            done = subprocess.run(command, input=_INPUT, capture_output=True, timeout=60)
            assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"")
            if form == "run":
                shared_engine.cli("docker", "rm", name)
    finally:
        if form != "run":
            shared_engine.cli("docker", "rm", "-f", name)


def test_a_client_that_vanishes_from_a_silent_attach_is_noticed(shared_engine: Engine) -> None:
    name = "silent"
    shared_engine.cli("docker", "run", "-d", "-i", "--name", name, "busybox", "sleep", "1000")
    shared_engine.cli("docker", "create", "--name", f"{name}-never", "busybox", "true")
    daemon = f"/proc/{shared_engine.pid_of('sampand')}/fd"
    try:
        before = len(os.listdir(daemon))
        clients = [
            upgraded(shared_engine, f"/containers/{of}/attach?stream=1&stdout=1&stderr=1")
            for of in (name, f"{name}-never")
            for _ in range(40)
        ]
        execs = [exec_of(shared_engine, name, "sleep", "1000") for _ in range(3)]
        clients += [upgraded(shared_engine, f"/exec/{id}/start", "{}") for id in execs]
        assert len(os.listdir(daemon)) >= before + len(clients)
        for client in clients:
            client.close()
        until(lambda: len(os.listdir(daemon)) <= before + 8, 10, "descriptors come back")
    finally:
        shared_engine.cli("docker", "rm", "-f", name, f"{name}-never")


def test_half_of_a_connection_may_be_closed(shared_engine: Engine) -> None:
    shared_engine.cli("docker", "run", "-d", "--name", "half", "busybox", "sh", "-c", "sleep 1; echo late")
    try:
        client = upgraded(shared_engine, "/containers/half/attach?stream=1&stdout=1")
        client.shutdown(socket.SHUT_WR)
        assert rest(client) == b"\x01\0\0\0\0\0\0\x05late\n"
    finally:
        shared_engine.cli("docker", "rm", "-f", "half")


def test_a_terminal_is_resized_right_after_its_start(shared_engine: Engine) -> None:
    shared_engine.cli("docker", "run", "-d", "--name", "sizes", "busybox", "sleep", "1000")
    try:

        def one(_: int) -> int:
            id = exec_of(shared_engine, "sizes", "sh", "-c", "sleep 0.3", tty=True)
            client = upgraded(shared_engine, f"/exec/{id}/start", json.dumps({"Tty": True}))
            status = shared_engine.request("POST", f"/exec/{id}/resize?h=20&w=30").status
            client.close()
            return status

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(one, range(30))) == {200}
        ended = exec_of(shared_engine, "sizes", "true", tty=True)
        rest(upgraded(shared_engine, f"/exec/{ended}/start", json.dumps({"Tty": True})))
        refused = shared_engine.request("POST", f"/exec/{ended}/resize?h=20&w=30")
        assert (refused.status, refused.message) == (404, f"NotFound: process does not exist {ended}: not found")
    finally:
        shared_engine.cli("docker", "rm", "-f", "sizes")


# As Docker Engine 28.5.2 answered: what `start` says decides how the client reads, not how the process writes.
@pytest.mark.parametrize(
    ("of_the_exec", "of_the_start", "answer"),
    [
        (True, True, b"hi\r\n"),
        (True, False, b"\x01\0\0\0\0\0\0\x04hi\r\n"),
        (False, True, b"hi\n"),
        (False, False, b"\x01\0\0\0\0\0\0\x03hi\n"),
    ],
)
def test_the_tty_of_start_decides_the_framing(
    shared_engine: Engine, of_the_exec: bool, of_the_start: bool, answer: bytes
) -> None:
    shared_engine.cli("docker", "run", "-d", "--name", "framing", "busybox", "sleep", "1000")
    try:
        id = exec_of(shared_engine, "framing", "echo", "hi", tty=of_the_exec)
        body = json.dumps({"Tty": of_the_start})
        assert rest(upgraded(shared_engine, f"/exec/{id}/start", body)) == answer
    finally:
        shared_engine.cli("docker", "rm", "-f", "framing")
