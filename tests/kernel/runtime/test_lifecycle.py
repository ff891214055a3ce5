"""A container's life: create, start, exec, signals, pause, delete; and what crosses to another process."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import time
from pathlib import Path

import pytest

from sampan.linux import pty
from sampan.linux.process import wait_pidfd
from sampan.runtime.container import Container, InvalidSpec, RuntimeFailure
from tests.kernel.runtime.harness import Bench, default_spec, reap


def test_a_process_runs_in_namespaces_of_its_own(bench: Bench) -> None:
    result = bench.shell("echo pid $$; hostname; readlink /proc/self/ns/mnt; ls /; ip -o link")
    lines = result.out.splitlines()
    assert result.status == 0
    assert lines[:2] == ["pid 1", "tester"]
    assert lines[2] != os.readlink("/proc/self/ns/mnt")
    assert "bin" in lines
    assert "LOOPBACK,UP" in result.out
    assert result.out.count("link/") == 1


def test_exit_status_and_both_streams(bench: Bench) -> None:
    result = bench.shell("echo out; echo err >&2; exit 42")
    assert (result.status, result.out, result.err) == (42, "out\n", "err\n")


def test_create_waits_before_the_program(bench: Bench) -> None:
    made = bench.create(default_spec(["sh", "-c", "touch /ran"]))
    assert made.pids() == [made.pid]
    assert made.waits_at_gate()
    assert not (bench.upper / "ran").exists()
    made.start()
    assert reap(made) == 0
    assert (bench.upper / "ran").exists()


def test_a_created_container_can_be_deleted(bench: Bench) -> None:
    made = bench.create(default_spec(["true"]))
    made.signal(signal.SIGKILL)
    assert reap(made) == 128 + signal.SIGKILL


def test_another_process_can_start_what_was_created_detached(bench: Bench) -> None:
    made = bench.create(default_spec(["sh", "-c", "exit 7"]), detached=True)
    state = json.loads(json.dumps(made.to_state()))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            made.close()
            other = Container.from_state(state)
            code = 3 if other.waits_at_gate() else 4
            other.start()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert reap(made) == 7


def test_a_descriptor_of_the_program_is_not_taken_for_the_gate(bench: Bench) -> None:
    made = bench.create(
        default_spec(["sh", "-c", "for n in 3 4 5 6 7 8 9; do eval exec $n</dev/null; done; sleep 100"]), detached=True
    )
    state = made.to_state()
    made.start()
    other = Container.from_state(state)
    assert not other.waits_at_gate()
    with pytest.raises(RuntimeFailure, match="cannot start a container that has stopped"):
        other.start()
    other.close()
    made.signal(signal.SIGKILL)
    reap(made)


def test_a_recycled_pid_is_not_mistaken_for_init(bench: Bench) -> None:
    made = bench.create(default_spec(["true"]))
    state = {**made.to_state(), "start_time": 1}
    assert Container.from_state(state).pidfd == -1
    with pytest.raises(ProcessLookupError):
        Container.from_state(state).signal(signal.SIGTERM)


def test_starting_what_has_died_fails(bench: Bench) -> None:
    made = bench.create(default_spec(["true"]))
    made.signal(signal.SIGKILL)
    assert wait_pidfd(made.pidfd, 10)
    with pytest.raises(RuntimeFailure, match="cannot start a container that has stopped"):
        made.start()


def test_init_dies_with_its_parent(bench: Bench, tmp_path: Path) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    shim = os.fork()
    if shim == 0:
        try:
            made = bench.create(default_spec(["sleep", "100"], user={"uid": 1000, "gid": 1000}))
            made.start()
            os.write(writer, json.dumps(made.to_state()).encode())
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    state = json.loads(os.read(reader, 65536))
    os.close(reader)
    made = Container.from_state(state)
    os.kill(shim, signal.SIGKILL)
    os.waitpid(shim, 0)
    assert wait_pidfd(made.pidfd, 10)
    made.delete()


def test_terminal(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "tty; stty size; ls -l /dev/console; read x; echo got $x"], terminal=True)
    spec["process"]["consoleSize"] = {"height": 33, "width": 99}
    made = bench.create(spec)
    assert made.console_fd is not None
    made.start()
    os.write(made.console_fd, b"hello\n")
    text = b""
    try:
        while chunk := os.read(made.console_fd, 4096):
            text += chunk
    except OSError:  # EIO: the last slave has been closed
        pass
    assert reap(made) == 0
    lines = text.decode().split("\r\n")
    assert "/dev/console" in lines or "/dev/pts/0" in lines
    assert "33 99" in lines
    assert any(line.startswith("crw--w----") and "136," in line for line in lines)
    assert "got hello" in lines


def test_resizing_the_terminal_reaches_the_process(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"])
    spec["process"]["terminal"] = True
    made = bench.create(spec)
    made.start()
    assert made.console_fd is not None
    assert b"ready" in os.read(made.console_fd, 100)
    pty.set_size(made.console_fd, 11, 22)
    assert b"11 22" in os.read(made.console_fd, 100)
    assert reap(made) == 5


def test_exec_joins_everything(bench: Bench) -> None:
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    script = (
        "for n in mnt pid net ipc uts; do readlink /proc/self/ns/$n; readlink /proc/1/ns/$n; done; cat "
        "/proc/1/cgroup; echo; cat /proc/self/cgroup; echo $PPID"
    )
    result = bench.exec(made, ["sh", "-c", script])
    lines = result.out.splitlines()
    assert result.status == 0
    assert lines[0:10:2] == lines[1:10:2]
    one, _, own = "\n".join(lines[10:-1]).partition("\n\n")
    assert one == own
    assert lines[-1] == "0"
    assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


def test_exec_is_a_child_of_the_caller_and_takes_another_user(bench: Bench) -> None:
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    result = bench.exec(made, ["id"], user={"uid": 7, "gid": 8, "additionalGids": [9]})
    assert result.out == "uid=7 gid=8 groups=9\n"


def test_exec_on_a_terminal(bench: Bench) -> None:
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    spec = {"args": ["tty"], "cwd": "/", "env": ["PATH=/bin"], "terminal": True}
    child = made.exec(spec)
    assert child.console_fd is not None
    assert os.read(child.console_fd, 100) == b"/dev/pts/0\r\n"
    os.waitpid(child.pid, 0)
    os.close(child.pidfd)
    os.close(child.console_fd)


def test_exec_in_a_stopped_container_fails(bench: Bench) -> None:
    made = bench.create(default_spec(["true"]))
    made.start()
    os.waitpid(made.pid, 0)
    with pytest.raises(RuntimeFailure, match="cannot exec in a stopped container"):
        bench.exec(made, ["true"])


def test_pause_stops_time_for_the_container(bench: Bench) -> None:
    made = bench.create(default_spec(["sh", "-c", "while :; do echo x >> /x; sleep 0.01; done"]))
    made.start()
    file = bench.upper / "x"
    deadline = time.monotonic() + 10
    while not file.exists() and time.monotonic() < deadline:
        os.sched_yield()
    made.pause()
    assert made.cgroup.frozen()
    size = file.stat().st_size
    assert not wait_pidfd(made.pidfd, 0.1)
    assert file.stat().st_size == size
    with pytest.raises(RuntimeFailure, match="cannot exec in a paused container"):
        bench.exec(made, ["true"])
    made.resume()
    while file.stat().st_size == size and time.monotonic() < deadline:
        os.sched_yield()
    assert file.stat().st_size > size


def test_signal_all_reaches_every_process(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "trap 'exit 3' TERM; sleep 100 & wait"])
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
    made = bench.create(spec)
    made.start()
    deadline = time.monotonic() + 10
    while len(made.pids()) < 2 and time.monotonic() < deadline:
        os.sched_yield()
    made.signal(signal.SIGTERM, all=True)
    assert reap(made) == 3


def test_delete_kills_what_is_left(bench: Bench) -> None:
    spec = default_spec(["sh", "-c", "sleep 100 & exit 0"])
    spec["linux"]["namespaces"] = [n for n in spec["linux"]["namespaces"] if n["type"] != "pid"]
    made = bench.create(spec)
    made.start()
    assert reap(made) == 0
    assert made.pids() == []


@pytest.mark.parametrize(
    ("args", "number", "message"),
    [
        (["nope"], 2, 'exec: "nope": executable file not found in $PATH'),
        (["/nope"], 2, 'exec: "/nope": stat /nope: no such file or directory'),
        (["/etc/passwd"], 13, 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 13, 'exec: "/etc": is a directory: permission denied'),
        (["./nope"], 2, 'exec: "./nope": stat ./nope: no such file or directory'),
        ([""], 2, 'exec: "": executable file not found in $PATH'),
        (["/etc/passwd/x"], 20, 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory'),
    ],
)
def test_a_program_that_is_not_there(bench: Bench, args: list[str], number: int, message: str) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        bench.create(default_spec(args))
    assert (caught.value.step, caught.value.errno, caught.value.message) == ("exec", number, message)
    made = bench.create(default_spec(["sleep", "100"]))
    made.start()
    with pytest.raises(RuntimeFailure) as caught:
        bench.exec(made, args)
    assert (caught.value.step, caught.value.errno, caught.value.message) == ("exec", number, message)


def test_what_the_kernel_cannot_execute_is_reported_on_stderr(bench: Bench) -> None:
    result = bench.run(default_spec(["/bad"]), files={"bad": "#!/nope/sh\n"})
    assert (result.status, result.err) == (255, "exec /bad: no such file or directory\n")
    result = bench.run(default_spec(["/garbage"]), files={"garbage": "garbage"})
    assert (result.status, result.err) == (255, "exec /garbage: exec format error\n")


def test_an_endless_program_name_is_still_reported(bench: Bench) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        bench.create(default_spec(["/\u00e4" * 60000]))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert caught.value.message.startswith('exec: "/')


def test_running_out_of_descriptors_is_a_failure_that_leaves_nothing(bench: Bench) -> None:
    bench.run(default_spec(["true"]))  # everything that is opened once has been opened
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    taken = {int(number) for number in os.listdir("/proc/self/fd")}
    free = [number for number in range(used + 16) if number not in taken]
    failures = []
    for spare in range(8):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], hard))  # so many numbers are left below it
        try:
            made = bench.create(default_spec(["true"]))
        except RuntimeFailure as error:
            failures.append(error)
        else:
            made.start()
            reap(made)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(os.listdir("/proc/self/fd")) == used
    assert len(failures) >= 2
    assert {error.errno for error in failures} == {errno.EMFILE}


def test_an_invalid_spec_changes_nothing(bench: Bench) -> None:
    spec = default_spec(["true"])
    spec["linux"]["namespaces"].append({"type": "cheese"})
    with pytest.raises(InvalidSpec) as caught:
        bench.create(spec)
    assert caught.value.field == "linux.namespaces[5].type"


def test_environment_and_home(bench: Bench) -> None:
    env = ["PATH=/bin", "A=1", "A=2", "EMPTY=", "TEXT=ä=b"]
    result = bench.run(default_spec(["env"], env=env, user={"uid": 0, "gid": 0}))
    lines = set(result.out.splitlines())
    assert lines == {"PATH=/bin", "A=2", "EMPTY=", "TEXT=ä=b", "HOME=/root"}
    assert "HOME=/own" in bench.run(default_spec(["env"], env=["PATH=/bin", "HOME=/own"])).out
    assert "HOME=/\n" in bench.run(default_spec(["env"], user={"uid": 99, "gid": 99})).out


def test_signals_are_as_a_new_process_has_them(bench: Bench) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        result = bench.run(default_spec(["grep", "Sig[BI]", "/proc/self/status"]))
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    assert result.out.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_timing_names_every_step(bench: Bench) -> None:
    made = bench.create(default_spec(["true"]), timing=True)
    assert {"rootfs", "mounts", "pivot_root", "process"} <= made.timing.keys()
    assert all(value >= 0 for value in made.timing.values())


def test_fifty_in_a_row_leave_the_caller_as_it_was(bench: Bench) -> None:
    def resident_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    for _ in range(10):
        assert bench.run(default_spec(["true"])).status == 0
    before, descriptors = resident_kib(), len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        assert bench.run(default_spec(["true"])).status == 0
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert resident_kib() - before < 2048


def test_the_smallest_memory_that_docker_allows_is_enough(bench: Bench) -> None:
    spec = default_spec(["echo", "fits"])
    spec["linux"]["resources"] = {"memory": {"limit": 6 << 20, "swap": 6 << 20}}
    assert bench.run(spec).out == "fits\n"
