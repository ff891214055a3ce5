"""Shims come within a time, or an error does: from a zygote that hangs, that dies at once, that was never there."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from sampan.errors import Unavailable
from sampan.supervisor import client, nursery
from sampan.supervisor.client import Supervisor
from sampan.supervisor.link import ShimLost
from sampan.supervisor.nursery import Nursery
from tests.kernel.supervisor.bench_of_tasks import Bench

pytestmark = [pytest.mark.root, pytest.mark.asyncio]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "FORK_LIMIT_S", 3.0)


@pytest.mark.usefixtures("quick")
async def test_a_zygote_that_hangs_is_replaced(tmp_path: Path) -> None:
    shims = Nursery(str(tmp_path), 1024)
    try:
        shims.start()
        hung = shims.pid
        os.kill(hung, signal.SIGSTOP)
        link = await shims.take()
        assert link.alive and shims.pid != hung
        assert not os.path.exists(f"/proc/{hung}")
        link.close()
    finally:
        shims.close()


@pytest.mark.usefixtures("quick")
async def test_a_zygote_that_cannot_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nursery, "_MODULE", "sampan.supervisor.nowhere")
    shims = Nursery(str(tmp_path), 1024)
    try:
        async with asyncio.timeout(20):
            with pytest.raises(ShimLost):
                await shims.take()
    finally:
        shims.close()


async def test_a_supervisor_that_hangs_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    request, _ = await bench.run("sleep", "60")
    monkeypatch.setattr(client, "ANSWER_LIMIT_S", 0.5)
    pid = int(Path(f"{bench.exec_root}/supervisor.pid").read_text())
    os.kill(pid, signal.SIGSTOP)
    try:
        for call in (Supervisor.pids, Supervisor.stats, Supervisor.delete, Supervisor.start):
            with pytest.raises(Unavailable, match=r"does not answer; see .*supervisor\.log"):
                await call(bench.supervisor, request.id)
    finally:
        os.kill(pid, signal.SIGCONT)
