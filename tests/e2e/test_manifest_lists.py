"""`manifest create, annotate, inspect, push, rm`: our client and docker's, each on lists of its own, then on each
other's.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import registry
from tests.support.engine import BIN
from tests.support.registry import Debian, Image, TokenServer

Run = Callable[..., tuple[int, str, str]]
IMAGES = {
    "app:amd": Image([registry.layer({"a": b"1"})]),
    "app:arm": Image([registry.layer({"b": b"2"})], architecture="arm64", variant="v8"),
    "other:x": Image([registry.layer({"c": b"3"})], architecture="s390x"),
}


def upload(host: str, name: str, image: Image, token: str = "") -> None:
    """Put an image into a registry, without any client of images."""
    repository, _, tag = name.partition(":")
    auth = {"Authorization": f"Bearer {token}"} if token else {}
    connection = http.client.HTTPConnection(host)

    def ask(method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream") -> str:
        connection.request(method, path, body, {"Content-Type": kind, **auth})
        response = connection.getresponse()
        response.read()
        assert response.status in (201, 202), response.status
        return response.getheader("Location") or ""

    for digest, raw in image.blobs.items():
        place = ask("POST", f"/v2/{repository}/blobs/uploads/")
        ask("PUT", f"{place}&digest={digest}", raw)
    ask("PUT", f"/v2/{repository}/manifests/{tag}", image.manifest, registry.DOCKER_MANIFEST)
    connection.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    server = Debian(tmp_path_factory.mktemp("registry"))
    for name, image in IMAGES.items():
        upload(server.host, name, image)
    yield server
    server.close()


def client(program: str, config: Path, host: str) -> Run:
    """Run `manifest …`; H stands for the registry. (exit code, output, errors without what always differs)."""
    path = str(BIN / program) if (BIN / program).exists() else program
    environment = {**os.environ, "DOCKER_CONFIG": str(config), "DOCKER_HOST": "unix:///nowhere"}

    def run(*words: str) -> tuple[int, str, str]:
        command = [path, "manifest", *(word.replace("H", host) for word in words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        errors = re.sub(r" on [0-9.]+:53", "", done.stderr.replace("sampan", "docker")).rstrip()
        return done.returncode, done.stdout, errors

    return run


STORY = """
inspect --insecure H/app:amd
inspect --insecure -v H/app:arm
inspect --insecure H/app:nope
inspect H/app:amd
create --insecure H/app:all H/app:amd H/app:arm
create --insecure H/app:all H/app:amd
create --insecure -a H/app:all H/other:x
inspect --insecure H/app:all
inspect -v H/app:all
inspect H/app:all H/app:arm
inspect H/app:all H/app:none
annotate --arch arm --variant v7 --os-features a,b --os-version 1 H/app:all H/app:arm
annotate --os linux --arch nothing H/app:all H/app:arm
annotate H/app:all H/app:none
annotate H/none:all H/app:arm
push --insecure H/none:x
push --insecure H/app:all
inspect --insecure H/app:all
rm H/app:all
rm H/app:all H/none:x
inspect --insecure H/app:all
inspect --insecure -v H/app:all
create --insecure H/app:two H/app:all
create --insecure BAD::: x
create --insecure H/new:l H/app:amd
push --insecure -p H/new:l
push --insecure -p H/new:l
create H/q:1 nobody.invalid/x:1
create H/q:1
inspect a b c
"""


def test_both_clients_say_the_same(plain: Debian, docker: str, tmp_path: Path) -> None:
    theirs = client(docker, tmp_path / "theirs", plain.host)
    mine = client("sampan", tmp_path / "mine", plain.host)
    for line in STORY.strip().splitlines():
        assert mine(*line.split()) == theirs(*line.split()), line


def test_each_reads_the_others_lists(plain: Debian, docker: str, tmp_path: Path) -> None:
    runs = [client(program, tmp_path / "shared", plain.host) for program in (docker, "sampan")]
    for mine, other in (runs, reversed(runs)):
        assert mine("create", "--insecure", "H/app:swap", "H/app:amd", "H/app:arm")[0] == 0
        assert mine("inspect", "H/app:swap") == other("inspect", "H/app:swap")
        assert other("annotate", "--os-version", "7", "H/app:swap", "H/app:amd")[0] == 0
        assert '"os.version": "7"' in mine("inspect", "H/app:swap")[1]
        assert other("push", "--insecure", "-p", "H/app:swap")[0] == 0


def test_credentials(docker: str, tmp_path: Path) -> None:
    """A token server: the list is pushed across repositories, whose blobs are mounted; nobody else may."""
    tokens = TokenServer(tmp_path)
    server = Debian(tmp_path, auth=tokens.auth)
    try:
        everything = tokens._granted(
            [f"repository:private/{name}:pull,push" for name in ("app", "other", "list")], "bob", everything=True
        )
        for name in ("app:amd", "other:x"):
            upload(server.host, f"private/{name}", IMAGES[name], everything["access_token"])
        pair = base64.b64encode(f"{registry.USER}:{registry.PASSWORD}".encode()).decode()
        refusals = []
        for program in (docker, "sampan"):
            config = tmp_path / Path(program).name
            run = client(program, config, server.host)
            refusals.append(run("create", "--insecure", "H/private/list:1", "H/private/app:amd"))
            config.mkdir(exist_ok=True)
            (config / "config.json").write_text(json.dumps({"auths": {server.host: {"auth": pair}}}))
            made = run("create", "--insecure", "H/private/list:1", "H/private/app:amd", "H/private/other:x")
            assert made[0] == 0, made
            pushed = run("push", "--insecure", "H/private/list:1")
            assert pushed[0] == 0 and pushed[1].count("Pushed ref ") == 2, pushed
        assert refusals[0] == refusals[1] and "denied: requested access" in refusals[0][2]
    finally:
        server.close()
        tokens.close()
