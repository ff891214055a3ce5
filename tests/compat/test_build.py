"""Builds through the clients of the classic door: the docker CLI without buildx, and docker-py."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker as docker_py
import pytest
from docker.errors import BuildError

from tests.api.record_build import archive
from tests.support.engine import Engine

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # docker-py leaves sockets to the garbage collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS base\nARG WHO=world\nRUN echo hello $WHO > /greeting\n"
        "FROM base\nCOPY --chown=1000:1000 data /data/\nLABEL made=here\nWORKDIR /data\nCMD cat /greeting\n"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/kept").write_text("kept")
    (tmp_path / "data/secret.key").write_text("ignored")
    (tmp_path / ".dockerignore").write_text("**/*.key\n")
    return tmp_path


@pytest.fixture
def build(shared_engine: Engine, docker: str) -> Any:
    """Run `docker build` with the classic builder."""
    environment = {**os.environ, "DOCKER_HOST": shared_engine.host, "DOCKER_BUILDKIT": "0"}

    def run(*argv: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([docker, *argv], input=stdin, capture_output=True, env=environment, timeout=60)

    return run


def test_the_docker_cli(build: Any, shared_engine: Engine, context: Path, tmp_path: Path) -> None:
    ids = tmp_path / "id"
    done = build("build", "-t", "cli/built:1", "-t", "cli/again", "--build-arg", "WHO=you", "--iidfile", ids, context)
    assert done.returncode == 0, done.stderr
    assert b"Successfully tagged cli/built:1\nSuccessfully tagged cli/again:latest\n" in done.stdout
    assert build("run", "--rm", "cli/built:1").stdout == b"hello you\n"
    assert build("run", "--rm", "cli/again", "ls", "-ln", "/data").stdout.split()[4:6] == [b"1000", b"1000"]
    found = shared_engine.request("GET", "/images/cli/built:1/json").json
    assert found["Id"] == ids.read_text() and found["Config"]["Labels"] == {"made": "here"}
    history = build("history", "--no-trunc", "--format", "{{.CreatedBy}}", "cli/built:1").stdout.decode().splitlines()
    assert history[0] == '/bin/sh -c #(nop)  CMD ["/bin/sh" "-c" "cat /greeting"]'
    assert history[4] == "|1 WHO=you /bin/sh -c echo hello $WHO > /greeting"
    again = build("build", "--build-arg", "WHO=you", context)
    assert again.stdout.count(b"Using cache") == 6
    assert build("build", "-q", "--build-arg", "WHO=you", context).stdout.strip().decode() == found["Id"]
    for name in ("cli/built:1", "cli/again"):
        assert build("rmi", name).returncode == 0


def test_what_comes_on_standard_input(build: Any, tmp_path: Path) -> None:
    text = b"FROM busybox\nRUN echo piped\n"
    assert b"piped\n" in build("build", "--no-cache", "-", stdin=text).stdout
    packed = gzip.compress(archive({"Dockerfile": "FROM busybox\nCOPY f /\nRUN cat /f\n", "f": "packed\n"}))
    assert b"packed\n" in build("build", "--no-cache", "-", stdin=packed).stdout
    (tmp_path / "f").write_text("beside\n")
    done = build("build", "--no-cache", "-f", "-", tmp_path, stdin=b"FROM busybox\nCOPY f /\nRUN cat /f\n")
    assert b"beside\n" in done.stdout, done.stderr


def test_a_failure_has_the_commands_status(build: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo before; exit 9\n")
    done = build("build", tmp_path)
    assert done.returncode == 9
    assert b"before\n" in done.stdout
    assert done.stderr.endswith(b"The command '/bin/sh -c echo before; exit 9' returned a non-zero code: 9\n")


def test_resources_reach_the_step(build: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN ulimit -n; grep -c known /etc/hosts; df /dev/shm | tail -1; ip -o link | wc -l\n"
    )
    flags = ["--ulimit", "nofile=123:123", "--add-host", "known:1.2.3.4", "--shm-size", "32m", "--network", "none"]
    out = build("build", "--no-cache", *flags, tmp_path).stdout.decode().splitlines()
    assert "123" in out and "1" in out
    assert any(line.split()[1:2] == ["32768"] for line in out)


@pytest.fixture
def client(shared_engine: Engine) -> Iterator[Any]:
    with contextlib.closing(docker_py.DockerClient(base_url=shared_engine.host, version="auto")) as found:
        yield found
    gc.collect()


def test_docker_py(client: Any, context: Path) -> None:
    image, log = client.images.build(
        path=str(context), tag="py/built", buildargs={"WHO": "py"}, labels={"by": "py"}, rm=True
    )
    lines = "".join(entry.get("stream", "") for entry in log)
    assert "Step 1/9 : FROM busybox AS base" in lines and "Successfully tagged py/built:latest" in lines
    assert image.tags == ["py/built:latest"] and image.labels == {"made": "here", "by": "py"}
    assert client.containers.run("py/built", remove=True) == b"hello py\n"
    assert client.containers.run("py/built", ["ls"], remove=True) == b"kept\n"
    base, _ = client.images.build(path=str(context), target="base", buildargs={"WHO": "py"})
    assert base.id in [layer["Id"] for layer in image.history()]
    client.images.remove("py/built")


def test_docker_py_with_a_file_and_a_failure(client: Any) -> None:
    image, _ = client.images.build(fileobj=io.BytesIO(b"FROM busybox\nENV a=b\n"), nocache=True)
    assert "a=b" in image.attrs["Config"]["Env"]
    with pytest.raises(BuildError) as caught:
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN echo out; exit 5\n"))
    assert "returned a non-zero code: 5" in str(caught.value)
    assert any(entry.get("stream") == "out\n" for entry in caught.value.build_log)
    own = io.BytesIO(archive({"sub/Dockerfile": "FROM busybox\nCOPY sub/f /f\n", "sub/f": "1"}))
    client.images.build(fileobj=own, custom_context=True, dockerfile="sub/Dockerfile")
