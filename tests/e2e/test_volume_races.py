"""A container that exchanges names in a volume while other containers mount parts of it: none ever gets the host.

Source: CVE-2021-25741 is this of Kubernetes; CVE-2021-30465 the same of mount targets.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.races import exchanging

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

ATTACK_S = float(os.environ.get("SAMPAN_ATTACK_S", "5"))
HOST, INSIDE, VOLUME = 3, 4, 5


def test_a_subpath_that_is_exchanged_with_a_link_never_mounts_the_host(shared_engine: Engine, tmp_path: Path) -> None:
    """Linux resolves each name when it is asked to: what the engine resolved must be what is mounted."""
    engine = shared_engine
    marker = tmp_path / "marker"
    marker.touch()
    engine.call("POST", "/volumes/create", {"Name": "raced"})
    root = Path(engine.call("GET", "/volumes/raced")["Mountpoint"])
    (root / "d").mkdir()
    (root / "d" / "inside").touch()
    (root / "link").symlink_to("/")
    script = f"[ -e /m{marker} ] && exit {HOST}; [ -e /m/inside ] && exit {INSIDE}; [ -e /m/link ] && exit {VOLUME}"
    mount = {"Type": "volume", "Source": "raced", "Target": "/m", "VolumeOptions": {"Subpath": "d"}}
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"Mounts": [mount], "NetworkMode": "none"}}
    container = engine.call("POST", "/containers/create", body)["Id"]
    seen: Counter[int] = Counter()
    try:
        with exchanging(root / "d", root / "link"):
            deadline = time.monotonic() + ATTACK_S
            while time.monotonic() < deadline:
                if engine.request("POST", f"/containers/{container}/start").status == 204:
                    seen[engine.wait(container)] += 1
    finally:
        engine.remove(container)
        engine.call("DELETE", "/volumes/raced")
    print(f"{seen.total()} starts: {seen[HOST]} saw the host, {seen[INSIDE]} the directory, {seen[VOLUME]} the volume")
    assert seen[INSIDE], "nothing was ever started: nothing is proven"
    assert not seen[HOST], f"{seen[HOST]} of {seen.total()} containers had the host's root at /m"


def test_cp_into_a_container_that_never_ran_meets_the_subpath_inside_the_volume(
    shared_engine: Engine, tmp_path: Path
) -> None:
    engine = shared_engine
    engine.call("POST", "/volumes/create", {"Name": "copied"})
    root = Path(engine.call("GET", "/volumes/copied")["Mountpoint"])
    (root / "real").mkdir()
    (root / "d").symlink_to("real")
    mount = {"Type": "volume", "Source": "copied", "Target": "/m", "VolumeOptions": {"Subpath": "d"}}
    created = engine.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [mount]}})["Id"]
    try:
        (tmp_path / "file").write_text("it")
        engine.cli("docker", "cp", str(tmp_path / "file"), f"{created}:/m/file")
        assert (root / "real" / "file").read_text() == "it"
        assert engine.cli("docker", "cp", f"{created}:/m/file", "-").stdout.startswith("file")
    finally:
        engine.remove(created)
        engine.call("DELETE", "/volumes/copied")


def test_four_containers_at_once_on_a_fresh_volume_all_see_the_images_files(shared_engine: Engine) -> None:
    engine = shared_engine
    expected = engine.cli("docker", "run", "--rm", "busybox", "ls", "/bin").stdout
    command = ["run", "--rm", "-v", "fresh4:/bin", "busybox", "ls", "/bin"]
    try:
        for _ in range(3):
            with ThreadPoolExecutor(4) as threads:
                done = [threads.submit(engine.cli, "docker", *command) for _ in range(4)]
            assert [d.result().stdout for d in done] == [expected] * 4
            engine.cli("docker", "volume", "rm", "fresh4")
    finally:
        engine.cli("docker", "volume", "rm", "-f", "fresh4")


def test_an_empty_directory_in_a_volume_is_filled_as_an_empty_volume_is(shared_engine: Engine) -> None:
    """Docker Engine 28.5 fills it; a subpath that is not there is refused at the start, not at the creation."""
    engine = shared_engine
    try:
        engine.cli("docker", "run", "--rm", "-v", "parts:/v", "busybox", "mkdir", "/v/d")
        mount = "type=volume,src=parts,dst=/bin,volume-subpath="
        assert "busybox" in engine.cli("docker", "run", "--rm", "--mount", mount + "d", "busybox", "ls", "/bin").stdout
        assert "busybox" in engine.cli("docker", "run", "--rm", "-v", "parts:/v", "busybox", "ls", "/v/d").stdout
        engine.cli("docker", "create", "--name", "nope", "--mount", mount + "nope", "busybox")
        refused = engine.cli("docker", "start", "nope", check=False)
        assert refused.returncode and "cannot access path" in refused.stderr
    finally:
        engine.cli("docker", "rm", "-f", "nope", check=False)
        engine.cli("docker", "volume", "rm", "-f", "parts")


def test_a_volume_is_never_removed_under_a_container_that_is_being_made(shared_engine: Engine) -> None:
    engine = shared_engine
    stop = threading.Event()

    def remove() -> None:
        while not stop.is_set():
            engine.request("DELETE", "/volumes/contested")

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for _ in range(25):
            host = {"Binds": ["contested:/bin"], "NetworkMode": "none"}
            body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": host}
            container = engine.call("POST", "/containers/create", body)["Id"]
            engine.call("GET", "/volumes/contested")
            engine.call("POST", f"/containers/{container}/start")
            assert engine.wait(container) == 0
            engine.remove(container)
    finally:
        stop.set()
        remover.join()
        engine.request("DELETE", "/volumes/contested", force="1")


def test_cp_into_a_container_that_never_ran_meets_the_directory_behind_a_volume(
    shared_engine: Engine, tmp_path: Path
) -> None:
    engine = shared_engine
    device = tmp_path / "device"
    device.mkdir()
    options = {"type": "none", "o": "bind", "device": str(device)}
    engine.call("POST", "/volumes/create", {"Name": "backed", "DriverOpts": options})
    host = {"Binds": ["backed:/m"]}
    created = engine.call("POST", "/containers/create", {"Image": "busybox", "HostConfig": host})["Id"]
    try:
        (tmp_path / "file").write_text("it")
        engine.cli("docker", "cp", str(tmp_path / "file"), f"{created}:/m/file")
        assert (device / "file").read_text() == "it"
    finally:
        engine.remove(created)
        engine.call("DELETE", "/volumes/backed")
