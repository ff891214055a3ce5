"""`sampan build` on an engine: steps, questions, failed steps that are entered, cache mounts that travel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import Engine

SAMPAN = Path(sys.executable).parent / "sampan"
pytestmark = [pytest.mark.root]


def client(engine: Engine) -> Any:
    environment = {**os.environ, "DOCKER_HOST": engine.host}
    environment.pop("DOCKER_BUILDKIT", None)

    def run(*argv: object, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        command = [str(SAMPAN), *map(str, argv)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env={**environment, **more}, timeout=60
        )

    return run


@pytest.fixture
def sampan(shared_engine: Engine) -> Any:
    return client(shared_engine)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "ctx").mkdir()
    return tmp_path / "ctx"


def write(context: Path, *lines: str) -> Path:
    (context / "Dockerfile").write_text("".join(f"{line}\n" for line in lines))
    return context


def test_a_build(sampan: Any, shared_engine: Engine, context: Path, tmp_path: Path) -> None:
    (context / "kept").write_text("kept")
    (context / "left.out").write_text("ignored")
    (context / ".dockerignore").write_text("*.out\n")
    write(
        context,
        "FROM busybox AS a",
        "RUN echo out; echo made > /f",
        "FROM busybox",
        "COPY . /d/",
        "COPY --from=a /f /d/",
        "CMD cat /d/f",
    )
    ids, metadata = tmp_path / "id", tmp_path / "metadata"
    done = sampan("build", "-t", "own/a:1", "--iidfile", ids, "--metadata-file", metadata, context)
    assert done.returncode == 0, done.stderr
    assert " out\n" in done.stderr and "naming to docker.io/own/a:1" in done.stderr and "steps in " in done.stderr
    found = shared_engine.request("GET", "/images/own/a:1/json").json
    assert found["Id"] == ids.read_text() == json.loads(metadata.read_text())["containerimage.config.digest"]
    assert sampan("run", "--rm", "own/a:1").stdout == "made\n"
    assert sampan("run", "--rm", "own/a:1", "ls", "-A", "/d").stdout.split() == [
        ".dockerignore",
        "Dockerfile",
        "f",
        "kept",
    ]
    assert sampan("build", "-q", context).stdout == f"{found['Id']}\n"
    assert sampan("build", context).stderr.count("CACHED") == 4
    sampan("rmi", "own/a:1")


def test_the_classic_builder(sampan: Any, context: Path) -> None:
    write(context, "FROM busybox", "RUN echo classic; exit 4")
    done = sampan("build", "--no-cache", context, DOCKER_BUILDKIT="0")
    assert done.returncode == 4 and "Step 2/2 : RUN echo classic; exit 4\n" in done.stdout
    refused = sampan("build", "--progress=classic", "--on-error=commit", context)
    assert refused.returncode == 1 and "the classic builder takes no" in refused.stderr


def test_where_a_dockerfile_comes_from(sampan: Any, context: Path, tmp_path: Path) -> None:
    write(context, "FROM busybox", "RUN echo the usual one")
    (context / "f").write_text("f")
    assert "piped" in sampan("build", "--no-cache", "-", stdin="FROM busybox\nRUN echo piped\n").stderr
    assert (
        "beside"
        in sampan("build", "--no-cache", "-f", "-", context, stdin="FROM busybox\nCOPY f /\nRUN echo beside\n").stderr
    )
    (tmp_path / "outside").write_text("FROM busybox\nCOPY f /\nRUN echo outside; ls -A /\n")
    done = sampan("build", "--no-cache", "-f", tmp_path / "outside", context)
    assert " outside\n" in done.stderr
    missing = sampan("build", tmp_path)
    assert missing.returncode == 1 and "Dockerfile: no such file or directory" in missing.stderr


def test_failures_point_into_the_dockerfile(sampan: Any, context: Path) -> None:
    write(context, "FROM busybox", "RUN echo last words; exit 7")
    done = sampan("build", context)
    assert done.returncode == 1
    for part in ("last words", "   2 | >>> RUN echo last words; exit 7", "did not complete successfully: exit code: 7"):
        assert part in done.stderr
    write(context, "FROM busybox", "NOPE")
    assert "unknown instruction: NOPE" in sampan("build", context).stderr


def test_questions(sampan: Any, context: Path) -> None:
    write(context, "FROM busybox AS one", "ARG who=me", "MAINTAINER me")
    found = sampan("build", "--check", context)
    assert found.returncode == 1 and "MaintainerDeprecated" in found.stdout
    assert "who" in sampan("build", "--call=outline", context).stdout
    assert "one (default)" in sampan("build", "--call=targets", context).stdout
    write(context, "FROM busybox")
    assert sampan("build", "--check", context).stdout == "Check complete, no warnings found.\n"


def test_a_failed_step_is_entered_or_kept(sampan: Any, shared_engine: Engine, context: Path) -> None:
    write(context, "FROM busybox", "ENV FOO=bar", "WORKDIR /w", "RUN echo half > f; exit 3")
    before = {image["Id"] for image in shared_engine.request("GET", "/images/json", all="1").json}
    done = sampan("build", "--on-error=shell", context, stdin="echo in $FOO; pwd; cat f\n")
    assert done.returncode == 1 and done.stdout == "in bar\n/w\nhalf\n"
    assert {image["Id"] for image in shared_engine.request("GET", "/images/json", all="1").json} == before
    kept = sampan("build", "--on-error=commit", context).stdout.strip()
    assert sampan("run", "--rm", kept, "cat", "/w/f").stdout == "half\n"
    sampan("rmi", kept)


def test_cache_mounts_travel(sampan: Any, engine: Engine, context: Path, tmp_path: Path) -> None:
    write(
        context,
        "FROM busybox",
        "RUN --mount=type=cache,target=/c --mount=type=cache,id=a/b,target=/d cat /c/f /d/f 2>/dev/null; echo"
        " carried > /c/f; echo too > /d/f",
    )
    assert sampan("build", "--no-cache", "--cache-mount-export", tmp_path / "mounts", context).returncode == 0
    other = client(engine)
    assert " carried\n" not in other("build", "--no-cache", context).stderr
    other("builder", "prune", "-af")
    done = other("build", "--no-cache", "--cache-mount-import", tmp_path / "mounts", context)
    assert " carried\n" in done.stderr and " too\n" in done.stderr, done.stderr


def test_prune_frees_what_builds_left(engine: Engine, context: Path) -> None:
    own = client(engine)
    write(context, "FROM busybox", "RUN head -c 1000000 /dev/zero > /big")
    own("build", context)
    images = engine.request("GET", "/images/json").json
    for image in images:
        if not image["RepoTags"]:
            engine.request("DELETE", f"/images/{image['Id']}")
    assert "1MB" in own("system", "df").stdout
    assert own("builder", "du").stdout.endswith("Total:\t1MB\n")
    assert "RUN head -c 1000000 /dev/zero > /big" in own("builder", "du", "--verbose").stdout
    assert json.loads(own("builder", "du", "--format", "json").stdout.splitlines()[0])["Type"] == "regular"
    done = own("builder", "prune", "-af")
    assert "Total reclaimed space: 1MB" in done.stdout
