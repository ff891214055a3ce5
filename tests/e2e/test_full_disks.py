"""A data root or an exec root without a free block, while containers end in every way: exits are the kernel's facts and
reach who waits and the records at once; what ends, frees and looks works; all converges when there is room again.

The disk is too small for the database's reserve, which is the hardest case. `SAMPAN_ROUNDS` adds kinds of disks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine, until

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root"), pytest.mark.timeout(180)]

AT_ONCE_S = 5.0
STARTS = 3 * int(os.environ.get("SAMPAN_ROUNDS", "1"))  # after kill -9, each on a full disk
TALK = "trap 'exit 5' TERM; while :; do echo line; usleep 2000; done"
HEALTH = {"Test": ["CMD", "true"], "Interval": 200_000_000, "Timeout": 5_000_000_000, "Retries": 1}


class Disk:
    """An engine of which one root is a small file system, mounted in its own mount namespace."""

    def __init__(self, which: str, kind: str) -> None:
        self.engine = Engine()
        root = {"data": self.engine.data_root, "exec": self.engine.exec_root}[which]
        root.mkdir()
        if kind == "tmpfs":
            mount = f"mount -t tmpfs -o size=32m,mode=700 small {root}"
        else:
            image = self.engine.directory / "disk.img"
            mount = f"truncate -s 48m {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} {root}"
        keeper = f"{mount} && echo mounted && exec sleep 10000"
        self.keeper = subprocess.Popen(["unshare", "-m", "sh", "-c", keeper], stdout=subprocess.PIPE)
        assert self.keeper.stdout is not None and self.keeper.stdout.readline() == b"mounted\n"
        self.keeper.stdout.close()
        self.engine.wrapper = ["nsenter", "-t", str(self.keeper.pid), "-m"]
        self.root = Path(f"/proc/{self.keeper.pid}/root{root}")
        self.data_root = Path(f"/proc/{self.keeper.pid}/root{self.engine.data_root}")

    def fill(self) -> None:
        """Write until not a byte fits."""
        with (self.root / "filler").open("ab", buffering=0) as out:
            for size in (1 << 20, 4096, 1):
                try:
                    while True:
                        out.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> None:
        (self.root / "filler").unlink()

    def close(self) -> None:
        (self.root / "filler").unlink(missing_ok=True)
        try:
            self.engine.close()
        finally:
            self.keeper.kill()
            self.keeper.wait()


def mapped(engine: Engine, disk: Disk) -> list[str]:
    """The writable shared mappings of files on the disk that any process of the engine has."""
    device = f"{os.major(found := disk.root.stat().st_dev):02x}:{os.minor(found):02x}"
    lines = [line for pid in engine.pids() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [line for line in lines if line.split()[1].startswith("rw") and line.split()[3] == device]


KINDS = ["data-ext4", "exec-tmpfs", *(["data-tmpfs", "exec-ext4"] if os.environ.get("SAMPAN_ROUNDS") else [])]


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest) -> Iterator[Disk]:
    made = Disk(*request.param.split("-"))
    try:
        made.engine.start()
        made.engine.import_busybox()
        yield made
    finally:
        made.close()


def at_once(what: str, call: Callable[[], Any]) -> Any:
    began = time.monotonic()
    found = call()
    took = time.monotonic() - began
    assert took < AT_ONCE_S, f"{what} took {took:.1f} s"
    return found


def status(engine: Engine, container: str) -> str:
    return str(engine.inspect(container)["State"]["Status"])


def ids(engine: Engine) -> set[str]:
    return {row["Id"] for row in engine.call("GET", "/containers/json", all=1)}


def test_whatever_ends_on_a_full_disk_has_ended(disk: Disk) -> None:
    engine = disk.engine
    alone: dict[str, Any] = {"NetworkMode": "none"}
    ending = engine.run("sh", "-c", "while [ ! -e /go ]; do usleep 10000; done; exit 7", **alone)
    gone = engine.run("sh", "-c", "while [ ! -e /go ]; do usleep 10000; done", AutoRemove=True, **alone)
    killed, removed, paused = (engine.run("sleep", "1000", **alone) for _ in range(3))
    stopped = engine.run("sh", "-c", TALK, **alone)
    again = engine.run("sh", "-c", "usleep 300000; exit 3", RestartPolicy={"Name": "always"}, **alone)
    healthy = engine.run("sleep", "1000", config={"Healthcheck": HEALTH}, **alone)
    talker = engine.run("sh", "-c", TALK, **alone)
    waited: list[int] = []
    waiting = threading.Thread(target=lambda: waited.append(engine.wait(ending)))
    waiting.start()
    executed = engine.call("POST", f"/containers/{talker}/exec", {"Cmd": ["sh", "-c", "exit 4"], "AttachStdout": True})
    until(lambda: len(engine.logs(talker)) > 50, 10, "it talks")
    pids = {c: engine.inspect(c)["State"]["Pid"] for c in (ending, gone)}

    disk.fill()
    for pid in pids.values():  # they end of themselves; the file would need a block
        os.kill(pid, signal.SIGKILL)
    waiting.join(AT_ONCE_S)
    assert waited == [137]
    until(lambda: engine.request("GET", f"/containers/{gone}/json").status == 404, AT_ONCE_S, "--rm removes it")
    at_once("kill", lambda: engine.call("POST", f"/containers/{killed}/kill"))
    assert status(engine, killed) == "exited"
    at_once("stop", lambda: engine.call("POST", f"/containers/{stopped}/stop"))
    assert engine.inspect(stopped)["State"]["ExitCode"] in (5, 137)
    at_once("pause", lambda: engine.call("POST", f"/containers/{paused}/pause"))
    assert status(engine, paused) == "paused"
    at_once("unpause", lambda: engine.call("POST", f"/containers/{paused}/unpause"))
    at_once("rm -f", lambda: engine.call("DELETE", f"/containers/{removed}", force=1))
    assert engine.request("GET", f"/containers/{removed}/json").status == 404
    ran = at_once("exec", lambda: engine.request("POST", f"/exec/{executed['Id']}/start", {"Detach": False}))
    assert ran.status == 200 and engine.call("GET", f"/exec/{executed['Id']}/json")["ExitCode"] == 4, ran.raw
    assert at_once("logs", lambda: engine.logs(talker)).startswith(b"line\n")
    states = {row["Id"]: row["State"] for row in engine.call("GET", "/containers/json", all=1)}
    assert {states[c] for c in (ending, killed, stopped)} == {"exited"}
    assert status(engine, talker) == "running", "a log that cannot be written stops nobody"
    before = engine.inspect(healthy)["State"]["Health"]["Log"]
    until(lambda: engine.inspect(healthy)["State"]["Health"]["Log"] != before, AT_ONCE_S, "probes go on")
    assert engine.inspect(healthy)["State"]["Health"]["Status"] == "healthy"
    count = engine.inspect(again)["RestartCount"]
    time.sleep(0.5)

    for _ in range(STARTS):
        engine.kill()
        os.kill(engine.pid_of("sampan-supervisor"), signal.SIGKILL)
        disk.fill()
        engine.start()
        assert not mapped(engine, disk), "a page that the disk cannot give would be a SIGBUS"
    states = {row["Id"]: row["State"] for row in engine.call("GET", "/containers/json", all=1)}
    assert {states[c] for c in (killed, stopped)} == {"exited"}
    assert [engine.inspect(c)["State"]["ExitCode"] for c in (ending, killed)] == [137, 137]
    assert states[talker] == states[healthy] == states[paused] == "running"
    until(lambda: not {removed, gone} & ids(engine), 10, "what was removed stays away")
    at_once("kill", lambda: engine.call("POST", f"/containers/{paused}/kill"))
    pruned = at_once("prune", lambda: engine.call("POST", "/containers/prune"))["ContainersDeleted"]
    assert {*(pruned or ())} >= {ending, killed, stopped, paused}
    assert engine.request("DELETE", "/images/busybox:latest", force=1).status in (200, 409)

    disk.free()
    lines = len(engine.logs(talker))
    until(lambda: len(engine.logs(talker)) > lines, 10, "the log goes on")
    until(lambda: engine.inspect(again)["RestartCount"] > count, 70, "the policy goes on")
    engine.call("DELETE", f"/containers/{again}", force=1)
    for container in (talker, healthy):
        engine.call("POST", f"/containers/{container}/restart", t=0)
        assert status(engine, container) == "running"
    engine.kill()
    engine.start()
    assert ids(engine) == {talker, healthy}
