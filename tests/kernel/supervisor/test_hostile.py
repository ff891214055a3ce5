"""What a container does to keep its shim busy, and a shim that is sick itself: the control path works all the same."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from sampan.supervisor.client import Supervisor
from sampan.supervisor.values import TaskRequest
from tests.kernel.supervisor.bench_of_tasks import Bench, process_of

pytestmark = [pytest.mark.root, pytest.mark.asyncio]

STOPPER = "while :; do kill -STOP -1; done"  # stops whatever enters the container, but the shell itself
QUICK_S = 5.0


async def stopped_exec(bench: Bench) -> tuple[TaskRequest, asyncio.Task[int]]:
    """A container with an exec that it has stopped before its execve."""
    request, _ = await bench.run("sh", "-c", STOPPER)
    for number in range(50):  # one may be through before it is hit
        exec_ = asyncio.create_task(
            bench.supervisor.exec(request.id, f"e{number}", process_of("true"), terminal=False, stdin=False, start=True)
        )
        done, _ = await asyncio.wait({exec_}, timeout=1)
        if not done:
            return request, exec_
    raise AssertionError("no exec was stopped")


@pytest.mark.timeout(90)
async def test_a_container_that_stops_whatever_enters_it_can_be_looked_at_and_ended(bench: Bench) -> None:
    request, exec_ = await stopped_exec(bench)
    supervisor = bench.supervisor
    async with asyncio.timeout(QUICK_S):
        assert len(await supervisor.pids(request.id)) >= 2
        await supervisor.stats(request.id)
        await supervisor.kill(request.id, signal.SIGTERM)  # which pid 1 ignores
        await supervisor.pause(request.id)
        await supervisor.resume(request.id)
        await supervisor.update(request.id, {"cpu": {"shares": 512}})
        assert not exec_.done()
        await supervisor.kill(request.id, signal.SIGKILL)
        assert (await supervisor.wait(request.id)).status == 137
        await asyncio.wait({exec_})  # it has failed, or has been killed: who can tell
        await supervisor.delete(request.id)


@pytest.mark.timeout(90)
async def test_such_a_container_is_deleted_at_once(bench: Bench) -> None:
    request, exec_ = await stopped_exec(bench)
    async with asyncio.timeout(QUICK_S):
        await bench.supervisor.delete(request.id)
        await asyncio.wait({exec_})  # it has failed, or has been killed: who can tell


@pytest.mark.timeout(90)
async def test_such_a_container_does_not_keep_a_supervisor_from_starting(bench: Bench) -> None:
    request, exec_ = await stopped_exec(bench)
    await bench.supervisor.close()
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    exec_.cancel()
    async with asyncio.timeout(QUICK_S):
        bench.supervisor = await Supervisor.connect(str(bench.exec_root))
        (task,) = await bench.supervisor.list()
        assert (task.id, task.status) == (request.id, "running")
        await bench.supervisor.kill(request.id, signal.SIGKILL)
        assert (await bench.supervisor.wait(request.id)).status == 137


@pytest.mark.timeout(120)
async def test_a_shim_that_does_not_answer_keeps_nobody_else_waiting(bench: Bench) -> None:
    """Stopped like this it stands for whatever may make a shim sick. What needs its answer says so;
    SIGKILL does not.
    """
    sick, info = await bench.run("sleep", "1000")
    other, _ = await bench.run("sleep", "1000")
    os.kill(info.shim_pid, signal.SIGSTOP)
    await bench.supervisor.close()
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    async with asyncio.timeout(QUICK_S * 2):
        bench.supervisor = await Supervisor.connect(str(bench.exec_root))
        tasks = {task.id: task for task in await bench.supervisor.list()}
        assert {id: task.status for id, task in tasks.items()} == {sick.id: "running", other.id: "running"}
        assert tasks[sick.id].pid == info.pid
        await bench.supervisor.kill(other.id, signal.SIGKILL)
        assert (await bench.supervisor.wait(other.id)).status == 137
        assert Path(f"/proc/{info.pid}/exe").exists()  # nothing has happened to it
    async with asyncio.timeout(30):
        await bench.supervisor.kill(sick.id, signal.SIGKILL)
        assert (await bench.supervisor.wait(sick.id)).status == 137
    assert not Path(f"/proc/{info.pid}/exe").exists()


@pytest.mark.timeout(120)
async def test_a_shim_that_wakes_up_again_is_found(bench: Bench) -> None:
    request, info = await bench.run("sleep", "1000")
    os.kill(info.shim_pid, signal.SIGSTOP)
    await bench.supervisor.close()
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    bench.supervisor = await Supervisor.connect(str(bench.exec_root))
    asking = asyncio.create_task(bench.supervisor.pids(request.id))
    await asyncio.sleep(0.2)
    os.kill(info.shim_pid, signal.SIGCONT)
    assert await asyncio.wait_for(asking, QUICK_S) == [info.pid]
    (task,) = await bench.supervisor.list()
    assert (task.shim_pid, task.started_at_ns) == (info.shim_pid, info.started_at_ns)


@pytest.mark.timeout(120)
async def test_a_shim_that_does_not_answer_is_deleted_with_its_container(bench: Bench) -> None:
    _, info = await bench.run("sleep", "1000")
    request = (await bench.supervisor.list())[0]
    os.kill(info.shim_pid, signal.SIGSTOP)
    async with asyncio.timeout(60):
        await bench.supervisor.delete(request.id)
    assert not Path(f"/proc/{info.pid}/exe").exists()
    assert not Path(f"/proc/{info.shim_pid}/exe").exists()
