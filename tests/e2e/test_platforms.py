"""Several platforms under one name: pulled one after the other, chosen by `platform`, saved, loaded, pushed and
removed.

Docker Engine with its containerd store is the model; its classic store holds one platform a name, and answers about
names that hold one are the same in both.
"""

from __future__ import annotations

import http.server
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import busybox, registry, transfers
from tests.support.engine import Engine
from tests.support.registry import Debian, Image, Liar, send
from tests.support.transfers import forget, messages, pull, push, states

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

INDEX = "application/vnd.oci.image.index.v1+json"
HOST = "amd64"
OTHERS = ("arm64", "s390x")


@pytest.fixture(scope="module")
def ours() -> Iterator[Engine]:
    engine = Engine().start()
    try:
        yield engine
    finally:
        engine.close()


class Many(Liar):
    """A registry with `app:1` and `app:2`: an index over an image for each of some architectures, one busybox root."""

    def __init__(self) -> None:
        super().__init__()
        self.by = {
            name: Image([busybox.root_tar(), registry.layer({"etc/arch": name.encode()})], architecture=name)
            for name in (HOST, *OTHERS)
        }
        whole = Image([])
        entries = []
        for name, one in self.by.items():
            whole.blobs |= one.blobs
            described = {"mediaType": registry.DOCKER_MANIFEST, "size": len(one.manifest)}
            platform = {"os": "linux", "architecture": name}
            entries.append({**described, "digest": registry.digest(one.manifest), "platform": platform})
        self.images["app"] = whole
        self.index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        self.name = f"{self.host}/app"
        self.before = self._before

    def _before(self, handler: http.server.BaseHTTPRequestHandler) -> bool:
        target = handler.path.rpartition("/")[2]
        if "/manifests/" not in handler.path:
            return False
        for one in self.by.values():
            if target == registry.digest(one.manifest):
                send(handler, 200, one.manifest, {"Content-Type": registry.DOCKER_MANIFEST})
                return True
        digest = registry.digest(self.index)
        send(handler, 200, self.index, {"Content-Type": INDEX, "Docker-Content-Digest": digest})
        return True


@pytest.fixture
def many(ours: Engine) -> Iterator[Many]:
    server = Many()
    yield server
    forget(ours, *(one.id for one in server.by.values()))
    assert not ours.call("GET", "/images/json", all="1")
    server.close()


def platform(name: str) -> str:
    return json.dumps({"os": "linux", "architecture": name})


def ids(engine: Engine, name: str) -> dict[str, str]:
    """{architecture: id} of what a name holds."""
    found = {}
    for architecture in (HOST, *OTHERS):
        answer = engine.request("GET", f"/images/{name}/json", platform=platform(architecture))
        if answer.status == 200:
            found[architecture] = answer.json["Id"]
    return found


def test_pulled_one_after_the_other(ours: Engine, many: Many) -> None:
    name = f"{many.name}:1"
    assert states(pull(ours, many.name, platform="linux/arm64"))[-1] == f"Status: Downloaded newer image for {name}"
    alone = ours.call("GET", f"/images/{name}/json")
    assert alone["Architecture"] == "arm64" and ours.call("GET", f"/images/{name}/json", manifests="1") == alone
    assert states(pull(ours, many.name, platform="linux/amd64"))[-1] == f"Status: Downloaded newer image for {name}"
    assert ids(ours, name) == {"amd64": many.by["amd64"].id, "arm64": many.by["arm64"].id}
    assert ours.call("GET", f"/images/{name}/json")["Architecture"] == "amd64"
    assert states(pull(ours, many.name, platform="linux/arm64"))[-1] == f"Status: Image is up to date for {name}"
    assert states(pull(ours, many.name))[-1] == f"Status: Image is up to date for {name}"
    refused = ours.request("GET", f"/images/{name}/json", platform=platform("s390x"))
    assert (refused.status, refused.message) == (
        404, f"image with reference {name} was found but its platform (linux/amd64) does not match the specified "
        "platform (linux/s390x)",
    )  # fmt: skip
    arm = ours.call("GET", f"/images/{name}/json", platform=platform("arm64"))
    assert arm["RepoTags"] == [name] and arm["RepoDigests"] == [f"{many.name}@{registry.digest(many.index)}"]
    created = [h["CreatedBy"] for h in ours.call("GET", f"/images/{name}/history", platform=platform("arm64"))]
    assert created == [h["CreatedBy"] for h in ours.call("GET", f"/images/{arm['Id']}/history")]


def test_a_restart_keeps_them(many: Many, ours: Engine) -> None:
    for architecture in ("arm64", "amd64"):
        states(pull(ours, many.name, platform=f"linux/{architecture}"))
    before = ids(ours, f"{many.name}:1")
    ours.stop()
    ours.start()
    assert ids(ours, f"{many.name}:1") == before and len(before) == 2


