"""The same image here and elsewhere: real inputs through a registry and through files, to other engines and back.

The inputs are a Debian root (170 MB, one layer of 8,700 files) and an image of 120 layers with whiteouts. "Elsewhere"
is another engine of ours, skopeo, and Docker Engine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import debian, registry, transfers
from tests.support.engine import Engine
from tests.support.machine import lacks
from tests.support.reference import Reference
from tests.support.registry import Debian
from tests.support.transfers import forget, pull, push, states

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]
INPUTS = ("debian", "deep")


@pytest.fixture(scope="module")
def ours() -> Iterator[Engine]:
    engine = Engine().start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def reference() -> Iterator[Engine]:
    engine = Reference().start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    for name in (registry.PROGRAM, "skopeo"):
        if shutil.which(name) is None:
            lacks(f"{name} is not installed")
    server = Debian(tmp_path_factory.mktemp("registry"))
    yield server
    server.close()


def make(engine: Engine, kind: str, name: str, scratch: Path) -> None:
    """One of INPUTS as `name:1`."""
    if kind == "debian":
        transfers.import_file(engine, debian.root_tar(), name)
        return
    archive = scratch / "deep.tar"
    transfers.docker_archive(transfers.deep_image(), f"{name}:1", archive)
    transfers.load(engine, archive)
    archive.unlink()


def seen(engine: Engine, name: str) -> dict[str, Any]:
    """What must be the same wherever an image is."""
    found = engine.call("GET", f"/images/{name}:1/json")
    return {key: found[key] for key in ("Id", "RootFS", "Architecture", "Os", "Created")} | {
        "Cmd": found["Config"]["Cmd"],
        "Labels": found["Config"]["Labels"],
        "RepoDigests": found["RepoDigests"],
    }


@pytest.mark.parametrize("kind", INPUTS)
def test_through_a_registry_and_skopeo(ours: Engine, plain: Debian, tmp_path: Path, kind: str) -> None:
    name = f"{plain.host}/real/{kind}"
    make(ours, kind, name, tmp_path)
    states(push(ours, name))
    before = seen(ours, name)
    assert len(before["RootFS"]["Layers"]) == {"debian": 1, "deep": 120}[kind]
    forget(ours, f"{name}:1", before["Id"])
    assert ours.request("GET", f"/images/{name}:1/json").status == 404
    states(pull(ours, name))
    assert seen(ours, name) == before
    source, flag = f"docker://{name}:1", "tls-verify=false"
    subprocess.run(["skopeo", "copy", "-q", f"--src-{flag}", source, f"dir:{tmp_path}/copy"], check=True)
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert manifest["config"]["digest"] == before["Id"]
    config = json.loads((tmp_path / "copy" / before["Id"].partition(":")[2]).read_text())
    assert config["rootfs"]["diff_ids"] == before["RootFS"]["Layers"]
    told = subprocess.run(["skopeo", "inspect", f"--{flag}", source], capture_output=True, text=True, check=True)
    inspected = json.loads(told.stdout)
    assert inspected["Layers"] == [layer["digest"] for layer in manifest["layers"]]
    assert f"{name}@{inspected['Digest']}" in before["RepoDigests"]
    forget(ours, f"{name}:1", before["Id"])


def exchanged(source: Engine, target: Engine, name: str, scratch: Path) -> None:
    """An image goes from one engine to another by file and back: same image, same bytes."""
    there, back = scratch / "there.tar", scratch / "back.tar"
    transfers.save(source, f"{name}:1", there)
    before = seen(source, name)
    transfers.load(target, there)
    layers = before["RootFS"]["Layers"]
    assert {**seen(target, name), "RepoDigests": []} == {**before, "RepoDigests": []}
    assert transfers.saved_layers(there) == [(before["Id"], layer) for layer in layers]
    transfers.save(target, f"{name}:1", back)
    assert transfers.saved_layers(back) == transfers.saved_layers(there)
    forget(source, f"{name}:1", before["Id"])
    transfers.load(source, back)
    assert {**seen(source, name), "RepoDigests": []} == {**before, "RepoDigests": []}
    forget(source, f"{name}:1", before["Id"])
    forget(target, f"{name}:1", before["Id"])


def test_as_files_to_another_engine_and_back(ours: Engine, tmp_path: Path) -> None:
    other = Engine().start()
    try:
        make(ours, "deep", "files/deep", tmp_path)
        exchanged(ours, other, "files/deep", tmp_path)
    finally:
        other.close()


@pytest.mark.parametrize("kind", INPUTS)
def test_to_docker_and_back(ours: Engine, reference: Engine, plain: Debian, tmp_path: Path, kind: str) -> None:
    """Pushed here and pulled there; then as a file there and back."""
    name = f"{plain.host}/there/{kind}"
    make(ours, kind, name, tmp_path)
    states(push(ours, name))
    states(pull(reference, name))
    before = seen(ours, name)
    assert seen(reference, name) == before
    forget(reference, f"{name}:1", before["Id"])
    exchanged(ours, reference, name, tmp_path)


@pytest.mark.parametrize("kind", INPUTS)
def test_from_docker(ours: Engine, reference: Engine, plain: Debian, tmp_path: Path, kind: str) -> None:
    """Pushed there and pulled here."""
    name = f"{plain.host}/here/{kind}"
    make(reference, kind, name, tmp_path)
    states(push(reference, name))
    states(pull(ours, name))
    before = seen(reference, name)
    assert seen(ours, name) == before
    for engine in (ours, reference):
        forget(engine, f"{name}:1", before["Id"])
