"""Containers on a whole engine: what only shows when all processes are real.

Streams without loss or duplicate, states that are right the moment they are told, and a daemon that is killed at any
moment and comes back to a state from which everything can be removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine
from tests.support.machine import leaves_nothing

pytestmark = pytest.mark.root


class Hijacked:
    """A connection that an attach or exec start has taken over."""

    def __init__(self, engine: Engine, path: str, body: str = "") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(engine.socket))
        head = (
            f"POST /v1.51{path} HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n"
            f"Content-Type: application/json\r\n"
        )
        self.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.socket.recv(65536)
        self.head, _, self.received = received.partition(b"\r\n\r\n")

    def read_all(self) -> bytes:
        """Everything until the end of the stream."""
        while data := self.socket.recv(65536):
            self.received += data
        self.socket.close()
        return self.received

    def read_until(self, words: bytes) -> None:
        while words not in self.received:
            data = self.socket.recv(65536)
            assert data, self.received
            self.received += data


def unframed(data: bytes) -> bytes:
    """The bytes of both streams without stdcopy headers."""
    out = b""
    while data:
        (length,) = struct.unpack_from(">I", data, 4)
        out, data = out + data[8 : 8 + length], data[8 + length :]
    return out


@contextlib.contextmanager
def removed(engine: Engine, container: str) -> Iterator[str]:
    try:
        yield container
    finally:
        engine.remove(container)


def create(engine: Engine, *command: str, config: Mapping[str, object] | None = None, **host: object) -> str:
    body = {"Image": "busybox", "Cmd": list(command), "HostConfig": host, **(config or {})}
    return str(engine.call("POST", "/containers/create", body)["Id"])


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.02])
def test_attach_with_history_shows_every_line_once(shared_engine: Engine, delay_s: float) -> None:
    script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done; sleep 0.3"
    with removed(shared_engine, shared_engine.run("sh", "-c", script)) as id:
        time.sleep(delay_s)
        stream = Hijacked(shared_engine, f"/containers/{id}/attach?logs=1&stream=1&stdout=1&stderr=1")
        assert [int(n) for n in unframed(stream.read_all()).split()] == list(range(1, 3001))


def test_attach_before_the_start_misses_nothing(shared_engine: Engine) -> None:
    with removed(shared_engine, create(shared_engine, "sh", "-c", "echo first; echo last")) as id:
        stream = Hijacked(shared_engine, f"/containers/{id}/attach?stream=1&stdout=1&stderr=1")
        shared_engine.call("POST", f"/containers/{id}/start")
        assert unframed(stream.read_all()) == b"first\nlast\n"


def test_detach_keys_leave_the_container_running(shared_engine: Engine) -> None:
    with removed(shared_engine, create(shared_engine, "sh", config={"Tty": True, "OpenStdin": True})) as id:
        stream = Hijacked(shared_engine, f"/containers/{id}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x")
        shared_engine.call("POST", f"/containers/{id}/start")
        stream.socket.sendall(b"echo $((40+2))\r")
        stream.read_until(b"42")
        stream.socket.sendall(b"\x01")
        stream.socket.sendall(b"x")
        stream.read_all()
        assert shared_engine.inspect(id)["State"]["Status"] == "running"


def test_exec_status_is_right_when_its_stream_ends(shared_engine: Engine) -> None:
    with removed(shared_engine, shared_engine.run("sleep", "600")) as id:
        for expected in range(20):
            exec_ = shared_engine.call(
                "POST", f"/containers/{id}/exec", {"Cmd": ["sh", "-c", f"exit {expected}"], "AttachStdout": True}
            )["Id"]
            Hijacked(shared_engine, f"/exec/{exec_}/start", json.dumps({"Detach": False})).read_all()
            found = shared_engine.call("GET", f"/exec/{exec_}/json")
            assert (found["Running"], found["ExitCode"]) == (False, expected)


def test_state_is_right_when_wait_returns(shared_engine: Engine) -> None:
    for expected in range(10):
        with removed(shared_engine, shared_engine.run("sh", "-c", f"exit {expected}")) as id:
            assert shared_engine.wait(id) == expected
            state = shared_engine.inspect(id)["State"]
            assert (state["Status"], state["Running"], state["Pid"], state["ExitCode"]) == (
                "exited",
                False,
                0,
                expected,
            )


def test_joined_namespaces_and_shared_memory_leave_nothing(shared_engine: Engine) -> None:
    with leaves_nothing():
        with removed(
            shared_engine, shared_engine.run("sh", "-c", "echo shared > /dev/shm/f; sleep 600", IpcMode="shareable")
        ) as owner:
            modes: dict[str, Any] = {
                "NetworkMode": f"container:{owner}",
                "PidMode": f"container:{owner}",
                "IpcMode": f"container:{owner}",
            }
            script = "until [ -f /dev/shm/f ]; do :; done; cat /dev/shm/f; kill -0 1 && hostname"
            with removed(shared_engine, shared_engine.run("sh", "-c", script, **modes)) as joiner:
                assert shared_engine.wait(joiner) == 0
                assert shared_engine.logs(joiner).decode().split() == ["shared", owner[:12]]


def test_copies_go_through_volumes_of_a_stopped_container(shared_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "bound").mkdir()
    with removed(shared_engine, create(shared_engine, "true", Binds=[f"{tmp_path}/bound:/b"])) as id:
        (tmp_path / "f").write_text("through")
        shared_engine.cli("docker", "cp", str(tmp_path / "f"), f"{id}:/b/sub")
        assert (tmp_path / "bound" / "sub").read_text() == "through"
        shared_engine.cli("docker", "cp", f"{id}:/b/.", str(tmp_path / "back"))
        assert (tmp_path / "back" / "sub").read_text() == "through"


@pytest.mark.slow
def test_a_daemon_killed_at_any_moment_converges(engine: Engine) -> None:
    """Clients create, start, pause, kill and remove while the daemon dies again and again; afterwards all can be
    removed.
    """
    stop = threading.Event()

    def client() -> None:
        rng = random.Random(os.urandom(8))
        while not stop.is_set():
            with contextlib.suppress(Exception):
                id = create(engine, "sh", "-c", f"sleep 0.0{rng.randrange(9)}; exit 3", AutoRemove=rng.random() < 0.3)
                engine.request("POST", f"/containers/{id}/start")
                verb = rng.choice(["wait", "kill", "pause", "", ""])
                if verb:
                    engine.request("POST", f"/containers/{id}/{verb}")
                if rng.random() < 0.7:
                    engine.request("DELETE", f"/containers/{id}", force="1", v="1")

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(6):
            time.sleep(random.uniform(0.1, 0.5))
            engine.kill()
            engine.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for container in engine.call("GET", "/containers/json", all="1"):
        assert container["State"] in ("created", "running", "paused", "exited"), container
        with contextlib.suppress(AssertionError):  # --rm may be faster
            engine.remove(container["Id"])
    assert engine.call("GET", "/containers/json", all="1") == []
    assert not list((engine.data_root / "containers").iterdir())