def test_listed_once_with_its_platforms(ours: Engine, many: Many) -> None:
    for architecture in ("s390x", "arm64", "amd64"):
        states(pull(ours, many.name, platform=f"linux/{architecture}"))
    (row,) = ours.call("GET", "/images/json")
    assert "Manifests" not in row and row["Id"] == many.by["amd64"].id
    (row,) = ours.call("GET", "/images/json", manifests="1")
    shown = {m["ImageData"]["Platform"]["architecture"]: m for m in row["Manifests"]}
    assert sorted(shown) == ["amd64", "arm64", "s390x"]
    for one in row["Manifests"]:
        assert one["Kind"] == "image" and one["Available"] and one["ID"] == one["Descriptor"]["digest"]
        assert one["Size"]["Total"] == one["Size"]["Content"] + one["ImageData"]["Size"]["Unpacked"]
    inspected = ours.call("GET", f"/images/{many.name}:1/json", manifests="1")
    assert (inspected["Manifests"], inspected["Descriptor"]) == (row["Manifests"], row["Descriptor"])
    both = ours.request("GET", f"/images/{many.name}:1/json", manifests="1", platform=platform("arm64"))
    assert both.status == 400
    container = ours.call("POST", "/containers/create", {"Image": f"{many.name}:1", "Cmd": ["x"]})["Id"]
    ours.call("POST", f"/images/{many.name}:1/tag", repo="second", tag="x")
    ours.import_busybox()
    trees = [ours.cli(program, "image", "ls", "--tree").stdout for program in ("docker", "sampan")]
    assert all(f"─ linux/{name}" in trees[0] for name in shown) and "   U    \n" in trees[0]
    assert trees[0] == trees[1]
    for flags in (("-q",), ("--no-trunc",), ("--digests",), ("--format", "x")):
        refusals = [ours.cli(p, "image", "ls", "--tree", *flags, check=False) for p in ("docker", "sampan")]
        assert len({(r.returncode, r.stdout, r.stderr.strip()) for r in refusals}) == 1
    ours.remove(container)
    forget(ours, "second:x", "busybox:latest")


def test_each_runs_as_it_is_asked_for(ours: Engine, many: Many) -> None:
    """The other platform's files are seen; the programs are this machine's, so that they run without an emulator."""
    for architecture in ("arm64", "amd64"):
        states(pull(ours, many.name, platform=f"linux/{architecture}"))
    name = f"{many.name}:1"
    for asked, expected in (("", "amd64"), ("linux/arm64", "arm64"), ("linux/amd64", "amd64")):
        flags = ("--platform", asked) if asked else ()
        for program in ("docker", "sampan"):
            done = ours.cli(program, "run", "--rm", "--pull", "never", *flags, name, "/bin/cat", "/etc/arch")
            assert done.stdout == expected
    container = ours.call("POST", "/containers/create", {"Image": name, "Cmd": ["x"]}, platform="linux/arm64")["Id"]
    assert ours.call("GET", f"/containers/{container}/json")["Image"] == many.by["arm64"].id
    assert ours.call("GET", "/containers/json", all="1")[0]["Image"] == name
    refused = ours.request("DELETE", f"/images/{name}")
    assert refused.status == 409 and "(must force)" in refused.message
    refused = ours.request("DELETE", f"/images/{name}", platforms=platform("arm64"))
    assert refused.status == 409 and f"is being used by stopped container {container[:12]}" in refused.message
    ours.remove(container)


def test_tagged_and_removed(ours: Engine, many: Many) -> None:
    for architecture in ("s390x", "arm64", "amd64"):
        states(pull(ours, many.name, platform=f"linux/{architecture}"))
    ours.call("POST", f"/images/{many.name}:1/tag", repo="second", tag="x")
    assert len(ids(ours, "second:x")) == 3
    gone = ours.call("DELETE", f"/images/{many.name}:1", platforms=platform("s390x"))
    assert gone == [] and sorted(ids(ours, f"{many.name}:1")) == ["amd64", "arm64"]  # `second` has it still
    gone = ours.call("DELETE", "/images/second:x", platforms=platform("s390x"))
    assert {"Deleted": many.by["s390x"].id} in gone
    ours.call("DELETE", "/images/second:x")
    assert sorted(ids(ours, f"{many.name}:1")) == ["amd64", "arm64"]
    ours.call("DELETE", f"/images/{many.name}:1", platforms=platform("amd64"))
    assert ids(ours, f"{many.name}:1") == {"arm64": many.by["arm64"].id}
    assert ours.call("GET", f"/images/{many.name}:1/json")["Architecture"] == "arm64"
    states(pull(ours, many.name))
    assert ours.call("POST", "/images/prune")["ImagesDeleted"] is None
    gone = ours.call("DELETE", f"/images/{many.name}:1")
    assert {"Deleted": many.by["arm64"].id} in gone and {"Deleted": many.by["amd64"].id} in gone
    assert ours.call("GET", "/system/df", type="image")["Images"] == []


