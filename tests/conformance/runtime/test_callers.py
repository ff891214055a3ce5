"""What callers of runc rely on beside the specification: flags, files, warnings, environments; as in runc 1.3.6."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runtime.driver import Runtime, read_terminal, until


def test_flags_stand_before_or_behind_the_id(runtime: Runtime) -> None:
    id, path = runtime.bundle(runtime.spec("true"))
    runtime.ok("run", id, "--bundle", str(path))
    id = runtime.start(runtime.spec())
    runtime.ok("kill", id, "KILL", "--all")
    runtime.wait_for(id, "stopped")
    id = runtime.start(runtime.spec())
    assert runtime.ok("exec", id, "echo", "--tty", "-x") == "--tty -x\n"  # these are the program's
    runtime.ok("delete", id, "--force")
    assert "requires exactly 1 argument" in runtime.fails("state", id, "--nonesuch")


def test_a_pid_file_is_found_from_the_caller_s_directory(runtime: Runtime, tmp_path: Path) -> None:
    id, path = runtime.bundle(runtime.spec("true"))
    (tmp_path / "here").mkdir()
    runtime.ok("run", "--bundle", str(path), "--pid-file", "pid", id, cwd=str(tmp_path / "here"))
    assert int((tmp_path / "here/pid").read_text()) > 0


def test_an_unknown_capability_is_a_warning(runtime: Runtime) -> None:
    spec = runtime.spec("true")
    spec["process"]["capabilities"]["bounding"].append("CAP_NONESUCH")
    done = runtime.run(spec)
    assert done.returncode == 0
    assert "ignoring unknown or unavailable capabilities: [CAP_NONESUCH]" in done.stderr
    id = runtime.start(runtime.spec())
    done = runtime("exec", "--cap", "CAP_NONESUCH", id, "true")
    assert done.returncode == 0 and "[CAP_NONESUCH]" in done.stderr


def test_a_relative_destination_lies_below_the_root(runtime: Runtime) -> None:
    spec = runtime.spec("grep", "-c", " /data ", "/proc/self/mountinfo")
    spec["mounts"].append({"destination": "data", "type": "tmpfs", "source": "tmpfs"})
    done = runtime.run(spec)
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "mount destination data is not absolute" in done.stderr


def test_exec_into_a_paused_container_waits_when_told_to(runtime: Runtime) -> None:
    id = runtime.start(runtime.spec())
    runtime.ok("pause", id)
    assert "cannot exec in a paused container" in runtime.fails("exec", id, "true", status=255)
    thaw = threading.Timer(1, lambda: runtime.ok("resume", id))
    thaw.start()
    begin = time.monotonic()
    assert runtime.ok("exec", "--ignore-paused", id, "echo", "thawed") == "thawed\n"
    assert time.monotonic() - begin > 0.5
    thaw.join()


def test_a_cgroup_that_others_use_is_refused(runtime: Runtime) -> None:
    if runtime.is_old_runc:
        pytest.skip("runc before 1.2 only warns")
    spec = runtime.spec()
    spec["linux"]["cgroupsPath"] = f"/{runtime.prefix}/shared"
    runtime.start(spec)
    done = runtime.run(spec)
    assert done.returncode == 1
    assert "container's cgroup is not empty: 1 process(es) found" in done.stderr


def test_a_frozen_cgroup_is_refused(runtime: Runtime) -> None:
    freezer = Path("/sys/fs/cgroup/freezer")
    directory = (freezer if freezer.is_dir() else freezer.parent) / runtime.prefix / "frozen"
    file, on, off = ("freezer.state", "FROZEN", "THAWED") if freezer.is_dir() else ("cgroup.freeze", "1", "0")
    directory.mkdir(parents=True)
    spec = runtime.spec("true")
    spec["linux"]["cgroupsPath"] = f"/{runtime.prefix}/frozen"
    try:
        (directory / file).write_text(on)
        done = runtime.run(spec)
        assert done.returncode == 1
        assert "container's cgroup unexpectedly frozen" in done.stderr
    finally:
        (directory / file).write_text(off)
        if directory.is_dir():
            directory.rmdir()


NAMED = [
    (["bind"], "ro,nosuid,nodev,noexec,noatime"),
    (["rbind"], "ro,nosuid,nodev,noexec,noatime"),
    (["bind", "ro"], "ro,noatime"),
    (["bind", "rw"], "rw,noatime"),
    (["bind", "exec"], "rw,noatime"),
    (["bind", "nosuid"], "rw,nosuid,noatime"),
    (["rbind", "rw", "dev"], "rw,noatime"),
]


def test_a_bind_has_the_flags_that_are_named(runtime: Runtime, tmp_path: Path) -> None:
    """With none named it has its source's; with one named, only those that are."""
    if runtime.is_old_runc:
        pytest.skip("runc before 1.3 keeps some that are not named")
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,nosuid,nodev,noexec,noatime", "x", str(source)], check=True)
    try:
        for options, expected in NAMED:
            spec = runtime.spec("grep", " /data ", "/proc/self/mountinfo")
            spec["mounts"].append({"destination": "/data", "type": "bind", "source": str(source), "options": options})
            assert runtime.says(spec).split()[5] == expected, options
    finally:
        subprocess.run(["umount", str(source)], check=True)


