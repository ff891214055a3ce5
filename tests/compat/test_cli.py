"""sampan against what docker 28.5 answered on Docker Engine 28.5: outputs, messages and exit codes, story by story.

Then what no transcript shows: terminals, signals, streams, copies, TLS and ssh. Set SAMPAN_TEST_SOCKET to a Docker
Engine to prove the transcripts themselves.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api import certificates
from tests.compat.cli_steps import STORIES
from tests.compat.record_cli import ANSWERS, play
from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]
SAMPAN = str(BIN / "sampan")
RECORDED: dict[str, list[dict[str, Any]]] = json.loads(ANSWERS.read_text())

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(shared_engine: Engine) -> Iterator[Run]:
    """Run sampan on the shared engine; containers of the test are gone afterwards."""
    before = {c["Id"] for c in shared_engine.call("GET", "/containers/json", all="1")}

    def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return shared_engine.cli(SAMPAN, *argv, **options)

    yield run
    for container in shared_engine.call("GET", "/containers/json", all="1"):
        if container["Id"] not in before:  # with --rm it may be going already
            gone = shared_engine.request("DELETE", f"/containers/{container['Id']}", force="1", v="1")
            assert gone.status in (204, 404, 409), gone.raw


@pytest.mark.parametrize("story", sorted(STORIES))
def test_answers_are_dockers(story: str, cli: Run, shared_engine: Engine, tmp_path: Path) -> None:
    environment = {**shared_engine.environment, "DOCKER_CONFIG": str(tmp_path / "client")}
    ours = play(SAMPAN, story, environment, str(tmp_path))
    assert ours == RECORDED[story]


@pytest.mark.usefixtures("cli")  # it removes what is left
def test_docker_sees_failed_starts_as_on_its_own_engine(docker: str, shared_engine: Engine, tmp_path: Path) -> None:
    """Which of wait and start is answered first, and how, is seen by this client only."""
    environment = {**shared_engine.environment, "DOCKER_CONFIG": str(tmp_path / "client")}
    assert play(docker, "failed starts", environment, str(tmp_path)) == RECORDED["failed starts"]


# -- terminals -------------------------------------------------------------------------------------------------------

Reaction = bytes | Callable[[int, int], None]


class Terminal:
    """sampan on a pseudo-terminal: `expect` waits for bytes, `send` types, `end` gives the exit code."""

    def __init__(self, engine: Engine, *argv: str, size: tuple[int, int] = (30, 100)) -> None:
        self.seen = b""
        environment = {**engine.environment, "TERM": "xterm"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            os.execve(SAMPAN, [SAMPAN, *argv], environment)

    def expect(self, wanted: bytes, within_s: float = 20) -> None:
        deadline = time.monotonic() + within_s
        while wanted not in self.seen:
            assert self._read(deadline), f"ended before {wanted!r}: {self.seen!r}"
        self.seen = self.seen.partition(wanted)[2]

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self, within_s: float = 20) -> int:
        deadline = time.monotonic() + within_s
        while self._read(deadline):
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"nothing came; seen: {self.seen!r}")
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)


def test_a_terminal_has_its_size_from_the_start(shared_engine: Engine) -> None:
    terminal = Terminal(
        shared_engine, "run", "--rm", "-it", "busybox", "sh", "-c", "stty size; read a; echo got $a; exit 5"
    )
    terminal.expect(b"30 100\r\n")
    terminal.send(b"hello\n")
    terminal.expect(b"got hello")
    assert terminal.end() == 5


def test_a_terminal_follows_its_window(shared_engine: Engine) -> None:
    script = "trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.05; done"
    terminal = Terminal(shared_engine, "run", "--rm", "-it", "busybox", "sh", "-c", f"stty size; {script}")
    terminal.expect(b"ready")
    terminal.resize(40, 120)
    terminal.expect(b"40 120")
    assert terminal.end() == 7


def test_detach_and_attach_again(shared_engine: Engine, cli: Run) -> None:
    terminal = Terminal(
        shared_engine, "run", "--name", "cli-det", "-it", "busybox", "sh", "-c", "echo one; read a; echo $a; exit 9"
    )
    terminal.expect(b"one")
    terminal.send(b"\x10\x11")
    assert terminal.end() == 0
    assert cli("inspect", "-f", "{{.State.Running}}", "cli-det").stdout == "true\n"
    terminal = Terminal(shared_engine, "attach", "--detach-keys", "ctrl-a,x", "cli-det")
    time.sleep(0.3)  # attach prints nothing to wait for
    terminal.send(b"\x01x")
    terminal.expect(b"read escape sequence\r\n")
    assert terminal.end() == 1
    terminal = Terminal(shared_engine, "attach", "cli-det")
    terminal.send(b"two\n")
    terminal.expect(b"two")
    assert terminal.end() == 9


def test_exec_on_a_terminal(shared_engine: Engine, cli: Run) -> None:
    cli("run", "-d", "--name", "cli-x", "busybox", "sleep", "100")
    terminal = Terminal(shared_engine, "exec", "-it", "cli-x", "sh", "-c", "stty size; tty; exit 3")
    terminal.expect(b"30 100\r\n/dev/pts/")
    assert terminal.end() == 3


@pytest.mark.parametrize("name", ["INT", "TERM", "USR1"])
def test_signals_reach_the_process(shared_engine: Engine, cli: Run, name: str) -> None:
    script = f"trap 'echo trapped; exit 6' {name}; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [SAMPAN, "run", "--rm", "busybox", "sh", "-c", script], stdout=subprocess.PIPE, env=shared_engine.environment
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(getattr(signal, "SIG" + name))
    assert process.communicate(timeout=20)[0] == b"trapped\n" and process.returncode == 6


def test_ctrl_c_ends_the_client_of_logs(shared_engine: Engine, cli: Run) -> None:
    cli("run", "-d", "--name", "cli-l", "busybox", "sh", "-c", "echo line; sleep 100")
    terminal = Terminal(shared_engine, "logs", "-f", "cli-l")
    terminal.expect(b"line")
    terminal.send(b"\x03")
    assert terminal.end() == 130


def test_stats_renew_themselves(shared_engine: Engine, cli: Run) -> None:
    cli("run", "-d", "--name", "cli-s", "busybox", "sleep", "100")
    once = cli("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "cli-s").stdout
    assert once == "cli-s 1\n"
    terminal = Terminal(shared_engine, "stats")
    for _ in range(2):
        terminal.expect(b"\x1b[HCONTAINER ID")
    terminal.expect(b"cli-s")
    terminal.send(b"\x03")
    assert terminal.end() == 130


# -- streams and copies ----------------------------------------------------------------------------------------------


def test_megabytes_through_a_container_and_back(shared_engine: Engine, cli: Run) -> None:
    data = os.urandom(1 << 20) * 24
    done = subprocess.run(
        [SAMPAN, "run", "-i", "--rm", "busybox", "cat"],
        input=data,
        capture_output=True,
        env=shared_engine.environment,
        timeout=60,
        check=True,
    )
    assert done.stdout == data and not done.stderr


def test_copies_come_back_as_they_went(cli: Run, tmp_path: Path) -> None:
    cli("run", "-d", "--name", "cli-cp", "busybox", "sleep", "100")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_bytes(os.urandom(300_000))
    (tree / "link").symlink_to("sub/file")
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o755)
    cli("cp", str(tree), "cli-cp:/new")
    assert cli("exec", "cli-cp", "sh", "-c", "cd /new; ls; readlink link; stat -c %a:%u script").stdout == (
        "link\nscript\nsub\nsub/file\n755:0\n"
    )
    cli("cp", f"{tree}/.", "cli-cp:/tmp")
    assert cli("exec", "cli-cp", "ls", "/tmp").stdout == "link\nscript\nsub\n"
    cli("cp", "cli-cp:/new", str(tmp_path / "back"))
    assert (tmp_path / "back" / "sub" / "file").read_bytes() == (tree / "sub" / "file").read_bytes()
    assert os.readlink(tmp_path / "back" / "link") == "sub/file"
    refused = cli("cp", str(tree), "cli-cp:/etc/passwd", check=False)
    assert (refused.returncode, refused.stderr) == (1, "cannot copy directory\n")
    missing = cli("cp", "cli-cp:/nope", str(tmp_path), check=False)
    assert missing.stderr == "Error response from daemon: Could not find the file /nope in container cli-cp\n"


def test_cp_streams_tar(shared_engine: Engine, cli: Run) -> None:
    cli("run", "-d", "--name", "cli-tar", "busybox", "sleep", "100")
    out = subprocess.run(
        [SAMPAN, "cp", "cli-tar:/etc/passwd", "-"], capture_output=True, env=shared_engine.environment, check=True
    ).stdout
    cli("exec", "cli-tar", "mkdir", "/into")
    subprocess.run([SAMPAN, "cp", "-", "cli-tar:/into"], input=out, env=shared_engine.environment, check=True)
    listed = cli("exec", "cli-tar", "sh", "-c", "cmp /etc/passwd /into/passwd && echo same").stdout
    assert listed == "same\n"


def test_completion_knows_containers(shared_engine: Engine, cli: Run) -> None:
    cli("run", "-d", "--name", "cli-comp", "busybox", "sleep", "100")
    assert cli("__complete", "stop", "cli-co").stdout == "cli-comp\n"
    assert cli("__complete", "run", "--pull", "").stdout.split() == ["always", "missing", "never"]
    script = "source <(sampan completion bash); COMP_LINE='sampan stop cli-co'; COMP_POINT=${#COMP_LINE}; "
    script += "COMP_WORDS=(sampan stop cli-co); COMP_CWORD=2; compopt() { :; }; _sampan; echo ${COMPREPLY[@]}"
    environment = {**shared_engine.environment, "PATH": f"{BIN}:{os.environ['PATH']}"}
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert found.stdout == "cli-comp\n"


# -- other ways to the engine ----------------------------------------------------------------------------------------


def test_ssh_reaches_the_engine(shared_engine: Engine, cli: Run, tmp_path: Path) -> None:
    """`ssh` is a script here that runs the remote command at once; everything behind it is real."""
    fake = tmp_path / "ssh"
    fake.write_text(
        f'#!/bin/sh\nfor last; do :; done\nexport PATH="{BIN}:$PATH"\nexport DOCKER_HOST={shared_engine.host}\n'
        f'exec sh -c "$last"\n'
    )
    fake.chmod(0o755)
    environment = {
        **shared_engine.environment,
        "DOCKER_HOST": "ssh://user@far:22",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        [SAMPAN, "run", "-i", "--rm", "busybox", "sh", "-c", "cat; exit 4"],
        input=b"over ssh",
        capture_output=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (4, b"over ssh", b"")


@pytest.fixture
def secured(root: None, tmp_path: Path) -> Iterator[tuple[Engine, int]]:
    """An engine that also listens on TCP and wants client certificates."""
    if os.environ.get("SAMPAN_TEST_SOCKET"):
        pytest.skip("the given engine has no TLS")
    certificates.make(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = [
        f"--tlscacert={tmp_path}/ca.pem",
        f"--tlscert={tmp_path}/server.pem",
        f"--tlskey={tmp_path}/server-key.pem",
    ]
    engine = Engine(None, "-H", f"tcp://127.0.0.1:{port}", "--tlsverify", *files).start()
    try:
        engine.import_busybox()
        yield engine, port
    finally:
        engine.close()


def test_tls_with_certificates_streams_included(secured: tuple[Engine, int], tmp_path: Path) -> None:
    engine, port = secured
    keys = ["--tlsverify", "--tlscacert", f"{tmp_path}/ca.pem"]
    mine = [*keys, "--tlscert", f"{tmp_path}/client.pem", "--tlskey", f"{tmp_path}/client-key.pem"]
    host = ["-H", f"tcp://127.0.0.1:{port}"]
    assert engine.cli(SAMPAN, *host, *mine, "run", "--rm", "busybox", "echo", "secret").stdout == "secret\n"
    refused = engine.cli(SAMPAN, *host, "--tls", "version", check=False)
    assert refused.returncode == 1 and "error during connect" in refused.stderr
    create = ["context", "create", "far", "--docker"]
    docker = (
        f"host=tcp://127.0.0.1:{port},ca={tmp_path}/ca.pem,cert={tmp_path}/client.pem,key={tmp_path}/client-key.pem"
    )
    assert engine.cli(SAMPAN, *create, docker).stdout == "far\n"
    assert engine.cli(SAMPAN, "-c", "far", "run", "--rm", "busybox", "echo", "context").stdout == "context\n"
    ctx, more = tmp_path / "ctx", tmp_path / "more"
    ctx.mkdir()
    more.mkdir()
    (more / "big").write_bytes(os.urandom(5_000_000))
    (ctx / "Dockerfile").write_text("FROM scratch\nCOPY --from=more big /\n")
    session = ["--build-context", f"more={more}", "-o", f"{tmp_path}/out"]
    engine.cli(SAMPAN, *host, *mine, "build", *session, str(ctx))
    assert (tmp_path / "out/big").read_bytes() == (more / "big").read_bytes()
