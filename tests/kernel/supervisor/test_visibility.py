"""The attack on a whole engine's exec: what a container with CAP_SYS_PTRACE sees of a shim's child.

See also runtime/test_visibility.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.kernel.runtime.test_visibility import ATTACK_S, marked_host, python, with_python
from tests.kernel.supervisor.bench_of_tasks import Bench, process_of
from tests.support import hunter


@pytest.mark.asyncio
@pytest.mark.timeout(ATTACK_S * 3 + 60)
async def test_exec_shows_nothing_of_the_host_nor_of_the_shims_program(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "root/hunter.py").write_text(Path(hunter.__file__).read_text())
    with marked_host(tmp_path) as host:
        host.update(programs=True, cgroup=bench.cgroup_parent)
        request = bench.request(*python("/hunter.py", str(ATTACK_S), json.dumps(host)))
        request = replace(request, spec=json.dumps(with_python(json.loads(request.spec))).encode())
        await bench.supervisor.create(request, start=True)
        end = time.monotonic() + ATTACK_S - 0.5
        execs = 0
        while time.monotonic() < end:
            await bench.supervisor.exec(
                request.id, f"e{execs}", process_of("true"), terminal=False, stdin=False, start=True
            )
            execs += 1
        async with asyncio.timeout(ATTACK_S + 30):
            while (await bench.supervisor.list())[0].exit is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    found = json.loads(bench.lines(request)[-1])
    print(found)
    assert found["hits"] == {}, found
    assert found["seen"] >= execs / 4
