"""A task's life through client, supervisor, zygote and shim, on the real kernel."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from sampan.errors import Conflict, InvalidArgument, NotFound
from sampan.supervisor.client import Exit, TaskFailed
from tests.kernel.supervisor.bench_of_tasks import Bench, everything, process_of, until

pytestmark = [pytest.mark.root, pytest.mark.asyncio]


async def test_one_call_runs_a_task_and_its_output_is_logged(bench: Bench) -> None:
    request, info = await bench.run("sh", "-c", "echo out; echo err >&2; exit 3")
    exit_ = await bench.supervisor.wait(request.id)
    assert (exit_.status, exit_.oom_killed) == (3, False)
    assert info.pid > 0
    assert info.started_at_ns <= exit_.exited_at_ns
    assert sorted(bench.lines(request)) == ["err", "out"]
    (listed,) = await bench.supervisor.list()
    assert (listed.status, listed.exit) == ("stopped", exit_)
    assert await bench.supervisor.delete(request.id) == exit_
    assert await bench.supervisor.delete(request.id) is None


async def test_events_come_in_order_and_carry_the_exit(bench: Bench) -> None:
    events = bench.supervisor.events()
    assert (await anext(events)).kind == "connected"
    request, _ = await bench.run("sh", "-c", "exit 9")
    started = await until(events, "start", request.id)
    ended = await anext(events)
    assert started.pid == ended.pid
    assert ended.kind == "exit"
    assert ended.exit is not None
    assert ended.exit.status == 9


async def test_death_by_signal_is_128_plus_the_signal(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    await bench.supervisor.kill(request.id, signal.SIGKILL)
    assert (await bench.supervisor.wait(request.id)).status == 137
    with pytest.raises(NotFound):
        await bench.supervisor.kill(request.id, signal.SIGTERM)


async def test_nothing_is_lost_between_attach_and_start(bench: Bench) -> None:
    request = bench.request("sh", "-c", "echo first; cat; echo last >&2", stdin=True, stdin_once=True)
    await bench.supervisor.create(request, start=False)
    attached = await bench.supervisor.attach(request.id, stdin=True)
    assert (await bench.supervisor.start(request.id)).status == "running"
    attached.writer.write(b"between\n")
    attached.writer.write_eof()
    assert await everything(attached) == {1: b"first\nbetween\n", 2: b"last\n"}
    assert bench.lines(request) == ["first", "between", "last"]


async def test_many_attachers_see_the_same_bytes(bench: Bench) -> None:
    request = bench.request("sh", "-c", "seq 100000")
    await bench.supervisor.create(request, start=False)
    attached = [await bench.supervisor.attach(request.id) for _ in range(5)]
    await bench.supervisor.start(request.id)
    outputs = await asyncio.gather(*(everything(a) for a in attached))
    expected = "".join(f"{n}\n" for n in range(1, 100001)).encode()
    assert all(output[1] == expected for output in outputs)


async def test_a_slow_attacher_holds_the_process_back_and_loses_nothing(bench: Bench) -> None:
    request = bench.request("sh", "-c", "head -c 8388608 /dev/zero | tr '\\0' x")
    await bench.supervisor.create(request, start=False)
    slow = await bench.supervisor.attach(request.id)
    await bench.supervisor.start(request.id)
    await bench.supervisor.stats(request.id)  # the shim still serves
    size = os.path.getsize(request.log_path)
    assert size < 8 * 1024 * 1024
    assert len((await everything(slow))[1]) == 8 * 1024 * 1024
    assert (await bench.supervisor.wait(request.id)).status == 0


async def test_a_slow_attacher_does_not_hold_back_the_exit(bench: Bench) -> None:
    """It has not read a byte when the process ends; it still gets them all, and so has the log."""
    request = bench.request("sh", "-c", "head -c 1300000 /dev/zero | tr '\\0' x; exit 4")
    await bench.supervisor.create(request, start=False)
    slow = await bench.supervisor.attach(request.id)
    slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
    await bench.supervisor.start(request.id)
    assert (await bench.supervisor.wait(request.id)).status == 4
    assert sum(len(line) for line in bench.lines(request)) == 1_300_000
    assert (await bench.supervisor.delete(request.id)) is not None  # the shim stays until the last byte is gone
    slow.reader._transport.resume_reading()  # type: ignore[attr-defined]
    assert len((await everything(slow))[1]) == 1_300_000


async def test_input_without_stdin_once_stays_open_for_the_next_attacher(bench: Bench) -> None:
    request, _ = await bench.run("sh", "-c", "read a; read b; echo $a $b", stdin=True)
    one = await bench.supervisor.attach(request.id, stdin=True)
    one.writer.write(b"one\n")
    one.writer.write_eof()
    assert await one.reader.read() == b""  # as Docker: the end of its input ends the attachment
    one.writer.close()
    two = await bench.supervisor.attach(request.id, stdin=True)
    two.writer.write(b"two\n")
    assert (await everything(two))[1] == b"one two\n"


async def test_more_input_than_buffers_hold(bench: Bench) -> None:
    request = bench.request("sh", "-c", "sleep 0.2; wc -c", stdin=True, stdin_once=True)
    await bench.supervisor.create(request, start=False)
    attached = await bench.supervisor.attach(request.id, stdin=True)
    await bench.supervisor.start(request.id)
    attached.writer.write(b"x" * 3_000_000)
    await attached.writer.drain()
    attached.writer.write_eof()
    assert (await everything(attached))[1].strip() == b"3000000"


async def test_a_terminal_is_raw_and_resizable(bench: Bench) -> None:
    request = bench.request("sh", "-c", "stty size; read x; echo got $x", terminal=True, stdin=True)
    await bench.supervisor.create(request, start=False)
    attached = await bench.supervisor.attach(request.id, stdin=True)
    await bench.supervisor.resize(request.id, width=100, height=40)
    await bench.supervisor.start(request.id)
    assert (await attached.reader.readline()).strip() == b"40 100"
    attached.writer.write(b"it\n")
    assert (await attached.reader.read()).endswith(b"got it\r\n")
    attached.writer.close()


async def test_exec_with_its_own_stdio_and_status(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    events = bench.supervisor.events()
    pid, attached = await bench.supervisor.exec_attached(
        request.id, "e1", process_of("sh", "-c", "cat; echo bad >&2; exit 7"), terminal=False, stdin=True
    )
    attached.writer.write(b"hello\n")
    attached.writer.write_eof()
    assert await everything(attached) == {1: b"hello\n", 2: b"bad\n"}
    ended = await until(events, "exec-exit", request.id)  # told before the end of the stream
    assert (ended.exec_id, ended.pid, ended.exit and ended.exit.status) == ("e1", pid, 7)
    assert (await bench.supervisor.wait(request.id, "e1")).status == 7
    assert bench.lines(request) == []


async def test_exec_prepared_attached_then_started(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    assert (
        await bench.supervisor.exec(request.id, "e", process_of("echo", "hi"), terminal=False, stdin=False, start=False)
        == 0
    )
    attached = await bench.supervisor.attach(request.id, exec_id="e")
    assert await bench.supervisor.exec_start(request.id, "e") > 0
    assert (await everything(attached))[1] == b"hi\n"


async def test_detached_exec_and_signal_to_it(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    pid = await bench.supervisor.exec(
        request.id, "e", process_of("sleep", "99"), terminal=False, stdin=False, start=True
    )
    assert pid in await bench.supervisor.pids(request.id)
    await bench.supervisor.kill(request.id, signal.SIGKILL, exec_id="e")
    assert (await bench.supervisor.wait(request.id, "e")).status == 137


async def test_an_exec_whose_child_keeps_its_output_still_ends(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    _, attached = await bench.supervisor.exec_attached(
        request.id, "e", process_of("sh", "-c", "sleep 500 & echo done"), terminal=False, stdin=False
    )
    assert (await everything(attached))[1] == b"done\n"


async def test_what_an_exec_leaves_running_may_go_on_writing(bench: Bench) -> None:
    """Docker 28.5: the exec ends two seconds after its process; what it left behind lives on."""
    request, _ = await bench.run("sleep", "30")
    script = (
        "(i=0; while [ $i -lt 40 ]; do echo $i || exit; i=$((i+1)); sleep 0.1; done; echo all > /tmp/all) & echo up"
    )
    process = process_of("sh", "-c", script)
    _, attached = await bench.supervisor.exec_attached(request.id, "left", process, terminal=False, stdin=False)
    assert b"up\n" in (await everything(attached))[1]
    process = process_of("sh", "-c", "while [ ! -e /tmp/all ]; do sleep 0.1; done; echo seen")
    _, attached = await bench.supervisor.exec_attached(request.id, "look", process, terminal=False, stdin=False)
    async with asyncio.timeout(20):
        assert (await everything(attached))[1] == b"seen\n"


async def test_more_execs_at_once_than_a_listener_holds(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "30")

    async def one(number: int) -> bytes:
        process = process_of("echo", str(number))
        _, attached = await bench.supervisor.exec_attached(
            request.id, f"e{number}", process, terminal=False, stdin=False
        )
        return (await everything(attached))[1]

    assert await asyncio.gather(*(one(n) for n in range(150))) == [b"%d\n" % n for n in range(150)]


@pytest.mark.parametrize("start", [True, False])
async def test_a_missing_program_is_refused_and_leaves_nothing(bench: Bench, start: bool) -> None:
    request = bench.request("/nope")
    with pytest.raises(TaskFailed) as failure:
        await bench.supervisor.create(request, start=start)
    assert failure.value.errno == 2
    assert failure.value.message == 'exec: "/nope": stat /nope: no such file or directory'
    assert await bench.supervisor.list() == []
    await until_empty(bench.exec_root / "tasks")
    assert not [d for d in _cgroup_directories(bench.cgroup_parent) if request.id in d]


async def test_a_missing_program_of_an_exec_names_it(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    with pytest.raises(TaskFailed, match="nope"):
        await bench.supervisor.exec_attached(request.id, "e", process_of("/nope"), terminal=False, stdin=False)
    with pytest.raises(NotFound):
        await bench.supervisor.wait(request.id, "e")


async def test_a_bad_spec_and_bad_options_are_refused(bench: Bench) -> None:
    request = bench.request("true")
    broken = {"id": request.id, "log_path": request.log_path}
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        await bench.supervisor.create(type(request)(spec=b"{", **broken), start=True)  # type: ignore[arg-type]
    with pytest.raises(TaskFailed, match=r"invalid config\.json"):
        await bench.supervisor.create(type(request)(spec=b"{}", **broken), start=True)  # type: ignore[arg-type]
    with pytest.raises(TaskFailed, match="max-size must be a positive number"):
        await bench.supervisor.create(bench.request("true", log_options={"max-size": "0"}), start=True)
    with pytest.raises(InvalidArgument, match="task id"):
        await bench.supervisor.create(type(request)(id="../x", spec=request.spec), start=True)
    assert await bench.supervisor.list() == []


async def test_pause_freezes_and_delete_ends_a_paused_task(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    await bench.supervisor.pause(request.id)
    assert [t.status for t in await bench.supervisor.list()] == ["paused"]
    with pytest.raises(Conflict):
        await bench.supervisor.exec(request.id, "e", process_of("true"), terminal=False, stdin=False, start=True)
    await bench.supervisor.pause(request.id)  # a repeated call, as after a lost answer, is as good as the first
    assert [t.status for t in await bench.supervisor.list()] == ["paused"]
    await bench.supervisor.resume(request.id)
    await bench.supervisor.resume(request.id)
    assert [t.status for t in await bench.supervisor.list()] == ["running"]
    await bench.supervisor.pause(request.id)
    assert await bench.supervisor.delete(request.id) is not None


async def test_a_frozen_task_dies_by_kill(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    await bench.supervisor.pause(request.id)
    await bench.supervisor.kill(request.id, 9)
    assert (await bench.supervisor.wait(request.id)).status == 137


async def test_ids_are_taken_once(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    with pytest.raises(Conflict):
        await bench.supervisor.create(request, start=True)
    with pytest.raises(Conflict):
        await bench.supervisor.start(request.id)
    assert [t.status for t in await bench.supervisor.list()] == ["running"]


async def test_stats_and_update(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000", resources={"memory": {"limit": 64 << 20}})
    stats = await bench.supervisor.stats(request.id)
    assert stats["memory"]["limit"] == 64 << 20
    assert stats["pids"]["current"] == 1
    await bench.supervisor.update(request.id, {"memory": {"limit": 32 << 20}})
    assert (await bench.supervisor.stats(request.id))["memory"]["limit"] == 32 << 20


async def test_out_of_memory_is_told_and_remembered(bench: Bench) -> None:
    events = bench.supervisor.events()
    request, _ = await bench.run(
        "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", resources={"memory": {"limit": 16 << 20}}
    )
    exit_ = await bench.supervisor.wait(request.id)
    assert exit_ == Exit(status=137, exited_at_ns=exit_.exited_at_ns, oom_killed=True)
    assert (await until(events, "oom", request.id)).id == request.id


async def test_ten_at_once(bench: Bench) -> None:
    async def one() -> float:
        begun = time.perf_counter()
        request, _ = await bench.run("true")
        await bench.supervisor.wait(request.id)
        await bench.supervisor.delete(request.id)
        return time.perf_counter() - begun

    begun = time.perf_counter()
    each = await asyncio.gather(*(one() for _ in range(10)))
    assert time.perf_counter() - begun < sum(each)  # they overlapped


async def test_processes_left_in_the_hosts_pid_namespace_end_with_init(bench: Bench) -> None:
    request, _ = await bench.run("sh", "-c", "sleep 500 & echo up", namespaces=("mount", "uts", "ipc", "network"))
    assert (await bench.supervisor.wait(request.id)).status == 0
    async with asyncio.timeout(5):
        while await bench.supervisor.pids(request.id):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


async def test_a_log_that_cannot_be_written_does_not_stop_the_container(bench: Bench) -> None:
    request = bench.request("sh", "-c", "seq 1000; echo end >&2")
    full = type(request)(
        id=request.id, spec=request.spec, rootfs=request.rootfs, log_path="/dev/full", log_driver="json-file"
    )
    await bench.supervisor.create(full, start=False)
    attached = await bench.supervisor.attach(request.id)
    await bench.supervisor.start(request.id)
    output = await everything(attached)
    assert output[2] == b"end\n"
    assert (await bench.supervisor.wait(request.id)).status == 0
    assert "No space left" in (bench.exec_root / "supervisor.log").read_text()


async def test_only_root_reaches_the_sockets(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000")
    for path in (bench.exec_root / "supervisor.sock", bench.exec_root / "tasks" / request.id / "shim.sock"):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_every_process_says_what_it_is(bench: Bench) -> None:
    request, info = await bench.run("sleep", "1000")
    title = Path(f"/proc/{info.shim_pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert title == f"sampan-shim {request.id[:12]} {bench.exec_root}"
    assert Path(f"/proc/{bench.supervisor_pid()}/cmdline").read_bytes().startswith(b"sampan-supervisor ")


async def test_the_shim_runs_from_a_sealed_copy(bench: Bench) -> None:
    """CVE-2019-5736: the binary behind /proc/<shim>/exe is no file of the host and refuses every write."""
    _, info = await bench.run("sleep", "1000")
    assert os.readlink(f"/proc/{info.shim_pid}/exe").startswith("/memfd:sampan-python")
    with pytest.raises(OSError, match=r"Text file busy|not permitted"):
        os.close(os.open(f"/proc/{info.shim_pid}/exe", os.O_WRONLY))


async def until_empty(directory: Path) -> None:
    async with asyncio.timeout(5):
        while os.listdir(directory):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.01)


def _cgroup_directories(parent: str) -> list[str]:
    return [str(p) for root in Path("/sys/fs/cgroup").iterdir() for p in (root / parent.lstrip("/")).glob("*")]
