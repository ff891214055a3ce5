"""A storm: clients of a whole engine that send all verbs on a few shared names, for a while; then everything is as it
must be: nothing failed inside, nothing is left of what was removed, and the disk's records are right.

The order of what each client sends is a seed's; what meets what is the machine's.

SAMPAN_STORM_S: how many seconds it lasts; SAMPAN_STORM_SEED: of the clients.
"""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.linux.netlink import Netlink
from tests.e2e.test_disk import du_bytes, fsck
from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

LASTS_S = float(os.environ.get("SAMPAN_STORM_S", "5"))
SEED = os.environ.get("SAMPAN_STORM_SEED", "1")
CONTAINERS, VOLUMES, NETWORKS = ("one", "two", "three"), ("vol", "vol2"), ("net", "net2")
DOCKERS = re.compile(r"is not paused|is not connected to|timeout waiting for exec session")
"""What Docker answers with status 500, too."""


def archive() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("storm")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"storm"))
    return file.getvalue()


class Client:
    """One client with its own order of requests. `failed`: what no client may ever be told."""

    def __init__(self, engine: Engine, number: int) -> None:
        self.engine, self.random = engine, random.Random(f"{SEED}/{number}")
        self.failed: list[str] = []
        self.done = 0
        self._archive = archive()

    def send(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        answer = self.engine.request(method, path, body, **query)
        self.done += 1
        if answer.status >= 500 and not DOCKERS.search(answer.raw.decode(errors="replace")):
            self.failed.append(f"{method} {path}: {answer.status} {answer.raw[:300]!r}")
        return answer.json if answer.status < 300 and answer.raw[:1] == b"{" else {}

    def create(self, name: str) -> None:
        temporary = self.random.random() < 0.3
        policy = "always" if not temporary and self.random.random() < 0.3 else ""
        body: dict[str, Any] = {
            "Image": self.random.choice(("busybox", "storm")),
            "Cmd": ["sh", "-c", self.random.choice(("sleep 100", "sleep 0.05", "trap 'exit 3' TERM; sleep 0.3"))],
            "Volumes": {"/anonymous": {}},
            "HostConfig": {
                "NetworkMode": self.random.choice(("bridge", "none", *NETWORKS)),
                "Binds": [f"{self.random.choice(VOLUMES)}:/data"],
                "AutoRemove": temporary,
                "RestartPolicy": {"Name": policy},
            },
        }
        self.send("POST", "/containers/create", body, name=name)

    def exec(self, name: str) -> None:
        made = self.send("POST", f"/containers/{name}/exec", {"Cmd": ["true"], "Tty": True})
        if made:
            self.send("POST", f"/exec/{made['Id']}/start", {"Detach": True, "Tty": True})
            self.send("POST", f"/exec/{made['Id']}/resize", h=20, w=80)
            self.send("GET", f"/exec/{made['Id']}/json")

    def put(self, name: str) -> None:
        self.send("PUT", f"/containers/{name}/archive?path=/tmp", self._archive)

    def step(self) -> None:
        choose = self.random.choice
        c, volume, network = choose(CONTAINERS), choose(VOLUMES), choose(NETWORKS)
        verbs: list[Callable[[], object]] = [
            lambda: self.create(c),
            lambda: self.create(c),
            *(2 * [lambda: self.send("POST", f"/containers/{c}/start")]),
            lambda: self.send("POST", f"/containers/{c}/stop", t=0),
            lambda: self.send("POST", f"/containers/{c}/kill", signal=choose(("KILL", "TERM"))),
            lambda: self.send("POST", f"/containers/{c}/pause"),
            lambda: self.send("POST", f"/containers/{c}/unpause"),
            lambda: self.send("POST", f"/containers/{c}/restart", t=0),
            lambda: self.send("POST", f"/containers/{c}/rename", name=choose(CONTAINERS)),
            lambda: self.send("POST", f"/containers/{c}/update", {"CpuShares": 512}),
            lambda: self.send("DELETE", f"/containers/{c}", force=choose((0, 1)), v=choose((0, 1))),
            lambda: self.send("POST", "/commit", {}, container=c, repo="storm"),
            lambda: self.exec(c),
            lambda: self.put(c),
            lambda: self.send("GET", f"/containers/{c}/archive?path=/tmp"),
            lambda: self.send("GET", f"/containers/{c}/json", size=1),
            lambda: self.send("GET", f"/containers/{c}/changes"),
            lambda: self.send("GET", f"/containers/{c}/top"),
            lambda: self.send("GET", f"/containers/{c}/stats", stream=0),
            lambda: self.send("GET", f"/containers/{c}/logs", stdout=1),
            lambda: self.send("GET", "/containers/json", all=1, size=1),
            lambda: self.send("POST", "/containers/prune"),
            lambda: self.send("POST", "/volumes/create", {"Name": volume}),
            lambda: self.send("DELETE", f"/volumes/{volume}", force=choose((0, 1))),
            lambda: self.send("POST", "/volumes/prune", filters='{"all":["true"]}'),
            *(2 * [lambda: self.send("POST", "/networks/create", {"Name": network})]),
            lambda: self.send("DELETE", f"/networks/{network}"),
            lambda: self.send("POST", f"/networks/{network}/connect", {"Container": c}),
            lambda: self.send("POST", f"/networks/{network}/disconnect", {"Container": c}),
            lambda: self.send("GET", f"/networks/{network}"),
            lambda: self.send("POST", "/networks/prune"),
            lambda: self.send("POST", "/images/busybox/tag", repo="storm"),
            lambda: self.send("DELETE", "/images/storm", force=choose((0, 1))),
            lambda: self.send("GET", "/images/storm/get"),
            lambda: self.send("GET", "/images/json", all=1),
            lambda: self.send("POST", "/images/prune"),
            lambda: self.send("GET", "/system/df"),
            lambda: self.send("POST", "/build/prune", all=1),
        ]
        choose(verbs)()

    def run(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            try:
                self.step()
            except Exception as e:
                self.failed.append(f"{type(e).__name__}: {e}")


class CommandLine(Client):
    """The docker client, and builds."""

    def __init__(self, engine: Engine, number: int, directory: Path) -> None:
        super().__init__(engine, number)
        self._context = directory

    def step(self) -> None:
        choose = self.random.choice
        c, volume, network = choose(CONTAINERS), choose(VOLUMES), choose(NETWORKS)
        (self._context / "Dockerfile").write_text(f"FROM busybox\nRUN echo {choose('ab')} > /f\nCOPY Dockerfile /\n")
        argv = choose(
            (
                ["run", "--rm", "--name", c, "-v", f"{volume}:/data", f"--network={network}", "busybox", "true"],
                ["rm", "-fv", c],
                ["cp", str(self._context / "Dockerfile"), f"{c}:/tmp"],
                ["build", "-q", "-t", "storm", str(self._context)],
                ["network", "rm", network],
                ["exec", c, "true"],
                ["system", "prune", "-f", "--volumes"],
            )
        )
        environment = {**self.engine.environment, "DOCKER_BUILDKIT": "0"}
        said = subprocess.run(
            ["docker", *argv], capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        self.done += 1
        if "Internal Server Error" in said.stderr or said.returncode < 0:
            self.failed.append(f"docker {argv}: {said.returncode} {said.stderr}")


def leftovers(engine: Engine) -> list[str]:
    """Mounts, namespaces and links of an engine that has no container."""
    with open("/proc/self/mountinfo") as file:
        found = [line.split()[4] for line in file if str(engine.directory) in line.split()[4]]
    found += [str(path) for path in engine.exec_root.glob("netns/*")]
    ids = {network["Id"] for network in engine.call("GET", "/networks")}
    with Netlink() as host:
        links = host.links()
    bridges = {link.ifindex for link in links if link.alias.partition(":")[2] in ids}
    found += [link.name for link in links if link.master in bridges and link.kind == "veth"]
    found += [title for title in engine.pids().values() if "container" in title and "shim" in title]
    return found


def test_a_storm_leaves_nothing_behind(engine: Engine, docker: str, tmp_path: Path) -> None:
    clients = [Client(engine, 0), Client(engine, 1), CommandLine(engine, 2, tmp_path)]
    end_s = time.monotonic() + LASTS_S
    threads = [threading.Thread(target=client.run, args=(end_s,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LASTS_S + 90)
        assert not thread.is_alive(), "a client waits for ever"
    assert not (failed := [text for client in clients for text in client.failed]), "\n".join(failed)
    assert all(client.done for client in clients)

    for container in engine.call("GET", "/containers/json", all="1"):
        engine.remove(container["Id"])
    engine.call("POST", "/volumes/prune", filters='{"all":["true"]}')
    engine.call("POST", "/networks/prune")
    engine.request("DELETE", "/images/storm", force=1)
    engine.call("POST", "/images/prune")
    engine.call("POST", "/build/prune", all=1)
    until(lambda: not leftovers(engine), 10, "links and mounts are gone")
    assert fsck(engine) == []
    assert not engine.call("GET", "/volumes")["Volumes"]

    def adds_up() -> bool:
        said, ours = du_bytes(engine.data_root), engine.call("GET", "/system/df")["DataRoot"]
        return bool(abs(ours["Total"] - said) <= said / 100)

    until(adds_up, 10, "df says what du says")
    log = engine.log.read_text()
    assert "Traceback" not in log and "never retrieved" not in log, log[-4000:]