def test_the_caller_s_affinity_is_not_inherited(runtime: Runtime) -> None:
    if runtime.is_old_runc or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs, and runc from 1.3 on")
    id, path = runtime.bundle(runtime.spec())
    pinned = ["taskset", "-c", "0", *runtime.command, "--root", str(runtime.root)]
    subprocess.run([*pinned, "run", "--detach", "--bundle", str(path), id], check=True, stdout=subprocess.DEVNULL)
    pid = runtime.state(id)["pid"]
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    show = [*pinned, "exec", id, "grep", "-c", "Cpus_allowed_list:.0$", "/proc/self/status"]
    assert subprocess.run(show, check=False, capture_output=True, text=True).stdout == "0\n"


HOOKS = [
    ("createRuntime", None, "bundle", {"SEEN": "yes"}),
    ("createRuntime", ["A=1"], "bundle", {"A": "1"}),
    ("createContainer", None, "root", {}),
    ("createContainer", ["A=1"], "root", {"A": "1"}),
    ("startContainer", None, "/", {"PATH": "/bin"}),
    ("poststart", None, "bundle", {"SEEN": "yes"}),
    ("poststop", None, "bundle", {"SEEN": "yes"}),
]


@pytest.mark.parametrize(("kind", "env", "where", "expected"), HOOKS)
def test_directory_and_environment_of_hooks(
    runtime: Runtime, kind: str, env: list[str] | None, where: str, expected: dict[str, str], tmp_path: Path
) -> None:
    if runtime.is_old_runc and env is None:
        pytest.skip("runc before 1.3 has other habits")
    spec = runtime.spec("true")
    (tmp_path / "out").mkdir()
    spec["mounts"].append({"destination": "/mnt", "type": "bind", "source": str(tmp_path / "out"), "options": ["bind"]})
    seen = "/mnt/seen" if kind == "startContainer" else str(tmp_path / "out/seen")
    hook: dict[str, Any] = {"path": "/bin/sh", "args": ["sh", "-c", f"(readlink /proc/self/cwd; env) > {seen}"]}
    if env is not None:
        hook["env"] = env
    spec["hooks"] = {kind: [hook]}
    id, path = runtime.bundle(spec)
    runtime.ok("run", "--bundle", str(path), id, env={**os.environ, "SEEN": "yes"})
    directory, *lines = (tmp_path / "out/seen").read_text().splitlines()
    assert directory == {"bundle": str(path), "root": str(runtime.rootfs), "/": "/"}[where]
    found = dict(line.split("=", 1) for line in lines)
    assert expected.items() <= found.items()
    assert ("SEEN" in found) == ("SEEN" in expected)


@pytest.mark.parametrize("text", ["[1]", "5", '{"args": 5}', '{"args": [], "cwd": "/"}', '{"user": []}', "{", ""])
def test_a_wrong_process_json_is_one_line(runtime: Runtime, text: str, tmp_path: Path) -> None:
    id = runtime.start(runtime.spec())
    (tmp_path / "process.json").write_text(text)
    done = runtime("exec", "--process", str(tmp_path / "process.json"), id)
    assert done.returncode == 255
    assert done.stderr.count("\n") == 1 and "level=error" in done.stderr


WRONG = [
    ("process", 5),
    ("root", None),
    ("mounts", {"a": 1}),
    ("mounts", [5]),
    ("linux", []),
    ("hooks", {"prestart": 5}),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_config_json_is_one_line(runtime: Runtime, key: str, value: Any) -> None:
    id, path = runtime.bundle(runtime.spec("true"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, key: value}))
    done = runtime("run", "--bundle", str(path), id)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "level=error" in done.stderr


def test_a_terminal_in_the_foreground_writes_to_standard_output(runtime: Runtime, tmp_path: Path) -> None:
    """Not to the caller's terminal; and its line ends are left to that."""
    spec = runtime.spec("sh", "-c", "test -t 1 && echo one; echo two")
    spec["process"]["terminal"] = True
    id, path = runtime.bundle(spec)
    out = tmp_path / "out"
    pid, master = pty.fork()
    if pid == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        os.execvp(runtime.command[0], [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(path), id])
    try:
        assert read_terminal(master, "never") == ""
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(master)
    assert out.read_bytes() == b"one\ntwo\n"


def test_a_terminal_shows_output_while_nobody_takes_its_input(runtime: Runtime, tmp_path: Path) -> None:
    """A program that is stopped by its own output would never come to read what was typed."""
    size = 300_000
    says = f"stty raw -echo; echo ready; yes | head -c {size}; head -c {size} | wc -c"
    spec = runtime.spec("sh", "-c", says)
    spec["process"]["terminal"] = True
    id, path = runtime.bundle(spec)
    out = tmp_path / "out"
    out.touch()
    pid, master = pty.fork()
    if pid == 0:
        os.dup2(os.open(out, os.O_WRONLY | os.O_APPEND), 1)
        os.execvp(runtime.command[0], [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(path), id])
    try:
        until(lambda: b"ready" in out.read_bytes())
        left = b"x" * size
        while left:
            left = left[os.write(master, left) :]
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        os.close(master)
    assert out.read_bytes().split()[-1] == str(size).encode()
