"""The loss of power, from inside the machine: `before` it an engine acknowledges, `after` it another one must know all
that.

test_vm.py boots it twice on one disk and cuts the power in between, as soon as ACKNOWLEDGED stands on the console.
"""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from tests.support.engine import Engine, until
from tests.support.tars import tar_of

ACKNOWLEDGED = "everything is acknowledged"
DATA = Path("/mnt/engine")  # survives; the exec root is on a tmpfs and does not, as on every machine


def make_engine() -> Engine:
    DATA.mkdir(exist_ok=True)
    engine = Engine(DATA)
    engine.exec_root, engine.socket, engine.pidfile = Path("/run/engine"), Path("/run/s"), Path("/run/pid")
    return engine.start(within_s=60)


def files() -> bytes:
    """An archive of four hundred files, always the same."""
    return tar_of({f"d{i % 7}/{i}": hashlib.sha256(b"%d" % i).digest() * (i * 3) for i in range(400)})


def before() -> None:
    engine = make_engine()
    engine.import_busybox()
    engine.run("sleep", "600", name="always", RestartPolicy={"Name": "always"})
    engine.run("sleep", "600", name="never")
    engine.run("sh", "-c", "exit 3", name="three")
    assert engine.wait("three") == 3
    body = {"Image": "busybox", "Cmd": ["cat", "/kept/note"], "HostConfig": {"Binds": ["notes:/kept"]}}
    engine.call("POST", "/volumes/create", {"Name": "notes", "Labels": {"a": "b"}})
    engine.call("POST", "/containers/create", body, name="first")
    engine.call("POST", "/containers/first/rename", name="renamed")
    writer = engine.run("sh", "-c", "echo survived >/kept/note; sync", Binds=["notes:/kept"])
    assert engine.wait(writer) == 0
    engine.remove(writer)
    engine.call("POST", "/images/busybox/tag", repo="again", tag="1")
    query = {"fromSrc": "-", "repo": "files", "tag": "1"}  # the last, so that nothing else has flushed it
    answer = engine.request("POST", "/images/create", files(), headers={"Content-Type": "application/x-tar"}, **query)
    assert answer.status == 200 and b"errorDetail" not in answer.raw, answer.raw
    print(ACKNOWLEDGED, flush=True)
    time.sleep(600)


def after() -> None:
    engine = make_engine()
    until(lambda: engine.inspect("always")["State"]["Running"], 20, "restart policy always starts it again")
    state = engine.inspect("never")["State"]
    assert (state["Status"], state["Running"], state["Pid"], state["ExitCode"]) == ("exited", False, 0, 255), state
    state = engine.inspect("three")["State"]
    assert state["Status"] == "exited", state
    assert {tag for image in engine.call("GET", "/images/json") for tag in image["RepoTags"]} == {
        "busybox:latest",
        "again:1",
        "files:1",
    }
    saved = engine.request("GET", "/images/files:1/get").raw  # breaks off when a layer is not what its diff_id says
    assert files() in saved
    assert engine.inspect("renamed")["State"]["Status"] == "created"
    assert engine.request("GET", "/containers/first/json").status == 404
    assert engine.call("GET", "/volumes/notes")["Labels"] == {"a": "b"}
    engine.call("POST", "/containers/renamed/start")  # the image's files are whole, and the volume's
    assert engine.wait("renamed") == 0, engine.logs("renamed")
    assert engine.logs("renamed") == b"survived\n"
    engine.call("POST", "/containers/never/start")
    engine.close()


if __name__ == "__main__":
    {"before": before, "after": after}[sys.argv[1]]()
