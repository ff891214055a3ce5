"""Pull and push against a real registry, and one that lies. Beside other engines: test_exchange.py."""

from __future__ import annotations

import http.server
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api import certificates
from tests.conftest import lacks
from tests.support import busybox, registry
from tests.support.engine import Answer, Engine, until
from tests.support.registry import Debian, Image, Liar, TokenServer, send
from tests.support.transfers import forget, messages, pull, push, random_image, states

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]


@pytest.fixture(scope="module")
def ours() -> Iterator[Engine]:
    engine = Engine(None, "--max-download-attempts", "3").start()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module", autouse=True)
def program() -> None:
    for name in (registry.PROGRAM, "htpasswd", "skopeo"):
        if shutil.which(name) is None:
            lacks(f"{name} is not installed")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    server = Debian(tmp_path_factory.mktemp("registry"))
    yield server
    server.close()


@pytest.fixture
def liar() -> Iterator[Liar]:
    server = Liar()
    yield server
    server.close()


def image(seed: int, layers: int = 2, size: int = 200_000) -> Image:
    return random_image(seed, layers=layers, size=size)


def archive(engine: Engine, name: str, seed: int) -> str:
    """Import an image of one layer; returns its id."""
    tar = registry.layer({f"only{seed}": os.urandom(50_000), "etc/hostname": b"x"})
    answer = engine.request("POST", "/images/create", tar, fromSrc="-", repo=name, tag="1")
    found: str = messages(answer)[-1]["status"]
    return found


def nothing_of(engine: Engine, host: str) -> None:
    """No image, no name and no layer of a failed pull is left: neither visible nor on the disk."""
    names = [n for i in engine.call("GET", "/images/json", all="1") for n in i["RepoTags"] + i["RepoDigests"]]
    assert not [n for n in names if n.startswith(host)]
    report = engine.call("GET", "/system/df", type="image")
    layers = sum(
        len(engine.call("GET", f"/images/{i['Id']}/json")["RootFS"].get("Layers") or []) for i in report["Images"]
    )

    def gone() -> bool:  # the layers that were under way when one failed are given up behind the answer
        there = {n for n in os.listdir(engine.data_root / "snapshots") if n.isdigit()}
        return len(there) <= layers and os.listdir(engine.data_root / "content" / "ingest") == []

    until(gone, 10, "nothing is left of the failed pull")


# -- the round trip ---------------------------------------------------------------------------------------------


def test_what_is_pushed_comes_back(ours: Engine, plain: Debian) -> None:
    name = f"{plain.host}/round/trip"
    made = archive(ours, name, 1)
    pushed = states(push(ours, name))
    assert pushed[0] == f"The push refers to repository [{name}]"
    assert pushed[1] == "Preparing" and "Pushed" in pushed
    before = ours.call("GET", f"/images/{made}/json")
    assert before["RepoDigests"][0].startswith(f"{name}@sha256:")
    assert states(push(ours, name))[2] == "Layer already exists"
    forget(ours, made)
    assert ours.request("GET", f"/images/{name}:1/json").status == 404
    lines = states(pull(ours, name))
    digest = before["RepoDigests"][0].partition("@")[2]
    assert lines == [
        "Pulling from round/trip", "Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete",
        f"Digest: {digest}", f"Status: Downloaded newer image for {name}:1",
    ]  # fmt: skip
    after = ours.call("GET", f"/images/{name}:1/json")
    assert after["Id"] == made and after["RootFS"] == before["RootFS"] and after["RepoDigests"] == before["RepoDigests"]
    assert states(pull(ours, name))[-1] == f"Status: Image is up to date for {name}:1"
    assert states(pull(ours, f"{name}@{digest}", ""))[-1] == f"Status: Image is up to date for {name}@{digest}"
    forget(ours, made)


def test_a_layer_is_mounted_from_its_neighbour(ours: Engine, plain: Debian) -> None:
    made = archive(ours, f"{plain.host}/mount/source", 2)
    push(ours, f"{plain.host}/mount/source")
    ours.call("POST", f"/images/{made}/tag", repo=f"{plain.host}/mount/target", tag="1")
    assert "Mounted from mount/source" in states(push(ours, f"{plain.host}/mount/target"))
    forget(ours, made)


