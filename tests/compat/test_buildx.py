"""The docker client with its plugins, unmodified, on BuildKit's door: buildx, `docker build` through it, bake, compose.

Set SAMPAN_TEST_SOCKET to a Docker Engine with busybox:latest to prove these tests on it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import clients
from tests.support.engine import Engine, until
from tests.support.tars import tar_of

pytestmark = [pytest.mark.root]

Run = Callable[..., subprocess.CompletedProcess[str]]
TIMEOUT_S = 60


@pytest.fixture
def environment(shared_engine: Engine, tmp_path: Path) -> dict[str, str]:
    named = clients.configured(tmp_path / "client", buildx=clients.buildx())
    return {**os.environ, "DOCKER_HOST": shared_engine.host, **named, "NO_COLOR": "1"}


@pytest.fixture
def docker(environment: dict[str, str], shared_engine: Engine) -> Iterator[Run]:
    """Run docker; images that the test has named are gone afterwards."""
    before = _names(shared_engine)

    def run(*argv: object, stdin: bytes = b"", check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", *map(str, argv)],
            input=stdin,
            capture_output=True,
            env={**environment, **more},
            timeout=TIMEOUT_S,
            check=False,
        )
        texts = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        assert not check or done.returncode == 0, (argv, done.returncode, *texts)
        return subprocess.CompletedProcess(done.args, done.returncode, *texts)

    yield run
    for name in _names(shared_engine) - before:
        shared_engine.request("DELETE", f"/images/{name}", force="1")


def _names(engine: Engine) -> set[str]:
    return {name for image in engine.call("GET", "/images/json") for name in image["RepoTags"] or ()}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    directory = tmp_path / "context"
    (directory / "data").mkdir(parents=True)
    (directory / "data/kept").write_text("kept\n")
    (directory / "data/secret.key").write_text("ignored\n")
    (directory / ".dockerignore").write_text("**/*.key\n")
    (directory / "Dockerfile").write_text(
        "FROM busybox\nARG WHO=world\nCOPY data /data/\nRUN echo hello $WHO > /greeting\nLABEL made=here\n"
        "CMD cat /greeting /data/*\n"
    )
    return directory


def dockerfile(directory: Path, text: str) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text(text)
    return directory


# ── one build ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_build_from_a_directory(docker: Run, shared_engine: Engine, context: Path, tmp_path: Path) -> None:
    ids, metadata = tmp_path / "id", tmp_path / "metadata.json"
    done = docker(
        "buildx", "build", "--progress=plain", "-t", "door/one", "-t", "door/two:2", "--build-arg", "WHO=you",
        "--label", "more=too", "--iidfile", ids, "--metadata-file", metadata, context,
    )  # fmt: skip
    for line in (
        "[internal] load build definition from Dockerfile",
        "[internal] load metadata for docker.io/library/busybox:latest",
        "[internal] load .dockerignore",
        "[internal] load build context",
        "[2/3] COPY data /data/",
        "[3/3] RUN echo hello you > /greeting",
        "exporting to image",
        f"writing image {ids.read_text()}",
        "naming to docker.io/door/one",
        "naming to docker.io/door/two:2",
    ):
        assert line in done.stderr, line
    assert docker("run", "--rm", "door/one").stdout == "hello you\nkept\n"
    found = shared_engine.call("GET", "/images/door/two:2/json")
    assert found["Id"] == ids.read_text()
    assert found["Config"]["Labels"] == {"made": "here", "more": "too"}
    said = json.loads(metadata.read_text())
    assert said["containerimage.digest"] == said["containerimage.config.digest"] == found["Id"]
    assert said["image.name"] == "docker.io/door/one,docker.io/door/two:2"
    assert said["buildx.build.provenance"]["buildType"] == "https://mobyproject.org/buildkit@v1"
    assert said["buildx.build.provenance"]["materials"][0]["uri"].startswith("pkg:docker/busybox@latest?platform=")


def test_docker_build_goes_through_buildx(docker: Run, context: Path) -> None:
    first = docker("build", "-q", context).stdout.strip()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", first)
    again = docker("build", "--progress=plain", context).stderr
    assert again.count("CACHED") >= 2
    assert first in again


def test_only_what_changed_is_sent_again(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "many", "FROM scratch\nCOPY . /\n")
    for number in range(300):
        (directory / f"f{number}").write_text(f"{number} " * 300)

    def sent() -> float:
        text = docker("buildx", "build", "--progress=plain", directory).stderr
        number, unit = re.findall(r"transferring context: ([0-9.]+)(k?M?B)", text)[-1]
        return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]

    assert sent() > 300_000
    (directory / "f7").write_text("changed")
    assert sent() < 30_000


def test_contexts_on_standard_input(docker: Run) -> None:
    alone = docker("buildx", "build", "--progress=plain", "--no-cache", "-", stdin=b"FROM busybox\nRUN echo al''one\n")
    assert "alone" in alone.stderr
    files = {"D": "FROM busybox\nCOPY f /\nRUN cat /f\n", "f": "from the archive\n"}
    packed = docker(
        "buildx", "build", "--progress=plain", "--no-cache", "-f", "D", "-", stdin=tar_of(files, compression="gz")
    )
    assert "from the archive" in packed.stderr


def test_results_go_to_the_client(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "files", "FROM scratch\nCOPY . /\n")
    (directory / "sub").mkdir()
    (directory / "sub/big").write_bytes(os.urandom(300_000))
    (directory / "sub/run").write_text("x")
    (directory / "sub/run").chmod(0o750)
    (directory / "sub/link").symlink_to("run")
    docker("buildx", "build", "--output", f"type=local,dest={tmp_path / 'out'}", directory)
    assert (tmp_path / "out/sub/big").read_bytes() == (directory / "sub/big").read_bytes()
    assert (tmp_path / "out/sub/run").stat().st_mode & 0o777 == 0o750
    assert os.readlink(tmp_path / "out/sub/link") == "run"
    docker("buildx", "build", "--output", f"type=tar,dest={tmp_path / 'out.tar'}", directory)
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert {"Dockerfile", "sub/big", "sub/run", "sub/link"} <= {name.strip("/") for name in archive.getnames()}


def test_named_contexts(docker: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "f").write_text("from another directory\n")
    directory = dockerfile(tmp_path / "main", "FROM base\nCOPY --from=files f /\nRUN cat /f\n")
    done = docker(
        "buildx", "build", "--progress=plain", "--no-cache", "--build-context", f"files={other}",
        "--build-context", "base=docker-image://busybox", directory,
    )  # fmt: skip
    assert "from another directory" in done.stderr


def test_secrets_reach_the_step_and_nothing_else(docker: Run, shared_engine: Engine, tmp_path: Path) -> None:
    secret = "hunter" + os.urandom(4).hex()
    (tmp_path / "token").write_text(secret)
    directory = dockerfile(
        tmp_path / "secret",
        "FROM busybox\nRUN --mount=type=secret,id=tok,required=true rev /run/secrets/tok\n"
        "RUN --mount=type=secret,id=tok,env=TOK echo $TOK | rev\n",
    )
    done = docker(
        "buildx", "build", "--progress=plain", "--no-cache", "-t", "door/secret", "--secret",
        f"id=tok,src={tmp_path / 'token'}", directory,
    )  # fmt: skip
    assert done.stderr.count(secret[::-1]) == 2
    archive = shared_engine.request("GET", "/images/door/secret/get").raw
    assert secret.encode() not in archive
    assert secret[::-1].encode() not in archive
    without = docker("buildx", "build", "--progress=plain", "--no-cache", directory, check=False)
    assert without.returncode == 1
    assert "secret tok: not found" in without.stderr


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failing_step_is_shown_with_its_lines(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "failing", "FROM busybox\nRUN echo out; exit 7\n")
    done = docker("buildx", "build", "--progress=plain", directory, check=False)
    assert done.returncode == 1
    tail = done.stderr[done.stderr.index("------\n > [2/2] RUN") :]
    assert re.sub(r"\d+\.\d+ ", "0.1 ", tail) == (
        "------\n > [2/2] RUN echo out; exit 7:\n0.1 out\n------\nDockerfile:2\n--------------------\n"
        "   1 |     FROM busybox\n   2 | >>> RUN echo out; exit 7\n   3 |     \n--------------------\n"
        'ERROR: failed to build: failed to solve: process "/bin/sh -c echo out; exit 7" did not complete successfully:'
        " exit code: 7\n"
    )


def test_a_wrong_dockerfile_is_shown_with_its_lines(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "wrong", "FROM busybox\nRUNN echo\n")
    done = docker("buildx", "build", "--progress=plain", directory, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith(
        "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUNN echo\n   3 |     \n"
        "--------------------\nERROR: failed to build: failed to solve: dockerfile parse error on line 2: unknown"
        " instruction: RUNN (did you mean RUN?)\n"
    )


def test_a_missing_file_is_named(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "missing", "FROM busybox\nCOPY nope /\n")
    done = docker("buildx", "build", "--progress=plain", directory, check=False)
    assert done.returncode == 1
    assert '"/nope": not found' in done.stderr


def test_many_short_builds_end_with_their_status(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "short", "FROM nothing.invalid/x:y\nHEALTHCHECK NOPE\n")
    for _ in range(10):
        done = docker("buildx", "build", "--progress=plain", directory, check=False)
        assert done.returncode == 1
        assert "failed to receive status" not in done.stderr
        assert 'Unknown type "NOPE" in HEALTHCHECK (try CMD)' in done.stderr


def test_a_client_that_goes_away_ends_its_build(
    environment: dict[str, str], shared_engine: Engine, tmp_path: Path
) -> None:
    mark = f"87{os.getpid()}"
    directory = dockerfile(tmp_path / "slow", f"FROM busybox\nRUN sleep {mark}\n")
    for how in (signal.SIGINT, signal.SIGKILL):
        argv = ["docker", "buildx", "build", "--progress=plain", str(directory)]
        build = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, start_new_session=True)
        assert build.stderr is not None
        until(lambda: _sleeping(mark), 20, "the step runs")
        os.killpg(build.pid, how)
        build.wait(20)
        build.stderr.close()
        until(lambda: not _sleeping(mark), 10, "the step is gone")


def _sleeping(mark: str) -> bool:
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and Path(f"/proc/{entry}/cmdline").read_bytes() == f"sleep\0{mark}\0".encode():
                return True
        except OSError:
            continue
    return False


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────────

QUESTIONABLE = (
    "ARG BASE=busybox\nFROM $BASE as build\nRUN --mount=type=secret,id=tok true\n# final the end\n"
    "FROM build AS final\nCMD echo hi\n"
)


def test_check(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "check", QUESTIONABLE)
    done = docker("buildx", "build", "--call=check,format=json", directory, check=False)
    assert done.returncode == 1
    document = json.loads(done.stdout[done.stdout.index("{") :])
    assert [one["ruleName"] for one in document["warnings"]] == ["FromAsCasing", "JSONArgsRecommended"]
    assert document["warnings"][0]["location"]["ranges"] == [{"start": {"line": 2}, "end": {"line": 2}}]
    wrong = dockerfile(tmp_path / "wrong", "FROM busybox\nRUNN x\n")
    done = docker("buildx", "build", "--check", wrong, check=False)
    assert done.returncode == 1
    assert "ERROR: dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)" in done.stderr
    fine = dockerfile(tmp_path / "fine", "FROM busybox\nRUN true\n")
    assert docker("buildx", "build", "--check", fine).stdout == "Check complete, no warnings found.\n"


def test_outline_and_targets(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "questions", QUESTIONABLE)
    outline = docker("buildx", "build", "--call=outline", directory).stdout
    assert [line.split() for line in outline.splitlines() if line] == [
        ["TARGET:", "final"], ["DESCRIPTION:", "the", "end"], ["BUILD", "ARG", "VALUE", "DESCRIPTION"],
        ["BASE", "busybox"], ["SECRET", "REQUIRED"], ["tok"],
    ]  # fmt: skip
    targets = docker("buildx", "build", "--call=targets", directory).stdout
    assert targets == "TARGET          DESCRIPTION\nbuild           \nfinal (default) the end\n"


# ── the builder, its cache and history ───────────────────────────────────────────────────────────────────────────────


def test_the_builder_is_described(docker: Run) -> None:
    said = docker("buildx", "inspect", "default").stdout
    assert "Driver:" in said
    assert "running" in said
    assert "linux/amd64" in said or "linux/arm64" in said
    assert "GC Policy rule#3:" in said


def test_disk_usage_and_prune(docker: Run, tmp_path: Path) -> None:
    mark = os.urandom(8).hex()
    directory = dockerfile(tmp_path / "cached", f"FROM busybox\nRUN echo {mark} > /x\n")
    docker("buildx", "build", directory)
    said = docker("buildx", "du", "--verbose").stdout
    assert f"RUN echo {mark}" in said or f"echo {mark} > /x" in said
    [id] = re.findall(rf"ID:\s+(\S+)\n(?:(?!\n\n)[\s\S])*?{mark}", said)
    pruned = docker("buildx", "prune", "-f", "-a", "--filter", f"id={id}").stdout
    assert id in pruned
    assert mark not in docker("buildx", "du", "--verbose").stdout


def test_history(docker: Run, tmp_path: Path) -> None:
    directory = dockerfile(tmp_path / "history", "FROM busybox\nRUN echo remembered\n")
    metadata = tmp_path / "metadata.json"
    docker("buildx", "build", "--no-cache", "--metadata-file", metadata, directory)
    ref = json.loads(metadata.read_text())["buildx.build.ref"].rpartition("/")[2]
    assert ref in docker("buildx", "history", "ls").stdout
    assert "remembered" in (done := docker("buildx", "history", "logs", ref)).stdout + done.stderr
    assert ref in docker("buildx", "history", "inspect", ref).stdout
    if "SAMPAN_TEST_SOCKET" not in os.environ:  # Docker Engine 28.5.2 dies of a list after a removal
        docker("buildx", "history", "rm", ref)
        assert ref not in docker("buildx", "history", "ls").stdout


def test_a_dockerfile_that_changes_within_its_time_is_read_again(docker: Run, tmp_path: Path) -> None:
    """Times that are normalised say nothing: BuildKit asks for the Dockerfile's content each time (local.differ)."""
    context = tmp_path / "same"
    for word in ("one", "two"):
        dockerfile(context, f"FROM busybox\nRUN echo {word} > /word\n")
        (context / ".dockerignore").write_text(f"{word}\n")
        for name in ("Dockerfile", ".dockerignore"):
            os.utime(context / name, (1_600_000_000, 1_600_000_000))
        docker("buildx", "build", "-t", "door/same", context)
        assert docker("run", "--rm", "door/same", "cat", "/word").stdout == f"{word}\n"


