"""Thousands of connections that ask nothing, ask half, or never stop listening: everybody else is served.

SAMPAN_CONNECTIONS=5000 runs it with as many; it needs as many files.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.engine import Engine, until

pytestmark = pytest.mark.root

CONNECTIONS = int(os.environ.get("SAMPAN_CONNECTIONS", "400"))
PLACES = 256 if CONNECTIONS < 1000 else 4096
FOLLOW = b"GET /v1.51/events HTTP/1.1\r\nHost: d\r\n\r\n"


@pytest.fixture(scope="module")
def own(root: None) -> Iterator[Engine]:
    engine = Engine()
    engine.wrapper = ["prlimit", f"--nofile={PLACES * 4}"]
    engine.start()
    try:
        engine.import_busybox()
        yield engine
        log = engine.log.read_text()
        assert "Traceback" not in log, log[-3000:]
    finally:
        engine.close()


def descriptors(engine: Engine) -> int:
    return len(os.listdir(f"/proc/{engine.pid_of('sampand --exec')}/fd"))


def opened(engine: Engine, stack: ExitStack, sent: bytes) -> socket.socket:
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.settimeout(30)
    while True:
        try:
            client.connect(str(engine.socket))
            break
        except BlockingIOError:  # more at once than the listener's queue takes
            time.sleep(0.01)
    client.sendall(sent)
    return client


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v1.51/info HTTP/1.1\r\nHost", FOLLOW[:-2] + b"Content-Length: 9\r\n\r\n1"]
)
def test_connections_that_ask_nothing_or_half(own: Engine, sent: bytes) -> None:
    before = descriptors(own)
    busy = b"Content-Length" in sent
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            try:
                opened(own, stack, sent)
            except (BrokenPipeError, ConnectionResetError):
                assert busy
        info = subprocess.run(["docker", "-H", own.host, "info"], capture_output=True, text=True, timeout=30)
        assert info.returncode == 0, info.stderr
        ran = own.cli("docker", "run", "--rm", "busybox", "echo", "served")
        assert ran.stdout == "served\n"
    until(lambda: descriptors(own) <= before + 2, 20, "descriptors come back")


def test_one_client_that_follows_too_often_is_refused_and_others_are_served(own: Engine) -> None:
    before = descriptors(own)
    with ExitStack() as stack:
        heads = [opened(own, stack, FOLLOW).recv(12) for _ in range(PLACES * 3 // 4)]
        assert set(heads) == {b"HTTP/1.1 200"}
        refused = own.request("GET", "/info")
        assert refused.status == 503
        assert refused.message.startswith(f"too many requests at once: this client has {PLACES * 3 // 4} under way")
        assert own.cli("docker", "run", "--rm", "busybox", "echo", "served").stdout == "served\n"
    until(lambda: descriptors(own) <= before + 2, 20, "descriptors come back")
    assert own.request("GET", "/info").status == 200
