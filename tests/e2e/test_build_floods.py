"""A build that says more than its client reads: the engine's memory and disk stay bounded, other builds go on, and
the build ends with its client.

`SAMPAN_FLOOD_MB=400` makes the output as long as that of the report which this is held against.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import hpack
import pytest

from sampan.engine.builder.buildkit.server import MESSAGE_BYTES
from tests.e2e.test_builder_faults import begin, built, steps, whole
from tests.support.engine import BIN, Engine, until

FLOOD_MB = int(os.environ.get("SAMPAN_FLOOD_MB", "80"))
MORE_BYTES = 48 * 1024 * 1024  # of memory: buffers, a clipped log in the form of messages, the allocator's waste
KEPT_BYTES = 16 * 1024 * 1024
FLOOD_BYTES = FLOOD_MB * 1_000_000 + os.getpid()  # a number of its own names the process
FLOOD = f"FROM busybox\nRUN yes {'x' * 60} | head -c {FLOOD_BYTES}; echo said > /said; sleep 1000\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine().start()
    try:
        engine.import_busybox()
        built(engine, "FROM busybox\nRUN echo warm > /warm\n")
        yield engine
    finally:
        engine.close()


def memory_bytes(engine: Engine) -> int:
    """What sampand holds by itself."""
    text = Path(f"/proc/{engine.pid_of('sampand')}/smaps_rollup").read_text()
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_Dirty:"))


def history_bytes(engine: Engine) -> int:
    return sum(p.stat().st_size for p in (engine.data_root / "builder/history").rglob("*") if p.is_file())


def said() -> int:
    """How many bytes the running step has written so far, by the kernel's count; few when it has written all."""
    found = 0
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if str(FLOOD_BYTES).encode() in (directory / "cmdline").read_bytes():
                lines = (directory / "io").read_text().splitlines()
                found = max(found, *[int(line.split()[1]) for line in lines if line.startswith("wchar:")])
        except OSError:
            continue
    return found


def settled() -> None:
    """Wait until the flood stands still or is over."""
    until(lambda: said() > 100_000, 30, "the step writes")
    before, last = -1, said()
    deadline = time.monotonic() + 120 + FLOOD_MB
    while before != last:
        assert time.monotonic() < deadline, "the step goes on and on"
        time.sleep(1)
        before, last = last, said()


def test_a_classic_client_that_does_not_read_stops_its_own_build_only(engine: Engine) -> None:
    before = memory_bytes(engine)
    with closing(begin(engine, FLOOD, version="1")):
        settled()
        assert 100_000 < said() < FLOOD_BYTES, "the step waits for its reader"
        assert memory_bytes(engine) < before + MORE_BYTES
        assert built(engine, "FROM busybox\nRUN echo other > /other\n")
    whole(engine)


def test_a_buildkit_client_that_does_not_read_gets_a_clipped_log(engine: Engine, buildx: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(FLOOD)
    before = memory_bytes(engine)
    environment = {**engine.environment, "BUILDX_BUILDER": "default"}
    argv = [buildx, "build", "--progress=rawjson", "--network=none", str(tmp_path)]
    client = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: steps(engine), 20, "the step runs")
        client.send_signal(signal.SIGSTOP)
        settled()
        assert said() < 1000, "the step is not held up"
        assert memory_bytes(engine) < before + MORE_BYTES
        assert built(engine, "FROM busybox\nRUN echo other > /other\n")
    finally:
        client.kill()
        client.communicate()
    whole(engine)
    until(lambda: history_bytes(engine) > 0, 5, "the build is in the history")
    assert history_bytes(engine) < KEPT_BYTES


def inside(mark: str) -> Path | None:
    """The root directory of the step whose program has this text in its arguments."""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if (directory / "cmdline").read_bytes().startswith(b"/bin/sh\0-c\0") and mark in (
                directory / "cmdline"
            ).read_text():
                return directory / "root"
        except OSError:
            continue
    return None


@pytest.mark.parametrize("stalled", ["buildx", "sampan"])
def test_a_client_that_stands_still_holds_nobody_who_shares_its_step(
    engine: Engine, buildx: str, tmp_path: Path, stalled: str
) -> None:
    mark = f"shared-{stalled}-{os.getpid()}"
    waits = f": {mark}; until [ -e /go ]; do usleep 20000; done"
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\nRUN {waits}; yes {'y' * 60} | head -c 20000000\n")
    environment = {**engine.environment, "BUILDX_BUILDER": "default"}
    argv = {
        "buildx": [buildx, "build", "--progress=plain", "--network=none", str(tmp_path)],
        "sampan": [str(BIN / "sampan"), "build", "--progress=plain", "--network=none", str(tmp_path)],
    }
    first = subprocess.Popen(argv[stalled], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: inside(mark), 30, "the step runs")
        first.send_signal(signal.SIGSTOP)
        with (tmp_path / "said").open("wb") as said:
            second = subprocess.Popen(argv["buildx"], env=environment, stdout=said, stderr=said)
        try:
            until(lambda: mark in (tmp_path / "said").read_text(), 30, "the second build waits for the step too")
            assert len(steps(engine)) == 1
            root = inside(mark)
            assert root is not None
            (root / "go").touch()
            assert second.wait(60) == 0, (tmp_path / "said").read_text()
            assert "CACHED" not in (tmp_path / "said").read_text().partition(mark)[2]
        finally:
            second.kill()
            second.wait()
    finally:
        first.kill()
        first.communicate()
    whole(engine)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def upgraded(engine: Engine, path: str, *fields: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(engine.socket))
    head = [f"POST {path} HTTP/1.1", "Host: d", "Connection: Upgrade", "Upgrade: h2c", *fields, "", ""]
    client.sendall("\r\n".join(head).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(1)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    return client


def test_a_message_without_end_is_refused_before_it_comes(engine: Engine) -> None:
    client = upgraded(engine, "/grpc")
    fields = [(":method", "POST"), (":scheme", "http"), (":path", "/moby.buildkit.v1.Control/Solve")]
    fields += [(":authority", "d"), ("content-type", "application/grpc"), ("te", "trailers")]
    client.sendall(PREFACE + frame(4, 0, 0) + frame(1, 4, 1, hpack.Encoder().encode(fields)))
    client.sendall(frame(0, 0, 1, b"\0" + struct.pack(">I", MESSAGE_BYTES + 1) + b"x" * 1000))
    seen = b""
    while b"larger than max" not in hpack_text(seen):
        data = client.recv(65536)
        assert data, "the call ends with a status"
        seen += data
    client.close()


def hpack_text(data: bytes) -> bytes:
    """The header blocks among these frames, decoded."""
    decoder, out, at = hpack.Decoder(), b"", 0
    while at + 9 <= len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        if data[at + 3] == 1 and at + 9 + size <= len(data):
            found = decoder.decode(data[at + 9 : at + 9 + size])
            out += "".join(f"{name}: {value}\n" for name, value in found).encode()
        at += 9 + size
    return out


def test_a_session_that_asks_and_does_not_read_is_ended(engine: Engine) -> None:
    client = upgraded(engine, "/session", "X-Docker-Expose-Session-Uuid: flood")
    before = memory_bytes(engine)
    pings = frame(6, 0, 0, b"12345678") * 1000
    with pytest.raises((BrokenPipeError, ConnectionResetError, TimeoutError)):
        client.sendall(pings * 1000)
    client.close()
    assert memory_bytes(engine) < before + MORE_BYTES