# ── bake, compose ────────────────────────────────────────────────────────────────────────────────────────────────────

BAKE = """
group "default" {
  targets = ["app", "tool"]
}
target "base" {
  dockerfile-inline = "FROM busybox\\nCOPY note /note\\nRUN echo base > /base"
}
target "app" {
  contexts = { b = "target:base" }
  dockerfile-inline = "FROM b\\nRUN cat /base /note > /both"
  tags = ["door/app"]
}
target "tool" {
  dockerfile-inline = "FROM busybox\\nCOPY note /tool"
  tags = ["door/tool:1"]
}
"""


def test_bake(docker: Run, shared_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bake").mkdir()
    (tmp_path / "bake/docker-bake.hcl").write_text(BAKE)
    (tmp_path / "bake/note").write_text("noted\n")
    monkeypatch.chdir(tmp_path / "bake")
    untagged = _untagged(shared_engine)
    docker("buildx", "bake", "--progress=plain")
    assert docker("run", "--rm", "door/app", "cat", "/both").stdout == "base\nnoted\n"
    assert docker("run", "--rm", "door/tool:1", "cat", "/tool").stdout == "noted\n"
    assert _untagged(shared_engine) <= untagged, "a linked target leaves no image of its own"


def _untagged(engine: Engine) -> set[str]:
    return {image["Id"] for image in engine.call("GET", "/images/json") if not image["RepoTags"]}


def test_compose_build(docker: Run, context: Path, tmp_path: Path) -> None:
    clients.configured(tmp_path / "client", compose=clients.compose())
    (tmp_path / "compose.yaml").write_text(
        f"services:\n  web:\n    image: door/composed\n    build:\n      context: {context}\n"
        f"      args: {{WHO: compose}}\n"
    )
    done = docker("compose", "-p", "door", "-f", tmp_path / "compose.yaml", "build", "--no-cache")
    assert "error" not in done.stderr.lower()
    assert docker("run", "--rm", "door/composed").stdout == "hello compose\nkept\n"