def test_all_tags(ours: Engine, plain: Debian) -> None:
    name = f"{plain.host}/many"
    made = archive(ours, name, 3)
    ours.call("POST", f"/images/{made}/tag", repo=name, tag="2")
    assert [s for s in states(push(ours, name, "")) if s.startswith(("1:", "2:"))].__len__() == 2
    forget(ours, made)
    assert states(pull(ours, name, ""))[-1] == f"Status: Downloaded newer image for {name}"
    assert sorted(ours.call("GET", f"/images/{made}/json")["RepoTags"]) == [f"{name}:1", f"{name}:2"]
    forget(ours, made)


def test_skopeo_reads_what_we_push(ours: Engine, plain: Debian, tmp_path: Path) -> None:
    name = f"{plain.host}/for/skopeo"
    made = archive(ours, name, 4)
    push(ours, name)
    source = f"docker://{name}:1"
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"dir:{tmp_path}"], check=True)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["config"]["digest"] == made
    subprocess.run(
        ["skopeo", "copy", "-q", "--dest-tls-verify=false", "--format", "oci", "--dest-compress-format", "zstd",
         f"dir:{tmp_path}", f"docker://{plain.host}/by/skopeo:1"],
        check=True,
    )  # fmt: skip
    forget(ours, made)
    states(pull(ours, f"{plain.host}/by/skopeo"))
    back = ours.call("GET", f"/images/{plain.host}/by/skopeo:1/json")
    assert back["RootFS"]["Layers"] == json.loads((tmp_path / made.partition(":")[2]).read_text())["rootfs"]["diff_ids"]
    forget(ours, back["Id"])


# -- who may ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_passwords(ours: Engine, tmp_path: Path, tls: bool) -> None:
    if tls:
        certificates.make(tmp_path)
    server = Debian(tmp_path, auth=registry.htpasswd(tmp_path), tls=tmp_path if tls else None)
    try:
        scheme, name = ("https" if tls else "http"), f"{server.host}/secret/app"
        made = archive(ours, name, 6)
        assert messages(push(ours, name))[-1]["error"] == "no basic auth credentials"
        assert messages(push(ours, name, headers=registry.header(password="wrong")))[-1]["error"] == (
            "unauthorized: authentication required"
        )
        states(push(ours, name, headers=registry.header()))
        forget(ours, made)
        refused = pull(ours, name)
        assert (refused.status, refused.message) == (
            500, f'Head "{scheme}://{server.host}/v2/secret/app/manifests/1": no basic auth credentials',
        )  # fmt: skip
        refused = pull(ours, name, headers=registry.header(password="wrong"))
        assert (refused.status, refused.message) == (401, "unauthorized: authentication required")
        states(pull(ours, name, headers=registry.header()))
        login = {"username": registry.USER, "password": registry.PASSWORD, "serveraddress": server.host}
        assert ours.call("POST", "/auth", login) == {"Status": "Login Succeeded", "IdentityToken": ""}
        refused = ours.request("POST", "/auth", {**login, "password": "wrong"})
        assert (refused.status, refused.message) == (
            500, f"login attempt to {scheme}://{server.host}/v2/ failed with status: 401 Unauthorized",
        )  # fmt: skip
        forget(ours, made)
    finally:
        server.close()


def test_tokens(ours: Engine, tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path)
    server = Debian(tmp_path, auth=tokens.auth)
    try:
        made = archive(ours, f"{server.host}/private/app", 7)
        ours.call("POST", f"/images/{made}/tag", repo=f"{server.host}/public/app", tag="1")
        states(push(ours, f"{server.host}/private/app", headers=registry.header()))
        assert "Mounted from private/app" in states(push(ours, f"{server.host}/public/app", headers=registry.header()))
        assert "repository:private/app:pull" in tokens.scopes and "repository:public/app:pull,push" in tokens.scopes
        forget(ours, made)
        refused = pull(ours, f"{server.host}/private/app")
        assert refused.status == 404
        assert refused.message.startswith(
            f"pull access denied for {server.host}/private/app, repository does not exist or may require 'docker "
            f"login': "
        )
        states(pull(ours, f"{server.host}/public/app"))
        forget(ours, made)
        # the password went to the token service, never to the registry
        assert tokens.server.headers_of("authorization")
    finally:
        server.close()
        tokens.close()


