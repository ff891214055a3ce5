"""sampand as a process: sockets, TLS, pidfile, lock, reload, socket activation, stop. Each on an engine of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api import certificates
from tests.support.engine import BIN, Engine

pytestmark = pytest.mark.usefixtures("root")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Engine]:
    """An engine that is not started yet: the test sets its flags and file."""
    engine = Engine()
    yield engine
    engine.flags = ()
    (engine.directory / "daemon.json").unlink(missing_ok=True)
    engine.close()


def refused(engine: Engine) -> str:
    """Start a daemon that must not start; return what it said."""
    done = subprocess.run(
        engine.command(), capture_output=True, text=True, env=engine.environment, timeout=30, check=False
    )
    assert done.returncode == 1, (done.returncode, done.stderr)
    return done.stderr


def get(connection: http.client.HTTPConnection, path: str, **headers: str) -> tuple[int, bytes]:
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_the_unix_socket_is_for_root_and_the_group(own: Engine) -> None:
    own.flags = ("--group", "nogroup")
    own.start()
    info = own.socket.stat()
    assert stat.S_IMODE(info.st_mode) == 0o660 and info.st_uid == 0
    import grp

    assert info.st_gid == grp.getgrnam("nogroup").gr_gid
    assert stat.S_IMODE(own.data_root.stat().st_mode) == 0o700
    assert own.pidfile.read_text() == str(own.process.pid if own.process else 0)
    assert own.stop() == 0
    assert not own.socket.exists() and not own.pidfile.exists()


def test_a_stale_socket_and_pidfile_are_replaced(own: Engine) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(own.socket))
    own.pidfile.write_text(str(os.getpid()))  # alive, and no sampand
    own.start()
    own.kill()
    own.start()


def test_two_daemons_never_share_a_data_root(own: Engine) -> None:
    own.start()
    second = Engine()
    try:
        second.data_root = own.data_root
        words = refused(second)
        assert f"data root {own.data_root} is in use by another daemon" in words
        second.data_root, second.pidfile = second.directory / "data", own.pidfile
        assert f"delete {own.pidfile}: process with PID {own.pid_of('sampand')} is still running" in refused(second)
        second.pidfile, second.socket = second.directory / "pid", own.socket
        assert "another process listens on it" in refused(second)
    finally:
        import shutil

        shutil.rmtree(second.directory)
    assert own.request("GET", "/_ping").status == 200


def test_plain_tcp_must_be_asked_for_twice(own: Engine) -> None:
    port = free_port()
    own.flags = ("-H", f"tcp://127.0.0.1:{port}")
    assert "refusing to bind tcp://127.0.0.1" in refused(own)
    assert not own.socket.exists()
    own.flags += ("--tls=false",)
    own.start()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    assert get(connection, "/_ping") == (200, b"OK")
    assert get(connection, "/_ping", Host="evil.example")[0] == 403
    assert get(connection, "/_ping", Origin="http://evil.example")[0] == 403
    connection.close()
    assert "is insecure and gives root access" in own.log.read_text()


def test_tls_wants_a_certificate_of_the_ca(own: Engine) -> None:
    certificates.make(own.directory)
    port, d = free_port(), own.directory
    own.flags = ("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", f"--tlscacert={d}/ca.pem")
    own.flags += (f"--tlscert={d}/server.pem", f"--tlskey={d}/server-key.pem")
    own.start()

    def connect(with_certificate: bool) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(d / "ca.pem"))
        if with_certificate:
            context.load_cert_chain(d / "client.pem", d / "client-key.pem")
        return http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)

    good = connect(True)
    assert get(good, "/_ping", Host="any.name") == (200, b"OK")
    good.close()
    bad = connect(False)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(bad, "/_ping")
    bad.close()
    plain = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PATCH"):
        plain.request(method, "/_ping")
        answer = plain.getresponse()
        text = b"" if method == "HEAD" else b"Client sent an HTTP request to an HTTPS server.\n"
        assert (answer.status, answer.read()) == (400, text)
        plain.close()


def test_tls_names_the_file_that_is_missing(own: Engine) -> None:
    own.flags = ("--tlsverify", "--tlscert=/nope/cert.pem", "--tlskey=/nope/key.pem")
    words = 'invalid TLS configuration: Could not load X509 key pair (cert: "/nope/cert.pem", key: "/nope/key.pem")'
    assert words in refused(own)


def test_sighup_reloads_and_tells(own: Engine) -> None:
    file = own.directory / "daemon.json"
    file.write_text(json.dumps({"labels": ["a=1"], "debug": False}))
    own.start()
    assert own.call("GET", "/info")["Labels"] == ["a=1"]
    since = time.time()
    file.write_text(json.dumps({"labels": ["b=2"], "debug": True, "mtu": 1400}))
    pid = own.pid_of("sampand ")
    os.kill(pid, signal.SIGHUP)
    event = first_event(own, since)
    assert event["Type"] == "daemon" and event["Actor"]["Attributes"]["labels"] == '["b=2"]'
    info = own.call("GET", "/info")
    assert info["Labels"] == ["b=2"] and info["Debug"] is True
    file.write_text('{"labels": ["bad"]}')
    os.kill(pid, signal.SIGHUP)
    deadline = time.monotonic() + 10
    while "bad attribute format: bad" not in own.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert own.call("GET", "/info")["Labels"] == ["b=2"]


def first_event(engine: Engine, since: float) -> dict[str, Any]:
    """Wait for the first event of the daemon's."""
    query = {"since": f"{since:.9f}", "until": f"{time.time() + 10:.9f}", "filters": json.dumps({"type": ["daemon"]})}
    found: list[bytes] = []
    from urllib.parse import urlencode

    from tests.support.engine import UnixConnection

    connection = UnixConnection(str(engine.socket))
    connection.request("GET", "/events?" + urlencode(query))
    response = connection.getresponse()
    found.append(response.readline())
    connection.close()
    event: dict[str, Any] = json.loads(found[0])
    return event


