"""A real engine for tests: own data root, exec root, pidfile and socket; gone without a trace at the end.

Source: the flags are dockerd's; the HTTP client is the standard library's, so that a test shares no code with the
engine.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import busybox, machine

BIN = Path(sys.executable).parent


def until(true: Callable[[], object], within_s: float, what: str) -> None:
    """Wait for a condition that another process makes true; fail with `what` when it stays false."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if true():
                return
        except (OSError, AssertionError):
            pass
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float = 60) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.unix_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.unix_path)


class Answer:
    """One HTTP answer: status, headers, raw body; `json` decodes it."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, raw: bytes) -> None:
        self.status, self.headers, self.raw = status, headers, raw

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Engine:
    """One sampand on a scratch directory. `start` returns when it answers; `close` removes everything it made."""

    def __init__(self, directory: Path | None = None, *flags: str) -> None:
        self.directory = directory or Path(tempfile.mkdtemp(prefix="sampan-test-"))
        self.data_root, self.exec_root = self.directory / "data", self.directory / "run"
        self.socket, self.pidfile = self.directory / "s", self.directory / "pid"
        self.log = self.directory / "sampand.log"
        self.flags = flags
        self.program = [str(BIN / "sampand")]
        self.wrapper: list[str] = []  # a command that ends by exec'ing the one behind it
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"unix://{self.socket}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which docker and sampan speak to this engine."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DOCKER_", "SAMPAN_"))}
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**kept, "DOCKER_HOST": self.host, "DOCKER_CONFIG": str(self.directory / "client")}

    def command(self) -> list[str]:
        config = self.directory / "daemon.json"
        if not config.exists():
            config.write_text("{}")
        roots = ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root)]
        return [
            *self.wrapper,
            *self.program,
            "--config-file",
            str(config),
            *roots,
            "--pidfile",
            str(self.pidfile),
            "-H",
            self.host,
            *self.flags,
        ]

    def start(self, *, within_s: float = 30, **popen: Any) -> Engine:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self.environment,
                **popen,
            )
        deadline = time.monotonic() + within_s
        while True:
            try:
                if self.request("GET", "/_ping").status == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text()[-4000:]
                raise AssertionError(f"sampand did not start ({self.process.poll()}):\n{said}")
            time.sleep(0.01)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        version: str = "1.51",
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        """One API call on a fresh connection; dicts go as JSON, bytes as they are."""
        sent = dict(headers or {})
        if isinstance(body, (dict, list)):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        connection = UnixConnection(str(self.socket))
        try:
            url = (f"/v{version}" if version else "") + path + ("?" + urllib.parse.urlencode(query) if query else "")
            connection.request(method, url, body, sent)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """`request` that must succeed; returns the decoded body, or None when there is none."""
        answer = self.request(method, path, body, **query)
        assert answer.status < 400, (method, path, answer.status, answer.raw[:500])
        return answer.json if answer.raw and "json" in (answer.headers["Content-Type"] or "") else None

    def import_busybox(self, tag: str = "latest") -> None:
        query = {"fromSrc": "-", "repo": "busybox", "tag": tag, "changes": 'CMD ["/bin/sh"]'}
        answer = self.request(
            "POST", "/images/create", busybox.root_tar(), headers={"Content-Type": "application/x-tar"}, **query
        )
        assert answer.status == 200 and b"errorDetail" not in answer.raw, answer.raw

    def run(
        self, *command: str, image: str = "busybox", name: str = "", config: dict[str, Any] | None = None, **host: Any
    ) -> str:
        """Create and start a container; returns its id. Ports that are bound are exposed too, or none is published."""
        query = {"name": name} if name else {}
        exposed: dict[str, Any] = {"ExposedPorts": {port: {} for port in host.get("PortBindings", ())}}
        body = {"Image": image, "Cmd": list(command) or None, **exposed, **(config or {}), "HostConfig": host}
        created: str = self.call("POST", "/containers/create", body, **query)["Id"]
        self.call("POST", f"/containers/{created}/start")
        return created

    def wait(self, container: str) -> int:
        return int(self.call("POST", f"/containers/{container}/wait")["StatusCode"])

    def inspect(self, container: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/containers/{container}/json")
        return found

    def remove(self, container: str) -> None:
        self.call("DELETE", f"/containers/{container}", force="1", v="1")

    def logs(self, container: str, **query: Any) -> bytes:
        """Return the container's log bytes without the stdcopy frame headers."""
        raw, out, at = self.request("GET", f"/containers/{container}/logs", stdout="1", stderr="1", **query).raw, b"", 0
        while at < len(raw):
            size = int.from_bytes(raw[at + 4 : at + 8], "big")
            out, at = out + raw[at + 8 : at + 8 + size], at + 8 + size
        return out

    def cli(
        self, program: str, *argv: str, check: bool = True, stdin: str | bytes | None = None, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker` or `sampan` against this engine."""
        path = str(BIN / program) if (BIN / program).exists() else program
        text = stdin.decode() if isinstance(stdin, bytes) else stdin
        done = subprocess.run(
            [path, *argv],
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, (argv, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
        return done

    def pids(self) -> dict[int, str]:
        """Return {pid: title} of every process of this engine: all of them name the exec root."""
        return machine.processes(str(self.exec_root))

    def pid_of(self, title: str) -> int:
        """Return the pid of the process whose title starts so: sampand, sampan-supervisor, sampan-zygote,
        sampan-shim.
        """
        found = [pid for pid, line in self.pids().items() if line.startswith(title)]
        assert found, f"no process is titled {title}"
        return min(found)  # a fork bears its parent's title for a moment

    def kill(self) -> None:
        """Kill -9 sampand itself; everything below it lives on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self, *, within_s: float = 30) -> int:
        """SIGTERM, as the init system would; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(within_s)
        self.process = None
        return code

    def close(self) -> None:
        """Remove all containers, stop, and prove that no process of this engine is left."""
        try:
            if self.process is None or self.process.poll() is not None:
                self.start()
            for container in self.call("GET", "/containers/json", all="1"):
                self.remove(container["Id"])
            self.stop()
            deadline = time.monotonic() + 10
            while (left := self.pids()) and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not left, f"processes left: {left}"
        finally:
            for pid in self.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            shutil.rmtree(self.directory, ignore_errors=True)
