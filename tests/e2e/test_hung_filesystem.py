"""A bind source on a file system that does not answer, as of an NFS server that is gone: only its own container waits.

The file system is FUSE without a server: the kernel waits for an answer to the first request until the device is
closed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from sampan.linux import mounts
from tests.support.engine import Answer, Engine
from tests.support.machine import lacks

pytestmark = pytest.mark.root

SOON_S = 10.0


class Hung:
    """A mounted file system without a server. `answer`: every request that waits fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0"
        mounts.mount("nobody", str(path), "fuse", 0, options)

    def answer(self) -> None:
        if self._device >= 0:
            os.close(self._device)
            self._device = -1


@contextmanager
def hung(path: Path) -> Iterator[Hung]:
    path.mkdir()
    try:
        found = Hung(path)
    except OSError as e:
        lacks(f"FUSE: {e}")
    try:
        yield found
    finally:
        found.answer()
        mounts.umount2(str(path), mounts.MNT_DETACH)


class Asked:
    """A request in a thread of its own."""

    def __init__(self, engine: Engine, method: str, path: str, body: object = None) -> None:
        self.answer: Answer | None = None
        self._thread = threading.Thread(target=self._ask, args=(engine, method, path, body))
        self._thread.start()

    def _ask(self, engine: Engine, method: str, path: str, body: object) -> None:
        self.answer = engine.request(method, path, body)

    def ended(self, within_s: float) -> bool:
        self._thread.join(within_s)
        return not self._thread.is_alive()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Engine]:
    with_busybox = Engine().start()
    with_busybox.import_busybox()
    yield with_busybox
    with_busybox.close()


def test_only_the_container_on_it_waits(own: Engine, tmp_path: Path) -> None:
    with hung(tmp_path / "nfs") as nfs:
        host = {"Binds": [f"{nfs.path}/x:/x"]}
        own.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host}, name="stuck")
        mount = {"Type": "bind", "Source": f"{nfs.path}/y", "Target": "/y"}
        asked = [
            Asked(own, "POST", "/containers/stuck/start"),
            Asked(own, "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [mount]}}),
            Asked(own, "GET", "/containers/stuck/archive?path=/x/z"),
        ]
        assert not asked[0].ended(0.5) and not asked[1].ended(0.0) and not asked[2].ended(0.0)
        body = {"Image": "busybox", "Cmd": ["ls", "/t"], "HostConfig": {"Binds": [f"{own.directory}:/t"]}}
        own.call("POST", "/containers/create", body, name="free")
        other = Asked(own, "POST", "/containers/free/start")
        assert other.ended(SOON_S) and other.answer is not None and other.answer.status == 204
        assert own.wait("free") == 0
        assert own.call("GET", "/info")["Containers"] == 2
        assert not any(each.ended(0.0) for each in asked)
        nfs.answer()
        for each in asked:
            assert each.ended(SOON_S) and each.answer is not None and each.answer.status in (400, 404, 500)
        own.remove("stuck")
        own.remove("free")


def test_it_does_not_keep_the_daemon_from_ending(own: Engine, tmp_path: Path) -> None:
    with hung(tmp_path / "nfs") as nfs:
        host = {"Binds": [f"{nfs.path}/x:/x"]}
        own.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host}, name="stuck")
        start = threading.Thread(target=_start_until_it_is_cut, args=(own,))
        start.start()
        start.join(0.5)
        assert start.is_alive()
        assert own.stop(within_s=30) == 0
        start.join(SOON_S)
        assert not start.is_alive()


def _start_until_it_is_cut(engine: Engine) -> None:
    with contextlib.suppress(OSError, HTTPException):
        engine.request("POST", "/containers/stuck/start")
