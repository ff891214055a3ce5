"""The six kinds of hooks: when they run, what they are told, what their failure does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.driver import Runtime, Spec, until

BEFORE_START = ["prestart", "createRuntime", "createContainer"]


def hook(log: Path, kind: str, *, fail: bool = False) -> dict[str, Any]:
    """A hook that appends its kind and the state it was given to `log`."""
    script = f'state=$(cat); echo "{kind} $state" >> {log}' + ("; echo broken >&2; exit 1" if fail else "")
    return {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}


def entries(log: Path) -> list[tuple[str, dict[str, Any]]]:
    if not log.exists():
        return []
    return [
        (kind, json.loads(state)) for kind, _, state in (line.partition(" ") for line in log.read_text().splitlines())
    ]


@pytest.fixture
def log(runtime: Runtime) -> Path:
    (runtime.directory / "hooks").mkdir()
    return runtime.directory / "hooks/log"


def spec_with_hooks(runtime: Runtime, log: Path, *, failing: str = "") -> Spec:
    spec = runtime.spec()
    kinds = [*BEFORE_START, "poststart", "poststop"]
    spec["hooks"] = {kind: [hook(log, kind, fail=kind == failing)] for kind in kinds}
    # Inside the container the log is at the same path.
    spec["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(log.parent), "options": ["bind"]})
    spec["hooks"]["startContainer"] = [hook(Path("/mnt/log"), "startContainer", fail=failing == "startContainer")]
    return spec


def test_order_and_state(runtime: Runtime, log: Path) -> None:
    id = runtime.create(spec_with_hooks(runtime, log))
    expected = [*BEFORE_START, "poststart"] if runtime.poststart_too_early else BEFORE_START
    assert [kind for kind, _ in entries(log)] == expected
    runtime.ok("start", id)
    until(lambda: len(entries(log)) == 5)
    assert sorted(kind for kind, _ in entries(log)[3:]) == ["poststart", "startContainer"]
    pid = runtime.state(id)["pid"]
    runtime.ok("delete", "--force", id)
    assert entries(log)[-1][0] == "poststop"
    states = dict(entries(log))
    for kind, state in states.items():
        assert (state["id"], state["bundle"]) == (id, str(runtime.directory / id)), kind
    assert {states[kind]["status"] for kind in BEFORE_START} <= {"creating", "created"}
    assert states["poststart"]["status"] == ("created" if runtime.poststart_too_early else "running")
    assert states["poststop"]["status"] == "stopped"
    assert states["createRuntime"]["pid"] == states["poststart"]["pid"] == pid


@pytest.mark.parametrize("kind", BEFORE_START)
def test_a_hook_that_fails_ends_create(runtime: Runtime, log: Path, kind: str) -> None:
    message = runtime.create(spec_with_hooks(runtime, log, failing=kind), status=1)
    assert "hook #0" in message
    assert "exit status 1" in message
    assert "broken" in message
    assert json.loads(runtime.ok("list", "-f", "json")) is None


def test_a_hook_of_the_host_sees_the_namespaces(runtime: Runtime, log: Path) -> None:
    spec = runtime.spec()
    script = f"pid=$(sed 's/.*\"pid\":[ ]*\\([0-9]*\\).*/\\1/'); readlink /proc/$pid/ns/net > {log}"
    spec["hooks"] = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]
    }
    id = runtime.create(spec)
    pid = runtime.state(id)["pid"]
    assert log.read_text().strip() == str(Path(f"/proc/{pid}/ns/net").readlink())


def test_a_hook_s_timeout(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["hooks"] = {"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]}
    assert "timeout" in runtime.create(spec, status=1)


def test_a_failing_poststop_hook_does_not_keep_the_container(runtime: Runtime, log: Path) -> None:
    id = runtime.create(spec_with_hooks(runtime, log, failing="poststop"))
    runtime("delete", "--force", id)
    assert json.loads(runtime.ok("list", "-f", "json")) is None


def test_a_missing_hook_is_named(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["hooks"] = {"createRuntime": [{"path": "/does/not/exist"}]}
    assert "/does/not/exist" in runtime.create(spec, status=1)
