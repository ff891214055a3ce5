"""A file system that does not answer, as of an NFS server that is gone: only who looks at it waits.

The file system is FUSE, without a server, or with one that is silent after a while: the kernel waits for an answer
until the device is closed. SAMPAN_HUNG=1 also waits for the engine's own limit.

Source: linux/include/uapi/linux/fuse.h, protocol 7.31.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from sampan.linux import mounts
from tests.support.engine import Answer, Engine, until
from tests.support.machine import lacks
from tests.support.tars import tar_of

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


class Dying(Hung):
    """A mounted file system whose server knows an empty directory, until `die`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._dead = False
        os.set_blocking(self._device, False)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def die(self) -> None:
        """Read requests on, and answer none."""
        self._dead = True

    def answer(self) -> None:
        device, self._device = self._device, -1
        if device >= 0:
            self._thread.join()
            os.close(device)

    def _serve(self) -> None:
        while (device := self._device) >= 0:
            if not select.select([device], [], [], 0.05)[0]:
                continue
            try:
                request = os.read(device, 1 << 20)
            except OSError:
                return
            opcode, unique = struct.unpack_from("<IQ", request, 4)
            if self._dead or opcode in _UNANSWERED:
                continue
            error, body = 0, b""
            if opcode == _INIT:
                body = struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 9, 131072, 1, 32, 0, 0)
            elif opcode == _GETATTR:
                times = (0, 0, 0, 0, 0, 0)
                body = struct.pack("<QII6Q10I", 0, 0, 0, 1, 0, 0, *times[:3], *times[3:], 0o40755, 2, 0, 0, 0, 4096, 0)
            else:
                error = -errno.ENOENT if opcode == _LOOKUP else -errno.ENOSYS
            os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


_LOOKUP, _GETATTR, _INIT = 1, 3, 26
_UNANSWERED = (2, 36, 42)  # forget, interrupt, forget of several


@contextmanager
def hung(path: Path, kind: type[Hung] = Hung) -> Iterator[Hung]:
    path.mkdir()
    try:
        found = kind(path)
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


def main_thread(engine: Engine) -> str:
    """The state of the daemon's main thread: R, S, or D when it waits for what may never come."""
    pid = engine.pid_of("sampand --exec")
    return Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_container_whose_mount_dies(own: Engine, tmp_path: Path) -> None:
    own.run("sleep", "1000", name="other")
    with hung(tmp_path / "dying", Dying) as fuse:
        assert isinstance(fuse, Dying)
        own.run("sleep", "1000", name="mounted", Binds=[f"{fuse.path}:/m"])
        own.call(
            "POST",
            "/volumes/create",
            {"Name": "dead", "DriverOpts": {"type": "none", "o": "bind", "device": f"{fuse.path}/v"}},
        )
        on_volume = {
            "Image": "busybox",
            "HostConfig": {"Mounts": [{"Type": "volume", "Source": "dead", "Target": "/v"}]},
        }
        own.call("POST", "/containers/create", on_volume, name="on-volume")
        pid = own.pid_of("sampand --exec")
        before = len(os.listdir(f"/proc/{pid}/fd"))
        fuse.die()
        archive = tar_of({"f": b"content"})
        mount = {"Type": "bind", "Source": f"{fuse.path}/x", "Target": "/x"}
        asked = {
            "cp from": Asked(own, "GET", "/containers/mounted/archive?path=/m/f"),
            "cp stat": Asked(own, "HEAD", "/containers/mounted/archive?path=/m/f"),
            "cp to": Asked(own, "PUT", "/containers/mounted/archive?path=/m/d", archive),
            "create": Asked(own, "POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [mount]}}),
            "volume": Asked(own, "POST", "/containers/on-volume/start"),
        }
        states = set()
        for _ in range(10):
            for method, path in (
                ("GET", "/containers/other/archive?path=/etc/passwd"),
                ("GET", "/containers/mounted/json"),
                ("GET", "/containers/mounted/changes"),
                ("GET", "/containers/json"),
                ("GET", "/volumes"),
                ("GET", "/info"),
            ):
                answer = Asked(own, method, path)
                assert answer.ended(SOON_S), path
                states.add(main_thread(own))
        assert "D" not in states
        assert [what for what, each in asked.items() if each.ended(0.0)] == []
        commit = Asked(own, "POST", "/commit?container=mounted&repo=c")
        export = Asked(own, "GET", "/containers/mounted/export")
        context = tar_of({"Dockerfile": b"FROM busybox\nCOPY Dockerfile /\nRUN ls /Dockerfile\n"})
        build = Asked(own, "POST", "/build", context)
        for each in (commit, export, build):
            assert each.ended(3 * SOON_S) and each.answer is not None and each.answer.status in (200, 201)
        if os.environ.get("SAMPAN_HUNG"):
            for what in ("cp from", "cp to"):
                assert asked[what].ended(90), what
                answer_ = asked[what].answer
                assert answer_ is not None and answer_.status == 503
                assert answer_.message.endswith("its file system does not answer")
        fuse.answer()
        for what, each in asked.items():
            assert each.ended(SOON_S), what
        own.remove("mounted")
        own.remove("on-volume")
        until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, SOON_S, "descriptors come back")
