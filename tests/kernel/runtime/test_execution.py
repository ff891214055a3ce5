"""An exec that never gets ready: after its limit it is killed and has failed; the shim's loop went on meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sampan.linux.loop import Loop
from sampan.supervisor import wire
from sampan.supervisor.shim import execution
from sampan.supervisor.shim.execution import Execution
from sampan.supervisor.shim.process import Process
from tests.kernel.runtime.harness import Bench, default_spec


def children() -> set[int]:
    """Children of this process; another test's may be among them."""
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def test_an_exec_has_a_limit(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "LIMIT_S", 0.3)
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    made.pause()  # who joins it stands still as well
    loop = Loop()
    turns: list[int] = []
    ended: list[BaseException | None] = []

    def end(_: Execution, error: BaseException | None) -> None:
        ended.append(error)
        loop.stop()

    spec: wire.ProcessArguments = {
        "exec_id": "e",
        "process": {"args": ["true"], "cwd": "/", "env": []},
        "terminal": False,
        "stdin": False,
        "seccomp": "",
    }
    under_way = Execution(loop, Process(loop, "e", terminal=False, stdin=False), spec, end)
    monkeypatch.setattr(made.cgroup.__class__, "frozen", lambda _: False)  # the check that comes first has passed
    before = children()
    under_way.begin(made)
    loop.after(0.1, lambda: turns.append(1))
    loop.run()
    assert turns == [1]
    (error,) = ended
    assert isinstance(error, wire.TaskFailed)
    assert error.message.startswith("the process was not ready after 0 seconds")
    made.resume()
    for pid in children() - before:  # the stage, which the shim's reaper takes
        os.waitpid(pid, 0)
    loop.close()
    made.signal(signal.SIGKILL)