def test_pruned_with_the_name(ours: Engine, many: Many) -> None:
    for architecture in ("arm64", "amd64"):
        states(pull(ours, many.name, platform=f"linux/{architecture}"))
    container = ours.call("POST", "/containers/create", {"Image": f"{many.name}:1", "Cmd": ["x"]})["Id"]
    everything = {"filters": '{"dangling":["false"]}'}
    assert ours.call("POST", "/images/prune", **everything)["ImagesDeleted"] is None
    assert len(ids(ours, f"{many.name}:1")) == 2
    ours.remove(container)
    gone = ours.call("POST", "/images/prune", **everything)["ImagesDeleted"]
    assert {many.by[name].id for name in ("arm64", "amd64")} <= {record.get("Deleted") for record in gone}
    assert ours.call("GET", "/images/json", all="1") == []


def test_saved_and_loaded(ours: Engine, many: Many, tmp_path: Path) -> None:
    name = f"{many.name}:1"
    for architecture in ("s390x", "arm64", "amd64"):
        states(pull(ours, many.name, platform=f"linux/{architecture}"))
    before = ids(ours, name)
    archive = tmp_path / "all.tar"
    transfers.save(ours, name, archive)
    with tarfile.open(archive) as tar:
        read = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    (entry,) = json.loads(read["index.json"])["manifests"]
    nested = json.loads(read[entry["digest"].replace("sha256:", "blobs/sha256/")])
    assert nested["manifests"][0]["platform"]["architecture"] == "amd64"
    assert [m["Config"].rpartition("/")[2] for m in json.loads(read["manifest.json"])] == [before["amd64"][7:]]
    forget(ours, name)
    transfers.load(ours, archive)
    assert ids(ours, name) == before
    forget(ours, name)
    with archive.open("rb") as file:
        answer = ours.request("POST", "/images/load", file.read(), headers=transfers.TAR, platform=platform("arm64"))
    assert messages(answer)[-1] == {"stream": f"Loaded image: {name}\n"}
    assert ids(ours, name) == {"arm64": before["arm64"]}
    for architecture in ("amd64", "s390x"):
        states(pull(ours, many.name, platform=f"linux/{architecture}"))
    one = ours.request("GET", f"/images/{name}/get", platform=platform("s390x")).raw
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        names = tar.getnames()
    assert f"blobs/sha256/{before['s390x'][7:]}" in names and f"blobs/sha256/{before['amd64'][7:]}" not in names


def test_pushed(ours: Engine, many: Many, tmp_path: Path) -> None:
    """Without a platform an index goes over with all of them; with one, that image alone."""
    server = Debian(tmp_path)
    try:
        for architecture in ("arm64", "amd64"):
            states(pull(ours, many.name, platform=f"linux/{architecture}"))
        before = ids(ours, f"{many.name}:1")
        target = f"{server.host}/many"
        ours.call("POST", f"/images/{many.name}:1/tag", repo=target, tag="1")
        ours.call("POST", f"/images/{many.name}:1/tag", repo=target, tag="2")
        states(push(ours, target, "1"))
        states(push(ours, target, "2", platform=platform("arm64")))
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{target}:1"],
            capture_output=True,
            check=True,
        ).stdout
        listed: list[dict[str, Any]] = json.loads(raw)["manifests"]
        assert [m["platform"]["architecture"] for m in listed] == ["amd64", "arm64"]
        for architecture in ("arm64", "amd64"):
            into = f"dir:{tmp_path}/{architecture}"
            flags = ["--src-tls-verify=false", "--override-arch", architecture]
            subprocess.run(["skopeo", *flags[1:], "copy", "-q", flags[0], f"docker://{target}:1", into], check=True)
            config = json.loads((tmp_path / architecture / "manifest.json").read_text())["config"]["digest"]
            assert config == before[architecture]
        forget(ours, f"{target}:1", f"{target}:2", f"{many.name}:1")
        for architecture in ("arm64", "amd64"):
            states(pull(ours, target, "1", platform=f"linux/{architecture}"))
        assert ids(ours, f"{target}:1") == before
        states(pull(ours, target, "2", platform="linux/arm64"))
        assert ids(ours, f"{target}:2") == {"arm64": before["arm64"]}
        forget(ours, f"{target}:1", f"{target}:2")
    finally:
        server.close()
