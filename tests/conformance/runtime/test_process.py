"""What the user's process finds itself to be: identity, capabilities, limits, environment, terminal; the same
for exec.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from pathlib import Path

import pytest

from tests.conformance.runtime.driver import Runtime, console_socket, read_terminal, until


def status_of(text: str) -> dict[str, str]:
    """Parse /proc/PID/status."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def test_arguments_environment_and_directory(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", 'echo "$0|$1|$A|$PWD"', "zero", "two words")
    spec["process"]["env"] = ["PATH=/bin", "A=1=2"]
    spec["process"]["cwd"] = "/data"
    assert runtime.says(spec) == "zero|two words|1=2|/data\n"


def test_nothing_else_is_in_the_environment(runtime: Runtime) -> None:
    spec = runtime.spec("env")
    spec["process"]["env"] = ["PATH=/bin", "HOME=/x"]
    assert sorted(runtime.says(spec).splitlines()) == ["HOME=/x", "PATH=/bin"]


def test_a_missing_working_directory_is_made(runtime: Runtime) -> None:
    spec = runtime.spec("pwd")
    spec["process"]["cwd"] = "/tmp/made/below"
    assert runtime.says(spec) == "/tmp/made/below\n"


def test_user_and_groups(runtime: Runtime) -> None:
    spec = runtime.spec("sh", "-c", "id -u; id -g; grep Groups /proc/self/status; umask")
    spec["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o027}
    uid, gid, groups, umask = runtime.says(spec).splitlines()
    assert (uid, gid, umask) == ("1000", "1001", "0027")
    assert groups.split() == ["Groups:", "5", "7"]


def test_no_groups_of_the_caller_leak(runtime: Runtime) -> None:
    assert runtime.shell(runtime.spec(), "grep Groups /proc/self/status").split() in (["Groups:"], ["Groups:", "0"])


def test_capabilities_are_exactly_the_spec_s(runtime: Runtime) -> None:
    spec = runtime.spec("cat", "/proc/self/status")
    spec["process"]["capabilities"] = {
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
    }
    spec["process"]["user"] = {"uid": 0, "gid": 0}
    found = status_of(runtime.says(spec))
    chown, kill, bind = 1 << 0, 1 << 5, 1 << 10
    assert int(found["CapBnd"], 16) == chown | kill | bind
    assert int(found["CapInh"], 16) == 0
    assert int(found["CapAmb"], 16) == 0
    assert int(found["CapPrm"], 16) == chown | kill  # with no_new_privs execve of root gains nothing


def test_no_capabilities_for_a_user(runtime: Runtime) -> None:
    spec = runtime.spec("cat", "/proc/self/status")
    spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    found = status_of(runtime.says(spec))
    assert int(found["CapEff"], 16) == 0
    assert int(found["CapPrm"], 16) == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(runtime: Runtime, wanted: bool) -> None:
    spec = runtime.spec("cat", "/proc/self/status")
    spec["process"]["noNewPrivileges"] = wanted
    assert status_of(runtime.says(spec))["NoNewPrivs"] == str(int(wanted))


def test_rlimits(runtime: Runtime) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 512 if hard == resource.RLIM_INFINITY else min(512, hard)
    spec = runtime.spec("sh", "-c", "ulimit -S -n; ulimit -H -n; ulimit -c")
    spec["process"]["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": limit - 1, "hard": limit},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    assert runtime.says(spec).split() == [str(limit - 1), str(limit), "0"]


def test_oom_score(runtime: Runtime) -> None:
    spec = runtime.spec("cat", "/proc/self/oom_score_adj")
    spec["process"]["oomScoreAdj"] = 321
    assert runtime.says(spec) == "321\n"


def test_nothing_but_the_standard_streams_is_open(runtime: Runtime) -> None:
    listed = runtime.shell(runtime.spec(), "ls /proc/self/fd")
    assert listed.split()[:3] == ["0", "1", "2"]
    assert len(listed.split()) == 4  # and the directory that ls reads


def test_preserved_descriptors(runtime: Runtime) -> None:
    file = runtime.directory / "preserved"
    file.write_text("through\n")
    id, bundle = runtime.bundle(runtime.spec("sh", "-c", "cat <&3"))
    command = [*runtime.command, "--root", str(runtime.root), "run", "--preserve-fds", "1", "-b", str(bundle), id]
    with_fd_3 = ["sh", "-c", f'exec "$@" 3<{file}', "sh", *command]
    done = subprocess.run(with_fd_3, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "through\n", done.stderr


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["/nope"], 'exec: "/nope": stat /nope: no such file or directory'),
        (["nope"], 'exec: "nope": executable file not found in $PATH'),
        (["/etc/noexec"], 'exec: "/etc/noexec": permission denied'),
    ],
)
def test_a_program_that_cannot_run_is_named_at_create(runtime: Runtime, args: list[str], reason: str) -> None:
    message = runtime.create(runtime.spec(*args), status=1)
    where = "" if runtime.is_old_runc else "error during container init: "
    assert message == f"runc create failed: unable to start container process: {where}{reason}"


