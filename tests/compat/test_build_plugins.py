"""Builds through the clients of BuildKit's door: the docker CLI with its buildx plugin, bake, and compose."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import clients
from tests.support.engine import Engine

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
DOCKERFILE = """\
# syntax=docker/dockerfile:1
FROM busybox AS base
ARG WHO=world
RUN --mount=type=secret,id=token,env=TOKEN <<EOF
echo "hello $WHO ${#TOKEN}" > /greeting
EOF

FROM base AS other
RUN echo other > /other

FROM base
COPY --link --chmod=0640 data/ /data/
LABEL made=here
CMD ["cat", "/greeting"]
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/kept").write_text("kept")
    (tmp_path / "data/secret.key").write_text("ignored")
    (tmp_path / ".dockerignore").write_text("**/*.key\n")
    (tmp_path / "token").write_text("0123456789")
    return tmp_path


@pytest.fixture
def run(shared_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run a client against the engine."""
    config = clients.plugins(tmp_path_factory.mktemp("docker"))
    environment = {**os.environ, **config, "DOCKER_HOST": shared_engine.host, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    environment.pop("DOCKER_BUILDKIT", None)

    def call(*argv: object, stdin: bytes | None = None, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run([str(a) for a in argv], input=stdin, capture_output=True, env=environment, timeout=100)
        assert not check or done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return done

    return call


def test_the_docker_cli_with_buildx(
    run: Any, docker: str, shared_engine: Engine, context: Path, tmp_path: Path
) -> None:
    ids, metadata = tmp_path / "id", tmp_path / "metadata"
    flags = ["--build-arg", "WHO=you", "--secret", f"id=token,src={context}/token", "--iidfile", ids]
    out = run(
        docker, "buildx", "build", "--progress=plain", "-t", "bx/a:1", *flags, "--metadata-file", metadata, context
    )
    text = out.stderr.decode()
    assert "#1 [internal] load build definition from Dockerfile" in text and "COPY --link --chmod=0640 data/ /data/" in text
    assert "other" not in text  # a stage that nothing needs is not run
    assert b"0123456789" not in out.stdout + out.stderr
    found = shared_engine.request("GET", "/images/bx/a:1/json").json
    assert found["Id"] == ids.read_text() == json.loads(metadata.read_text())["containerimage.config.digest"]
    assert run(docker, "run", "--rm", "bx/a:1").stdout == b"hello you 10\n"
    assert run(docker, "run", "--rm", "bx/a:1", "ls", "-l", "/data").stdout.split()[2] == b"-rw-r-----"
    again = run(docker, "buildx", "build", "--progress=plain", *flags, context).stderr.decode()
    assert again.count("CACHED") >= 3
    assert run(docker, "rmi", "bx/a:1")


def test_errors_point_into_the_dockerfile(run: Any, docker: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo before; exit 7\n")
    failed = run(docker, "buildx", "build", "--progress=plain", tmp_path, check=False)
    text = failed.stderr.decode()
    assert failed.returncode == 1 and "   2 | >>> RUN echo before; exit 7" in text
    assert 'process "/bin/sh -c echo before; exit 7" did not complete successfully: exit code: 7' in text
    (tmp_path / "Dockerfile").write_text("FROM busybox\nNOPE x\n")
    text = run(docker, "buildx", "build", tmp_path, check=False).stderr.decode()
    assert "dockerfile parse error on line 2: unknown instruction: NOPE" in text and "   2 | >>> NOPE x" in text


def test_results_go_to_the_client(run: Any, docker: str, context: Path, tmp_path: Path) -> None:
    run(docker, "buildx", "build", "--target", "other", "-o", f"type=local,dest={tmp_path}/out", context)
    assert (tmp_path / "out/other").read_text() == "other\n"
    run(docker, "buildx", "build", "--target", "other", "-o", f"type=tar,dest={tmp_path}/out.tar", context)
    assert b"other\n" in subprocess.check_output(["tar", "-xOf", tmp_path / "out.tar", "other"])


def test_du_prune_and_history(run: Any, docker: str, context: Path) -> None:
    run(docker, "buildx", "build", "--no-cache", "--build-arg", "WHO=history", context)
    listed = [
        json.loads(line) for line in run(docker, "buildx", "history", "ls", "--format", "json").stdout.splitlines()
    ]
    assert listed and listed[0]["status"] == "Completed"
    assert b"RUN" in run(docker, "buildx", "history", "logs").stderr
    assert b"Total:" in run(docker, "buildx", "du").stdout
    assert b"Total:" in run(docker, "buildx", "prune", "-a", "-f").stdout
    run(docker, "buildx", "history", "rm", "--all")


def test_bake(run: Any, docker: str, context: Path, shared_engine: Engine) -> None:
    (context / "docker-bake.json").write_text(
        json.dumps(
            {
                "group": {"default": {"targets": ["one", "two"]}},
                "target": {
                    "one": {"context": str(context), "target": "other", "tags": ["bake/one"]},
                    "two": {
                        "context": str(context),
                        "contexts": {"base": "target:one"},
                        "dockerfile-inline": 'FROM base\nCMD ["cat", "/other"]',
                        "tags": ["bake/two"],
                    },
                },
            }
        )
    )
    run(
        docker,
        "buildx",
        "bake",
        "-f",
        context / "docker-bake.json",
        "--allow",
        f"fs.read={context}",
    )
    assert run(docker, "run", "--rm", "bake/two").stdout == b"other\n"
    for name in ("bake/two", "bake/one"):
        shared_engine.request("DELETE", f"/images/{name}", force="1")


def test_compose(run: Any, compose: str, docker: str, context: Path) -> None:
    (context / "compose.yaml").write_text(
        "services:\n  web:\n    image: compose/web\n    network_mode: none\n    build:\n      context: .\n      args: {WHO: compose}\n"
    )
    file = context / "compose.yaml"
    run(compose, "-f", file, "-p", "smpbuild", "build")
    assert run(compose, "-f", file, "-p", "smpbuild", "run", "--rm", "web").stdout == b"hello compose 0\n"
    run(compose, "-f", file, "-p", "smpbuild", "down", "--rmi", "all")
    assert b"compose/web" not in run(docker, "images").stdout


def test_checks(run: Any, docker: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("from busybox\nMAINTAINER me\n")
    done = run(docker, "buildx", "build", "--check", tmp_path, check=False)
    assert done.returncode == 1 and b"MaintainerDeprecated" in done.stdout
