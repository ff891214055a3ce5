"""What a start costs and leaves: an engine that has never built has no builder; a failed start leaves no process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import machine
from tests.support.engine import Engine, until
from tests.support.tars import tar_of

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("root")]

LOADED = """
import asyncio, json, sys
from sampan.api.server import ApiServer
from sampan.engine.config import EngineConfig
from sampan.engine.engine import Engine

async def main(root):
    engine = await Engine.open(EngineConfig(data_root=f"{root}/data", exec_root=f"{root}/run"))
    server = ApiServer(engine)
    await server.start()
    loaded = [name for name in sys.modules if name.startswith(("sampan.", "grpclib."))]
    await server.close()
    await engine.close(stop_containers=True)
    print(json.dumps(loaded))

asyncio.run(main(sys.argv[1]))
"""


def loaded(root: Path) -> set[str]:
    """The modules of an engine that serves this directory, when it has begun to serve."""
    done = subprocess.run([sys.executable, "-c", LOADED, str(root)], capture_output=True, check=True, timeout=30)
    return set(json.loads(done.stdout))


def test_an_engine_that_never_builds_has_no_builder(tmp_path: Path) -> None:
    names = loaded(tmp_path)
    assert "sampan.supervisor.client" in names
    assert not [name for name in names if name.startswith(("sampan.engine.builder", "grpclib.server"))]
    assert "sampan.spec.dockerfile.instructions" not in names
    assert not (tmp_path / "data" / "builder").exists()


def test_one_that_has_built_recovers_its_builder_at_the_start(engine: Engine) -> None:
    assert not (engine.data_root / "builder").exists()
    context = tar_of({"Dockerfile": b"FROM busybox\nRUN echo one > /one\n"})
    answer = engine.request("POST", "/build", context, t="first")
    assert b"errorDetail" not in answer.raw, answer.raw
    (engine.data_root / "builder" / "tmp" / "half").write_bytes(b"received before the power went")
    engine.kill()
    engine.start()
    assert not list((engine.data_root / "builder" / "tmp").iterdir())
    assert b"Using cache" in engine.request("POST", "/build", context, t="second").raw


def test_a_failed_start_leaves_no_supervisor(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    engine.data_root.mkdir()
    (engine.data_root / "sampan.db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(AssertionError, match="sampand did not start"):
        engine.start()
    until(lambda: not machine.processes(str(engine.exec_root)), 5, "the supervisor that was started ends")
    assert (engine.exec_root / "supervisor.log").exists(), "it had been started"