def test_exec(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    done = runtime(
        "exec", "-e", "A=b", "--cwd", "/data", id, "sh", "-c", "echo $A; pwd; cat; echo err >&2; exit 5", stdin="in"
    )
    assert (done.returncode, done.stdout, done.stderr) == (5, "b\n/data\nin", "err\n")


def test_exec_joins_every_namespace_and_cgroup(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    pid = runtime.state(id)["pid"]
    for name in ("pid", "net", "ipc", "uts", "mnt"):
        assert runtime.ok("exec", id, "readlink", f"/proc/self/ns/{name}").strip() == os.readlink(
            f"/proc/{pid}/ns/{name}"
        )
    inside = runtime.ok("exec", id, "cat", "/proc/self/cgroup")
    assert inside == Path(f"/proc/{pid}/cgroup").read_text()
    assert runtime.prefix in inside


def test_exec_flags(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    flags = ["--user", "12:34", "--additional-gids", "5", "--additional-gids", "6", "--cap", "CAP_SYS_PTRACE"]
    found = status_of(runtime.ok("exec", *flags, id, "cat", "/proc/self/status"))
    assert (found["Uid"].split()[0], found["Gid"].split()[0]) == ("12", "34")
    assert found["Groups"].split() == ["5", "6"]
    assert int(found["CapBnd"], 16) & 1 << 19


def test_exec_of_a_process_file(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    file = runtime.directory / "process.json"
    file.write_text(
        json.dumps(
            {"args": ["sh", "-c", "id -u; pwd"], "cwd": "/data", "user": {"uid": 9, "gid": 9}, "env": ["PATH=/bin"]}
        )
    )
    assert runtime.ok("exec", "--process", str(file), id).split() == ["9", "/data"]


def test_exec_detached(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    file = runtime.directory / "exec.pid"
    runtime.ok("exec", "--detach", "--pid-file", str(file), id, "sh", "-c", "exec >/dev/null 2>&1; sleep 500", stdin="")
    pid = int(file.read_text())
    until(lambda: b"500" in Path(f"/proc/{pid}/cmdline").read_bytes())
    assert pid in json.loads(runtime.ok("ps", "-f", "json", id))


@pytest.mark.parametrize(
    ("flags", "args", "reason"),
    [
        ((), ("/nope",), 'unable to start container process: exec: "/nope": stat /nope: no such file or directory'),
        ((), (), "exec args cannot be empty"),
    ],
)
def test_exec_that_cannot_run(runtime: Runtime, flags: tuple[str, ...], args: tuple[str, ...], reason: str) -> None:
    id = runtime.start(runtime.spec())
    if runtime.is_old_runc:
        reason = reason.replace("exec args", "process args")
    assert runtime.fails("exec", *flags, id, *args, status=255) == f"exec failed: {reason}"


def test_exec_says_128_and_the_signal(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    assert runtime("exec", id, "sh", "-c", "kill -9 $$").returncode == 137


def test_the_terminal_comes_over_the_console_socket(runtime: Runtime) -> None:
    spec = runtime.spec(
        "sh", "-c", "test -t 0 && test -t 2 && stty size && readlink /proc/self/fd/0; read line; echo got $line"
    )
    spec["process"]["terminal"] = True
    spec["process"]["consoleSize"] = {"height": 20, "width": 70}
    with console_socket(runtime.directory) as (path, receive):
        id = runtime.create(spec, "--console-socket", path)
        master = receive()
        runtime.ok("start", id)
        assert "20 70" in read_terminal(master, "/dev/")
        os.write(master, b"typed\n")
        assert "got typed" in read_terminal(master, "got typed")
        os.close(master)


def test_exec_with_a_terminal(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    with console_socket(runtime.directory) as (path, receive):
        runtime.ok(
            "exec", "--tty", "--detach", "--console-socket", path, id, "sh", "-c", "test -t 1 && echo yes; sleep 0.2"
        )
        master = receive()
        assert "yes" in read_terminal(master, "yes")
        os.close(master)


def test_a_terminal_needs_somebody_to_take_it(runtime: Runtime) -> None:
    spec = runtime.spec()
    spec["process"]["terminal"] = True
    message = "runc create failed: cannot allocate tty if runc will detach without setting console socket"
    assert runtime.create(spec, status=1) == message
    spec["process"]["terminal"] = False
    message = "runc create failed: cannot use console socket if runc will not detach or allocate tty"
    assert runtime.create(spec, "--console-socket", "/nowhere", status=1) == message


def test_start_is_not_delayed_by_the_command(runtime: Runtime) -> None:
    """`start` returns when the process has been executed, not when it ends."""
    id = runtime.create(runtime.spec())
    begin = time.monotonic()
    runtime.ok("start", id)
    assert time.monotonic() - begin < 5
