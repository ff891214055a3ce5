"""A container that exchanges names in a volume while other containers mount parts of it: none ever gets the host.

Source: CVE-2021-25741 is this of Kubernetes; CVE-2021-30465 the same of mount targets.
"""

from __future__ import annotations

import os
import time
from collections import Counter
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
    (root / "d").symlink_to("/real")  # absolute, and still inside the volume
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
