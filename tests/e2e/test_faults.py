"""A full disk, no descriptors left, a broken database, a missing blob: a clear error, no wedge, and a way back."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import Engine, UnixConnection, until
from tests.support.tars import tar_of

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]


@pytest.fixture
def small_disk() -> Iterator[Engine]:
    """An engine whose data root is a file system of 32 MiB, mounted in its own mount namespace."""
    engine = Engine()
    engine.data_root.mkdir()
    script = f'mount -t tmpfs -o size=32m,mode=700 small {engine.data_root} && exec "$@"'
    engine.wrapper = ["unshare", "-m", "sh", "-c", script, "sh"]
    engine.start()
    try:
        engine.import_busybox()
        yield engine
    finally:
        engine.close()


def runs(engine: Engine) -> bool:
    """Create, start and remove a container."""
    engine.remove(engine.run("true"))
    return True


def inside(engine: Engine) -> Path:
    """The data root as the engine sees it."""
    assert engine.process is not None
    return Path(f"/proc/{engine.process.pid}/root{engine.data_root}")


def fill(directory: Path) -> Path:
    """Write until the file system says that it is full."""
    path = directory / "filler"
    with path.open("wb") as out:
        try:
            while True:
                out.write(b"\0" * 65536)
                out.flush()
        except OSError:
            pass
    return path


def test_import_that_does_not_fit_leaves_no_image(small_disk: Engine) -> None:
    answer = small_disk.request(
        "POST", "/images/create", tar_of({"blob": os.urandom(64 << 20)}), fromSrc="-", repo="big", tag="1"
    )
    assert b"no space left on device" in answer.raw.lower()
    assert small_disk.request("GET", "/images/big:1/json").status == 404
    # What was unpacked is deleted behind the answer: there is room again within a moment.
    until(lambda: runs(small_disk), 5, "there is room for a container")


def test_full_disk_is_said_and_gets_better(small_disk: Engine) -> None:
    talker = small_disk.run("sh", "-c", "while :; do echo line; usleep 1000; done", NetworkMode="none")
    filler = fill(inside(small_disk))
    answer = small_disk.request(
        "POST", "/images/create", tar_of({"blob": os.urandom(1 << 20)}), fromSrc="-", repo="big", tag="1"
    )
    assert b"no space left on device" in answer.raw.lower()
    time.sleep(0.2)
    assert small_disk.inspect(talker)["State"]["Running"], "a log that cannot be written stops no container"
    filler.unlink()
    before = len(small_disk.logs(talker))
    deadline = time.monotonic() + 5
    while len(small_disk.logs(talker)) <= before:
        assert time.monotonic() < deadline, "the log goes on when there is room again"
        time.sleep(0.05)
    small_disk.remove(small_disk.run("true"))


def test_no_descriptors_left() -> None:
    """A crowd of connections takes all descriptors; when it is gone, the engine is as before."""
    engine = Engine()
    engine.wrapper = ["prlimit", "--nofile=128:128"]
    engine.start()
    try:
        engine.import_busybox()
        crowd = [UnixConnection(str(engine.socket), timeout_s=5) for _ in range(300)]
        for connection in crowd:
            try:
                connection.connect()
                connection.sock.send(b"GET /_ping HTTP/1.1\r\n")
            except OSError:
                break
        for connection in crowd:
            connection.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert engine.request("GET", "/_ping").status == 200
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        engine.remove(engine.run("true"))
    finally:
        engine.close()


def start_fails(engine: Engine) -> str:
    """Start an engine that must refuse; returns what it said."""
    done = subprocess.run(
        engine.command(), capture_output=True, text=True, env=engine.environment, timeout=30, check=False
    )
    assert done.returncode != 0
    return done.stdout + done.stderr


def test_unreadable_database_is_named_and_kept(engine: Engine) -> None:
    engine.stop()
    database = engine.data_root / "sampan.db"
    saved = engine.directory / "saved"
    saved.mkdir()
    for path in (database, *engine.data_root.glob("sampan.db-*")):
        shutil.move(path, saved)
    database.write_bytes(b"this is not a database" * 1000)
    said = start_fails(engine)
    assert str(database) in said
    assert "Traceback" not in said
    assert database.read_bytes().startswith(b"this is not")
    database.unlink()
    for path in saved.iterdir():
        shutil.move(path, engine.data_root)
    engine.start()
    assert engine.request("GET", "/images/busybox/json").status == 200


def test_missing_layer_is_named_and_the_rest_works(engine: Engine) -> None:
    engine.request("POST", "/images/create", tar_of({"blob": os.urandom(1 << 20)}), fromSrc="-", repo="hurt", tag="1")
    layer = engine.call("GET", "/images/hurt:1/json")["GraphDriver"]["Data"]["UpperDir"]
    engine.stop()
    shutil.rmtree(Path(layer).parent)
    engine.start()
    assert Path(layer).parent.name in engine.log.read_text() or "hurt" in engine.log.read_text()
    answer = engine.request("POST", "/containers/create", {"Image": "hurt:1", "Cmd": ["/blob"]})
    if answer.status == 201:
        answer = engine.request("POST", f"/containers/{answer.json['Id']}/start")
    assert answer.status in (404, 500), answer.raw
    assert answer.message
    engine.remove(engine.run("true"))


def test_a_second_daemon_on_the_same_data_root_is_refused(engine: Engine) -> None:
    said = start_fails(engine)
    assert f"{engine.data_root} is in use by another daemon" in said
    engine.remove(engine.run("true"))


@pytest.fixture
def small_exec_root() -> Iterator[tuple[Engine, Path]]:
    """An engine, and its exec root as the engine sees it: a file system of 16 MiB."""
    engine = Engine()
    engine.exec_root.mkdir()
    script = f'mount -t tmpfs -o size=16m,mode=700 small {engine.exec_root} && exec "$@"'
    engine.wrapper = ["unshare", "-m", "sh", "-c", script, "sh"]
    engine.start()
    try:
        engine.import_busybox()
        assert engine.process is not None
        yield engine, Path(f"/proc/{engine.process.pid}/root{engine.exec_root}")
    finally:
        engine.close()


def test_what_ends_while_the_exec_root_is_full_has_ended(small_exec_root: tuple[Engine, Path]) -> None:
    """Exits are the kernel's facts: they reach waiters and records whatever can be written down."""
    engine, root = small_exec_root
    ending = engine.run("sh", "-c", "sleep 2; exit 7", NetworkMode="none")
    killed, removed = (engine.run("sleep", "1000", NetworkMode="none") for _ in range(2))
    filler = fill(root)
    assert engine.wait(ending) == 7
    assert engine.request("POST", f"/containers/{killed}/kill").status == 204
    assert engine.wait(killed) == 137
    assert engine.request("DELETE", f"/containers/{removed}", force="1").status == 204
    assert [engine.inspect(c)["State"]["ExitCode"] for c in (ending, killed)] == [7, 137]
    filler.unlink()
    assert runs(engine)
    for container in (ending, killed):
        engine.remove(container)
