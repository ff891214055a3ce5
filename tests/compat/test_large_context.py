"""`sampan build` with a large directory sends what the build asks for, and gives the result that all of it would."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.engine import BIN, Engine

pytestmark = [pytest.mark.root]
SAMPAN = str(BIN / "sampan")
DOCKERFILE = "FROM busybox\nARG n=0\nCOPY small dir /to/\nRUN cat /to/small /to/inner; ls /to\n"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "inner").write_text("inner\n")
    (tmp_path / "dir" / "secret").write_text("secret\n")
    (tmp_path / "small").write_text("small\n")
    (tmp_path / ".dockerignore").write_text("dir/secret\n")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def built(engine: Engine, *argv: str, stdin: str = "") -> str:
    return engine.cli(SAMPAN, "build", "-q", *argv, stdin=stdin).stdout.strip()


def test_a_gigabyte_beside_is_not_sent(shared_engine: Engine, context: Path) -> None:
    alone = built(shared_engine, str(context))
    with (context / "huge").open("wb") as file:
        file.truncate(1 << 30)
    before = time.monotonic()
    assert built(shared_engine, str(context)) == alone
    assert built(shared_engine, "--no-cache", str(context))
    assert time.monotonic() - before < 5  # reading and sending it takes longer
    done = shared_engine.cli(SAMPAN, "build", "--progress=plain", "--no-cache", "--build-arg", "n=1", str(context))
    assert "transferring context" in done.stderr and " secret" not in done.stderr


@pytest.mark.parametrize("where", ["inside", "outside", "stdin"])
def test_the_dockerfile_may_be_elsewhere(where: str, shared_engine: Engine, context: Path, tmp_path: Path) -> None:
    alone = built(shared_engine, str(context))
    with (context / "huge").open("wb") as file:
        file.truncate(64 << 20)
    (context / "Dockerfile").unlink()
    file_path = {"inside": context / "dir" / "D", "outside": tmp_path.parent / f"{tmp_path.name}.D"}.get(where)
    if file_path is None:
        assert built(shared_engine, "-f", "-", str(context), stdin=DOCKERFILE) == alone
        return
    file_path.write_text(DOCKERFILE)
    (context / ".dockerignore").write_text("dir/secret\ndir/D\n")
    assert built(shared_engine, "-f", str(file_path), str(context)) == alone


def test_ulimits_and_platforms_reach_the_build(shared_engine: Engine, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo limit $(ulimit -n)\n")
    done = shared_engine.cli(SAMPAN, "build", "--progress=plain", "--ulimit", "nofile=123:456", str(context))
    assert "limit 123" in done.stderr
    (context / "Dockerfile").write_text("FROM scratch\nARG TARGETPLATFORM\nLABEL p=$TARGETPLATFORM\nCOPY small /\n")
    out = context.parent / f"{context.name}-out"
    shared_engine.cli(
        SAMPAN, "build", "--platform", "linux/amd64,linux/arm64", "-o", f"type=local,dest={out}", str(context)
    )
    assert sorted(path.name for path in out.iterdir()) == ["linux_amd64", "linux_arm64"]


def test_push_pushes(shared_engine: Engine, context: Path) -> None:
    done = shared_engine.cli(SAMPAN, "build", "--push", "-t", "localhost:1/x", str(context), check=False)
    assert done.returncode == 1 and "localhost:1/v2/" in done.stderr and "connection refused" in done.stderr
