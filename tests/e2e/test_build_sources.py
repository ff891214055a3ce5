"""Builds from elsewhere, through a whole engine: a repository or a tarball as context, ADD of a repository or a URL."""

from __future__ import annotations

import functools
import http.server
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.builder.files.test_git import TIME, commit, git, served  # noqa: F401
from tests.support.engine import Engine
from tests.support.tars import tar_of

pytestmark = pytest.mark.root


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory and the URL that it is served at."""
    root = tmp_path / "web"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def context(dockerfile: str) -> bytes:
    return tar_of({"Dockerfile": dockerfile})


def build(engine: Engine, body: bytes | None, **query: str) -> tuple[str, list[dict[str, Any]]]:
    """The image id and all messages."""
    answer = engine.request("POST", "/build", body, headers={"Content-Type": "application/x-tar"}, **query)
    messages = [json.loads(line) for line in answer.raw.splitlines()]
    assert answer.status == 200 and "error" not in messages[-1], messages[-3:]
    ids = [message["aux"]["ID"] for message in messages if "ID" in message.get("aux", {})]
    return ids[-1], messages


def files(engine: Engine, image: str) -> dict[str, tuple[int, str]]:
    """path → (mtime, content) of an image's files, the container's stubs left out."""
    made = engine.request("POST", "/containers/create", {"Image": image, "Cmd": ["/x"]})
    id = made.json["Id"]
    raw = engine.request("GET", f"/containers/{id}/export").raw
    engine.request("DELETE", f"/containers/{id}")
    found = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for member in tar:
            if member.isfile() and not member.name.startswith(("dev/", "etc/", ".dockerenv")):
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = (int(member.mtime), file.read().decode())
    return found


def test_a_repository_is_a_context_and_a_source(
    engine: Engine,
    served: tuple[Path, str],  # noqa: F811
) -> None:
    base, url = served
    project = base / "project.git"
    project.mkdir()
    git(project, "init", "-q", "-b", "main")
    commit(project, "one", sub__Dockerfile="FROM scratch\nCOPY data /data\n", sub__data="from git")
    image, _ = build(engine, None, remote=f"{url}/project.git#main:sub")
    assert files(engine, image) == {"data": (TIME, "from git")}
    image, _ = build(engine, context(f"FROM scratch\nADD {url}/project.git#main:sub /src/\n"))
    assert files(engine, image)["src/data"] == (TIME, "from git")


def test_a_url_is_a_source_a_context_and_a_dockerfile(engine: Engine, web: tuple[Path, str]) -> None:
    root, url = web
    (root / "plain.txt").write_text("from the web")
    image, _ = build(engine, context(f"FROM scratch\nADD {url}/plain.txt /there/\n"))
    assert files(engine, image)["there/plain.txt"][1] == "from the web"
    (root / "context.tar").write_bytes(context("FROM scratch\nCOPY Dockerfile /it\n"))
    image, _ = build(engine, None, remote=f"{url}/context.tar")
    assert files(engine, image)["it"][1] == "FROM scratch\nCOPY Dockerfile /it\n"
    (root / "Own").write_text("FROM scratch\nLABEL a=b\n")
    image, _ = build(engine, None, remote=f"{url}/Own")
    assert engine.request("GET", f"/images/{image}/json").json["Config"]["Labels"] == {"a": "b"}


NO_REPOSITORY = (
    "git stderr:\nfatal: remote error: access denied or repository not exported: /none.git\n: exit status 128"
)
REFUSED = [
    (
        "none.git",
        f"failed to load cache key: error fetching default branch for repository URL/none.git: {NO_REPOSITORY}",
    ),
    ("none.git#main", f"failed to load cache key: failed to fetch remote URL/none.git: {NO_REPOSITORY}"),
    ("p.git#nope", 'failed to load cache key: repository does not contain ref nope, output: ""'),
    ("p.git#main:nosuch", 'invalid subdir /nosuch: failed to lstat "nosuch": statat nosuch: no such file or directory'),
    ("p.git#main:../up", 'invalid subdir /up: failed to lstat "up": statat up: no such file or directory'),
    ("p.git#main:file", 'invalid subdir /file: git subpath "/file" contains non-directory "file"'),
    (
        f"p.git#{'a' * 40}",
        f"failed to checkout remote URL/p.git: git stderr:\nfatal: unable to read tree ({'a' * 40})\n: exit status 128",
    ),
    ("p.git?ref=main&checksum=aaaaaaaa", "failed to load cache key: expected checksum to match aaaaaaaa, got HEAD"),
    ("p.git?bogus=1", 'unexpected query "bogus"'),
]
"""Addresses of repositories, and what Docker Engine 28.5.2 says of them (with git 2.51) where they are ADDed."""


def test_a_repository_that_cannot_be_had_is_refused_in_buildkits_words(
    engine: Engine,
    buildx: str,
    served: tuple[Path, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    base, url = served
    project = base / "p.git"
    project.mkdir()
    git(project, "init", "-q", "-b", "main")
    head = commit(project, "one", file="x", Dockerfile="FROM scratch\nCOPY file /\n")
    environment = {**engine.environment, "BUILDX_BUILDER": "default"}

    def refused(context: str) -> str:
        argv = [buildx, "build", "--progress=plain", context]
        done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 1, done.stderr
        said = done.stderr.rpartition("ERROR: failed to build: failed to solve: ")[2].strip("\n")
        return said.replace(url, "URL").replace(head, "HEAD")

    for number, (address, words) in enumerate(REFUSED):
        (tmp_path / "Dockerfile").write_text(f"FROM scratch\nADD {url}/{address} /x\n")
        assert refused(str(tmp_path)) == words
        if number % 2 == 0:
            reading = "" if "query" in words else "failed to read dockerfile: "
            assert refused(f"{url}/{address}") == reading + words
