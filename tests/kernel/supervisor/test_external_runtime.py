"""Tasks run by another OCI runtime: the same bench, with the distribution's runc in the place of ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sampan.supervisor.client import TaskFailed
from tests.kernel.supervisor.bench_of_tasks import Bench, everything, process_of

RUNC = shutil.which("runc") or ""

pytestmark = [
    pytest.mark.root,
    pytest.mark.asyncio,
    pytest.mark.skipif(not RUNC, reason="needs the Debian package runc"),
]


async def test_run_log_exit_and_nothing_mounted_on_the_host(bench: Bench) -> None:
    request, info = await bench.run("sh", "-c", "echo out; exit 3", runtime=RUNC)
    assert (await bench.supervisor.wait(request.id)).status == 3
    assert bench.lines(request) == ["out"]
    assert info.pid > 0
    assert request.id not in Path("/proc/self/mountinfo").read_text()


async def test_exec_kill_and_pause(bench: Bench) -> None:
    request, _ = await bench.run("sleep", "1000", runtime=RUNC)
    _, attached = await bench.supervisor.exec_attached(
        request.id, "e", process_of("sh", "-c", "cat; exit 7"), terminal=False, stdin=True
    )
    attached.writer.write(b"hello\n")
    attached.writer.write_eof()
    assert (await everything(attached))[1] == b"hello\n"
    assert (await bench.supervisor.wait(request.id, "e")).status == 7
    await bench.supervisor.pause(request.id)
    await bench.supervisor.resume(request.id)
    await bench.supervisor.kill(request.id, 9)
    assert (await bench.supervisor.wait(request.id)).status == 137


async def test_a_terminal(bench: Bench) -> None:
    request = bench.request("sh", "-c", "tty; read x; echo got $x", terminal=True, stdin=True, runtime=RUNC)
    await bench.supervisor.create(request, start=False)
    attached = await bench.supervisor.attach(request.id, stdin=True)
    await bench.supervisor.start(request.id)
    attached.writer.write(b"it\n")
    assert b"/dev/pts/0\r\n" in (output := await attached.reader.read())
    assert output.endswith(b"got it\r\n")
    attached.writer.close()


async def test_the_runtimes_own_words_reach_the_caller(bench: Bench) -> None:
    with pytest.raises(TaskFailed, match=r"/nope.*no such file or directory"):
        await bench.supervisor.create(bench.request("/nope", runtime=RUNC), start=True)
    with pytest.raises(TaskFailed, match="No such file or directory"):
        await bench.supervisor.create(bench.request("true", runtime="/no/runtime"), start=True)
    assert await bench.supervisor.list() == []


async def test_names_of_users_are_resolved_for_it(bench: Bench) -> None:
    (bench.directory / "root/etc/passwd").write_text("root:x:0:0::/:/bin/sh\nguest:x:1234:77::/home:/bin/sh\n")
    request, _ = await bench.run(
        "sh",
        "-c",
        "id -u; id -g; echo $HOME",
        process={"user": {"uid": 0, "gid": 0, "username": "guest"}},
        runtime=RUNC,
    )
    assert (await bench.supervisor.wait(request.id)).status == 0
    assert bench.lines(request) == ["1234", "77", "/home"]