# -- a registry that lies ---------------------------------------------------------------------------------------


def _wrong_digest(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
    send(handler, 200, raw[:-1] + bytes([raw[-1] ^ 1]))
    return True


def _other_layer(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
    """A well-formed layer of the right length that is another one."""
    if raw[:2] == b"\x1f\x8b":
        send(handler, 200, raw.replace(raw[100:140], bytes(40), 1))
        return True
    return False


def _short(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
    send(handler, 200, raw[: len(raw) // 2])
    return True


def _endless(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(raw), raw))
    while True:  # until the client hangs up
        handler.wfile.write(b"10000\r\n" + bytes(65536) + b"\r\n")


@pytest.mark.parametrize("lie", [_wrong_digest, _other_layer, _short, _endless])
def test_a_blob_that_is_not_what_it_should_be(ours: Engine, liar: Liar, lie: registry.Lie) -> None:
    liar.images["app"] = image(8)
    liar.lies["app"] = lie
    answer = pull(ours, f"{liar.host}/app")
    assert b"filesystem layer verification failed for digest sha256:" in answer.raw
    nothing_of(ours, liar.host)


def test_what_breaks_is_resumed(ours: Engine, liar: Liar) -> None:
    """Cut in the middle, then 500, then 429 with Retry-After: the rest is asked for, and the image is whole."""
    liar.images["app"] = wanted = image(9, layers=1, size=600_000)
    big = max(wanted.blobs, key=lambda d: len(wanted.blobs[d]))
    steps: list[str] = []

    def lie(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
        if digest != big:
            return False
        steps.append(handler.headers.get("Range", ""))
        if len(steps) == 1:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(raw)))
            handler.end_headers()
            handler.wfile.write(raw[:300_000])
            handler.wfile.flush()
            handler.connection.shutdown(2)
            handler.close_connection = True
            return True
        if len(steps) == 2:
            send(handler, 500)
            return True
        if len(steps) == 3:
            send(handler, 429, b"", {"Retry-After": "2"})
            return True
        return False

    liar.lies["app"] = lie
    lines = states(pull(ours, f"{liar.host}/app"))
    assert lines[-1].startswith("Status: Downloaded newer image")
    after_429 = lines.index("Retrying in 2 seconds")
    assert lines[after_429 + 1] == "Retrying in 1 second" and "Retrying in 1 second" in lines[:after_429]
    assert steps[0] == "" and len(steps) == 4
    assert steps[1] == steps[3] and int(steps[3].removeprefix("bytes=").rstrip("-")) > 0
    assert ours.call("GET", f"/images/{liar.host}/app:1/json")["Id"] == wanted.id
    forget(ours, wanted.id)


def test_a_server_without_ranges(ours: Engine, liar: Liar) -> None:
    liar.images["app"] = wanted = image(10, layers=1, size=600_000)
    cut: list[str] = []

    def lie(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
        if len(raw) < 100_000:
            return False
        if cut:
            send(handler, 200, raw)
            return True
        cut.append(digest)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw[:300_000])
        handler.close_connection = True
        return True

    liar.lies["app"] = lie
    states(pull(ours, f"{liar.host}/app"))
    assert ours.call("GET", f"/images/{liar.host}/app:1/json")["Id"] == wanted.id
    forget(ours, wanted.id)


def test_a_connection_that_always_breaks(ours: Engine, liar: Liar) -> None:
    liar.images["app"] = image(11)

    def lie(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
        if raw[:1] == b"{":
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.close_connection = True
        return True

    liar.lies["app"] = lie
    last = messages(pull(ours, f"{liar.host}/app"))[-1]
    assert last["error"].startswith(f'Get "http://{liar.host}/v2/app/blobs/sha256:')
    nothing_of(ours, liar.host)


def test_a_401_for_ever_is_an_error(ours: Engine, liar: Liar) -> None:
    liar.images["app"] = image(12)

    def always(handler: http.server.BaseHTTPRequestHandler) -> bool:
        send(handler, 401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        return True

    liar.before = always
    refused = pull(ours, f"{liar.host}/app", headers=registry.header())
    assert (refused.status, refused.message) == (401, "unauthorized: authentication required")
    assert len(liar.server.requests) <= 4
    nothing_of(ours, liar.host)


def test_credentials_stay_with_their_host(ours: Engine, liar: Liar) -> None:
    """Blobs are redirected to another host: it gets no Authorization, and its own challenge gets no answer."""
    other = Liar()
    try:
        liar.images["app"] = other.images["app"] = wanted = image(13)

        def lie(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
            send(handler, 307, b"", {"Location": f"http://{other.host}{handler.path}"})
            return True

        def ask(handler: http.server.BaseHTTPRequestHandler) -> bool:
            if "Authorization" in handler.headers:
                return False
            send(handler, 401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
            return True

        liar.lies["app"] = lie
        liar.before = ask
        states(pull(ours, f"{liar.host}/app", headers=registry.header()))
        assert liar.server.headers_of("authorization")
        assert other.server.requests and not other.server.headers_of("authorization")
        forget(ours, wanted.id)
        other.before = ask
        assert b"unauthorized" in pull(ours, f"{liar.host}/app", headers=registry.header()).raw
        assert not other.server.headers_of("authorization")
        nothing_of(ours, liar.host)
    finally:
        other.close()


def test_layers_that_the_configuration_does_not_know(ours: Engine, liar: Liar) -> None:
    """Blobs with right digests under a configuration with other diff_ids: nothing becomes visible."""
    honest, other = image(14), image(15)
    config = json.loads(other.config)
    liar.images["app"] = forged = Image([], rootfs=config["rootfs"])
    forged.blobs.update(honest.blobs)
    forged.document["layers"] = honest.document["layers"]
    forged.manifest = json.dumps(forged.document).encode()
    last = messages(pull(ours, f"{liar.host}/app"))[-1]
    assert last["error"].startswith("layers from manifest don't match image configuration")
    nothing_of(ours, liar.host)


@pytest.mark.parametrize("kind", ["both", "type", "schema1"])
def test_ambiguous_manifests(ours: Engine, liar: Liar, kind: str) -> None:
    liar.images["app"] = wanted = image(16)
    document: dict[str, Any] = dict(wanted.document)
    media_type = registry.DOCKER_MANIFEST
    if kind == "both":
        document["manifests"] = []
    elif kind == "type":
        media_type = "application/vnd.oci.image.index.v1+json"
    else:
        document = {"schemaVersion": 1, "name": "app", "fsLayers": [], "history": []}
        media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    liar.manifests["app"] = (media_type, json.dumps(document).encode())
    refused = pull(ours, f"{liar.host}/app")
    assert refused.status in (400, 500)
    assert ("schema 1 support has been removed" in refused.message) == (kind == "schema1"), refused.message
    nothing_of(ours, liar.host)


def test_an_index_gives_the_platform_and_no_attestation(ours: Engine, liar: Liar) -> None:
    liar.images["app"] = wanted = image(17)
    host = {"os": "linux", "architecture": "amd64"}
    entries = [
        {"platform": {"os": "unknown", "architecture": "unknown"},
         "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        {"platform": {"os": "linux", "architecture": "s390x"}},
        {"platform": host},
    ]  # fmt: skip
    described = {
        "mediaType": registry.DOCKER_MANIFEST,
        "size": len(wanted.manifest),
        "digest": registry.digest(wanted.manifest),
    }
    index_type = "application/vnd.oci.image.index.v1+json"
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": index_type, "manifests": [{**described, **e} for e in entries]}
    ).encode()
    index_digest = registry.digest(index)

    def before(handler: http.server.BaseHTTPRequestHandler) -> bool:
        if handler.path in ("/v2/app/manifests/1", f"/v2/app/manifests/{index_digest}"):
            send(handler, 200, index, {"Content-Type": index_type, "Docker-Content-Digest": index_digest})
            return True
        return False

    liar.before = before
    assert f"Digest: {index_digest}" in states(pull(ours, f"{liar.host}/app"))
    assert ours.call("GET", f"/images/{wanted.id}/json")["RepoDigests"] == [f"{liar.host}/app@{index_digest}"]
    assert ours.call("GET", f"/distribution/{liar.host}/app:1/json")["Platforms"] == [
        {"architecture": "s390x", "os": "linux"}, {"architecture": "amd64", "os": "linux"},
    ]  # fmt: skip
    last = messages(pull(ours, f"{liar.host}/app", platform="linux/riscv64"))[-1]
    assert last["error"] == "no matching manifest for linux/riscv64 in the manifest list entries"
    forget(ours, wanted.id)


# -- interrupted pushes, mirrors ----------------------------------------------------------------------------------


def big(engine: Engine, name: str, size: int = 8_000_000) -> str:
    """An image of one layer that is too large for one request."""
    tar = registry.layer({"big": os.urandom(size)})
    answer = engine.request("POST", "/images/create", tar, fromSrc="-", repo=name, tag="1")
    found: str = messages(answer)[-1]["status"]
    return found


def test_a_push_goes_on_where_it_broke(ours: Engine) -> None:
    receiver = registry.Receiver()
    try:
        receiver.cut = [1_000_000, 2_000_000]
        made = big(ours, f"{receiver.host}/app")
        lines = states(push(ours, f"{receiver.host}/app"))
        assert "Pushed" in lines and lines.count("Retrying in 1 second") == 2
        manifest = json.loads(receiver.manifests["1"])
        assert manifest["config"]["digest"] == made
        assert {manifest["config"]["digest"], *(x["digest"] for x in manifest["layers"])} == set(receiver.blobs)
        ranges = [h["content-range"] for m, _, h in receiver.server.requests if m == "PATCH" and "content-range" in h]
        assert len(ranges) == 2 and all(int(r.partition("-")[0]) >= 1_000_000 for r in ranges)
        forget(ours, made)
        assert os.listdir(ours.data_root / "content" / "ingest") == []
    finally:
        receiver.close()


def test_a_push_that_never_gets_through(ours: Engine) -> None:
    """The manifest is not put, the image stays without a digest, and nothing is left of the upload."""
    receiver = registry.Receiver()
    try:
        receiver.cut = [1000] * 50
        made = big(ours, f"{receiver.host}/app", 5_000_000)
        assert "error" in messages(push(ours, f"{receiver.host}/app"))[-1]
        assert receiver.manifests == {}
        assert ours.call("GET", f"/images/{made}/json")["RepoDigests"] == []
        forget(ours, made)
        assert os.listdir(ours.data_root / "content" / "ingest") == []
    finally:
        receiver.close()


def test_mirrors(root: None, liar: Liar) -> None:
    """A mirror of the table is asked first, under the rewritten name and without credentials; a dead one is passed
    over; a reload changes the table."""
    mirror = Liar()
    engine = Engine()
    try:
        dead = registry.free_port()
        table = {
            liar.host: {
                "mirrors": [f"http://127.0.0.1:{dead}", f"http://{mirror.host}"],
                "rewrite": {"^team/(.*)$": "cache/$1"},
            }
        }
        (engine.directory / "daemon.json").write_text(json.dumps({"registries": table}))
        engine.start()
        wanted = image(20)
        mirror.images["cache/app"] = liar.images["team/app"] = wanted
        name = f"{liar.host}/team/app"
        states(pull(engine, name, headers=registry.header()))
        assert liar.server.requests == []
        assert any("/v2/cache/app/manifests/1" in path for _, path, _ in mirror.server.requests)
        assert not mirror.server.headers_of("authorization")
        found = engine.call("GET", f"/images/{name}:1/json")
        assert found["RepoDigests"] == [f"{name}@{registry.digest(wanted.manifest)}"]
        forget(engine, wanted.id)
        mirror.images.clear()
        states(pull(engine, name))
        assert liar.server.requests
        forget(engine, wanted.id)
    finally:
        engine.close()
        mirror.close()


# -- many at once -----------------------------------------------------------------------------------------------


def test_each_layer_is_fetched_once(ours: Engine, liar: Liar) -> None:
    """100 pulls of ten images that share their base, by ten clients: every blob goes over the wire once."""
    base = registry.layer({"base": random.Random(1).randbytes(400_000)})
    wanted = []
    for n in range(10):
        own = registry.layer({f"own{n}": random.Random(100 + n).randbytes(100_000)})
        liar.images[f"app{n}"] = Image([base, own])
        wanted.append(liar.images[f"app{n}"])
    start = threading.Barrier(10)

    def client(number: int) -> list[Answer]:
        start.wait()
        return [pull(ours, f"{liar.host}/app{(number + n) % 10}") for n in range(10)]

    with ThreadPoolExecutor(10) as pool:
        answers = [answer for found in pool.map(client, range(10)) for answer in found]
    assert len(answers) == 100
    for answer in answers:
        assert states(answer)[-1].startswith("Status: ")
    layers = [registry.digest(raw) for one in wanted for raw in one.packed]
    fetched = [
        path.rpartition("/")[2] for method, path, _ in liar.server.requests if "/blobs/" in path and method == "GET"
    ]
    assert sorted(d for d in fetched if d in layers) == sorted(set(layers))
    forget(ours, *(one.id for one in wanted))


def test_a_client_that_leaves_ends_its_pull(ours: Engine, liar: Liar) -> None:
    liar.images["app"] = wanted = image(18)
    reached, leave = threading.Event(), threading.Event()

    def lie(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
        if raw[:1] == b"{":
            return False
        reached.set()
        leave.wait(20)
        handler.close_connection = True
        return True

    liar.lies["app"] = lie
    process = subprocess.Popen(
        ["curl", "-sN", "--unix-socket", str(ours.socket), "-X", "POST", f"http://d/images/create?fromImage={liar.host}/app&tag=1"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert reached.wait(20)
    process.kill()
    process.wait()
    leave.set()
    del liar.lies["app"]
    assert states(pull(ours, f"{liar.host}/app"))[-1].startswith("Status: Downloaded")
    forget(ours, wanted.id)
    nothing_of(ours, liar.host)


def test_a_daemon_killed_in_the_middle_of_a_pull(root: None, liar: Liar) -> None:
    """One layer is here, the other is under way: after the restart there is no trace, and the pull succeeds."""
    liar.images["app"] = wanted = image(19)
    last = registry.digest(wanted.packed[-1])
    reached, go_on = threading.Event(), threading.Event()

    def lie(handler: http.server.BaseHTTPRequestHandler, digest: str, raw: bytes) -> bool:
        if digest != last or go_on.is_set():
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw[:100_000])
        reached.set()
        go_on.wait(20)
        handler.close_connection = True
        return True

    liar.lies["app"] = lie
    engine = Engine().start()
    try:
        url = f"http://d/images/create?fromImage={liar.host}/app&tag=1"
        command = ["curl", "-sN", "--unix-socket", str(engine.socket), "-X", "POST", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert any(b"Pull complete" in line for line in client.stdout)
            assert reached.wait(20)
            engine.kill()
        go_on.set()
        engine.start()
        nothing_of(engine, liar.host)
        states(pull(engine, f"{liar.host}/app"))
        assert engine.call("GET", f"/images/{liar.host}/app:1/json")["Id"] == wanted.id
        forget(engine, wanted.id)
    finally:
        engine.close()


def test_a_container_runs_from_a_pulled_image(ours: Engine, plain: Debian) -> None:
    name = f"{plain.host}/busybox"
    answer = ours.request("POST", "/images/create", busybox.root_tar(), fromSrc="-", repo=name, tag="1")
    made = messages(answer)[-1]["status"]
    states(push(ours, name))
    forget(ours, made)
    states(pull(ours, name))
    container = ours.run("/bin/echo", "hello", image=f"{name}:1")
    assert ours.wait(container) == 0
    assert ours.logs(container) == b"hello\n"
    ours.remove(container)
    forget(ours, made)