def test_systemd_hands_the_socket_over_and_is_told(own: Engine, tmp_path: Path) -> None:
    """fd://: the listening socket is descriptor 3; NOTIFY_SOCKET hears READY=1 and STOPPING=1."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(own.socket))
    listening.listen()
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(tmp_path / "notify"))
    heard.settimeout(20)
    command = own.command()
    command[command.index("-H") + 1] = "fd://"
    launcher = (
        "import os, sys\n"
        f"os.dup2({listening.fileno()}, 3)\n"
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    with own.log.open("ab") as log:
        own.process = subprocess.Popen(
            [sys.executable, "-c", launcher, *command],
            pass_fds=(listening.fileno(),),
            env={**own.environment, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=log,
        )
    assert heard.recv(100) == b"READY=1"
    assert own.request("GET", "/_ping").status == 200
    assert own.stop() == 0
    assert heard.recv(100) == b"STOPPING=1"
    assert own.socket.exists()  # it is systemd's
    listening.close()
    heard.close()
    own.socket.unlink()


def test_a_restart_touches_no_container_unless_live_restore_is_off(own: Engine) -> None:
    own.start()
    own.import_busybox()
    kept = own.run("sleep", "1000", NetworkMode="none")
    pid = own.inspect(kept)["State"]["Pid"]
    assert own.stop() == 0
    own.start()
    assert own.inspect(kept)["State"]["Pid"] == pid
    own.stop()
    own.flags = ("--live-restore=false", "--shutdown-timeout", "1")
    own.start()
    assert own.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    own.flags = ()
    own.start()
    assert own.inspect(kept)["State"]["Status"] == "exited"


def test_a_stop_ends_streams_and_is_quick(own: Engine) -> None:
    own.start()
    ends: list[type[Exception]] = []

    def listen() -> None:
        try:
            own.request("GET", "/events")
        except http.client.IncompleteRead as e:
            ends.append(type(e))

    listener = threading.Thread(target=listen)
    listener.start()
    deadline = time.monotonic() + 10
    while own.call("GET", "/info")["NEventsListener"] == 0:
        assert time.monotonic() < deadline
    begun = time.monotonic()
    assert own.stop() == 0
    assert time.monotonic() - begun < 5
    listener.join(5)
    assert ends == [http.client.IncompleteRead]


def test_validate_says_so_and_touches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"data-root": str(tmp_path / "d")}))
    command = [str(BIN / "sampand"), "--validate", "--config-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "configuration OK\n")
    assert not (tmp_path / "d").exists()
