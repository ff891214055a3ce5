"""kill -9 of any process of ours with tasks running: the others go on, nothing is lost, everything is found again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from sampan.errors import NotFound
from sampan.linux import mounts
from sampan.supervisor import layout
from sampan.supervisor.client import Supervisor, TaskFailed, TaskKind
from tests.kernel.supervisor.bench_of_tasks import Bench, everything, process_of, until
from tests.kernel.supervisor.bench_of_tasks import bench as bench_on
from tests.support.engine import until as wait_for
from tests.support.machine import processes

pytestmark = [pytest.mark.root, pytest.mark.asyncio]

# a writer that numbers its lines, so that a gap shows
COUNTER = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; exit 5"


async def test_the_supervisor_dies_while_tasks_write(bench: Bench) -> None:
    writers = [await bench.run("sh", "-c", COUNTER) for _ in range(3)]
    quiet, quiet_info = await bench.run("sleep", "1000")
    held = bench.request("sh", "-c", "read x; echo got $x", stdin=True, stdin_once=True)
    await bench.supervisor.create(held, start=True)
    attached = await bench.supervisor.attach(held.id, stdin=True)
    waits = [asyncio.create_task(bench.supervisor.wait(r.id)) for r, _ in writers]
    events = bench.supervisor.events()
    assert (await anext(events)).kind == "connected"

    killed_at = time.monotonic()
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    assert (await until(events, "connected")).kind == "connected"
    assert time.monotonic() - killed_at < 2

    assert {t.id for t in await bench.supervisor.list()} == {r.id for r, _ in writers} | {quiet.id, held.id}
    attached.writer.write(b"it\n")  # an attachment does not pass through the supervisor
    assert (await everything(attached))[1] == b"got it\n"
    assert [(await w).status for w in waits] == [5, 5, 5]
    for request, _ in writers:
        assert bench.lines(request) == [f"line {n}" for n in range(1, 20001)]
    (still,) = [t for t in await bench.supervisor.list() if t.id == quiet.id]
    assert (still.pid, still.status, still.started_at_ns) == (quiet_info.pid, "running", quiet_info.started_at_ns)
    assert await bench.supervisor.exec(quiet.id, "e", process_of("true"), terminal=False, stdin=False, start=True) > 0
    assert (await bench.supervisor.wait(quiet.id, "e")).status == 0


async def test_what_ended_while_nobody_watched_is_known_afterwards(bench: Bench) -> None:
    request, info = await bench.run("sh", "-c", "read x; exit 6", stdin=True, stdin_once=True)
    _, exec_ = await bench.supervisor.exec_attached(
        request.id, "e", process_of("sh", "-c", "read x; exit 4"), terminal=False, stdin=True
    )
    attached = await bench.supervisor.attach(request.id, stdin=True)
    await bench.supervisor.close()  # nobody will start another one
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    exec_.writer.write(b"\n")
    await everything(exec_)
    attached.writer.write(b"\n")
    await everything(attached)
    assert (layout.read_json(f"{bench.exec_root}/tasks/{request.id}/exit.json") or {})["status"] == 6

    bench.supervisor = await Supervisor.connect(str(bench.exec_root))
    assert (await bench.supervisor.wait(request.id)).status == 6
    assert (await bench.supervisor.wait(request.id, "e")).status == 4
    (task,) = await bench.supervisor.list()
    assert (task.shim_pid, task.status) == (info.shim_pid, "stopped")


async def test_the_zygote_dies(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    old = bench.zygote_pid()
    os.kill(old, signal.SIGKILL)
    for _ in range(3):  # the first one takes the shim in reserve
        other, _ = await bench.run("sh", "-c", "echo still; exit 2")
        assert (await bench.supervisor.wait(other.id)).status == 2
    while bench.zygote_pids() in ([], [old]):  # noqa: ASYNC110 - it says what it is once it has booted
        await asyncio.sleep(0.01)
    assert [t.status for t in await bench.supervisor.list() if t.id == request.id] == ["running"]


async def test_a_shim_dies_and_only_its_task_ends(bench: Bench) -> None:
    writer, _ = await bench.run("sh", "-c", COUNTER)
    victim, info = await bench.run("sh", "-c", "sleep 1000 & sleep 1000")
    events = bench.supervisor.events()
    os.kill(info.shim_pid, signal.SIGKILL)
    ended = await until(events, "exit", victim.id)
    assert ended.exit is not None
    assert ended.exit.status == 137
    assert not Path(f"/proc/{info.pid}/exe").exists()
    assert (await bench.supervisor.wait(victim.id)).status == 137
    assert (layout.read_json(f"{bench.exec_root}/tasks/{victim.id}/exit.json") or {})["status"] == 137
    with pytest.raises(NotFound):
        await bench.supervisor.kill(victim.id, signal.SIGTERM)
    deleted = await bench.supervisor.delete(victim.id)
    assert deleted is not None
    assert deleted.status == 137
    assert (await bench.supervisor.wait(writer.id)).status == 5
    assert len(bench.lines(writer)) == 20000


async def test_shim_and_supervisor_die_together(bench: Bench) -> None:
    request, info = await bench.run("sleep", "1000")
    events = bench.supervisor.events()
    assert (await anext(events)).kind == "connected"
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    os.kill(info.shim_pid, signal.SIGKILL)
    assert (await until(events, "connected")).kind == "connected"
    (task,) = await bench.supervisor.list()
    assert (task.status, task.shim_pid) == ("stopped", 0)
    assert task.exit is not None
    assert task.exit.status == 137
    assert (await bench.supervisor.wait(request.id)).status == 137


async def test_a_create_survives_the_supervisors_death(bench: Bench) -> None:
    """The answer may be lost; the client finds out what became of the task, or makes it again."""
    requests = [bench.request("sh", "-c", "echo once; exit 1") for _ in range(6)]
    creating = [asyncio.create_task(bench.supervisor.create(r, start=True)) for r in requests]
    await asyncio.sleep(0)
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    await asyncio.gather(*creating)
    for request in requests:
        assert (await bench.supervisor.wait(request.id)).status == 1
        assert bench.lines(request) == ["once"]


async def test_half_made_and_stale_directories_are_cleared(bench: Bench) -> None:
    tasks = bench.exec_root / "tasks"
    (tasks / "never-began" / "rootfs").mkdir(parents=True)
    (tasks / "last-boot").mkdir()
    layout.write_json(f"{tasks}/last-boot/shim.json", {"version": 1, "pid": 1, "boot_id": "another", "cgroup": "/x"})
    layout.write_json(f"{tasks}/last-boot/state.json", {})
    (tasks / "no-container").mkdir()
    layout.write_json(
        f"{tasks}/no-container/shim.json",
        {"version": 1, "pid": 1, "boot_id": layout.boot_id(), "cgroup": "/sampan-test-none"},
    )
    events = bench.supervisor.events()
    assert (await anext(events)).kind == "connected"
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    await until(events, "connected")
    assert os.listdir(tasks) == []
    assert await bench.supervisor.list() == []


async def test_one_exec_root_has_one_supervisor(bench: Bench) -> None:
    others = await asyncio.gather(*(Supervisor.connect(str(bench.exec_root)) for _ in range(4)))
    for other in others:
        assert await other.list() == []
        await other.close()
    assert sum(line.startswith("sampan-supervisor ") for line in processes(str(bench.exec_root)).values()) == 1


async def test_no_descriptors_left_is_a_clear_error_and_passes(bench: Bench) -> None:
    """EMFILE in the supervisor: the create is refused by name, and works again when descriptors are back."""
    pid = bench.supervisor_pid()
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    in_use = len(os.listdir(f"/proc/{pid}/fd"))
    await bench.run("sleep", "1000")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use, hard))
    try:
        # one of them may get the shim in reserve
        results = await asyncio.gather(*(bench.run("sleep", "1000") for _ in range(3)), return_exceptions=True)
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    refused = [r for r in results if isinstance(r, BaseException)]
    assert len(refused) >= 2
    assert all(isinstance(r, TaskFailed) and "too many open files" in r.message.lower() for r in refused), refused
    tasks = bench.exec_root / "tasks"
    while len(os.listdir(tasks)) != len(await bench.supervisor.list()):  # noqa: ASYNC110 - cleared a second later
        await asyncio.sleep(0.05)
    request, _ = await bench.run("sh", "-c", "exit 3")
    assert (await bench.supervisor.wait(request.id)).status == 3


async def test_two_hundred_tasks_leave_no_trace_in_our_processes(bench: Bench) -> None:
    async def one() -> None:
        request, _ = await bench.run("true")
        await bench.supervisor.wait(request.id)
        await bench.supervisor.delete(request.id)

    def footprint() -> list[tuple[int, int]]:
        """(descriptors, resident KiB) of supervisor and zygote."""
        pids = bench.supervisor_pid(), bench.zygote_pid()
        return [(len(os.listdir(f"/proc/{p}/fd")), _resident_kib(p)) for p in pids]

    await asyncio.gather(*(one() for _ in range(20)))
    before = footprint()
    for _ in range(25):
        await asyncio.gather(*(one() for _ in range(8)))
    for (fds_then, kib_then), (fds_now, kib_now) in zip(before, footprint(), strict=True):
        assert fds_now <= fds_then + 1  # a reserve shim may just be on its way
        assert kib_now < kib_then + 600


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def test_what_kind_a_task_is_outlives_the_supervisor(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000", kind=TaskKind.BUILD_STEP)
    stream = bench.supervisor.events()
    os.kill(bench.supervisor_pid(), signal.SIGKILL)
    await until(stream, "connected")
    await until(stream, "connected")
    (task,) = await bench.supervisor.list()
    assert (task.id, task.kind) == (request.id, TaskKind.BUILD_STEP)
    await bench.supervisor.kill(request.id, signal.SIGKILL)
    assert (await until(stream, "exit", request.id)).task_kind is TaskKind.BUILD_STEP


async def test_a_frozen_task_stays_frozen_for_the_next_supervisor(bench: Bench) -> None:
    request, info = await bench.run("sleep", "1000")
    await bench.supervisor.pause(request.id)
    events = bench.supervisor.events()
    assert (await anext(events)).kind == "connected"
    for stopped in (False, True):  # a shim that answers, and one that does not: then the kernel is asked
        if stopped:
            os.kill(info.shim_pid, signal.SIGSTOP)
        try:
            os.kill(bench.supervisor_pid(), signal.SIGKILL)
            assert (await until(events, "connected")).kind == "connected"
            (task,) = await bench.supervisor.list()
            assert task.status == "paused"
        finally:
            os.kill(info.shim_pid, signal.SIGCONT)
    await bench.supervisor.kill(request.id, signal.SIGKILL)
    assert (await bench.supervisor.wait(request.id)).status == 137


async def test_an_exit_on_a_full_disk_is_told_at_once_and_written_later(tmp_path: Path) -> None:
    """The exec root is full: waiters hear of the end; a supervisor that comes after finds it once there is room."""
    run = tmp_path / "run"
    run.mkdir()
    mounts.mount("small", str(run), "tmpfs", 0, "size=16m,mode=700")
    try:
        async with bench_on(tmp_path) as b:
            ending, _ = await b.run("sh", "-c", "sleep 1; exit 7")
            killed, _ = await b.run("sleep", "1000")
            filler = run / "filler"
            with filler.open("wb", buffering=0) as out, contextlib.suppress(OSError):
                while True:
                    out.write(bytes(4096))
            async with asyncio.timeout(10):
                assert (await b.supervisor.wait(ending.id)).status == 7
                await b.supervisor.kill(killed.id, signal.SIGKILL)
                assert (await b.supervisor.wait(killed.id)).status == 137
            assert {t.exit and t.exit.status for t in await b.supervisor.list()} == {7, 137}
            filler.unlink()
            written = [run / "tasks" / request.id / "exit.json" for request in (ending, killed)]
            await asyncio.to_thread(wait_for, lambda: all(path.exists() for path in written), 10, "exits are written")
    finally:
        mounts.umount2(str(run), mounts.MNT_DETACH)
