"""The process that makes a container and is gone: what init's life hangs on, and what happens when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from sampan.errors import SampanError
from sampan.linux.cgroups import groups
from tests.kernel.supervisor.bench_of_tasks import Bench
from tests.support.engine import until
from tests.support.machine import processes

pytestmark = [pytest.mark.root, pytest.mark.asyncio]


def _creators(bench: Bench, mark: str = "") -> list[int]:
    titles = processes(str(bench.exec_root)).items()
    return [pid for pid, line in titles if line.startswith(f"sampan-creator {mark}")]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("terminal", [False, True])
async def test_init_is_the_shims_child_and_no_creator_is_left(bench: Bench, terminal: bool) -> None:
    request, info = await bench.run("sleep", "1000", terminal=terminal)
    assert _parent(info.pid) == info.shim_pid
    until(lambda: not _creators(bench, request.id[:12]), 2, "the creator is gone")
    children = Path(f"/proc/{info.shim_pid}/task/{info.shim_pid}/children").read_text().split()
    assert children == [str(info.pid)]


async def test_init_dies_with_its_shim(bench: Bench) -> None:
    """PDEATHSIG is the shim's: the creator's end did not fire it, the shim's end does."""
    _, info = await bench.run("sleep", "1000")
    init = os.pidfd_open(info.pid)
    try:
        os.kill(info.shim_pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{info.pid}/exe").exists(), 5, "init is dead")
    finally:
        os.close(init)


async def test_waiting_creators_that_are_killed_are_replaced(bench: Bench) -> None:
    until(lambda: _creators(bench, "(waiting)"), 5, "a creator in reserve")
    killed = _creators(bench, "(waiting)")
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in killed), 5, "they are dead")
    request, _ = await bench.run("sh", "-c", "exit 3")
    assert (await bench.supervisor.wait(request.id)).status == 3


async def test_a_waiting_creator_goes_with_its_shim(bench: Bench) -> None:
    until(lambda: _creators(bench, "(waiting)"), 5, "a creator in reserve")
    creators = _creators(bench, "(waiting)")
    for shim in {_parent(pid) for pid in creators}:
        os.kill(shim, signal.SIGKILL)
    until(lambda: not set(creators) & set(_creators(bench)), 5, "the creators are gone")
    request, _ = await bench.run("true")
    assert (await bench.supervisor.wait(request.id)).status == 0


@pytest.mark.parametrize("victim", ["shim", "creator"])
async def test_whoever_dies_while_a_container_is_made_nothing_is_left(bench: Bench, victim: str) -> None:
    """A hook holds the making; then one of the two is killed. Creator, init and cgroup are gone with it."""
    fifo = bench.directory / "fifo"
    os.mkfifo(fifo)
    kind = "createRuntime" if victim == "creator" else "createContainer"  # the creator lives on to run the former
    hooks = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat {fifo}"]}]}
    request = bench.request("true", hooks=hooks)
    making = asyncio.create_task(bench.supervisor.create(request, start=True))
    hold = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)  # returns once the hook reads
    try:
        titled = processes(str(bench.exec_root)).items()
        pids = [pid for pid, line in titled if line.startswith(f"sampan-{victim} {request.id[:12]}")]
        os.kill(min(pids), signal.SIGKILL)
        with pytest.raises(SampanError, match=r"ended|killed"):
            await making
    finally:
        os.close(hold)
    until(lambda: not groups.load(f"{bench.cgroup_parent}/{request.id}").paths, 5, "the cgroup is gone")
    until(lambda: request.id[:12] not in str(processes(str(bench.exec_root))), 5, "no process is left")


async def test_a_container_that_cannot_start_says_why(bench: Bench) -> None:
    """The failure comes from an init that nobody but the shim hears."""
    with pytest.raises(SampanError, match="not-there"):
        await bench.run("/not-there")
    request, _ = await bench.run("true")
    assert (await bench.supervisor.wait(request.id)).status == 0
