"""Docker Engine as a peer: images go to it and come back from it.

`SAMPAN_REFERENCE_SOCKET` names one that runs already; else Debian's own (package docker.io) is started on a scratch
directory, without a network, and is gone at the end.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.engine import Answer, Engine
from tests.support.machine import lacks, processes

# A bridge of its own: with `--bridge=none` dockerd deletes docker0, which may belong to another engine on this machine.
BRIDGE, ADDRESS = "smp-peer0", "198.51.100.1/24"
FLAGS = (f"--bridge={BRIDGE}", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
START_S = 30
MEMORY, ENOUGH_BYTES = "/dev/shm", 4 * 1024**3


class Reference(Engine):
    """Speaks the API version that its engine has. `start`, `close`; what was made in a given one must be removed."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="sampan-peer-", dir=_scratch())))
        self.given = os.environ.get("SAMPAN_REFERENCE_SOCKET", "")
        if self.given:
            self.socket = Path(self.given)

    def command(self) -> list[str]:
        program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            lacks("no Docker Engine: neither SAMPAN_REFERENCE_SOCKET nor the package docker.io")
        assert program is not None
        config = self.directory / "daemon.json"
        config.write_text("{}")
        roots = ["--data-root", str(self.data_root), "--exec-root", str(self.exec_root), "--pidfile", str(self.pidfile)]
        return [program, "--config-file", str(config), *roots, "-H", self.host, *FLAGS]

    def start(self, *, within_s: float = START_S, **popen: Any) -> Reference:
        if not self.given:
            subprocess.run(["ip", "link", "del", BRIDGE], stderr=subprocess.DEVNULL)
            subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
            subprocess.run(["ip", "address", "add", ADDRESS, "dev", BRIDGE], check=True)
            with self.log.open("ab") as log:
                command = self.command()
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **popen)
        deadline = time.monotonic() + within_s
        while True:
            try:
                if self.request("GET", "/_ping").status == 200:
                    return self
            except (OSError, http.client.HTTPException):
                pass
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > deadline:
                words = self.log.read_text()[-2000:] if self.log.exists() else "it does not answer"
                self.close()
                lacks(f"Docker Engine does not start here: {words}")
            time.sleep(0.05)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        version: str = "",
        headers: dict[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        return super().request(method, path, body, version=version, headers=headers, **query)

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None
            deadline = time.monotonic() + 10
            while (left := processes(str(self.directory))) and time.monotonic() < deadline:
                time.sleep(0.05)
            subprocess.run(["ip", "link", "del", BRIDGE], check=True)
            assert not left, f"processes left: {left}"
        shutil.rmtree(self.directory)


def _scratch() -> str | None:
    """Memory where there is enough: this engine waits for the disk after every layer."""
    try:
        return MEMORY if shutil.disk_usage(MEMORY).free > ENOUGH_BYTES else None
    except OSError:
        return None
