"""What a first user meets: input that nobody reads, a program that ignores Ctrl-C, a load, a check of the data root."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]
SAMPAN = str(BIN / "sampan")
UNREAD = b"\0" * 8_000_000


def fed(engine: Engine, *argv: str) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [SAMPAN, *argv], input=UNREAD, capture_output=True, env=engine.environment, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_input_that_is_not_read_changes_nothing(shared_engine: Engine) -> None:
    script = ["sh", "-c", "echo out; exit 3"]
    for _ in range(5):
        assert fed(shared_engine, "run", "-i", "--rm", "busybox", *script) == (3, b"out\n", b"")
    shared_engine.cli(SAMPAN, "run", "-d", "--name", "unread", "busybox", "sleep", "1000")
    shared_engine.cli(SAMPAN, "create", "-i", "--name", "unread-start", "busybox", *script)
    try:
        for _ in range(5):
            assert fed(shared_engine, "exec", "-i", "unread", *script) == (3, b"out\n", b"")
            assert fed(shared_engine, "start", "-ai", "unread-start") == (3, b"out\n", b"")
        late = ["sh", "-c", "exec 0<&-; sleep 0.3; echo out; exit 4"]
        assert fed(shared_engine, "exec", "-i", "unread", *late) == (4, b"out\n", b"")
    finally:
        shared_engine.cli(SAMPAN, "rm", "-f", "unread", "unread-start")


def test_the_third_ctrl_c_leaves(shared_engine: Engine) -> None:
    script = "trap '' INT; echo ready; while :; do sleep 0.1; done"
    client = subprocess.Popen(
        [SAMPAN, "run", "--rm", "--name", "stubborn", "busybox", "sh", "-c", script],
        env=shared_engine.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert client.stdout is not None and client.stdout.readline() == b"ready\n"
        for count in range(3):
            assert client.poll() is None, count
            client.send_signal(signal.SIGINT)
            time.sleep(0.3)  # signals that are pending together are one
        _, error = client.communicate(timeout=10)
        assert (client.returncode, error) == (1, b"\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
    finally:
        shared_engine.cli(SAMPAN, "rm", "-f", "stubborn", check=False)


def test_load_shows_its_progress_on_a_terminal(shared_engine: Engine, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    shared_engine.cli(SAMPAN, "save", "-o", str(archive), "busybox")
    with archive.open("ab") as file:  # what follows the archive's end is read and passed over
        file.write(bytes(20 << 20))
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(SAMPAN, [SAMPAN, "load", "-i", str(archive)], shared_engine.environment)
    seen = b""
    try:
        while data := os.read(fd, 65536):
            seen += data
    except OSError:  # the terminal's other side has gone
        pass
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"Sending archive" in seen and b"Loaded image: busybox:latest" in seen


def test_a_check_that_finds_nothing_says_so(engine: Engine) -> None:
    assert engine.cli(SAMPAN, "system", "fsck").stdout == "No problems found.\n"
    assert engine.cli(SAMPAN, "system", "fsck", "--format", "json").stdout == ""
